"""Computes the plots of an experiment: one line per arm over time or replay ratio, with seeds and an interval."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from dormant.lab import Experiment, Panel, Scale, name_of
from dormant.lab.judging import at_end, bootstrap_interval, iqm, stratified_interval
from dormant.lab.judging.wording import is_fraction, quantity
from dormant.rl.envs.atari import human_normalised

Points = Float[np.ndarray, " points"]
Measured = Float[np.ndarray, "seeds environments points"]
ATARI = "ALE/"
ALL = "all environments"


@dataclass(frozen=True)
class Line:
    """One line of a plot: the values of each seed, and their mean or IQM (`middle`) with the bounds of its interval.

    Missing bounds are NaN. Lines of the paper have no values of single seeds. `colour` is the index of a colour, and
    `dash` is the index of a dash pattern.
    """

    label: str
    colour: int
    dash: int
    x: Float[np.ndarray, " points"]
    middle: Float[np.ndarray, " points"]
    low: Float[np.ndarray, " points"]
    high: Float[np.ndarray, " points"]
    seeds: Float[np.ndarray, "seeds points"]


@dataclass(frozen=True)
class Plot:
    """Lines on one pair of axes. `place` is the environment or `ALL`. For lines of the paper, it names their source."""

    title: str
    place: str
    metric: str
    x_name: str
    quantity: str
    percent: bool
    lines: tuple[Line, ...]
    published: bool = False


@dataclass(frozen=True)
class Pen:
    """The index of an arm's colour, and the index of its dash pattern."""

    colour: int
    dash: int


Pens = dict[str, Pen]


def plots(experiment: Experiment, scale: Scale, frame: pl.DataFrame) -> tuple[Plot, ...]:
    """Computes the plots of each panel: one per environment, and one of all environments if they have a common unit.

    Skips arms and environments that are not in the table. Skips empty plots.
    """
    design = experiment.designs[scale]
    environments = [name for each in design.environments if (name := name_of(each)) in set(frame["environment"])]
    arms = [arm.name for arm in design.arms]
    found = [_plot(panel, frame, place, arms) for panel in experiment.panels for place in _places(environments, panel)]
    return tuple(plot for plot in found if plot.lines)


def _places(environments: Sequence[str], panel: Panel) -> list[list[str]]:
    # Fractions and human-normalised scores can be averaged over games. The returns of MinAtar's games cannot, because
    # they have different units.
    comparable = is_fraction(panel.metric) or _normalisable(panel.metric, environments)
    return [[name] for name in environments] + [list(environments)] * (len(environments) > 1 and comparable)


def _normalisable(metric: str, environments: Sequence[str]) -> bool:
    return metric.endswith("_return") and all(name.startswith(ATARI) for name in environments)


def _plot(panel: Panel, frame: pl.DataFrame, place: list[str], arms: Sequence[str]) -> Plot:
    lines = (_sweeps if panel.over == "replay_ratio" else _curves)(frame, place, panel, arms, pens(arms))
    shared = len(place) > 1 and not is_fraction(panel.metric)
    label = "human-normalised return, IQM" if shared else quantity(panel.metric)
    kind = (panel.metric, panel.over, label, is_fraction(panel.metric))
    return Plot(panel.title, place[0] if len(place) == 1 else ALL, *kind, tuple(lines))


def _curves(frame: pl.DataFrame, place: list[str], panel: Panel, arms: Sequence[str], pen: Pens) -> Iterator[Line]:
    for arm in arms:
        x, values = measured(frame.filter(pl.col("arm") == arm), place, panel.over, panel.metric)
        if x.size:
            yield _line(arm, pen[arm], x, values, panel.metric, place)


def _sweeps(frame: pl.DataFrame, place: list[str], panel: Panel, arms: Sequence[str], pen: Pens) -> Iterator[Line]:
    for name in dict.fromkeys(family(arm) for arm in arms):
        points = dict(_ends(frame, place, panel.metric, [arm for arm in arms if family(arm) == name]))
        if points:
            ratios = sorted(points)
            values = _side_by_side([points[ratio] for ratio in ratios])
            yield _line(name, pen[name], np.array(ratios), values, panel.metric, place)


def _ends(
    frame: pl.DataFrame, place: list[str], metric: str, arms: Sequence[str]
) -> Iterator[tuple[float, Float[np.ndarray, "seeds environments"]]]:
    for arm in arms:
        rows = frame.filter(pl.col("arm") == arm)
        x, values = measured(rows, place, "agent_steps", metric)
        if x.size:
            yield float(rows["replay_ratio"][0]), ends(x, values)


def _side_by_side(tables: Sequence[Float[np.ndarray, "_ environments"]]) -> Measured:
    # Arms may have different numbers of seeds.
    values = np.full((max(map(len, tables)), tables[0].shape[1], len(tables)), math.nan)
    for point, table in enumerate(tables):
        values[: len(table), :, point] = table
    return values


