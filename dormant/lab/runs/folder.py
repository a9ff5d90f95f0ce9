"""The run folder: what a run writes, when, and how it is read back.

spec.json       the full configuration, and the code and machine that ran it first
metrics.jsonl   one row per log point and seed, appended and flushed
scores.jsonl    the neuron scores of every layer at the same points
checkpoint/     the last two states, each there completely or not at all
replay/         the frames of a run whose replay lies in files
timing.json     how long that took, of which nothing else depends
lease-<number>  which machine is at it, until it is done
done            written last
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from dormant.lab.runs.lease import Lease, Taken, held_elsewhere, is_lease
from dormant.lab.runs.description import describe, differences
from dormant.lab.machine import origin

LOOKS = 3  # at a lock, which `in_use` holds for an instant
UNLOCKABLE = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # disks of clusters that have no locks, or not for folders


class RunRefused(Exception):
    """A run folder cannot be used; the message says why, and what to do."""


class RunInUse(RunRefused):
    """Another process is running in the folder; it can be waited for."""


class Timing(NamedTuple):
    """Agent steps of each seed that were timed, and the seconds that they took, over all processes of a run."""

    agent_steps: int = 0
    seconds: float = 0.0


class Curve(NamedTuple):
    """One metric over a run."""

    agent_steps: Int[np.ndarray, " points"]
    values: Float[np.ndarray, "seeds points *neurons"]


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, all its seeds together. Who writes them has a lease, and looks whether it still has."""

    path: Path
    lease: Lease | None = field(default=None, compare=False, repr=False)

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
        """What was timed so far; nothing if that cannot be read, since no result depends on it."""
        try:
            return Timing(**json.loads((self.path / "timing.json").read_text()))
        except (OSError, ValueError, TypeError):
            return Timing()

    def time(self, timing: Timing) -> None:
        """Keeps what was timed so far."""
        self.check()
        write_whole(self.path / "timing.json", json.dumps(timing._asdict()) + "\n")

    def append(self, metrics: Mapping[str, Any], seeds: tuple[int, ...]) -> None:
        """Writes one log point: a row for each seed, scores apart because they are long."""
        self.check()
        table = [
            {"seed": seed} | {name: _json(value[i]) for name, value in metrics.items()} for i, seed in enumerate(seeds)
        ]
        _append(self.metrics, [{name: row[name] for name in row if not name.startswith("scores/")} for row in table])
        keys = ("seed", "agent_steps")
        _append(
            self.scores,
            [{name: row[name] for name in row if name in keys or name.startswith("scores/")} for row in table],
        )

    def forget_after(self, agent_steps: int) -> None:
        """Drops the rows written after a checkpoint: the resumed run writes the same ones again."""
        self.check()
        for file in (self.metrics, self.scores):
            kept = [row for row in rows(file) if row["agent_steps"] <= agent_steps]
            write_whole(file, "".join(json.dumps(row) + "\n" for row in kept))

    def finish(self) -> None:
        """Marks the run as complete."""
        self.check()
        write_whole(self.done, json.dumps(origin(), indent=1) + "\n")

    def check(self) -> None:
        """Raises RunInUse if another machine has taken the run over, for which this one must have been cut off."""
        try:
            if self.lease:
                self.lease.check()
        except Taken as holder:
            raise _in_use(self.path, str(holder)) from None


def _append(file: Path, table: list[dict[str, Any]]) -> None:
    with file.open("a") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in table))


def rows(file: Path) -> Iterator[dict[str, Any]]:
    """The complete rows of a file; a last line without its end was cut off by a kill or a full disk.

    Raises RunRefused for any other line that is no row.
    """
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    for number, line in enumerate(lines, start=1):
        if line.endswith(b"\n"):
            yield _read(line, f"line {number} of {file}")


def last_row(file: Path) -> dict[str, Any]:
    """The last complete row of a file, empty if there is none. Raises RunRefused if it is damaged."""
    *lines, _ = file.read_bytes().split(b"\n") if file.exists() else [b""]
    return _read(lines[-1], f"line {len(lines)} of {file}") if lines else {}


def origin_of(folder: RunFolder) -> dict[str, Any]:
    """What a run's spec.json says: its training, and which code and machine began it. Raises RunRefused if damaged."""
    return _read(folder.spec.read_bytes(), str(folder.spec))


def _read(text: bytes, place: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        raise _damaged(place) from None


def _damaged(place: str) -> RunRefused:
    return RunRefused(f"{place} is damaged; restore it, or choose another --run-dir.")


def curve(folder: RunFolder, name: str) -> Curve:
    """One metric of a run, NaN where it was not measured.

    Raises KeyError, with the names there are, if it never was.
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


def last_rows(folder: RunFolder, name: str) -> list[dict[str, Any]]:
    """Each seed's last row that has a value of the metric."""
    last = {row["seed"]: row for row in rows(folder.metrics) if row.get(name) is not None}
    return list(last.values())


def layers(folder: RunFolder) -> tuple[str, ...]:
    """Names of the layers whose neurons were scored, from input to output."""
    first = next(rows(folder.scores), {})
    return tuple(name.removeprefix("scores/") for name in first if name.startswith("scores/"))


@contextlib.contextmanager
def claimed(path: Path, training: Any) -> Iterator[RunFolder]:
    """The folder of this training, new or to be resumed, that no other process uses meanwhile, on any machine.

    What a process of this machine left is free at once; what a lost machine left is, after LAPSE_SECONDS of watching.

    Raises RunRefused if the folder belongs to another configuration, with each difference; if another process
    is running in it; if it holds something else; if its spec.json is damaged.
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
    """Whether the disk knows locks; if so, no other process of this machine has this one."""
    for _ in range(LOOKS):
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
    """The folder with a lease on it, without one if it is done and nobody will write there."""
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
    """Whether a process is running in a run folder."""
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
    return held_elsewhere(path)


def _settle(folder: RunFolder, configuration: Any) -> None:
    _compare(folder, configuration)
    if not folder.spec.exists():
        write_whole(folder.spec, json.dumps({"training": configuration, **origin()}, indent=1) + "\n")


def _compare(folder: RunFolder, configuration: Any) -> None:
    if folder.spec.exists():
        known = _read(folder.spec.read_bytes(), str(folder.spec))
        if not isinstance(known.get("training"), dict):
            raise _damaged(str(folder.spec))
        changed = differences(known["training"], configuration)
        if changed:
            raise RunRefused(
                f"{folder.path} holds another configuration: {'; '.join(changed)}. Choose another --run-dir."
            )
        return
    there = (file for file in folder.path.iterdir() if file.name != "spec.json.part" and not is_lease(file))
    strangers = sorted(file.name for file in there)
    if strangers:
        raise RunRefused(
            f"{folder.path} is not a run folder: it has {strangers[0]} and no spec.json. Choose another --run-dir."
        )


def write_whole(file: Path, text: str) -> None:
    """Writes a file so that a kill leaves either its old content or its new one."""
    part = file.with_name(file.name + ".part")
    part.write_text(text)
    os.replace(part, file)


def _json(value: Any) -> Any:
    if np.ndim(value):
        # A heat map needs no more, and full precision would triple the file.
        return [float(f"{item:.4g}") for item in np.asarray(value, dtype=float)]
    item = np.asarray(value).item()
    return None if isinstance(item, float) and math.isnan(item) else item
