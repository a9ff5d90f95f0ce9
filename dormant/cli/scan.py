"""`dormant scan`: measures the dormant neurons of a saved network, and tests whether it can still learn."""

import importlib
import os
import statistics
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import tyro
from etils import epath
from jaxtyping import PyTree

import dormant
from dormant import Learner, Network, trace
from dormant.cli.terminal import refuse
from dormant.files import read_array, read_arrays
from dormant.lab.drawing import report_picture
from dormant.metrics import fitting_loss, fitting_step, random_targets
from dormant.reporting import batch_size
from dormant.scores import checked_tau
from dormant.wiring import paths

PICTURES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Scan:
    """Measure the dormant neurons of a saved network on a batch of its inputs."""

    checkpoint: tyro.conf.Positional[Path]
    """Orbax checkpoint folder, or .npz file whose names are paths of parameters such as dense/kernel."""
    apply: Annotated[str, tyro.conf.arg(metavar="MODULE:FUNCTION")]
    """The network, a function of the parameters and the inputs. Modules in the current folder are found too."""
    batch: Path
    """The inputs, with samples along the first axis: an .npy file for one input, an .npz file for several in order."""
    params: str = ""
    """Path of the parameters in the checkpoint, such as state/params. Default: the whole checkpoint."""
    tau: float = 0.1
    """Neurons with at most this score are dormant."""
    picture: Path | None = None
    """PNG, PDF or SVG file for a picture."""
    fit_steps: int = 0
    """Gradient steps on random targets, from the saved parameters and from fresh ones, to see whether the network can
    still learn. 0 for none."""
    init: Annotated[str, tyro.conf.arg(metavar="MODULE:FUNCTION")] = ""
    """The function that draws fresh parameters from a random key, for --fit-steps."""


def scan(flags: Scan) -> int:
    """Prints the report, draws it if requested, and returns 0. Ends the command with code 2 for bad input."""
    try:
        if flags.picture is not None:
            _drawable(flags.picture)
        _check_probe(flags)
        apply = function(flags.apply, "--apply")
        init = function(flags.init, "--init") if flags.init else None
        params = inside(saved(flags.checkpoint), flags.params)
        inputs = arrays(flags.batch)
        found = _report(flags, apply, params, inputs)
        print(found)
        if init is not None:
            print(probed(apply, init, params, inputs, flags.fit_steps))
        if flags.picture is not None:
            _draw(found, flags)
    except (ValueError, OSError) as error:
        refuse(error)
    return 0


def _check_probe(flags: Scan) -> None:
    if flags.fit_steps < 0:
        raise ValueError(f"--fit-steps must be at least 0, got {flags.fit_steps}.")
    if bool(flags.fit_steps) != bool(flags.init):
        raise ValueError(
            "--fit-steps needs --init, and --init needs --fit-steps: a fresh network is fitted too; give both."
        )


def function(name: str, flag: str) -> Callable[..., PyTree]:
    """Imports the function that a flag names as `module:function`. Raises ValueError if that fails."""
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ValueError(f"{flag} must be module:function, such as my_agent:q_values; got {name!r}.")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the user's modules are in the current folder, as for `python -m`
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's module can raise anything
        raise ValueError(f"cannot import the module {module_name!r}: {_message(error)}") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise ValueError(f"the module {module_name!r} has no function {attribute!r}.")
    return found


def saved(path: Path) -> PyTree:
    """Reads the tree of arrays in a checkpoint. Raises ValueError, with a hint, if the path is not a checkpoint."""
    if not path.exists():
        raise ValueError(f"{path} does not exist; name a checkpoint.")
    if path.is_file():
        return nested(_archive(path, "a checkpoint is an Orbax folder or an .npz file"))
    if not _is_orbax(path):
        raise ValueError(f"{path} is not an Orbax checkpoint; {_hint(path)}")
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            return checkpointer.restore(path.absolute(), args=ocp.args.PyTreeRestore(restore_args=_as_numpy(path)))
    except Exception as error:  # Orbax raises many types of errors for a damaged checkpoint
        raise ValueError(f"the checkpoint {path} cannot be read: {_message(error)}") from error


def _hint(path: Path) -> str:
    """The end of an error message: suggests checkpoints in the folder, newest last."""
    found = [folder for depth in ("*/", "*/*/", "*/*/*/") for folder in path.glob(depth) if _is_orbax(folder)]
    near = sorted(found, key=lambda folder: [(len(part), part) for part in folder.parts])
    if not near:
        return "an Orbax checkpoint has a file _METADATA."
    hint = f"did you mean {' or '.join(map(str, near[-3:]))}?"
    of_run = (path / "spec.json").is_file()
    return f"it is a run folder; {hint} Its arrays have a first axis of seeds." if of_run else hint


def nested(leaves: dict[str, PyTree]) -> dict[str, PyTree]:
    """Builds a tree from leaves and their paths.

    >>> nested({"dense/kernel": 1, "dense/bias": 2})
    {'dense': {'kernel': 1, 'bias': 2}}

    Raises ValueError if a path leads through a leaf.
    """
    tree: dict[str, PyTree] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"the path {path!r} leads through a parameter.")
        if last in node:
            raise ValueError(f"{path!r} is both a parameter and a folder of parameters.")
        node[last] = leaf
    return tree


def inside(tree: PyTree, path: str) -> PyTree:
    """The part of a tree at a path. Raises ValueError, which lists the existing names, if there is none."""
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


