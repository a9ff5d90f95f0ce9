"""Reads saved parameters in the formats of JAX and PyTorch, and saved Stable-Baselines3 models. Never unpickles."""

import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import PyTree
from safetensors.numpy import load_file

from dormant.files import available_memory, is_zip, read_arrays

FORMATS = "an Orbax folder, an .npz, .safetensors or .msgpack file, or a PyTorch file (.pt, SB3's .zip) with --module"
ARRAYS = "numpy.savez(file, **{'dense/kernel': kernel, ...})"
STATE = "torch.save(module.state_dict(), file)"
TORCH = (".pt", ".pth", ".bin", ".ckpt")


def saved(path: Path) -> PyTree:
    """Reads the tree of arrays in a checkpoint of a JAX network.

    NNX writes each parameter as `{"value": array}`; the result has only the array. Names in an .npz or .safetensors
    file are paths with slashes, or with dots if no name has a slash. Raises ValueError with a hint if `path` is not a
    checkpoint.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist; name a checkpoint.")
    if path.is_dir():
        return _without_value(_orbax(path))
    if path.suffix == ".safetensors":
        return nested(_safetensors(path))
    if path.suffix == ".msgpack":
        return _msgpack(path)
    if path.suffix in TORCH or is_sb3(path):
        raise ValueError(f"{path} is a PyTorch file; give --module instead of --apply.")
    if not is_zip(path):
        raise ValueError(f"{path} cannot be read: a checkpoint is {FORMATS}. {ARRAYS} makes an .npz file.")
    return nested({name: _numbers(path, name, values) for name, values in read_arrays(path).items()})


def _numbers(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    """Gives a bfloat16 array its type back, because NumPy saves it as two bytes without a type.

    Returns other arrays unchanged. Raises ValueError for other types that NumPy does not know.
    """
    if values.dtype.kind != "V":
        return values
    if values.dtype.itemsize != 2 or values.dtype.names:
        raise ValueError(f"{path} has {values.dtype} in {name!r}, a type that NumPy does not know; save it as float32.")
    return values.view(ml_dtypes.bfloat16)


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    with _readable(path):
        return load_file(path)


def _msgpack(path: Path) -> PyTree:
    """Reads a file that `flax.serialization.to_bytes` wrote. Lists are dictionaries with the keys "0", "1", ..."""
    from flax.serialization import msgpack_restore  # extra `flax`

    with _readable(path):
        return msgpack_restore(path.read_bytes())


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns every error of a library that reads a file into a ValueError of one line."""
    if path.stat().st_size > available_memory():
        raise ValueError(f"{path} cannot be read: it is larger than the available memory.")
    try:
        yield
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read: {words[:300]}") from error


def _orbax(path: Path) -> PyTree:
    if not _is_orbax(path):
        raise ValueError(f"{path} is not an Orbax checkpoint; {_hint(path)}")
    try:
        metadata = ocp.PyTreeCheckpointHandler().metadata(epath.Path(path.absolute())).tree
        # Restores NumPy arrays, because JAX arrays would need the devices from which they were saved.
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)
        with ocp.PyTreeCheckpointer() as checkpointer:
            return checkpointer.restore(path.absolute(), args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    except Exception as error:  # Orbax raises many types of errors for a damaged checkpoint
        words = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"the checkpoint {path} cannot be read: {words[:300]}") from error


def _is_orbax(folder: Path) -> bool:
    return (folder / "_METADATA").is_file()


def _hint(path: Path) -> str:
    """The end of an error message: suggests checkpoints in the folder, newest last."""
    found = [folder for depth in ("*/", "*/*/", "*/*/*/") for folder in path.glob(depth) if _is_orbax(folder)]
    near = sorted(found, key=lambda folder: [(len(part), part) for part in folder.parts])
    if not near:
        return f"an Orbax checkpoint has a file _METADATA. A checkpoint is {FORMATS}."
    hint = f"did you mean {' or '.join(map(str, near[-3:]))}?"
    of_run = (path / "spec.json").is_file()
    return f"it is a run folder; {hint} Its arrays have a first axis of seeds." if of_run else hint


def _without_value(tree: PyTree) -> PyTree:
    """Removes the last key of every path if all paths end with the key "value", as in checkpoints of NNX.

    >>> _without_value({"dense": {"kernel": {"value": 1}, "bias": {"value": 2}}})
    {'dense': {'kernel': 1, 'bias': 2}}
    """

    def lasts(node: PyTree) -> Iterator[bool]:
        for name, child in node.items() if isinstance(node, dict) else ():
            yield from lasts(child) if isinstance(child, dict) else (name == "value",)

    def without(node: PyTree) -> PyTree:
        if isinstance(node, dict):
            return node["value"] if list(node) == ["value"] else {name: without(each) for name, each in node.items()}
        return node

    found = list(lasts(tree))
    return without(tree) if found and all(found) else tree


