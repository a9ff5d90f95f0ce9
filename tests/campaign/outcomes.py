"""Counts the outcomes of the fault campaign's cases by kind."""

import json
from collections import Counter
from pathlib import Path
from typing import Literal

Outcome = Literal["refused", "recovered", "accepted", "wrong", "traceback", "hanging"]
COLUMNS: dict[Outcome, str] = {
    "refused": "refused with a line",
    "recovered": "same bits",
    "accepted": "valid after all",
    "wrong": "silently wrong",
    "traceback": "traceback",
    "hanging": "left hanging",
}
BAD: tuple[Outcome, ...] = ("wrong", "traceback", "hanging")


class Tally:
    """Counts outcomes by kind, in a file that all workers append to. Prints each bad case at once, with its number."""

    def __init__(self, folder: Path, start: int = 0, only: int | None = None) -> None:
        self.folder, self.start, self.only = folder, start, only
        self.file = folder / "outcomes"
        self.file.touch()

    def takes(self, part: str, case: int) -> bool:
        """Whether this worker must run a case. False if the flags leave it out or another worker has taken it."""
        if case < self.start or self.only not in (None, case):
            return False
        try:
            (self.folder / f"{part}-{case}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def add(self, kind: str, outcome: Outcome, case: str, said: str = "") -> None:
        with self.file.open("a") as stream:
            stream.write(json.dumps([kind, outcome]) + "\n")
        if outcome in BAD:
            print(f"{outcome}: {kind}: {case}: {said[-1500:]}", flush=True)

    @property
    def counts(self) -> dict[str, Counter[Outcome]]:
        """The number of each outcome by kind."""
        found: dict[str, Counter[Outcome]] = {}
        for line in self.file.read_text().splitlines():
            kind, outcome = json.loads(line)
            found.setdefault(kind, Counter())[outcome] += 1
        return found

    @property
    def failed(self) -> bool:
        return any(count[bad] for count in self.counts.values() for bad in BAD)

    def table(self) -> str:
        heads = ["", "tried", *COLUMNS.values()]
        rows = [[kind, sum(count.values()), *(count[name] for name in COLUMNS)] for kind, count in self.counts.items()]
        total: Counter[Outcome] = sum(self.counts.values(), Counter())
        rows.append(["total", sum(total.values()), *(total[name] for name in COLUMNS)])
        widths = [max(len(str(row[column])) for row in [heads, *rows]) for column in range(len(heads))]
        lines = (
            "  ".join(str(cell).rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [heads, *rows]
        )
        return "\n".join(lines)


def one_line(error: BaseException) -> bool:
    """Whether an error's message fits on one line, after the command line has joined its words."""
    return bool(str(error).strip()) and len(str(error)) < 2_000
