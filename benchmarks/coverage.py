"""Measures how often 95 % intervals over seeds contain the true value, for a few seeds of one game and of three games.

    python benchmarks/coverage.py [--simulations 2000] [--resamples 500] [--output benchmarks/coverage.csv]

Draws returns from known distributions many times, and computes each interval for each draw. There are three situations:

- *one arm*: an interval for the mean (or IQM) of one arm's returns. Its coverage is also that of two other intervals.
  The first is for the change since the start of a run, if all seeds have the same start. The second is for the
  difference from an arm that has collapsed, if all returns of that arm are equal.
- *no effect*: paired differences between two arms whose returns have the same distribution.
- *doubled*: paired differences between two arms. The returns of the second arm are half as large.

The seeds of the two arms are independent. The games differ in level and spread. Verdicts use *t, Welch* to compare two
arms, and *t, fewest degrees* to compare an arm with its start.

The file has one row per interval. `coverage` should be 0.95. `above_zero` is how often the whole interval lies above
zero: the false positive rate if there is no effect, otherwise the power. `median_half_width` is half of the interval's
width, as the median over draws.
"""

import argparse
import csv
import shlex
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dormant.lab.judging import half_width, iqm, mean
from dormant.lab.machine import revision

SEEDS, GAMES = (3, 5, 10), (1, 3)
LEVELS, SPREADS = np.array([1.0, 1.5, 0.7]), np.array([0.4, 0.8, 0.2])
Bounds = tuple[np.ndarray, np.ndarray]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape)


def lognormal(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Samples with mean 0 and standard deviation 1. The skewness is 1.8 for a sigma of 0.5, and 6.2 for 1."""
    variance = np.exp(sigma**2)
    return (np.exp(sigma * rng.standard_normal(shape)) - np.sqrt(variance)) / np.sqrt(variance * (variance - 1))


def bimodal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Samples with mean 0 and standard deviation 1. A third of the samples are low, like the returns of failed runs."""
    success = rng.random(shape) > 1 / 3
    return (4 * success + 0.5 * rng.standard_normal(shape) - 8 / 3) / np.sqrt(0.25 + 16 * 2 / 9)


RETURNS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": normal,
    "skewed": lambda rng, shape: lognormal(rng, shape, 0.5),
    "very skewed": lambda rng, shape: lognormal(rng, shape, 1.0),
    "bimodal": bimodal,
}
SITUATIONS = {"one arm": None, "no effect": 1.0, "doubled": 2.0}


class Row(NamedTuple):
    """The results of one kind of interval in one setting."""

    situation: str
    returns: str
    seeds: int
    games: int
    interval: str
    coverage: float
    above_zero: float
    median_half_width: float


