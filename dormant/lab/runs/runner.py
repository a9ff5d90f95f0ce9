"""Runs a training inside a run folder: the same call starts it, resumes it, or finds it done."""

import errno
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import orbax.checkpoint as ocp

from dormant.lab.runs.description import beside
from dormant.lab.runs.folder import RunFolder, RunRefused, Timing, claimed
from dormant.rl.ended import Ended

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota or a file size limit
Progress = Callable[[int], None]


@runtime_checkable
class Training(Protocol):
    """What a run needs of a training: a frozen dataclass whose state is a pytree with a leading axis of seeds."""

    @property
    def agent_steps(self) -> int: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    def init(self) -> Any: ...
    def measure(self, state: Any) -> Mapping[str, Any]: ...
    def advance(self, state: Any) -> tuple[Any, Mapping[str, Any]]: ...
    def agent_steps_done(self, state: Any) -> int: ...


@runtime_checkable
class FilingTraining(Protocol):
    """A training that keeps part of what it goes on from in files, which are too large for every checkpoint."""

    @property
    def agent_steps(self) -> int: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    def init(self) -> Any: ...
    def agent_steps_done(self, state: Any) -> int: ...
    def open(self, folder: Path, state: Any) -> "FilingLoop": ...  # raises ValueError where the folder does not fit


@runtime_checkable
class FilingLoop(Protocol):
    """An opened training. A saved state can be gone on from until `save_due`; `flush` comes before each checkpoint."""

    def measure(self, state: Any) -> Mapping[str, Any]: ...
    def advance(self, state: Any) -> tuple[Any, Mapping[str, Any]]: ...
    def save_due(self, done: int, saved: int) -> bool: ...
    def flush(self) -> None: ...


@runtime_checkable
class FollowingTraining(Protocol):
    """A training that goes on from where others ended: `after` is given one for each of `needs`, of the same seeds."""

    @property
    def agent_steps(self) -> int: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    @property
    def needs(self) -> tuple[Any, ...]: ...
    def after(
        self, folder: Path, *earlier: Ended
    ) -> Training: ...  # raises ValueError where what it needs does not fit


AnyTraining = Training | FilingTraining | FollowingTraining


def run(
    training: AnyTraining,
    path: Path,
    progress: Progress = lambda agent_steps: None,
    checkpoint_seconds: float = 30.0,
) -> RunFolder:
    """The folder of the finished run. A run that was killed continues from its last checkpoint.

    `progress` is called with the agent steps done so far. Metrics written after the last checkpoint are dropped
    and come again, so that an interrupted run ends with the same files as an uninterrupted one.
    What a training needs that is not there yet is run before, in the folders beside. Raises RunRefused if the folder
    cannot be used, and OSError if it cannot be written.
    """
    with claimed(path, training) as folder:
        if not folder.done.exists():
            own = _ready(training, folder, checkpoint_seconds)
            with checkpoints(folder) as manager:
                _train(own, folder, manager, progress, checkpoint_seconds)
            folder.finish()
    progress(training.agent_steps)
    return folder


def _ready(training: AnyTraining, folder: RunFolder, checkpoint_seconds: float) -> Training | FilingTraining:
    """The training itself, or what it is after those that it needs."""
    if not isinstance(training, FollowingTraining):
        return training
    finished = [
        run(needed, beside(folder.path, needed), checkpoint_seconds=checkpoint_seconds) for needed in training.needs
    ]
    ended = [Ended(last_state(one, own), own.replay) for one, own in zip(training.needs, finished, strict=True)]
    try:
        return training.after(folder.replay, *ended)
    except ValueError as error:
        raise RunRefused(str(error)) from error


def last_state(training: Training | FilingTraining, folder: RunFolder) -> Any:
    """The state with which a finished run ended. Raises RunRefused if it was not kept."""
    with checkpoints(folder) as manager:
        if manager.latest_step() != training.agent_steps:
            raise RunRefused(
                f"{folder.path} is done, and its checkpoint of the end is not there any more; "
                "delete that folder, and the run is made again."
            )
        return restore(manager, jax.eval_shape(training.init))