def nested(leaves: dict[str, PyTree]) -> dict[str, PyTree]:
    """Builds a tree from leaves and their paths.

    >>> nested({"dense/kernel": 1, "dense/bias": 2})
    {'dense': {'kernel': 1, 'bias': 2}}

    Raises ValueError if a path leads through a leaf.
    """
    separator = "/" if any("/" in name for name in leaves) else "."
    tree: dict[str, PyTree] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split(separator)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"the path {path!r} leads through a parameter.")
        if last in node:
            raise ValueError(f"{path!r} is both a parameter and a folder of parameters.")
        node[last] = leaf
    return tree


def as_in_haiku(tree: PyTree) -> PyTree:
    """The parameters with one dictionary per module, as in Haiku. The name of a module is its path.

    >>> as_in_haiku({"mlp": {"~": {"linear_0": {"b": 1, "w": 2}}}})
    {'mlp/~/linear_0': {'b': 1, 'w': 2}}
    """
    modules: dict[str, dict[str, PyTree]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        *module, name = (jax.tree_util.keystr((step,), simple=True) for step in path)
        modules.setdefault("/".join(module), {})[name] = leaf
    return modules


def inside(tree: PyTree, path: str) -> PyTree:
    """The part of a tree at a path. Raises ValueError if there is none; the message lists the existing names."""
    for step in path.split("/") if path else ():
        children = _children(tree)
        if step not in children:
            known = ", ".join(children) or "nothing"
            raise ValueError(f"the checkpoint has no {step!r} on the way to {path!r}; it has {known} there.")
        tree = children[step]
    return tree


def _children(tree: PyTree) -> dict[str, PyTree]:
    if isinstance(tree, list | tuple):
        return {str(index): child for index, child in enumerate(tree)}
    return tree if isinstance(tree, dict) else {}


def is_sb3(path: Path) -> bool:
    """Whether a file is a model that Stable-Baselines3 saved. Raises UnreadableFile for a damaged archive."""
    if not is_zip(path):
        return False
    with _readable(path), zipfile.ZipFile(path) as archive:
        return "policy.pth" in archive.namelist()


def state_dict(path: Path) -> dict[str, object]:
    """Reads tensors by name from a PyTorch file, or from the policy in a Stable-Baselines3 model.

    Uses PyTorch's loader for weights only. It runs no code from the file.
    Raises ValueError for a file that holds other Python objects. The message shows how to save tensors.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; name a checkpoint: {FORMATS}.")
    import torch

    if path.suffix == ".safetensors":
        return {name: torch.from_numpy(_single(values)) for name, values in _safetensors(path).items()}
    content = path
    if is_sb3(path):
        with _readable(path), zipfile.ZipFile(path) as archive:
            content = io.BytesIO(archive.read("policy.pth"))
    try:
        found = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises many types of errors for files that it cannot read
        raise ValueError(
            f"{path} cannot be read: it is damaged, or holds Python objects other than tensors; {STATE} saves tensors."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} has a {type(found).__name__}; expected tensors by name: {STATE}.")
    return found


def _single(values: np.ndarray) -> np.ndarray:
    """Converts to float32 if PyTorch has no counterpart of the NumPy type."""
    return values.astype(np.float32) if values.dtype == ml_dtypes.bfloat16 else values


def loaded(make: Callable[[], object], name: str, state: dict[str, object], path: Path) -> Any:
    """Builds a PyTorch module with `make`, and loads the saved tensors into it.

    Returns the module, or the networks of the SB3 model if `make` builds one. Saved names may begin with the prefixes
    of DistributedDataParallel and torch.compile.
    Raises ValueError if `make` builds neither a module nor an SB3 model, or if names or shapes do not fit.
    """
    from torch import Tensor, nn

    try:
        built = make()
    except (Exception, SystemExit) as error:  # the user's function can raise anything
        raise ValueError(f"{name} does not run without arguments: {' '.join(str(error).split())[:300]}") from error
    module = getattr(built, "policy", built)
    if not isinstance(module, nn.Module):
        raise ValueError(f"{name} must build a torch.nn.Module or a model of SB3; got a {type(built).__name__}.")
    tensors = {_bare(key): each for key, each in state.items() if isinstance(each, Tensor)}
    wanted = {_bare(key): key for key in module.state_dict()}
    missing, more = sorted(wanted.keys() - tensors), sorted(tensors.keys() - wanted)
    others = sorted(set(state) - {key for key, each in state.items() if isinstance(each, Tensor)})
    faults = {"lacks": missing, "also has": more, "has no tensor in": others}
    if any(faults.values()):
        said = "; ".join(
            f"{what} {', '.join(names[:4])}{' ...' * (len(names) > 4)}" for what, names in faults.items() if names
        )
        raise ValueError(
            f"{path} does not fit the module of {name}: it {said}. To use only a part of the file, give --params."
        )
    try:
        module.load_state_dict({wanted[key]: each for key, each in tensors.items()})
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the module of {name}: {' '.join(str(error).split())[:300]}") from error
    if module is built:
        return module
    from dormant.torch.sb3 import Networks

    return Networks(module)


def _bare(name: str) -> str:
    """Removes the prefixes that torch.compile and DistributedDataParallel put before names."""
    return name.replace("_orig_mod.", "").removeprefix("module.")
