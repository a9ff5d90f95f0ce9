"""`dormant scan`: how dormant a saved network is."""

import importlib
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tyro
from etils import epath

import dormant
from dormant.cli.refusal import refuse
from dormant.lab.portrait import portrait


@dataclass(frozen=True)
class Scan:
    """Measure the dormant neurons of a saved network on a batch of its inputs."""

    checkpoint: tyro.conf.Positional[Path]
    """Orbax checkpoint folder, or .npz file whose names are paths of parameters such as dense/kernel."""
    apply: Annotated[str, tyro.conf.arg(metavar="MODULE:FUNCTION")]
    """The network, a function of the parameters and the inputs; modules are looked for in this folder too."""
    batch: Path
    """The inputs: .npy for a single one, .npz for several, in the order of the file. Samples along the first axis."""
    params: str = ""
    """Path of the parameters inside the checkpoint, such as state/params, if they are not all of it."""
    tau: float = 0.1
    """Neurons with at most this score are dormant."""
    picture: Path | None = None
    """PNG, PDF or SVG file to draw."""


def scan(flags: Scan) -> int:
    """Prints the report, and draws it on request: 0. Bad input ends the command with code 2."""
    try:
        apply = function(flags.apply)
        params = inside(saved(flags.checkpoint), flags.params)
        inputs = arrays(flags.batch)
        found = _report(flags, apply, params, inputs)
        print(found)
        if flags.picture is not None:
            _draw(found, flags)
    except (ValueError, OSError) as error:
        refuse(error)
    return 0


def function(name: str) -> Callable[..., Any]:
    """The function called `module:function`. Raises ValueError if there is none."""
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ValueError(f"--apply must be module:function, such as my_agent:q_values; got {name!r}.")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: the user's own modules lie here
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module is the user's, and so is whatever it raises
        raise ValueError(f"cannot import the module {module_name!r}: {_said(error)}") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise ValueError(f"the module {module_name!r} has no function {attribute!r}.")
    return found


def saved(path: Path) -> Any:
    """The tree of arrays in a checkpoint. Raises ValueError, saying what the path is instead, if it is none."""
    if not path.exists():
        raise ValueError(f"there is no checkpoint at {path}.")
    if path.is_file():
        return nested(dict(zip(*_archive(path, "a checkpoint is an Orbax folder or an .npz file"), strict=True)))
    if not _is_orbax(path):
        near = [str(folder) for folder in sorted(path.glob("*/")) + sorted(path.glob("*/*/")) if _is_orbax(folder)]
        hint = f"did you mean {' or '.join(near[-3:])}?" if near else "an Orbax checkpoint has a file _METADATA."
        raise ValueError(f"{path} is not an Orbax checkpoint; {hint}")
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            return checkpointer.restore(path.absolute(), args=ocp.args.PyTreeRestore(restore_args=_as_numpy(path)))
    except Exception as error:  # Orbax raises many kinds for a damaged checkpoint
        raise ValueError(f"the checkpoint {path} cannot be read: {_said(error)}") from error


def nested(leaves: dict[str, Any]) -> dict[str, Any]:
    """The tree whose leaves have these paths.

    >>> nested({"dense/kernel": 1, "dense/bias": 2})
    {'dense': {'kernel': 1, 'bias': 2}}

    Raises ValueError if a path leads through a leaf.
    """
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"{path!r} leads through a parameter.")
        if last in node:
            raise ValueError(f"{path!r} is both a parameter and a folder of parameters.")
        node[last] = leaf
    return tree


def inside(tree: Any, path: str) -> Any:
    """The part of a tree at a path. Raises ValueError, saying what is there, if it does not exist."""
    for step in path.split("/") if path else ():
        children = _children(tree)
        if step not in children:
            there = ", ".join(children) or "nothing below it"
            raise ValueError(f"the checkpoint has no {step!r} on the way to {path!r}; there is {there}.")
        tree = children[step]
    return tree


def _children(tree: Any) -> dict[str, Any]:
    if isinstance(tree, list | tuple):
        return {str(index): child for index, child in enumerate(tree)}
    return tree if isinstance(tree, dict) else {}


def arrays(path: Path) -> list[np.ndarray]:
    """The inputs in a batch file. Raises ValueError if it holds none."""
    if not path.is_file():
        raise ValueError(f"there is no batch at {path}.")
    if path.suffix == ".npy":
        try:
            return [np.load(path, allow_pickle=False)]
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {_said(error)}") from error
    return _archive(path, "a batch is an .npy or an .npz file")[1]


def _archive(path: Path, expected: str) -> tuple[list[str], list[np.ndarray]]:
    """Names and arrays of an .npz file, in its order."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} cannot be read: {expected}.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return list(archive.files), [archive[name] for name in archive.files]
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {_said(error)}") from error


def _is_orbax(folder: Path) -> bool:
    return (folder / "_METADATA").is_file()


def _as_numpy(path: Path) -> Any:
    """Restores every array as NumPy's, on whatever devices it was saved."""
    metadata = ocp.PyTreeCheckpointHandler().metadata(epath.Path(path.absolute())).tree
    return jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)


def _report(flags: Scan, apply: Callable[..., Any], params: Any, inputs: list[np.ndarray]) -> dormant.Report:
    try:
        return dormant.report(apply, params, *inputs, tau=flags.tau)
    except dormant.TraceError:
        raise
    except Exception as error:  # the function is the user's, and so is whatever it raises
        shapes = ", ".join(str(each.shape) for each in inputs)
        raise ValueError(
            f"{flags.apply} does not run on these parameters and inputs {shapes}: {_said(error)}"
        ) from error


def _draw(found: dormant.Report, flags: Scan) -> None:
    assert flags.picture is not None
    flags.picture.parent.mkdir(parents=True, exist_ok=True)
    portrait(found, flags.checkpoint.name).savefig(flags.picture)
    print(f"Picture: {flags.picture}")


def _said(error: Exception) -> str:
    """An error's own words, at most its first 300 characters."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 300 else f"{words[:300]} ..."
