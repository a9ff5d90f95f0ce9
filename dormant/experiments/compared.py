"""What the runs of a comparison say: the setting that each method chose, and its row in the table."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from dormant.experiments.comparison import GROUNDS, Record, Suite, fewer_dormant, higher_return
from dormant.experiments.methods import PLAIN, candidates, title
from dormant.lab.comparison import Row, row
from dormant.lab.quantities import pairs
from dormant.lab.spec import Scale


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
