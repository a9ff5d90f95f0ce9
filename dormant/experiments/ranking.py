"""What the runs of a comparison say: the setting that each method chose, and its row in the table."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from dormant.experiments.comparison import GROUNDS, Record, Suite, fewer_dormant, higher_return
from dormant.experiments.methods import PLAIN, candidates, title
from dormant.lab.design import Claim, Scale
from dormant.lab.judging.claims import Verdict, judge
from dormant.lab.judging.intervals import Interval, bootstrap_interval, iqm, stratified_interval
from dormant.lab.judging.quantities import pairs

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


def chosen(suite: Suite, scale: Scale, names: Sequence[str], frame: pl.DataFrame) -> dict[str, str]:
    """The setting of the plain agent and of each method with the highest return in the tuning runs.

    Raises ValueError for a method none of whose runs has measured a return.
    """
    return {name: _best(name, suite, scale, frame) for name in (PLAIN, *names)}


def _best(name: str, suite: Suite, scale: Scale, frame: pl.DataFrame) -> str:
    settings = candidates(name, GROUNDS[suite][scale].bench)
    returns = {each: _tuned(frame, f"{title(name)}, {each}") for each in settings}
    measured = {setting: value for setting, value in returns.items() if not np.isnan(value)}
    if not measured:
        raise ValueError(f"no finished tuning run of {title(name)} has measured a return; run the same command again.")
    return max(measured, key=lambda setting: measured[setting])


def _tuned(frame: pl.DataFrame, arm: str) -> float:
    found = pairs(higher_return(arm), frame).mine
    return float(found.mean()) if found.size else np.nan


def table(record: Record, frame: pl.DataFrame) -> list[Row]:
    """A row for each method that has a finished run, the plain agent first."""
    there = set(frame["arm"])
    return [
        row(arm, setting, record.cost.get(name), higher_return(arm), fewer_dormant(arm), frame)
        for name, setting in record.chosen.items()
        if (arm := title(name)) in there
    ]
