"""What a figure shows, before any pen: a line for each arm, with its seeds and an interval, from a frame of runs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float
from scipy.special import stdtrit

from dormant.lab.spec import Experiment, Panel, Scale, name_of

ALL = "all environments"


@dataclass(frozen=True)
class Line:
    """One arm in one plot: what each seed measured, their mean, and the bounds of its interval; NaN where none is.

    Lines of the paper have no seeds. `colour` and `dash` number the pens, of which a plot's arms share few.
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
    """Some lines over one axis. `place` is the environment, all of them, or where the paper's lines come from."""

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
    """How an arm is told from others wherever it is drawn."""

    colour: int
    dash: int


def plots(experiment: Experiment, scale: Scale, frame: pl.DataFrame) -> tuple[Plot, ...]:
    """The plots of each panel: one for each environment, and one for all of them where their mean means something.

    Arms and environments that the frame lacks are left out, and so is a plot that would be empty.
    """
    design = experiment.designs[scale]
    environments = [name for each in design.environments if (name := name_of(each)) in set(frame["environment"])]
    arms = [arm.name for arm in design.arms]
    found = (_plot(panel, frame, place, arms) for panel in experiment.panels for place in _places(environments, panel))
    return tuple(plot for plot in found if plot.lines)


def _places(environments: Sequence[str], panel: Panel) -> list[str]:
    # Returns of two games have no common unit, fractions have.
    return [*environments, *([ALL] if len(environments) > 1 and is_fraction(panel.metric) else [])]


def _plot(panel: Panel, frame: pl.DataFrame, place: str, arms: Sequence[str]) -> Plot:
    wanted = [arm for arm in arms if arm in (panel.arms or arms)]
    drawn = pens(arms)
    sweep = panel.over == "replay_ratio"
    lines = _sweeps(frame, place, panel, wanted, drawn) if sweep else _curves(frame, place, panel, wanted, drawn)
    kind = (panel.metric, panel.over, quantity(panel.metric), is_fraction(panel.metric))
    return Plot(panel.title, place, *kind, tuple(lines))


def _curves(
    frame: pl.DataFrame, place: str, panel: Panel, arms: Sequence[str], drawn: dict[str, Pen]
) -> Iterator[Line]:
    for arm in arms:
        x, seeds = matrix(frame.filter(pl.col("arm") == arm), place, panel.over, panel.metric)
        if x.size:
            yield _line(arm, drawn[arm], x, seeds)


def _sweeps(
    frame: pl.DataFrame, place: str, panel: Panel, arms: Sequence[str], drawn: dict[str, Pen]
) -> Iterator[Line]:
    for name in dict.fromkeys(family(arm) for arm in arms):
        points = dict(_ends(frame, place, panel.metric, [arm for arm in arms if family(arm) == name]))
        if points:
            x = np.array(sorted(points))
            yield _line(name, drawn[name], x, _columns([points[ratio] for ratio in x.tolist()]))


def _ends(frame: pl.DataFrame, place: str, metric: str, arms: Sequence[str]) -> Iterator[tuple[float, np.ndarray]]:
    for arm in arms:
        rows = frame.filter(pl.col("arm") == arm)
        x, seeds = matrix(rows, place, "agent_steps", metric)
        if x.size:
            yield float(rows["replay_ratio"][0]), end(x, seeds)


def _columns(ends: Sequence[np.ndarray]) -> Float[np.ndarray, "seeds points"]:
    # Wide networks or high ratios may have fewer seeds.
    seeds = np.full((max(map(len, ends)), len(ends)), math.nan)
    for column, values in enumerate(ends):
        seeds[: len(values), column] = values
    return seeds


def _line(label: str, pen: Pen, x: np.ndarray, seeds: np.ndarray) -> Line:
    return Line(label, pen.colour, pen.dash, x, *band(seeds), seeds)


def matrix(
    rows: pl.DataFrame, place: str, x_name: str, metric: str
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, "seeds points"]]:
    """Where an arm was measured, and what each seed measured there; over all environments, each seed's mean of them."""
    if metric not in rows.columns:
        return np.empty(0), np.empty((0, 0))
    value = pl.col(metric).cast(pl.Float64)
    measured = rows.filter(value.is_finite()).select("environment", "seed", x_name, value)
    if place == ALL:
        count = measured["environment"].n_unique()
        pooled = measured.group_by("seed", x_name).agg(value.mean(), pl.col("environment").n_unique())
        measured = pooled.filter(pl.col("environment") == count)
    else:
        measured = measured.filter(pl.col("environment") == place)
    x, column = np.unique(measured[x_name].to_numpy().astype(float), return_inverse=True)
    seeds, row = np.unique(measured["seed"].to_numpy(), return_inverse=True)
    values = np.full((len(seeds), len(x)), math.nan)
    values[row, column] = measured[metric].to_numpy()
    return x, values


