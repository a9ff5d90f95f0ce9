"""The rows of a run: metrics.jsonl and scores.jsonl, one line per log point and seed.

A log point is a step at which a run measures and logs its metrics. The mark of a file is its length and its checksum.
While a run is written, a `Journal` keeps the marks of both files.
Every checkpoint records the marks, so that a resumed run continues from complete and unchanged rows. At the end, the
file `done` records the marks, so that a reader notices if a file has changed.
"""

import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dormant.lab.runs.schema import Done, Mark, Row, ScoresRow, Values, damaged, parsed, read

Metrics = Mapping[str, Any]  # name -> values, with a leading axis of seeds
FILES = ("metrics.jsonl", "scores.jsonl")
TAIL_BYTES = 65_536  # more than the length of a row of metrics
BLOCK_BYTES = 2**20


class Journal:
    """The rows of a run folder while one process appends to them."""

    def __init__(self, path: Path, marks: Mapping[str, Mark] | None = None) -> None:
        """Continues after the rows that `marks` covers. Without `marks`, starts with no rows. Writes nothing yet.

        Raises Damaged if the beginning of a file does not match its mark.
        """
        self.path, self.marks = path, dict(marks or dict.fromkeys(FILES, Mark()))
        for name in FILES:
            if name not in self.marks:
                raise damaged(str(path / name), "the checkpoint does not list it")
            check_beginning(path / name, self.marks[name])

    def cut(self) -> None:
        """Deletes the rows that the marks do not cover, because the resumed run writes these rows again."""
        for name, mark in self.marks.items():
            file = self.path / name
            if file.exists():
                os.truncate(file, mark.bytes)

    def append(self, metrics: Metrics, seeds: tuple[int, ...]) -> None:
        """Appends the rows of one log point, one per seed. Scores are long, so they go to a separate file.

        Each value of `metrics` has a leading axis of seeds. A masked value was not measured and is written as null.
        """
        table = [
            {"seed": seed} | {name: _json(each[i]) for name, each in metrics.items()} for i, seed in enumerate(seeds)
        ]
        scores = [name for name in metrics if name.startswith("scores/")]
        self._write(FILES[0], [{name: row[name] for name in row if name not in scores} for row in table])
        self._write(FILES[1], [{name: row[name] for name in ("seed", "agent_steps", *scores)} for row in table])

    def _write(self, name: str, table: list[Values]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in table).encode()
        with (self.path / name).open("ab") as stream:
            stream.write(text)
        mark = self.marks[name]
        self.marks[name] = Mark(bytes=mark.bytes + len(text), checksum=zlib.crc32(text, mark.checksum))

    def synced(self) -> dict[str, Mark]:
        """Writes the rows to the disk. Returns the marks of both files."""
        for name in FILES:
            with (self.path / name).open("rb") as stream:
                os.fsync(stream.fileno())
        return dict(self.marks)


def check_beginning(file: Path, mark: Mark) -> None:
    """Raises Damaged if the beginning of a file does not match the mark."""
    length, total = 0, 0
    if mark.bytes:
        try:
            stream = file.open("rb")
        except FileNotFoundError:
            raise damaged(str(file), "it is missing") from None
        with stream:
            while length < mark.bytes and (block := stream.read(min(BLOCK_BYTES, mark.bytes - length))):
                length, total = length + len(block), zlib.crc32(block, total)
    if length < mark.bytes:
        raise damaged(str(file), f"it has {length:,} of {mark.bytes:,} bytes")
    if total != mark.checksum:
        raise damaged(str(file), "its content has changed")


def check_whole(file: Path, mark: Mark) -> None:
    """Raises Damaged if the whole file does not match the mark."""
    check_beginning(file, mark)
    if file.exists() and file.stat().st_size != mark.bytes:
        raise damaged(str(file), f"it has {file.stat().st_size:,} bytes instead of {mark.bytes:,}")


