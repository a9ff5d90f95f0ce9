"""Runs a training in a run folder. The same call starts a run, resumes it, or returns at once if it is done."""

import json
import logging
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
import orbax.checkpoint as ocp

from dormant.lab.runs.checkpoints import FULL as FULL
from dormant.lab.runs.checkpoints import checkpoints, restore, save
from dormant.lab.runs.description import describe, sibling_path
from dormant.lab.runs.folder import RunFolder, RunRefused, Timing, claimed
from dormant.lab.runs.rows import Journal, Metrics
from dormant.lab.runs.schema import Damaged, Mark
from dormant.rl.data.sources import FinishedRun
from dormant.rl.replay.files import DamagedRing

LOG = logging.getLogger("dormant")
Progress = Callable[[int], None]


@runtime_checkable
class Training(Protocol):
    """A training that `run` can run: a frozen dataclass whose state is a pytree with a leading axis of seeds."""

    @property
    def agent_steps(self) -> int: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    def init(self) -> Any: ...
    def measure(self, state: Any) -> Metrics: ...
    def advance(self, state: Any) -> tuple[Any, Metrics]: ...
    def agent_steps_done(self, state: Any) -> int: ...


@runtime_checkable
class FilingTraining(Protocol):
    """A training that keeps part of its state in files, because this part is too large to be in every checkpoint."""

    @property
    def agent_steps(self) -> int: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    def init(self) -> Any: ...
    def agent_steps_done(self, state: Any) -> int: ...
    # `owner` identifies the run. Raises ValueError if the files are too large for this machine or belong to another
    # run.
    def open(self, folder: Path, state: Any, owner: int = 0) -> "FilingLoop": ...


@runtime_checkable
class FilingLoop(Protocol):
    """An opened training. `save_due` returns whether the next chunk overwrites data that the last checkpoint needs.

    `flush` is called before each checkpoint.
    """

    def measure(self, state: Any) -> Metrics: ...
    def advance(self, state: Any) -> tuple[Any, Metrics]: ...
    def save_due(self, done: int, saved: int) -> bool: ...
    def flush(self) -> None: ...


@runtime_checkable
class FollowingTraining(Protocol):
    """A training that starts from finished runs, one per training in `needs`.

    `after` takes these runs and returns the training that starts from them.
    """

    @property
    def agent_steps(self) -> int: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    @property
    def needs(self) -> tuple[Any, ...]: ...
    # Raises ValueError if the states of the finished runs do not fit this training.
    def after(self, folder: Path, *earlier: FinishedRun) -> Training: ...


AnyTraining = Training | FilingTraining | FollowingTraining


def run(
    training: AnyTraining,
    path: Path,
    progress: Progress = lambda agent_steps: None,
    checkpoint_seconds: float = 30.0,
    stop_when_diverged: bool = False,
) -> RunFolder:
    """Runs a training and returns its folder. A run that was killed resumes from its last checkpoint.

    `progress` is called with the agent steps done so far. A resumed run drops the rows of metrics after its last
    checkpoint and writes them again, so it ends with the same files as an uninterrupted run. Trainings that this one
    needs are run first, in sibling folders.

    A seed has diverged when one of its metrics is NaN or infinite. A warning is then logged. The run continues unless
    `stop_when_diverged` is true.

    Raises RunRefused if the folder cannot be used, OSError if it cannot be written to, and Diverged if the run was
    stopped because a seed diverged.
    """
    with claimed(path, training) as folder:
        if not folder.done.exists():
            own = _ready(training, folder, checkpoint_seconds)
            watched = Watched(progress, stop_when_diverged)
            with checkpoints(folder) as manager:
                files = _train(own, folder, manager, owner_of(training), watched, checkpoint_seconds)
            folder.finish(files)
    progress(training.agent_steps)
    return folder


def _ready(training: AnyTraining, folder: RunFolder, checkpoint_seconds: float) -> Training | FilingTraining:
    """Returns a training that can start.

    If the training needs other trainings, runs the needed trainings first and starts from their last states.
    """
    if not isinstance(training, FollowingTraining):
        return training
    finished = [
        run(needed, sibling_path(folder.path, needed), checkpoint_seconds=checkpoint_seconds)
        for needed in training.needs
    ]
    ended = [
        FinishedRun(last_state(one, own), own.replay, owner_of(one))
        for one, own in zip(training.needs, finished, strict=True)
    ]
    try:
        return training.after(folder.replay, *ended)
    except ValueError as error:
        raise RunRefused(str(error)) from error


def last_state(training: Training | FilingTraining, folder: RunFolder) -> Any:
    """Reads the last state of a finished run. Raises RunRefused if its checkpoint is gone or damaged."""
    with checkpoints(folder) as manager:
        try:
            if training.agent_steps not in manager.all_steps():
                raise RunRefused("its last checkpoint is gone.")
            return restore(manager, training.agent_steps, jax.eval_shape(training.init), owner_of(training))[0]
        except RunRefused as error:
            advice = "delete the folder and start the run again."
            raise RunRefused(f"{folder.path} is done, but {error} To repair it, {advice}") from error


def owner_of(training: AnyTraining) -> int:
    """A number that identifies a training with its seeds. Checkpoints and rings store this number as their owner."""
    return zlib.crc32(json.dumps(describe(training), sort_keys=True).encode())


