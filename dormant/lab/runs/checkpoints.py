"""The checkpoints of a run. A checkpoint holds the state and a seal with the checksum of every array of the state."""

import contextlib
import errno
import io
import os
import time
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array, PyTree
from numpy import ndarray
from pydantic import ValidationError

from dormant.lab.machine import release_memory
from dormant.lab.runs.folder import RunFolder
from dormant.lab.runs.schema import Damaged, Mark, Seal

Arrays = dict[str, Any]  # path of an array in the state -> array
Leaf = Array | ndarray | np.generic | jax.ShapeDtypeStruct
QUIET_SECONDS = 0.2
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, quota or file size limit


def checkpoints(folder: RunFolder, read_only: bool = False) -> ocp.CheckpointManager:
    """Opens the checkpoints of a run. Returns a manager that reads and writes them, and keeps the last two.

    The manager writes a checkpoint under a temporary name and then renames it. Orbax stores a metadata file with each
    checkpoint. Orbax does not need the metadata files, but it refuses to open a folder if one of them is damaged. If
    opening fails, this function deletes all metadata files and tries again. With `read_only`, it raises Damaged
    instead. Deleting the files hides no damage, because `restore` compares each checkpoint with its seal.
    """
    options = ocp.CheckpointManagerOptions(
        max_to_keep=None if read_only else 2,
        enable_async_checkpointing=False,
        cleanup_tmp_directories=not read_only,
        read_only=read_only,
    )

    def opened() -> ocp.CheckpointManager:
        return ocp.CheckpointManager(folder.checkpoint.absolute(), options=options, item_names=("default", "seal"))

    try:
        return opened()
    except OSError:
        raise
    except Exception as error:  # Orbax raises many types of errors for a damaged metadata file
        if read_only:
            raise Damaged(f"{folder.checkpoint} cannot be opened ({_reason(error)}).") from error
        for description in folder.checkpoint.glob("*/_CHECKPOINT_METADATA"):
            if description.is_file():
                description.unlink()
        return opened()


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def save(manager: ocp.CheckpointManager, agent_steps: int, state: PyTree, owner: int, files: dict[str, Mark]) -> None:
    """Writes a checkpoint. `owner` is the number that identifies the run. `files` has the mark of each file of rows.

    Raises OSError if the disk is full. Orbax would raise a ValueError.
    """
    # Saves NumPy arrays, because a JAX array would stay in memory: Orbax asks for its shards, the shards refer to the
    # array, and Python rarely collects such cycles.
    arrays = {name: leaf if _is_key(leaf) else np.asarray(leaf) for name, leaf in _filled(state).items()}
    sums = {name: checksum(leaf) for name, leaf in arrays.items()}
    seal = Seal(owner=owner, agent_steps=agent_steps, leaves=sums, files=files)
    both = ocp.args.Composite(default=ocp.args.StandardSave(arrays), seal=ocp.args.JsonSave(seal.model_dump()))
    try:
        manager.save(agent_steps, args=both)
    except ValueError as error:
        for number in FULL:
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(manager.directory)) from error
        raise
    release_memory()  # Orbax copies the arrays in many threads, and each thread would keep its memory


def restore(manager: ocp.CheckpointManager, agent_steps: int, like: PyTree, owner: int) -> tuple[PyTree, Seal]:
    """Reads a checkpoint. Returns its state and its seal. The state has the structure, shapes and dtypes of `like`.

    Raises Damaged if the checkpoint cannot be read, belongs to another run, or has changed.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
    saved, seal = _read(manager, agent_steps, ocp.args.StandardRestore(_filled(shapes)))
    place = manager.directory / str(agent_steps)
    if seal.owner != owner:
        raise Damaged(f"the checkpoint {place} belongs to another run.")
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _as(leaf, saved.get(_name(path), leaf)), like), seal


def _as(like: Leaf, saved: Leaf) -> Leaf:
    """Converts the saved leaf to a JAX array. Returns it unchanged if `like` is a NumPy array.

    A NumPy array stays a NumPy array, because JAX may not support its dtype.
    """
    kept = saved is like or _is_key(saved) or isinstance(like, ndarray | np.generic)
    return saved if kept else jnp.asarray(saved)


def verify(manager: ocp.CheckpointManager, agent_steps: int) -> Seal:
    """Reads and verifies a checkpoint. Returns its seal. Raises Damaged if it cannot be read or has changed."""
    return _read(manager, agent_steps, ocp.args.StandardRestore())[1]


def _read(manager: ocp.CheckpointManager, agent_steps: int, args: ocp.args.CheckpointArgs) -> tuple[Arrays, Seal]:
    place = manager.directory / str(agent_steps)
    both = ocp.args.Composite(default=args, seal=ocp.args.JsonRestore())
    try:
        with _quiet():
            found = manager.restore(agent_steps, args=both)
        saved, seal = found["default"], Seal.model_validate(found["seal"])
    except ValidationError as error:
        raise Damaged(f"the checkpoint {place} has an invalid seal ({error.error_count()} wrong fields).") from None
    except Exception as error:  # Orbax raises many types of errors for a damaged checkpoint
        raise Damaged(f"the checkpoint {place} cannot be read ({_reason(error)}).") from error
    if seal.agent_steps != agent_steps:
        raise Damaged(f"the checkpoint {place} was made at step {seal.agent_steps}.")
    changed = {name for name in {**seal.leaves, **saved} if _differs(seal, saved, name)}
    if changed:
        raise Damaged(f"the checkpoint {place} is damaged: {sorted(changed)[0]} has changed.")
    return saved, seal


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the stack traces that Orbax's reading threads write to stderr after one of the threads has failed."""
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            yield
        except Exception:
            time.sleep(QUIET_SECONDS)
            raise


def _differs(seal: Seal, saved: Arrays, name: str) -> bool:
    return name not in saved or seal.leaves.get(name) != checksum(saved[name])


def checksum(leaf: Array | ndarray) -> int:
    """The checksum of an array's type, shape and bytes. Reads about 2 GB per second."""
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    array = np.ascontiguousarray(leaf)
    return zlib.crc32(array.view(np.uint8).data, zlib.crc32(f"{array.dtype}{leaf.shape}".encode()))


def _is_key(leaf: Leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _filled(state: PyTree) -> Arrays:
    # Leaves out arrays without elements, because Orbax refuses them. The states of some games contain such arrays.
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state) if leaf.size}


def _name(path: tuple[object, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