def lines(file: Path) -> list[bytes]:
    """The complete lines of a file of rows. An incomplete last line (after a kill or on a full disk) is ignored.

    Raises Damaged if the run is done and the file does not match its mark in `done`.
    """
    done = file.with_name("done")
    if done.exists():
        marks = read(Done, done).files
        if file.name in marks:
            check_whole(file, marks[file.name])
    found = file.read_bytes().split(b"\n") if file.exists() else []
    return found[:-1]


def rows(file: Path) -> Iterator[Values]:
    """The complete rows of a file. An incomplete last line (after a kill or on a full disk) is ignored.

    Raises Damaged if any complete line is not a valid row. The message names the line and the field. Also raises the
    errors of `lines`.
    """
    model = ScoresRow if file.name == FILES[1] else Row
    for number, line in enumerate(lines(file), start=1):
        yield parsed(model, line, f"line {number} of {file}").model_dump()


def last_row(file: Path) -> Values:
    """Returns the last complete row of a file, or an empty dict. Reads only the end of the file.

    Raises Damaged if the row is damaged.
    """
    if not file.exists():
        return {}
    with file.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - TAIL_BYTES))
        _, *found = (b"\n" * (size <= TAIL_BYTES) + stream.read()).split(b"\n")
    return parsed(Row, found[-2], f"the last row of {file}").model_dump() if len(found) > 1 else {}


class NewRows:
    """Reads the rows that are appended to a file. `restarted` counts how often the file was found to be shorter."""

    def __init__(self, file: Path) -> None:
        self.file, self.read, self.number, self.restarted = file, 0, 0, 0

    def update(self) -> list[Values]:
        """Returns the complete rows since the last `update`. If the file has become shorter, returns all rows.

        Raises Damaged for a damaged row.
        """
        if not self.file.exists():
            return []
        if self.file.stat().st_size < self.read:
            self.read, self.number, self.restarted = 0, 0, self.restarted + 1
        with self.file.open("rb") as stream:
            stream.seek(self.read)
            found = stream.read()
        whole = found[: found.rfind(b"\n") + 1]
        self.read += len(whole)
        new = whole.split(b"\n")[:-1]
        first, self.number = self.number + 1, self.number + len(new)
        return [
            parsed(Row, line, f"line {number} of {self.file}").model_dump()
            for number, line in enumerate(new, start=first)
        ]


class Newest:
    """For each seed of a run, the last measured values of some metrics. Each `update` reads only new rows.

    `diverged` maps a seed to the agent steps of the seed's first row that has NaN or an infinite number.
    """

    def __init__(self, file: Path, names: Iterable[str]) -> None:
        self.rows = NewRows(file)
        self.values: dict[str, dict[int, float]] = {name: {} for name in names}
        self.diverged: dict[int, int] = {}

    def update(self) -> dict[str, float]:
        """Reads the new rows. Returns the mean over seeds of each measured metric.

        Raises Damaged if a row is damaged.
        """
        before = self.rows.restarted
        new = self.rows.update()
        if self.rows.restarted > before:
            self.diverged.clear()
            self.values = {name: {} for name in self.values}
        for row in new:
            self.take(row)
        return self.means()

    def means(self) -> dict[str, float]:
        """The mean over seeds of each metric that was measured in the rows read so far."""
        return {name: sum(each.values()) / len(each) for name, each in self.values.items() if each}

    def take(self, row: Values) -> None:
        """Updates the values from one row."""
        if not_finite(row):
            self.diverged.setdefault(row["seed"], row["agent_steps"])
        for name, of_seeds in self.values.items():
            if row.get(name) is not None:
                of_seeds[row["seed"]] = row[name]


def not_finite(row: Values) -> list[str]:
    """The metrics of a row that are NaN or infinite. If there are any, the network has diverged.

    >>> not_finite({"seed": 0, "loss": math.nan, "eval_return": None})
    ['loss']
    """
    return [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]


def _json(value: Any) -> Any:
    if value is np.ma.masked:
        return None
    if np.ndim(value):
        # Rounds to four digits, which are enough for a picture. Full precision would triple the size of the file.
        return [float(f"{item:.4g}") for item in np.asarray(value, dtype=float)]
    return np.asarray(value).item()