def arms(
    rng: np.random.Generator, returns: str, times: float | None, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draws tables [simulations, seeds, games] of two arms. The second table is zero if `times` is None."""

    def arm() -> np.ndarray:
        return LEVELS[: shape[-1]] + SPREADS[: shape[-1]] * RETURNS[returns](rng, shape)

    return (arm(), np.zeros(shape)) if times is None else (times * arm(), arm())


def t_over_seeds(tables: np.ndarray) -> Bounds:
    """The t-interval over seeds of the mean over games. Ignores that the games differ in level and spread."""
    return around(mean(tables), half_width(tables.mean(axis=-1)[..., None]))


def around(centre: np.ndarray, half: np.ndarray) -> Bounds:
    return centre - half, centre + half


def unpaired(first: np.ndarray, second: np.ndarray) -> Bounds:
    """Welch's interval for the difference of two arms with unpaired seeds."""
    both = np.concatenate([first, -second], axis=-1)  # the mean over all columns is half of the difference
    return around(2 * mean(both), 2 * half_width(both))


def bootstraps(rng: np.random.Generator, tables: np.ndarray, resamples: int) -> dict[str, Bounds]:
    """The bounds of every bootstrap. Computes one block of tables at a time, to save memory."""
    blocks = np.array_split(tables, max(1, tables.size * resamples // 4_000_000))
    parts = [_bootstraps(rng, block, resamples) for block in blocks]

    def joined(name: str, end: int) -> np.ndarray:
        return np.concatenate([part[name][end] for part in parts])

    return {name: (joined(name, 0), joined(name, 1)) for name in parts[0]}


def _bootstraps(rng: np.random.Generator, tables: np.ndarray, resamples: int) -> dict[str, np.ndarray]:
    places = rng.integers(0, tables.shape[-2], (len(tables), resamples, *tables.shape[1:]))
    drawn = np.take_along_axis(tables[:, None], places, axis=2)
    ends = [0.025, 0.975]
    errors = np.sqrt(tables.var(axis=-2, ddof=1).sum(axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        studentised = (mean(drawn) - mean(tables)[:, None]) / np.sqrt(drawn.var(axis=-2, ddof=1).sum(axis=-1))
    # A resample that repeats a single seed has no variance, so its ratio is undefined. Sets the ratio to 0 if the
    # resample's mean equals the table's, and otherwise to a huge number.
    low, high = np.quantile(np.nan_to_num(studentised, nan=0.0, posinf=1e9, neginf=-1e9), ends, axis=1)
    return {
        "percentile bootstrap of the IQM": np.quantile(iqm(drawn), ends, axis=1),
        "percentile bootstrap of the mean": np.quantile(mean(drawn), ends, axis=1),
        "bootstrap-t of the mean": np.stack([mean(tables) - high * errors, mean(tables) - low * errors]),
    }


def setting(
    rng: np.random.Generator, situation: str, returns: str, seeds: int, games: int, options: argparse.Namespace
) -> Iterator[Row]:
    """Yields the results of every kind of interval in one setting."""
    times = SITUATIONS[situation]
    first, second = arms(rng, returns, times, (options.simulations, seeds, games))
    tables = first - second
    bounds: dict[str, Bounds] = bootstraps(rng, tables, options.resamples)
    bounds |= {
        "t over seeds": t_over_seeds(tables),
        "t, fewest degrees": around(mean(tables), half_width(tables, "fewest")),
        "t, Welch": around(mean(tables), half_width(tables, "welch")),
    }
    if times is not None:
        bounds["t, Welch, unpaired"] = unpaired(first, second)
    large = np.subtract(*arms(rng, returns, times, (1, 400_000, games)))
    expected = LEVELS[:games].mean() * (1.0 if times is None else times - 1)
    for name, (low, high) in bounds.items():
        truth = float(iqm(large)[0]) if "IQM" in name else expected
        holds = ((low <= truth) & (truth <= high)).mean()
        half = float(np.median(high - low)) / 2
        yield Row(
            situation, returns, seeds, games, name, round(float(holds), 4), float((low > 0).mean()), round(half, 4)
        )


def printed(rows: list[Row]) -> None:
    """Prints the coverage in percent: a line per setting, a column per kind of interval."""
    names = list(dict.fromkeys(row.interval for row in rows))
    for number, name in enumerate(names, start=1):
        print(f"  {number}  {name}")
    print(
        f"\n{'coverage, %':12}{'returns':13}{'seeds':>6}{'games':>6}  "
        + "".join(f"{n:>7}" for n in range(1, len(names) + 1))
    )
    settings = dict.fromkeys(row[:4] for row in rows)
    for key in settings:
        found = {row.interval: f"{100 * row.coverage:7.1f}" for row in rows if row[:4] == key}
        print(f"{key[0]:12}{key[1]:13}{key[2]:6}{key[3]:6}  " + "".join(found.get(name, f"{'':7}") for name in names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2_000)
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    settings = product(SITUATIONS, RETURNS, SEEDS, GAMES)
    rows = [row for each in settings for row in setting(rng, *each, options)]
    printed(rows)
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    with options.output.open("w", newline="") as stream:
        stream.write(f"# {command} at revision {revision()}, {options.simulations} simulations a row\n")
        csv.writer(stream).writerows([Row._fields, *rows])


if __name__ == "__main__":
    main()
