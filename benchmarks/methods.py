"""Measures what each method of `dormant compare` costs relative to plain DQN, and writes benchmarks/methods.csv.

    python benchmarks/methods.py                     measures all methods
    python benchmarks/methods.py --methods redo snr  measures some, and keeps the other lines of the file
    python benchmarks/methods.py --table             prints the table of docs/cures.md from the file

The agent is that of the pilot scale: MinAtar/Asterix, replay ratio 1, with each method in the middle of its ranges.
Each turn measures a chunk of 1,000 agent steps of every method and of plain DQN, one after the other. The number is the
median over turns of the quotient of both times. Times are CPU seconds of one core, because other programs hardly affect
them. A method that acts every 10,000 gradient steps does not act in most chunks, so the median leaves its acting out.
"""

import argparse
import csv
import statistics
import time
from dataclasses import replace
from pathlib import Path

from dormant.experiments.benches import MINATAR
from dormant.experiments.methods import METHODS, PLAIN, title, typical
from dormant.lab.machine import cores, origin, pin
from dormant.lab.runs.costs import relative_times

CHUNK = 1_000  # agent steps
FILE = Path(__file__).with_suffix(".csv")
COLUMNS = ("method", "title", "time", "lower_quartile", "upper_quartile", "turns", "revision", "measured")


def measured(names: list[str], turns: int) -> list[tuple]:
    """Measures the methods. Returns a row per method."""
    made = origin()
    trainings = {name: replace(typical(name, MINATAR), log_period=CHUNK) for name in (PLAIN, *names)}
    said = lambda name: print(f"compiling {name}", flush=True)  # noqa: E731
    quotients = relative_times(trainings, PLAIN, said, turns, time.process_time)
    rows = []
    for name in names:
        low, middle, high = (f"{value:.3f}" for value in statistics.quantiles(quotients[name], method="inclusive"))
        rows.append((name, title(name), middle, low, high, turns, made["revision"], made["time"]))
    return rows


def kept() -> list[tuple]:
    """The rows of the file."""
    if not FILE.exists():
        return []
    with FILE.open(newline="") as stream:
        return [tuple(row) for row in csv.reader(stream)][1:]


def table() -> list[str]:
    """The lines of the table in docs/cures.md, the cheapest method first."""
    rows = sorted(kept(), key=lambda row: float(row[2]))
    lines = [f"| {row[1]} | {float(row[2]):.2f} |" for row in rows]
    return ["| method | time / plain DQN |", "|---|---|", *lines]


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--core", type=int, default=cores()[-1])
    flags.add_argument("--turns", type=int, default=9)
    flags.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD")
    flags.add_argument("--table", action="store_true")
    given = flags.parse_args()
    if given.table:
        print("\n".join(table()))
        return
    pin(given.core)
    rows = measured(given.methods, given.turns)
    for row in rows:
        print(*row, flush=True)
    rows += [row for row in kept() if row[0] not in given.methods]
    rows.sort(key=lambda row: list(METHODS).index(row[0]))
    with FILE.open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