def _line(label: str, pen: Pen, x: Points, values: Measured, metric: str, place: list[str]) -> Line:
    if len(place) == 1:
        bounds, seeds = stratified_band(values), values[:, 0]
    elif is_fraction(metric):
        bounds, seeds = stratified_band(values), values.mean(axis=1)
    else:
        # Seeds of different games are unrelated, so there is no line per seed.
        bounds, seeds = iqm_band(normalised(values, place)), np.empty((0, len(x)))
    return Line(label, pen.colour, pen.dash, x, *bounds, seeds)


def family(arm: str) -> str:
    """The arm's name up to its first comma. In plots over the replay ratio, the arms of one family form one line.

    >>> family("ReDo, RR 0.25"), family("Weight decay")
    ('ReDo', 'Weight decay')
    """
    return arm.partition(",")[0]


def pens(arms: Sequence[str]) -> Pens:
    """Assigns a pen to each arm and each family. If there are several families, the arms of a family share a colour.

    >>> pens(["DQN, RR 1", "DQN, RR 2", "Reset"])["DQN, RR 2"]
    Pen(colour=0, dash=1)
    """
    families = list(dict.fromkeys(map(family, arms)))
    drawn = {name: Pen(number, 0) for number, name in enumerate(families)}
    if len(families) in (1, len(arms)):
        return drawn | {arm: Pen(number, 0) for number, arm in enumerate(arms)}
    members = {name: [arm for arm in arms if family(arm) == name] for name in families}
    return drawn | {arm: Pen(families.index(family(arm)), members[family(arm)].index(arm)) for arm in arms}


def measured(rows: pl.DataFrame, environments: Sequence[str], x_name: str, metric: str) -> tuple[Points, Measured]:
    """Returns the x values at which an arm was measured in all environments, and the values (NaN if missing).

    Skips a log point if an environment has no value there, because the mean would cover fewer environments.
    """
    value = pl.col(metric).cast(pl.Float64) if metric in rows.columns else pl.lit(None, pl.Float64).alias(metric)
    rows = rows.filter(pl.col("environment").is_in(environments)).select("environment", "seed", x_name, value)
    rows = rows.filter(pl.col(metric).is_finite())
    if rows.is_empty():
        return np.empty(0), np.empty((0, len(environments), 0))
    x, point = np.unique(rows[x_name].to_numpy().astype(float), return_inverse=True)
    seeds, seed = np.unique(rows["seed"].to_numpy(), return_inverse=True)
    values = np.full((len(seeds), len(environments), len(x)), math.nan)
    values[seed, [environments.index(name) for name in rows["environment"]], point] = rows[metric].to_numpy()
    everywhere = np.isfinite(values).any(axis=0).all(axis=0)
    return x[everywhere], values[:, :, everywhere]


def normalised(values: Measured, environments: Sequence[str]) -> Measured:
    """Converts Atari returns to human-normalised scores: 0 for random play, 1 for a human."""
    games = [name.removeprefix(ATARI) for name in environments]
    return np.stack([np.asarray(human_normalised(game, values[:, i])) for i, game in enumerate(games)], axis=1)


def ends(x: Points, values: Measured) -> Float[np.ndarray, "seeds environments"]:
    """The mean over the last tenth of the run, for each seed and environment. It is NaN if there is no value.

    >>> ends(np.array([0.0, 50, 95, 100]), np.array([[[9.0, 9, 1, 3]], [[9, 9, 1, math.nan]]])).tolist()
    [[2.0], [1.0]]
    """
    late = values[:, :, at_end(x.astype(int), np.ones(len(x), bool))]
    count = np.isfinite(late).sum(axis=2)
    return np.where(count > 0, np.nansum(late, axis=2) / np.maximum(count, 1), math.nan)


def stratified_band(values: Measured) -> tuple[Points, Points, Points]:
    """The mean of the environments' means at every point, with the bounds of `stratified_interval`.

    >>> [round(float(bound[0]), 2) for bound in stratified_band(np.array([[[1.0]], [[2.0]], [[3.0]]]))]
    [2.0, -0.48, 4.48]
    """
    bounds = np.array([stratified_interval(values[:, :, point]) for point in range(values.shape[2])])
    return bounds[:, 0], bounds[:, 1], bounds[:, 2]


def iqm_band(values: Measured) -> tuple[Points, Points, Points]:
    """The interquartile mean at every point, with bootstrap bounds, as in the paper's plots of returns."""
    bounds = np.array([bootstrap_interval(iqm, values[:, :, point]) for point in range(values.shape[2])])
    return bounds[:, 0], bounds[:, 1], bounds[:, 2]
