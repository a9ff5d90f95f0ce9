"""Counts the outcomes of the fault campaign's cases by kind."""

from collections import Counter
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
    """Counts outcomes by kind. Prints each bad case at once, with the arguments that repeat it."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[Outcome]] = {}

    def add(self, kind: str, outcome: Outcome, case: str, said: str = "") -> None:
        self.counts.setdefault(kind, Counter())[outcome] += 1
        if outcome in BAD:
            print(f"{outcome}: {kind}: {case}: {said[-1500:]}", flush=True)

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