def arrays(path: Path) -> list[np.ndarray]:
    """Reads the inputs in a batch file. Raises ValueError for a missing file, NaN, or values that are not numbers."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; name a batch of inputs.")
    whole = path.suffix == ".npy"
    found = {"": read_array(path)} if whole else _archive(path, "a batch is an .npy or an .npz file")
    for name, values in found.items():
        if values.dtype.kind not in "biufc":
            raise ValueError(f"{path} has {values.dtype}{name and f' in {name!r}'}; expected numbers.")
        if np.issubdtype(values.dtype, np.inexact) and np.isnan(values).any():
            first = [int(index) for index in np.argwhere(np.isnan(values))[0]]
            raise ValueError(f"{path} has NaN{name and f' in {name!r}'}, first at index {first}.")
    return list(found.values())


def _archive(path: Path, expected: str) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz file, by name and in the order of the file."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} cannot be read: {expected}.")
    return read_arrays(path)


def _is_orbax(folder: Path) -> bool:
    return (folder / "_METADATA").is_file()


def _as_numpy(path: Path) -> PyTree:
    """Orbax arguments that restore every array as a NumPy array, whichever device it was saved from."""
    metadata = ocp.PyTreeCheckpointHandler().metadata(epath.Path(path.absolute())).tree
    return jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)


def _report(flags: Scan, apply: Callable[..., PyTree], params: PyTree, inputs: list[np.ndarray]) -> dormant.Report:
    checked_tau(flags.tau)
    batch_size(inputs)
    try:
        jax.eval_shape(apply, params, *inputs)
    except (Exception, SystemExit) as error:  # the user's function can raise anything
        raise _does_not_run(flags.apply, params, inputs, error) from error
    try:
        return dormant.report(apply, params, *inputs, tau=flags.tau)
    except ValueError:  # from dormant and not from the user's function, which has just run
        raise
    except (Exception, SystemExit) as error:  # the function may fail on a single sample even if it runs on the batch
        raise _does_not_run(flags.apply, params, inputs, error) from error


def _does_not_run(name: str, params: PyTree, inputs: list[np.ndarray], error: BaseException) -> ValueError:
    shapes = ", ".join(str(each.shape) for each in inputs)
    reason = _message(error)
    if isinstance(error, KeyError):
        known = paths(params)
        more = f" and {len(known) - 8} more" if len(known) > 8 else ""
        reason = f"there is no {reason}; the parameters are {', '.join(known[:8])}{more}."
    return ValueError(f"{name} does not run on these parameters and inputs {shapes}: {reason}")


def _drawable(picture: Path) -> None:
    """Raises ValueError if the picture cannot be written. Call it before the work starts."""
    if picture.suffix.lower() not in PICTURES:
        raise ValueError(f"--picture must end in {', '.join(PICTURES[:-1])} or {PICTURES[-1]}; got {picture}.")
    if picture.is_dir():
        raise ValueError(f"the picture {picture} is a folder; name a file.")
    parent = next(path for path in (picture, *picture.absolute().parents) if path.exists())
    if not os.access(parent, os.W_OK) or (parent != picture and not parent.is_dir()):
        raise ValueError(f"the picture {picture} cannot be written: {parent} is not a writable folder.")


def _draw(found: dormant.Report, flags: Scan) -> None:
    assert flags.picture is not None
    flags.picture.parent.mkdir(parents=True, exist_ok=True)
    report_picture(found, flags.checkpoint.name).savefig(flags.picture)
    print(f"Picture: {flags.picture}")


def _message(error: BaseException) -> str:
    """The message of an error, cut to 300 characters."""
    words = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, SystemExit):
        words = f"it ends the program (sys.exit({words if error.args else ''}))"
    return words if len(words) <= 300 else f"{words[:300]} ..."


TARGETS = 3  # number of sets of random targets
LEARNING_RATE = 1e-3


def probed(
    apply: Callable[..., PyTree], init: Callable[..., PyTree], params: PyTree, inputs: Sequence[PyTree], steps: int
) -> str:
    """Fits random targets from the saved and from fresh parameters. Returns one line with both mean errors.

    Raises ValueError if `init` does not run on a key or draws parameters of another structure.
    """
    params, fresh = jax.tree.map(jax.numpy.asarray, params), _fresh(init, params)
    network = Network(trace(apply, params, *inputs), init, optax.adam(LEARNING_RATE))

    # A Python loop calls this step, because XLA computes convolutions slowly in its own loops on a CPU.
    step = jax.jit(lambda learner, targets: fitting_step(learner, apply, network, targets, *inputs), donate_argnums=0)

    def error(params: PyTree, key: jax.Array) -> float:
        targets = random_targets(key, apply, network, *inputs)
        learner = Learner(jax.tree.map(jax.numpy.copy, params), network.tx.init(params))
        for _ in range(steps):
            learner = step(learner, targets)
        return float(fitting_loss(learner.params, apply, targets, *inputs))

    keys = jax.random.split(jax.random.key(1), TARGETS)
    mine, theirs = (statistics.mean(error(each, key) for key in keys) for each in (params, fresh))
    return (
        f"random targets after {steps:,} steps of Adam at {LEARNING_RATE:g}: error {mine:.3g}, a fresh network's "
        f"{theirs:.3g} (means over {TARGETS} sets of targets)"
    )


def _fresh(init: Callable[..., PyTree], params: PyTree) -> PyTree:
    try:
        fresh = init(jax.random.key(0))
    except (Exception, SystemExit) as error:  # the user's function can raise anything
        raise ValueError(f"--init does not run on a random key: {error}") from error
    shapes, expected = (jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), each) for each in (fresh, params))
    if shapes != expected:
        raise ValueError(f"--init must draw parameters like the saved ones, {expected}; it draws {shapes}.")
    return fresh
