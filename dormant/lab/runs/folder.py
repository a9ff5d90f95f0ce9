"""The run folder: which files a run writes, who may write them, and how they are read.

spec.json       the full configuration, and the code and machine of the first start
metrics.jsonl   one row per log point and seed, appended and flushed
scores.jsonl    the neuron scores of every layer at the same log points
checkpoint/     the last two states, each complete or absent, with the checksum of each array and of the rows so far
replay/         the replay, if the run keeps it in files
timing.json     timing only; nothing else depends on it
lease-<number>  names the machine that runs in the folder; removed when the run is done
done            written last, with the checksums of the final files
"""

import contextlib
import errno
import fcntl
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from dormant.files import write_whole
from dormant.lab import Scale
from dormant.lab.machine import origin
from dormant.lab.runs.description import describe, differences, run_path
from dormant.lab.runs.lease import Lease, Taken, held_by_another_machine, is_lease
from dormant.lab.runs.rows import Newest, rows
from dormant.lab.runs.schema import Done, Mark, RunRefused, Spec, Timing, read, sealed

LOCK_TRIES = 3  # a free folder may be locked for an instant, because `in_use` tests the lock by taking it
UNLOCKABLE = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # the file system cannot lock files, or cannot lock folders


class RunInUse(RunRefused):
    """Another process is running in the folder. The caller can wait until that process ends."""


class Curve(NamedTuple):
    """One metric of a run at each log point. A value that was not measured is NaN."""

    agent_steps: Int[np.ndarray, " points"]
    values: Float[np.ndarray, "seeds points *neurons"]


@dataclass(frozen=True)
class RunFolder:
    """The files of one run with all its seeds. Writing needs a lease, and every write first checks the lease."""

    path: Path
    lease: Lease | None = field(default=None, compare=False, repr=False)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds in the folder's name. The tuple is empty if the folder is not named like a run folder.

        >>> RunFolder(Path("seed0-2")).seeds, RunFolder(Path("seed0-copy")).seeds
        ((0, 2), ())
        """
        name = re.fullmatch(r"seed(\d+(?:-\d+)*)", self.path.name)
        return tuple(map(int, name[1].split("-"))) if name else ()

    @property
    def spec(self) -> Path:
        return self.path / "spec.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def scores(self) -> Path:
        return self.path / "scores.jsonl"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def replay(self) -> Path:
        return self.path / "replay"

    @property
    def done(self) -> Path:
        return self.path / "done"

    @property
    def timing(self) -> Timing:
        """The timing so far. All its fields are zero if the file cannot be read."""
        try:
            return read(Timing, self.path / "timing.json")
        except (OSError, RunRefused):
            return Timing()

    def time(self, timing: Timing) -> None:
        """Writes the timing so far."""
        self.check()
        write_whole(self.path / "timing.json", timing.model_dump_json() + "\n")

    def finish(self, files: Mapping[str, Mark]) -> None:
        """Writes `done`, which marks the run as complete. `files` has the mark of each file of rows."""
        self.check()
        marks = {name: mark.model_dump() for name, mark in files.items()}
        write_whole(self.done, sealed(origin() | {"files": marks}))

    def check(self) -> None:
        """Raises RunInUse if another machine has taken over the run. This can happen after a lost connection."""
        try:
            if self.lease:
                self.lease.check()
        except Taken as holder:
            raise _in_use(self.path, str(holder)) from None


def newest(folder: RunFolder, names: Iterable[str]) -> Newest:
    """Reads all rows. Returns the last measured values of some metrics. Raises Damaged for a damaged row."""
    found = Newest(folder.metrics, names)
    for row in rows(folder.metrics):
        found.take(row)
    return found


def origin_of(folder: RunFolder) -> dict[str, Any]:
    """The content of a run's spec.json: its training, and the code and machine of its first start.

    Raises Damaged if the file is damaged, OSError if it is missing.
    """
    return read(Spec, folder.spec).model_dump()


def end_of(folder: RunFolder) -> Done:
    """The content of a finished run's `done`. Raises Damaged if the file is damaged."""
    return read(Done, folder.done)


