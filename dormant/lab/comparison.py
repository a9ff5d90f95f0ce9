"""A row of the table in which methods are compared."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from dormant.lab.aggregates import iqm
from dormant.lab.claims import Verdict, judge
from dormant.lab.quantities import pairs
from dormant.lab.spec import Claim
from dormant.lab.statistics import Interval, bootstrap_interval, stratified_interval

HEADS = ("Method", "Setting", "Return, of plain DQN's", "Dormant neurons", "Time, of plain DQN's", "Runs")


class Row(NamedTuple):
    """A method beside the plain agent.

    `returns` is the interquartile mean of all runs' returns over the second half, each over the plain agent's mean in
    that environment, with bounds by the percentile bootstrap; `dormant` the share of dormant neurons (τ = 0.1) then,
    with a t-interval; `cost` the time of training over the plain agent's; the verdicts compare pairs of runs.
    """

    method: str
    setting: str
    returns: Interval
    dormant: Interval
    cost: float | None
    runs: int
    higher_return: Verdict | None
    fewer_dormant: Verdict | None


def row(arm: str, setting: str, cost: float | None, higher: Claim, fewer: Claim, frame: pl.DataFrame) -> Row:
    """The row of a method, out of a table of `results.read`; that of the plain agent, which the claims compare with,
    has no verdicts."""
    returns, dormant = pairs(higher, frame), pairs(fewer, frame)
    shares = returns.mine / np.nanmean(returns.theirs, axis=0)
    verdicts = (None, None) if arm == higher.against else (judge(higher, frame), judge(fewer, frame))
    runs = int(np.isfinite(returns.mine).sum())
    return Row(arm, setting, bootstrap_interval(iqm, shares), stratified_interval(dormant.mine), cost, runs, *verdicts)


def told(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    """The cells of each row as text, the highest return first."""
    for each in sorted(rows, key=lambda row: -row.returns.estimate):
        dormant = "{:.1%} [{:.1%}, {:.1%}]".format(*each.dormant)
        cost = "not measured" if each.cost is None else f"{each.cost:.2f}"
        returns = "{:.2f} [{:.2f}, {:.2f}]".format(*each.returns)
        yield each.method, each.setting, returns, dormant, cost, str(each.runs)