def _train(
    training: Training | FilingTraining,
    folder: RunFolder,
    manager: ocp.CheckpointManager,
    progress: Progress,
    period: float,
) -> None:
    state = _restored(training, folder, manager)
    loop = _opened(training, folder, state)
    begun, started, earlier = training.agent_steps_done(state), time.monotonic(), folder.timing
    done, saved, saved_at = begun, begun, started
    if manager.latest_step() is None:
        # Dormancy does not begin at zero, so the curves begin before the first step.
        start = np.zeros(len(training.seeds), int)
        folder.append({"agent_steps": start, "gradient_steps": start, **loop.measure(state)}, training.seeds)
    progress(done)
    while done < training.agent_steps:
        state, metrics = loop.advance(state)
        done = training.agent_steps_done(state)
        # Rows first: a checkpoint then never knows of a step whose metrics are missing.
        folder.append(metrics, training.seeds)
        if done >= training.agent_steps or time.monotonic() - saved_at >= period or _save_due(loop, done, saved):
            _flush(loop)
            save(manager, done, state)
            saved, saved_at = done, time.monotonic()
            folder.time(Timing(earlier.agent_steps + done - begun, earlier.seconds + saved_at - started))
        progress(done)


def _opened(training: Training | FilingTraining, folder: RunFolder, state: Any) -> Training | FilingLoop:
    if not isinstance(training, FilingTraining):
        return training
    try:
        return training.open(folder.replay, state)
    except ValueError as error:
        raise RunRefused(str(error)) from error


def _save_due(loop: Training | FilingLoop, done: int, saved: int) -> bool:
    return isinstance(loop, FilingLoop) and loop.save_due(done, saved)


def _flush(loop: Training | FilingLoop) -> None:
    if isinstance(loop, FilingLoop):
        loop.flush()


def _restored(training: Training | FilingTraining, folder: RunFolder, manager: ocp.CheckpointManager) -> Any:
    """The state of the last checkpoint, and no rows after it."""
    state = training.init()
    if manager.latest_step() is None:
        folder.forget_after(-1)
        return state
    state = restore(manager, state)
    folder.forget_after(training.agent_steps_done(state))
    return state


def checkpoints(folder: RunFolder) -> ocp.CheckpointManager:
    """The folder's checkpoints: written under another name and then renamed, the last two kept."""
    options = ocp.CheckpointManagerOptions(
        max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager(folder.checkpoint.absolute(), options=options)


def save(manager: ocp.CheckpointManager, agent_steps: int, state: Any) -> None:
    """Writes a checkpoint. Raises OSError where Orbax reports a full disk in its own way."""
    try:
        manager.save(agent_steps, args=ocp.args.StandardSave(_filled(state)))
    except ValueError as error:
        for number in FULL:
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(manager.directory)) from error
        raise


def restore(manager: ocp.CheckpointManager, like: Any) -> Any:
    """The newest state, with the structure, shapes and dtypes of `like`. Raises RunRefused if it cannot be read."""
    newest = manager.latest_step()
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
    try:
        saved = manager.restore(newest, args=ocp.args.StandardRestore(_filled(shapes)))
    except Exception as error:  # Orbax raises many kinds for a damaged checkpoint
        said = f"{type(error).__name__}: {str(error)[:200]}"
        raise RunRefused(
            f"the checkpoint {manager.directory / str(newest)} cannot be read ({said}). "
            "Delete that folder: the same command continues from the one before it, or from the start."
        ) from error
    return jax.tree_util.tree_map_with_path(lambda path, leaf: saved.get(_name(path), leaf), like)


def _filled(state: Any) -> dict[str, Any]:
    # Orbax refuses arrays without elements, which some games have among their state.
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state) if leaf.size}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