def curve(folder: RunFolder, name: str) -> Curve:
    """Reads one metric of a run.

    Raises KeyError if the metric was not measured. The message lists the known names. Raises RunRefused if a row is
    damaged.
    """
    table = list(rows(folder.scores if name.startswith("scores/") else folder.metrics))
    if not any(name in row for row in table):
        raise KeyError(
            f"{folder.path} has no metric {name!r}; it has {', '.join(sorted(table[-1])) if table else 'none'}."
        )
    seeds = sorted({row["seed"] for row in table})
    steps = np.array(sorted({row["agent_steps"] for row in table}))
    known = {(row["seed"], row["agent_steps"]): row[name] for row in table if row.get(name) is not None}
    blank = np.full_like(np.asarray(next(iter(known.values()), 0.0), dtype=float), math.nan)
    return Curve(steps, np.array([[known.get((seed, step), blank) for step in steps] for seed in seeds], dtype=float))


def layers(folder: RunFolder) -> tuple[str, ...]:
    """The names of the scored layers, from input to output."""
    first = next(rows(folder.scores), {})
    return tuple(name.removeprefix("scores/") for name in first if name.startswith("scores/"))


def runs_of(root: Path, scale: Scale, training: Any) -> list[RunFolder]:
    """The folders of all runs of a training, with any seeds. Includes unfinished runs."""
    folder = run_path(root, scale, training).parent
    return [run for path in sorted(folder.glob("seed*")) if (run := RunFolder(path)).seeds]


def runs_by_seed(root: Path, scale: Scale, training: Any, unfinished: bool = False) -> dict[int, RunFolder]:
    """Maps each seed to a finished run that contains it. With `unfinished`, maps other seeds to unfinished runs."""
    runs = runs_of(root, scale, training)
    finished = [run for run in runs if run.done.exists()]
    others = [run for run in runs if run not in finished and run.metrics.exists()] if unfinished else []
    found = {seed: run for run in reversed(finished + others) for seed in run.seeds}
    return {seed: found[seed] for seed in training.seeds if seed in found}


@contextlib.contextmanager
def claimed(path: Path, training: object) -> Iterator[RunFolder]:
    """Claims the folder of a training and yields it. Creates the folder if it does not exist.

    Inside the block, only this process can use the folder. When a process of this machine ends, its folder is free at
    once. If another machine is lost, its folder is free after LAPSE_SECONDS without a renewal of the lease.

    Raises RunInUse if another process is running in the folder. Raises RunRefused if the folder belongs to another
    configuration (the message lists the differences), contains other files, or has a damaged spec.json.
    """
    configuration = describe(training)
    path.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDONLY)
    try:
        alone = _lock(handle, path)
        _compare(RunFolder(path), configuration)
        with _leased(path, alone) as folder:
            _settle(folder, configuration)
            yield folder
    finally:
        os.close(handle)


def _lock(handle: int, path: Path) -> bool:
    """Locks the folder against other processes of this machine. Returns False on a file system without locks."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.05)
        except OSError as error:
            if error.errno in UNLOCKABLE:
                return False
            raise
    raise _in_use(path, "another process")


@contextlib.contextmanager
def _leased(path: Path, alone: bool) -> Iterator[RunFolder]:
    """Takes a lease on the folder. A finished run needs no lease, because nothing is written to its folder."""
    folder = RunFolder(path)
    if folder.done.exists():
        yield folder
        return
    try:
        lease = Lease(path, alone)
    except Taken as holder:
        raise _in_use(path, str(holder)) from None
    try:
        yield RunFolder(path, lease)
    finally:
        lease.end(keep=folder.spec.exists() and not folder.done.exists())


def _in_use(path: Path, holder: str) -> RunInUse:
    return RunInUse(f"{path} is in use by {holder}; wait for it, or choose another --run-dir.")


def in_use(path: Path) -> bool:
    """Whether a process on any machine is running in a run folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in UNLOCKABLE:
            raise
    finally:
        os.close(handle)
    return held_by_another_machine(path)


def _settle(folder: RunFolder, configuration: object) -> None:
    _compare(folder, configuration)
    if not folder.spec.exists():
        write_whole(folder.spec, sealed({"training": configuration, **origin()}))


def _compare(folder: RunFolder, configuration: object) -> None:
    if folder.spec.exists():
        changed = differences(read(Spec, folder.spec).training, configuration)
        if changed:
            said = "; ".join(map(str, changed))
            raise RunRefused(f"{folder.path} has another configuration: {said}. Choose another --run-dir.")
        return
    files = (file for file in folder.path.iterdir() if file.name != "spec.json.part" and not is_lease(file))
    foreign = sorted(file.name for file in files)
    if foreign:
        raise RunRefused(
            f"{folder.path} is not a run folder: it contains {foreign[0]} but no spec.json. Choose another --run-dir."
        )
