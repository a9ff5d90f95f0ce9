"""Runs a training in a run folder. The same call starts the run, resumes it, or finds it done."""

import errno
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import orbax.checkpoint as ocp

from dormant.lab.runs.description import sibling_path
from dormant.lab.runs.folder import RunFolder, RunRefused, Timing, claimed
from dormant.rl.data.sources import FinishedRun

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, quota or file size limit
Progress = Callable[[int], None]


@runtime_checkable
class Training(Protocol):
    """A training that can be run: a frozen dataclass whose state is a pytree with a leading axis of seeds."""

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
    """A training that keeps part of its state in files, because that part is too large for every checkpoint."""

    @property
    def agent_steps(self) -> int: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    def init(self) -> Any: ...
    def agent_steps_done(self, state: Any) -> int: ...
    def open(self, folder: Path, state: Any) -> "FilingLoop": ...  # raises ValueError if the files do not fit


@runtime_checkable
class FilingLoop(Protocol):
    """An opened training. `save_due` is true before the files overwrite what the last checkpoint needs.

    `flush` is called before each checkpoint.
    """

    def measure(self, state: Any) -> Mapping[str, Any]: ...
    def advance(self, state: Any) -> tuple[Any, Mapping[str, Any]]: ...
    def save_due(self, done: int, saved: int) -> bool: ...
    def flush(self) -> None: ...


@runtime_checkable
class FollowingTraining(Protocol):
    """A training that starts from the last states of others. `after` gets one state per training in `needs`."""

    @property
    def agent_steps(self) -> int: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    @property
    def needs(self) -> tuple[Any, ...]: ...
    def after(self, folder: Path, *earlier: FinishedRun) -> Training: ...  # raises ValueError if the states do not fit


AnyTraining = Training | FilingTraining | FollowingTraining


def run(
    training: AnyTraining,
    path: Path,
    progress: Progress = lambda agent_steps: None,
    checkpoint_seconds: float = 30.0,
) -> RunFolder:
    """Runs a training and returns its folder. A run that was killed resumes from its last checkpoint.

    `progress` is called with the agent steps done so far. Rows of metrics after the last checkpoint are dropped and
    written again, so an interrupted run ends with the same files as an uninterrupted one. Trainings that this one needs
    are run first, in folders next to this one.

    Raises RunRefused if the folder cannot be used, OSError if it cannot be written to.
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
    """The training, started from the last states of those that it needs."""
    if not isinstance(training, FollowingTraining):
        return training
    finished = [
        run(needed, sibling_path(folder.path, needed), checkpoint_seconds=checkpoint_seconds)
        for needed in training.needs
    ]
    ended = [FinishedRun(last_state(one, own), own.replay) for one, own in zip(training.needs, finished, strict=True)]
    try:
        return training.after(folder.replay, *ended)
    except ValueError as error:
        raise RunRefused(str(error)) from error


def last_state(training: Training | FilingTraining, folder: RunFolder) -> Any:
    """The last state of a finished run. Raises RunRefused if its checkpoint is gone."""
    with checkpoints(folder) as manager:
        if manager.latest_step() != training.agent_steps:
            raise RunRefused(
                f"{folder.path} is done, but its last checkpoint is gone; delete the folder, and the run is made again."
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
        # The dormant fraction does not start at zero, so the curves start before the first step.
        start = np.zeros(len(training.seeds), int)
        folder.append({"agent_steps": start, "gradient_steps": start, **loop.measure(state)}, training.seeds)
    progress(done)
    while done < training.agent_steps:
        state, metrics = loop.advance(state)
        done = training.agent_steps_done(state)
        # Rows are written before the checkpoint, so no checkpoint is ahead of its metrics.
        folder.append(metrics, training.seeds)
        due = time.monotonic() - saved_at >= period
        due |= isinstance(loop, FilingLoop) and loop.save_due(done, saved)
        if due or done >= training.agent_steps:
            if isinstance(loop, FilingLoop):
                loop.flush()
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


def _restored(training: Training | FilingTraining, folder: RunFolder, manager: ocp.CheckpointManager) -> Any:
    """The state of the last checkpoint. Drops the rows after it."""
    state = training.init()
    if manager.latest_step() is None:
        folder.forget_after(-1)
        return state
    state = restore(manager, state)
    folder.forget_after(training.agent_steps_done(state))
    return state


def checkpoints(folder: RunFolder) -> ocp.CheckpointManager:
    """The checkpoints of a run. Each is written under another name and then renamed. The last two are kept."""
    options = ocp.CheckpointManagerOptions(
        max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager(folder.checkpoint.absolute(), options=options)


def save(manager: ocp.CheckpointManager, agent_steps: int, state: Any) -> None:
    """Writes a checkpoint. Raises OSError for a full disk, which Orbax reports as a ValueError."""
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
    except Exception as error:  # Orbax raises many types of errors for a damaged checkpoint
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise RunRefused(
            f"the checkpoint {manager.directory / str(newest)} cannot be read ({reason}). "
            "Delete that folder: the same command then resumes from the checkpoint before it, or from the start."
        ) from error
    return jax.tree_util.tree_map_with_path(lambda path, leaf: saved.get(_name(path), leaf), like)


def _filled(state: Any) -> dict[str, Any]:
    # Orbax refuses arrays without elements, which the states of some games contain.
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state) if leaf.size}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
