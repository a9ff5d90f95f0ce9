"""Verifies run folders: reads every file of a run and compares it with its recorded checksum."""

import zlib
from collections.abc import Callable, Iterator
from json import dumps
from pathlib import Path

import numpy as np

from dormant.lab.runs.checkpoints import checkpoints, verify
from dormant.lab.runs.folder import RunFolder, end_of, in_use, origin_of
from dormant.lab.runs.rows import FILES, check_beginning, last_row, rows
from dormant.lab.runs.schema import Damaged, RunRefused, Seal, Values
from dormant.rl.atari import AtariTraining
from dormant.rl.control import ControlTraining
from dormant.rl.data import transitions
from dormant.rl.host import open_rings
from dormant.rl.replay.frames import FrameReplay
from dormant.rl.replay.steps import StepReplay

WITH_RINGS = (AtariTraining.__name__, ControlTraining.__name__)
MARKS_OF_A_RUN = ("spec.json", "done", *FILES)


def run_folders(root: Path) -> list[Path]:
    """The folders in or under `root` that have at least one file of a run, even if the run's other files are gone."""
    return sorted({file.parent for name in MARKS_OF_A_RUN for file in root.rglob(name) if file.is_file()})


def faults(path: Path) -> list[str]:
    """Checks a run folder. Returns one line per fault. Skips a folder in which a process is running."""
    if in_use(path):
        return []
    return [" ".join(fault.split()) for fault in _faults(RunFolder(path))]


def _faults(folder: RunFolder) -> Iterator[str]:
    try:
        training = origin_of(folder)["training"]
    except FileNotFoundError:
        yield f"{folder.spec} is missing."
        return
    except (RunRefused, OSError) as error:
        yield str(error)
        return
    yield from _of(_check_end, folder)
    for file in (folder.metrics, folder.scores):
        yield from _of(lambda file: list(rows(file)), file)
    try:
        steps, seals = _steps(folder), []
    except Damaged as error:  # Orbax cannot open the checkpoints, and the checks below need them
        yield str(error)
        return
    yield from _of(_check_last, folder, steps)
    for step in steps:
        yield from _of(_check_checkpoint, folder, step, _owner(training), seals)
    if seals:
        yield from _of(_check_replay, folder, training, seals[0])


def _of(check: Callable[..., object], *arguments: object) -> Iterator[str]:
    try:
        check(*arguments)
    except Exception as error:  # reading a damaged file of a replay ring raises many types of errors
        yield str(error) or type(error).__name__


def _owner(training: Values) -> int:
    return zlib.crc32(dumps(training, sort_keys=True).encode())


def _check_end(folder: RunFolder) -> None:
    if folder.done.exists():
        end_of(folder)


def _check_last(folder: RunFolder, steps: list[int]) -> None:
    """Raises Damaged if the run is finished but has no checkpoint at the step of its last row."""
    if folder.done.exists() and last_row(folder.metrics).get("agent_steps") not in steps:
        raise Damaged(f"{folder.checkpoint} has no checkpoint of the last step of the run.")


def _steps(folder: RunFolder) -> list[int]:
    """The steps of the checkpoints, newest first."""
    if not folder.checkpoint.is_dir():
        return []
    with checkpoints(folder, read_only=True) as manager:
        return sorted(manager.all_steps(), reverse=True)


def _check_checkpoint(folder: RunFolder, step: int, owner: int, seals: list[Seal]) -> None:
    """Verifies a checkpoint and the rows written before it. Adds its seal to `seals`. Raises Damaged for any damage."""
    with checkpoints(folder, read_only=True) as manager:
        seal = verify(manager, step)
    if seal.owner != owner:
        raise Damaged(f"the checkpoint {folder.checkpoint / str(step)} belongs to another run.")
    for name, mark in seal.files.items():
        check_beginning(folder.path / name, mark)
    seals.append(seal)


def _check_replay(folder: RunFolder, training: Values, newest: Seal) -> None:
    for file in folder.replay.glob("*.npz"):
        transitions.read(file)
    if training.get("is") in WITH_RINGS:
        replay = _replay(folder.replay, training)
        open_rings(replay, tuple(training["seeds"]), folder.replay, newest.agent_steps, newest.owner)


def _replay(folder: Path, training: Values) -> FrameReplay | StepReplay:
    """Returns the settings of a run's replay ring. Reads the shapes of the arrays from the run's replay files."""
    first, agent = folder / f"seed{training['seeds'][0]}", training["agent"]
    capacity = int(agent["replay_capacity"])
    if training["is"] == ControlTraining.__name__:
        slots, numbers = np.load(first / "steps.npy", mmap_mode="r").shape
        # A row has two observations, an action, a reward and a discount. The files do not store the lengths of an
        # observation and an action. Any two lengths that give the same row length will do.
        actions = 1 if numbers % 2 else 2
        return StepReplay(capacity, (numbers - 2 - actions) // 2, actions, slots - capacity)
    (slots,) = np.load(first / "reward.npy", mmap_mode="r").shape
    height, width = np.load(first / "frames.npy", mmap_mode="r").shape[1:]
    limit = int(training["env"]["time_limit"])
    return FrameReplay(capacity, (height, width), slack=slots - capacity, time_limit=limit)