class Diverged(Exception):
    """A run was stopped because a network diverged. The message names the agent step."""


@dataclass
class Watched:
    """Reports the progress of a run and watches for divergence."""

    progress: Progress
    stop_when_diverged: bool
    said: set[int] = field(default_factory=set)  # the seeds whose divergence was logged

    def look(self, folder: RunFolder, done: int, metrics: Metrics, seeds: tuple[int, ...]) -> None:
        """Logs each seed that has newly diverged. Raises Diverged if the run must stop."""
        new = {seed: name for seed, name in diverged(metrics, seeds).items() if seed not in self.said}
        self.said |= new.keys()
        for seed, name in new.items():
            LOG.warning("%s: seed %d diverged: %s is not finite at agent step %d.", folder.path, seed, name, done)
        if new and self.stop_when_diverged:
            raise Diverged(f"{folder.path} was stopped because it diverged before agent step {done:,}.")


def diverged(metrics: Metrics, seeds: tuple[int, ...]) -> dict[int, str]:
    """Maps each seed that has a NaN or infinite metric to the name of that metric. Masked values are ignored.

    >>> diverged({"loss": np.array([1.0, np.nan]), "return": np.ma.masked_all(2)}, (0, 1))
    {1: 'loss'}
    """
    found: dict[int, str] = {}
    for name, values in metrics.items():
        if np.ndim(values) == 1:
            bad = np.ma.filled(~np.isfinite(np.ma.asarray(values, dtype=float)), False)
            found = {seed: name for seed, wrong in zip(seeds, bad, strict=True) if wrong} | found
    return found


class Start(NamedTuple):
    """The point at which a run starts or resumes: its state, the loop that advances the state, and its rows."""

    state: Any
    loop: Training | FilingLoop
    journal: Journal
    fresh: bool


def _train(
    training: Training | FilingTraining,
    folder: RunFolder,
    manager: ocp.CheckpointManager,
    owner: int,
    watched: "Watched",
    period: float,
) -> dict[str, Mark]:
    """Runs a training to its end. Returns the marks of the final rows."""
    state, loop, journal, fresh = _start(training, folder, manager, owner)
    begun, started, earlier = training.agent_steps_done(state), time.monotonic(), folder.timing
    done, saved, saved_at = begun, begun, started
    folder.check()
    journal.cut()
    if fresh:
        # Also measures the initial state, because the dormant fraction of a fresh network is not zero.
        start = np.zeros(len(training.seeds), int)
        metrics = {"agent_steps": start, "gradient_steps": start, **loop.measure(state)}
        folder.check()
        journal.append(metrics, training.seeds)
    watched.progress(done)
    while done < training.agent_steps:
        state, metrics = loop.advance(state)
        done = training.agent_steps_done(state)
        folder.check()
        journal.append(metrics, training.seeds)
        watched.look(folder, done, metrics, training.seeds)
        due = time.monotonic() - saved_at >= period
        due |= isinstance(loop, FilingLoop) and loop.save_due(done, saved)
        if due or done >= training.agent_steps:
            if isinstance(loop, FilingLoop):
                loop.flush()
            # Rows reach the disk before the checkpoint, so no checkpoint is ahead of its metrics.
            save(manager, done, state, owner, journal.synced())
            saved, saved_at = done, time.monotonic()
            seconds = earlier.seconds + saved_at - started
            folder.time(Timing(agent_steps=earlier.agent_steps + done - begun, seconds=seconds))
        watched.progress(done)
    return journal.marks


def _start(training: Training | FilingTraining, folder: RunFolder, manager: ocp.CheckpointManager, owner: int) -> Start:
    """Opens the newest undamaged checkpoint with its rows and files, or a fresh state if there is no checkpoint.

    If newer checkpoints are damaged, deletes them and logs a warning. Raises RunRefused if all checkpoints are
    damaged.
    """
    fresh, faults = training.init(), []
    steps = sorted(manager.all_steps(), reverse=True)
    for step in steps:
        try:
            state, seal = restore(manager, step, fresh, owner)
            journal = Journal(folder.path, seal.files)
            start = Start(state, _opened(training, folder, state, owner), journal, fresh=False)
        except Damaged as error:
            faults.append(" ".join(str(error).split()))
            continue
        for damaged in steps[: len(faults)]:
            manager.delete(damaged)
        if faults:
            LOG.warning(
                "%s: resumed from step %d, because a newer checkpoint is damaged: %s", folder.path, step, faults[0]
            )
        return start
    if faults:
        raise RunRefused(
            f"{folder.path} has no undamaged checkpoint: {faults[0]} Delete the folder to start the run again."
        )
    return Start(fresh, _opened(training, folder, fresh, owner), Journal(folder.path), fresh=True)


def _opened(training: Training | FilingTraining, folder: RunFolder, state: Any, owner: int) -> Training | FilingLoop:
    if not isinstance(training, FilingTraining):
        return training
    try:
        return training.open(folder.replay, state, owner)
    except FileNotFoundError as error:
        raise Damaged(f"{error.filename} is missing.") from error
    except DamagedRing as error:
        raise Damaged(str(error)) from error
    except ValueError as error:
        raise RunRefused(str(error)) from error
