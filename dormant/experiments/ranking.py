"""The results of a comparison: the setting chosen for each method, and the table of methods.

`dormant.experiments.comparison` defines the runs. This file is separate because it imports polars to read runs. Most
commands do not need polars.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from dormant.experiments.comparison import (
    GROUNDS,
    PLAIN,
    Record,
    Suite,
    candidates,
    fewer_dormant,
    higher_return,
    title,
)
from dormant.lab import Scale
from dormant.lab.judging import bootstrap_interval, iqm, stratified_interval
from dormant.lab.judging.claims import Verdict, judge, pairs
from dormant.metrics import Interval

HEADS = ("Method", "Setting", "Return / plain DQN", "Dormant neurons", "Time / plain DQN", "Runs")


class Row(NamedTuple):
    """One method compared with the plain agent.

    `returns` is the interquartile mean of the runs' returns in the second half of training, each divided by the plain
    agent's mean return in that environment, with bootstrap bounds. `dormant` is the fraction of dormant neurons
    (τ = 0.1) in the second half, with a t-interval. `cost` is the training time divided by the plain agent's. The
    verdicts compare pairs of runs; they are None for the plain agent.
    """

    method: str
    setting: str
    returns: Interval
    dormant: Interval
    cost: float | None
    runs: int
    higher_return: Verdict | None
    fewer_dormant: Verdict | None


def chosen(suite: Suite, scale: Scale, names: Sequence[str], frame: pl.DataFrame) -> dict[str, str]:
    """The setting with the highest return in the tuning runs, for each method and the plain agent.

    Raises ValueError if no finished tuning run of a method has measured a return.
    """
    return {name: _best(name, suite, scale, frame) for name in (PLAIN, *names)}


def _best(name: str, suite: Suite, scale: Scale, frame: pl.DataFrame) -> str:
    returns = {}
    for setting in candidates(name, GROUNDS[suite][scale].bench):
        values = pairs(higher_return(f"{title(name)}, {setting}"), frame).arm
        if values.size and not np.isnan(values.mean()):
            returns[setting] = float(values.mean())
    if not returns:
        raise ValueError(f"no finished tuning run of {title(name)} has measured a return; run the same command again.")
    return max(returns, key=lambda setting: returns[setting])


def rows(record: Record, frame: pl.DataFrame) -> list[Row]:
    """One row per method that has a finished run. The plain agent comes first.

    `frame` is a table of `judging.table.read`.
    """
    finished = set(frame["arm"])
    chosen_settings = ((title(name), name, setting) for name, setting in record.chosen.items())
    return [
        _row(arm, setting, record.cost.get(name), frame) for arm, name, setting in chosen_settings if arm in finished
    ]


def _row(arm: str, setting: str, cost: float | None, frame: pl.DataFrame) -> Row:
    higher, fewer = higher_return(arm), fewer_dormant(arm)
    returns, dormant = pairs(higher, frame), pairs(fewer, frame)
    shares = returns.arm / np.nanmean(returns.against, axis=0)
    verdicts = (None, None) if arm == PLAIN else (judge(higher, frame), judge(fewer, frame))
    runs = int(np.isfinite(returns.arm).sum())
    return Row(arm, setting, bootstrap_interval(iqm, shares), stratified_interval(dormant.arm), cost, runs, *verdicts)


def table(record: Record, frame: pl.DataFrame) -> list[tuple[str, ...]]:
    """The table of methods as text: the column headings, then the rows, highest return first."""
    return [HEADS, *_cells(rows(record, frame))]


def _cells(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    for row in sorted(rows, key=lambda row: -row.returns.estimate):
        dormant = "{:.1%} [{:.1%}, {:.1%}]".format(*row.dormant)
        cost = "not measured" if row.cost is None else f"{row.cost:.2f}"
        returns = "{:.2f} [{:.2f}, {:.2f}]".format(*row.returns)
        yield row.method, row.setting, returns, dormant, cost, str(row.runs)