def end(x: Float[np.ndarray, " points"], seeds: Float[np.ndarray, "seeds points"]) -> Float[np.ndarray, " seeds"]:
    """Each seed's mean over the last tenth of the run; NaN for a seed that has no value there.

    >>> end(np.array([0.0, 50, 95, 100]), np.array([[9.0, 9, 1, 3], [9, 9, 1, math.nan]]))
    array([2., 1.])
    """
    late = seeds[:, x >= 0.9 * x[-1]]
    count = np.isfinite(late).sum(axis=1)
    return np.where(count > 0, np.nansum(late, axis=1) / np.maximum(count, 1), math.nan)


def band(seeds: Float[np.ndarray, "seeds points"], confidence: float = 0.95) -> tuple[np.ndarray, ...]:
    """Mean over seeds, and the bounds of its Student t-interval; NaN where fewer than two seeds have a value.

    >>> [round(float(bound[0]), 2) for bound in band(np.array([[1.0], [2.0], [3.0]]))]
    [2.0, -0.48, 4.48]
    """
    count = np.isfinite(seeds).sum(axis=0)
    mean = np.where(count > 0, np.nansum(seeds, axis=0) / np.maximum(count, 1), math.nan)
    spread = np.sqrt(np.nansum((seeds - mean) ** 2, axis=0) / np.maximum(count - 1, 1))
    half = np.where(count > 1, stdtrit(np.maximum(count - 1, 1), (1 + confidence) / 2), math.nan)
    half = half * spread / np.sqrt(np.maximum(count, 1))
    return mean, mean - half, mean + half


def family(arm: str) -> str:
    """The arm's name up to its first comma: the arms of a family are one line over the replay ratio.

    >>> family("ReDo, RR 0.25"), family("Weight decay")
    ('ReDo', 'Weight decay')
    """
    return arm.partition(",")[0]


def pens(arms: Sequence[str]) -> dict[str, Pen]:
    """A pen for each arm and each family: a family has a colour and its members dashes, if there are several of both.

    >>> pens(["DQN, RR 1", "DQN, RR 2", "Reset"])["DQN, RR 2"]
    Pen(colour=0, dash=1)
    """
    families = list(dict.fromkeys(map(family, arms)))
    drawn = {name: Pen(number, 0) for number, name in enumerate(families)}
    if len(families) in (1, len(arms)):
        return drawn | {arm: Pen(number, 0) for number, arm in enumerate(arms)}
    members = {name: [arm for arm in arms if family(arm) == name] for name in families}
    return drawn | {arm: Pen(families.index(family(arm)), members[family(arm)].index(arm)) for arm in arms}


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights between 0 and 1 moved as little as keeps them a gap apart, in their order.

    >>> [round(height, 2) for height in spread([0.5, 0.52, 0.9], 0.1)]
    [0.46, 0.56, 0.9]
    """
    order = np.argsort(heights, kind="stable")
    ladder = gap * np.arange(len(heights))
    wanted = np.asarray(heights, dtype=float)[order] - ladder
    # Least squares under an order: pool neighbours that are the wrong way round.
    pools: list[list[float]] = []
    for height in wanted.tolist():
        pools.append([height])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    placed = np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools]) if pools else np.empty(0)
    room = max(0.0, 1.0 - gap * (len(heights) - 1))
    spaced = np.empty(len(heights))
    spaced[order] = np.clip(placed, 0, room) + ladder
    return spaced.tolist()


def is_fraction(metric: str) -> bool:
    """Whether a metric is a share of neurons, which is shown in percent."""
    return metric.startswith(("dormant/", "overlap"))


def quantity(metric: str) -> str:
    """What a metric measures, in words.

    >>> quantity("dormant/0.1/all"), quantity("dormant/0/dense"), quantity("loss")
    ('dormant neurons (τ = 0.1)', 'dormant neurons in “dense” (τ = 0)', 'loss')
    """
    named = {"eval_return": "return of evaluation episodes", "train_return": "return of training episodes"}
    parts = metric.split("/")
    if parts[0] == "dormant":
        where = "" if parts[2] == "all" else f" in “{parts[2]}”"
        return f"dormant neurons{where} (τ = {parts[1]})"
    return named.get(metric, metric.replace("_", " "))
