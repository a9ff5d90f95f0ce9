"""`dormant scan`: measures the dormant neurons of a saved network, and tests whether it can still learn."""

import importlib
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import optax
import tyro
from jaxtyping import PyTree

import dormant
from dormant import Learner, Network, trace
from dormant.cli.saved import as_in_haiku, inside, loaded, saved, state_dict
from dormant.cli.terminal import refuse
from dormant.files import is_zip, read_array, read_arrays
from dormant.lab.drawing import report_picture
from dormant.metrics import fitting_loss, fitting_step, random_targets
from dormant.reporting import batch_size
from dormant.settings import checked_tau
from dormant.wiring import paths

PICTURES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Scan:
    """Measure the dormant neurons of a saved network on a batch of its inputs."""

    checkpoint: tyro.conf.Positional[Path]
    """The saved network. JAX: an Orbax folder, .npz, .safetensors or .msgpack file. PyTorch: a .pt or .safetensors
    file, or the .zip file of a Stable-Baselines3 model."""
    batch: Path
    """The inputs, with samples along the first axis: an .npy file for one input, an .npz file for several in order."""
    apply: Annotated[str, tyro.conf.arg(metavar="MODULE:FUNCTION")] = ""
    """The JAX network: a function of the parameters and the inputs. The module may be in the current folder."""
    module: Annotated[str, tyro.conf.arg(metavar="MODULE:FUNCTION")] = ""
    """For PyTorch: a function without arguments. It returns the module or the Stable-Baselines3 model."""
    params: str = ""
    """Path of the parameters in the checkpoint, such as state/params. Default: the whole checkpoint."""
    tau: float = 0.1
    """Neurons with at most this score are dormant."""
    picture: Path | None = None
    """PNG, PDF or SVG file for a picture."""
    fit_steps: int = 0
    """Gradient steps on random targets, to test whether the network still learns as well as with fresh parameters. 0
    skips this test."""
    init: Annotated[str, tyro.conf.arg(metavar="MODULE:FUNCTION")] = ""
    """The function that draws fresh parameters from a random key, for --fit-steps."""


def scan(flags: Scan) -> int:
    """Prints the report, draws it if requested, and returns 0. Ends the command with code 2 for bad input."""
    try:
        if flags.picture is not None:
            _drawable(flags.picture)
        _check_probe(flags)
        if bool(flags.apply) == bool(flags.module):
            raise ValueError("give --apply for a JAX network or --module for a PyTorch network, as MODULE:FUNCTION.")
        found = _scanned_module(flags) if flags.module else _scanned_function(flags)
        if flags.picture is not None:
            _draw(found, flags)
    except (ValueError, OSError) as error:
        refuse(error)
    return 0


def _scanned_function(flags: Scan) -> dormant.Report:
    """Prints and returns the report of a JAX network."""
    apply = function(flags.apply, "--apply")
    init = function(flags.init, "--init") if flags.init else None
    params = inside(saved(flags.checkpoint), flags.params)
    inputs = arrays(flags.batch)
    checked_tau(flags.tau)
    batch_size(inputs)
    params = _as_expected(flags.apply, apply, params, inputs)
    found = _report(flags, apply, params, inputs)
    print(found)
    if init is not None:
        print(probed(apply, init, params, inputs, flags.fit_steps))
    return found


def _scanned_module(flags: Scan) -> dormant.Report:
    """Prints and returns the report of a PyTorch module, or of the networks of an SB3 model."""
    if flags.init:
        raise ValueError("--init and --fit-steps fit JAX networks only.")
    make = function(flags.module, "--module")
    state = inside(state_dict(flags.checkpoint), flags.params)
    import torch

    import dormant.torch

    module = loaded(make, flags.module, state, flags.checkpoint)
    inputs = arrays(flags.batch)
    kind = next((leaf.dtype for leaf in module.parameters() if leaf.is_floating_point()), torch.float32)
    tensors = [torch.from_numpy(each).to(kind) if each.dtype.kind == "f" else torch.from_numpy(each) for each in inputs]
    try:
        found = dormant.torch.report(module, *tensors, tau=checked_tau(flags.tau))
    except ValueError:
        raise
    except Exception as error:  # the user's module can raise anything
        raise _does_not_run(flags.module, {}, inputs, error) from error
    print(found)
    return found


def _check_probe(flags: Scan) -> None:
    if flags.fit_steps < 0:
        raise ValueError(f"--fit-steps must be at least 0, got {flags.fit_steps}.")
    if bool(flags.fit_steps) != bool(flags.init):
        raise ValueError(
            "--fit-steps needs --init, and --init needs --fit-steps: give both, because a fresh network is fitted too."
        )


def function(name: str, flag: str) -> Callable[..., PyTree]:
    """Imports the function that a flag names as `module:function`. Raises ValueError if that fails."""
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ValueError(f"{flag} must be module:function, such as my_agent:q_values; got {name!r}.")
    if "" not in sys.path:
        sys.path.insert(0, "")  # like `python -m`, also imports modules from the current folder
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's module can raise anything
        raise ValueError(f"cannot import the module {module_name!r}: {_message(error)}") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise ValueError(f"the module {module_name!r} has no function {attribute!r}.")
    return found


def arrays(path: Path) -> list[np.ndarray]:
    """Reads the inputs in a batch file. Raises ValueError if the file is missing, has NaN, or holds no numbers."""
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
    if not is_zip(path):
        raise ValueError(f"{path} cannot be read: {expected}.")
    return read_arrays(path)


def _as_expected(name: str, apply: Callable[..., PyTree], params: PyTree, inputs: list[np.ndarray]) -> PyTree:
    """The parameters in the form on which the function runs: unchanged, or with Haiku's names.

    Raises ValueError if the function runs on neither form.
    """
    try:
        jax.eval_shape(apply, params, *inputs)
    except (Exception, SystemExit) as error:  # the user's function can raise anything
        try:
            named = as_in_haiku(params)
            jax.eval_shape(apply, named, *inputs)
            return named
        except (Exception, SystemExit):
            raise _does_not_run(name, params, inputs, error) from error
    return params


def _report(flags: Scan, apply: Callable[..., PyTree], params: PyTree, inputs: list[np.ndarray]) -> dormant.Report:
    try:
        return dormant.report(apply, params, *inputs, tau=flags.tau)
    except ValueError:  # dormant raised it: the user's function has just run without an error
        raise
    except (Exception, SystemExit) as error:  # a function that runs on the batch may fail on a single sample
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

    Raises ValueError if `init` does not run on a key, or draws parameters with other names, shapes or types.
    """
    params, fresh = jax.tree.map(jax.numpy.asarray, params), _fresh(init, params)
    network = Network(trace(apply, params, *inputs), init, optax.adam(LEARNING_RATE))

    # A Python loop calls this step. Inside an XLA loop, convolutions would be slow on a CPU.
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
