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
    Record,
    Suite,
    claims,
    fewer_dormant,
    higher_return,
    tuning_arm,
)
from dormant.experiments.methods import PLAIN, candidates, title
from dormant.lab import Experiment, Scale
from dormant.lab.judging import Table, bootstrap_interval, iqm, ranks, stratified_interval
from dormant.lab.judging.claims import Verdict, judged, pairs
from dormant.lab.judging.wording import effect
from dormant.metrics import Interval

HEADS = (
    *("Method", "Setting", "Rank", "Return / plain DQN", "Pairs / plain DQN", "Dormant neurons", "Time / plain DQN"),
    "Runs",
)


class Row(NamedTuple):
    """One method compared with the plain agent.

    Returns are those of training episodes in the last fifth of a run.

    - `rank`: the mean over environments of the rank of the method's return, with bootstrap bounds. Rank 1 is best.
    - `returns`: the interquartile mean over runs of the return divided by the plain agent's mean return in the same
      environment, with bootstrap bounds.
    - `dormant`: the fraction of dormant neurons (τ = 0.1) in the second half of a run, with a t-interval.
    - `cost`: the training time divided by the plain agent's.
    - `runs`: the number of runs.
    - `higher_return`, `fewer_dormant`: the verdicts on two claims. The plain agent has none. The interval of
      `higher_return` has Holm's correction for the number of methods.
    """

    method: str
    setting: str
    rank: Interval
    returns: Interval
    dormant: Interval
    cost: float | None
    runs: int
    higher_return: Verdict | None
    fewer_dormant: Verdict | None


def chosen(suite: Suite, scale: Scale, names: Sequence[str], frame: pl.DataFrame) -> dict[str, str]:
    """The setting with the highest return in the tuning runs, for each method and the plain agent.

    Each return is divided by the mean return of the plain agent's tuning runs in that environment. A setting is chosen
    only if all of its tuning runs have a return.

    Raises ValueError if no setting of a method has a return in all of its tuning runs.
    """
    found = {name: _tuned(name, suite, scale, frame) for name in (PLAIN, *names)}
    missing = [name for name, settings in found.items() if not settings]
    if missing:
        raise ValueError(
            f"no finished tuning run of {title(missing[0])} has measured a return; run the same command again."
        )
    plain = np.mean([table.mean(axis=0) for table in found[PLAIN].values()], axis=0)
    unit = np.where(plain == 0, 1.0, np.abs(plain))
    return {
        name: max(settings, key=lambda setting: float((settings[setting] / unit).mean()))
        for name, settings in found.items()
    }


def _tuned(name: str, suite: Suite, scale: Scale, frame: pl.DataFrame) -> dict[str, Table]:
    """The returns of the tuning runs of each setting of a method whose tuning runs are complete."""
    ground = GROUNDS[suite][scale]
    shape = len(ground.tuning.seeds), ground.tuning.environments
    tables = {
        setting: pairs(higher_return(tuning_arm(name, setting)), frame).arm
        for setting in candidates(name, ground.bench, ground.tuning.draws)
    }
    return {setting: table for setting, table in tables.items() if table.shape == shape and not np.isnan(table).any()}


def rows(record: Record, frame: pl.DataFrame, scale: Scale) -> list[Row]:
    """One row per method that has a finished run, the plain agent first. Empty if the plain agent has no finished run.

    `frame` is a table of `judging.table.read`. Environments in which the plain agent has no finished run are left out.
    """
    frame = frame.filter(pl.col("environment").is_in(frame.filter(arm=PLAIN)["environment"].unique().to_list()))
    names = [name for name in record.chosen if title(name) in set(frame["arm"])]
    if not names:
        return []
    verdicts = {}
    for verdict in judged(Experiment("compare", "", {}, claims=claims(names)), frame, scale):
        verdicts.setdefault((verdict.claim.arm, verdict.claim.quantity.metric), verdict)
    tables = [pairs(higher_return(title(name)), frame).arm for name in names]
    return [
        Row(
            method=title(name),
            setting=record.chosen[name],
            rank=rank,
            returns=bootstrap_interval(iqm, table / np.nanmean(tables[0], axis=0)),
            dormant=stratified_interval(pairs(fewer_dormant(title(name)), frame).arm),
            cost=record.cost.get(name),
            runs=int(np.isfinite(table).sum()),
            higher_return=verdicts.get((title(name), higher_return(PLAIN).quantity.metric)),
            fewer_dormant=verdicts.get((title(name), fewer_dormant(PLAIN).quantity.metric)),
        )
        for name, table, rank in zip(names, tables, ranks(tables), strict=True)
    ]


def table(record: Record, frame: pl.DataFrame, scale: Scale) -> list[tuple[str, ...]]:
    """The table of methods as text: the column headings, then the rows, best rank first."""
    return [HEADS, *_cells(rows(record, frame, scale))]


def _cells(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    for row in sorted(rows, key=lambda row: (row.rank.estimate, -row.returns.estimate)):
        yield (
            row.method,
            row.setting,
            "{:.1f} [{:.1f}, {:.1f}]".format(*row.rank),
            "{:.2f} [{:.2f}, {:.2f}]".format(*row.returns),
            "–" if row.higher_return is None else effect(row.higher_return.unit, row.higher_return.bounds),
            "{:.1%} [{:.1%}, {:.1%}]".format(*row.dormant),
            "not measured" if row.cost is None else f"{row.cost:.2f}",
            str(row.runs),
        )
