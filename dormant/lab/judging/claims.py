"""Judges each claim of an experiment from one number per run: reproduced, contradicted or inconclusive."""

import math
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from dormant.lab import Claim, Experiment, Quantity
from dormant.lab.judging import at_end, stratified_interval
from dormant.metrics import Interval
from dormant.rl.envs.atari import human_normalised

PerRun = dict[tuple[str, int], float]  # (environment, seed) -> a quantity


class Pairs(NamedTuple):
    """A claim's quantity in the runs of both arms, paired by seed and environment. A missing value is NaN."""

    environments: tuple[str, ...]
    arm: Float[np.ndarray, "seeds environments"]
    against: Float[np.ndarray, "seeds environments"]
    diverged: int = 0  # number of runs that are ignored because their network diverged

    def complete(self) -> Bool[np.ndarray, "seeds environments"]:
        """Whether both values of each pair were measured."""
        return ~(np.isnan(self.arm) | np.isnan(self.against))

    def of(self, environments: Bool[np.ndarray, " environments"]) -> "Pairs":
        """The pairs of the selected environments."""
        names = tuple(name for name, kept in zip(self.environments, environments, strict=True) if kept)
        return Pairs(names, self.arm[:, environments], self.against[:, environments], self.diverged)


def pairs(claim: Claim, frame: pl.DataFrame) -> Pairs:
    """The pairs of runs that a claim compares, from a table of `judging.table.read`.

    A claim without `against` pairs each run with its own start. Ignores runs whose network diverged.
    """
    points, lost = _log_points(claim, frame), 0
    if "diverged" in frame.columns:
        lost = points.filter(pl.col("diverged").is_not_null()).n_unique(["arm", "environment", "seed"])
        points = points.filter(pl.col("diverged").is_null())
    arm = _per_run(points.filter(arm=claim.arm), claim.quantity.reduce, claim.quantity.after)
    if claim.against is None:
        against = _per_run(points.filter(arm=claim.arm), "start")
    else:
        against = _per_run(points.filter(arm=claim.against), claim.quantity.reduce, claim.quantity.after)
    environments = tuple(sorted({environment for environment, _ in arm | against}))
    seeds = sorted({seed for _, seed in arm | against})
    shape = (len(seeds), len(environments))
    tables = [
        np.array([[values.get((name, seed), np.nan) for name in environments] for seed in seeds]).reshape(shape)
        for values in (arm, against)
    ]
    return Pairs(environments, *tables, diverged=lost)


def reduced(
    reduce: str,
    after: float,
    steps: Int[np.ndarray, " points"],
    values: Float[np.ndarray, " points"],
    episodes: Float[np.ndarray, " points"] | None = None,
) -> float:
    """Reduces a curve to one number: its "start", "end", "mean" or "lowest" value. NaN if nothing was measured.

    The end is the mean of the last tenth of the run. The mean is the area under the curve divided by its length,
    without the first fraction `after` of the run. The lowest value is taken after the first measured point. "per
    episode" is the mean over the training episodes that ended after the fraction `after` of the run. Its values are
    means over `episodes` episodes since the log point before.

    >>> reduced("mean", 0.5, np.array([0, 50, 75, 100]), np.array([9.0, 1.0, 2.0, 1.0]))
    1.5
    >>> reduced("per episode", 0.5, np.array([50, 75, 100]), np.array([9.0, 2.0, 4.0]), np.array([1.0, 3.0, 1.0]))
    2.5
    """
    measured = ~np.isnan(values)
    if reduce == "per episode":
        assert episodes is not None, "the number of episodes at each log point"
        measured &= steps > after * steps[-1]
        return float(np.average(values[measured], weights=episodes[measured])) if measured.any() else np.nan
    if reduce == "mean":
        measured &= steps >= after * steps[-1]
    if not measured.any():
        return np.nan
    if reduce == "end":
        return float(values[at_end(steps, measured)].mean())
    steps, values = steps[measured], values[measured]
    if reduce == "start" or len(steps) == 1:
        return float(values[0])
    if reduce == "lowest":
        return float(values[1:].min())
    return float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))


def _log_points(claim: Claim, frame: pl.DataFrame) -> pl.DataFrame:
    """The log points of both arms, with the metric as `value`, null where the claim ignores it."""
    metric = claim.quantity.metric
    value = pl.col(metric) if metric in frame.columns else pl.lit(None)
    points = frame.filter(pl.col("arm").is_in([claim.arm, claim.against or claim.arm])).select(
        *("arm", "environment", "seed", "agent_steps", *(["diverged"] if "diverged" in frame.columns else [])),
        value=value.cast(pl.Float64),
        episodes=(pl.col("train_episodes") if "train_episodes" in frame.columns else pl.lit(None)).cast(pl.Float64),
        ignored=_wrong_age(claim.quantity),
    )
    # If one arm ignores a log point, both do, so that the arms are compared at the same agent steps.
    ignored = pl.col("ignored").any().over("environment", "agent_steps")
    return points.with_columns(value=pl.when(~ignored).then("value")).sort("agent_steps")


def _wrong_age(quantity: Quantity) -> pl.Expr:
    low, high = quantity.reset_age
    return ((pl.col("reset_age") < low) | (pl.col("reset_age") >= high)).fill_null(False)


def _per_run(points: pl.DataFrame, reduce: str, after: float = 0.0) -> PerRun:
    numbers = {}
    for (environment, seed), run in points.group_by("environment", "seed", maintain_order=True):
        columns = (run[name].to_numpy().astype(float) for name in ("value", "episodes"))
        numbers[str(environment), int(seed)] = reduced(reduce, after, run["agent_steps"].to_numpy(), *columns)
    return numbers


LARGEST_RATIO = 100.0  # quotients are clipped to [1 / LARGEST_RATIO, LARGEST_RATIO]
Ruling = Literal["reproduced", "contradicted", "inconclusive"]
Effects = Float[np.ndarray, "seeds environments"]


class Verdict(NamedTuple):
    """The ruling on a claim, with the estimate and the interval behind it.

    The estimate is the difference between the quantities of the arm and of `against` (or of the arm's own start), or
    their quotient if the claim is a ratio. The claim's direction does not change its sign. `runs` is the number of
    pairs of runs, one per seed and environment. `interval` names the method, and `unit` is the unit of the estimate.
    """

    claim: Claim
    verdict: Ruling
    estimate: float
    low: float
    high: float
    runs: int
    interval: str
    why: str
    unit: str


def judged(experiment: Experiment, frame: pl.DataFrame) -> list[Verdict]:
    """Judges each claim of an experiment from a table of `judging.table.read`."""
    return [judge(claim, frame) for claim in experiment.claims]


def judge(claim: Claim, frame: pl.DataFrame) -> Verdict:
    """Judges a claim from a table of `judging.table.read`.

    Runs are paired by seed and environment. The effect is the mean over environments of the mean difference of the
    pairs, or of the logarithm of their quotients. Environments with fewer than two pairs are ignored. The verdict is

    - *reproduced* if the estimate is at least the smallest effect that matters, and the whole interval lies on the
      claimed side of no effect. A claim of no harm has a smallest effect on the opposite side. To reproduce it, the
      whole interval must lie on the claimed side of that smallest effect.
    - *contradicted* if the whole interval falls short of the smallest effect.
    - *inconclusive* otherwise.

    Returns of different games are converted to one scale. On Atari they are human-normalised, and returns below random
    play are set to zero in quotients. In other environments a difference is divided by the other arm's mean return.
    """
    return verdict(claim, pairs(claim, frame))


def verdict(claim: Claim, found: Pairs) -> Verdict:
    """Judges a claim from its pairs of runs; see `judge`."""
    found = _comparable(claim, found)
    count = found.complete().sum(axis=0)
    # If no environment has two pairs, keeps those with one: they give an estimate without an interval.
    kept = count >= max(1, min(2, count.max(initial=0)))
    used = found.of(kept)
    effects = _effects(claim, used)
    interval = _interval(claim, effects)
    ruling, why = _unjudged(claim, found, effects) or _ruling(claim, interval)
    estimate, low, high = (math.exp(bound) if claim.by == "ratio" else float(bound) for bound in interval)
    why += _left_out(found, kept)
    return Verdict(
        claim, ruling, estimate, low, high, int(count[kept].sum()), _method(claim, used), why, _unit(claim, used)
    )


def _comparable(claim: Claim, found: Pairs) -> Pairs:
    """The pairs, with human-normalised Atari returns."""
    if not _of_returns(claim):
        return found
    arm, against = found.arm.copy(), found.against.copy()
    for column, game in _atari_games(found):
        for table in (arm, against):
            values = np.asarray(human_normalised(game, table[:, column]))
            table[:, column] = np.maximum(values, 0.0) if claim.by == "ratio" else values
    return found._replace(arm=arm, against=against)


def _of_returns(claim: Claim) -> bool:
    return claim.quantity.metric.endswith("_return")


def _atari_games(found: Pairs) -> list[tuple[int, str]]:
    split = [name.partition("/") for name in found.environments]
    return [(column, game) for column, (family, _, game) in enumerate(split) if family == "ALE"]


def _effects(claim: Claim, found: Pairs) -> Effects:
    """The effect of each pair: NaN if a run is missing, infinite if the effect is undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if claim.by == "ratio":
            effects = _log_quotients(found.arm, found.against)
        else:
            effects = (found.arm - found.against) / _divisors(claim, found)
    return np.where(found.complete() & np.isnan(effects), np.inf, effects)


def _log_quotients(arm: Effects, against: Effects) -> Effects:
    bound = math.log(LARGEST_RATIO)
    quotients = np.clip(np.log(arm) - np.log(against), -bound, bound)
    return np.where((arm == 0) & (against == 0), 0.0, quotients)


def _divisors(claim: Claim, found: Pairs) -> Float[np.ndarray, " environments"]:
    divisors = np.ones(len(found.environments))
    if _of_returns(claim):
        divisors = np.abs(np.where(found.complete(), found.against, 0.0).sum(axis=0) / found.complete().sum(axis=0))
        divisors[[column for column, _ in _atari_games(found)]] = 1.0
    return divisors


def _interval(claim: Claim, effects: Effects) -> Interval:
    # The skewness of two arms cancels in their difference, so Welch's interval is valid. For one arm it is too narrow.
    if not effects.size or np.isinf(effects).any():
        return Interval(math.nan, math.nan, math.nan)
    return stratified_interval(effects, "fewest" if claim.against is None else "welch")


def _method(claim: Claim, found: Pairs) -> str:
    several = len(found.environments) > 1
    if claim.against is None:
        return "t of each run's change" + (", stratified, with the degrees of freedom of one environment" * several)
    return "paired t" + (", stratified by environment, Welch-Satterthwaite" * several)


def _unit(claim: Claim, found: Pairs) -> str:
    if claim.by == "ratio":
        return "ratio"
    if not _of_returns(claim):
        return claim.quantity.metric
    if _atari_games(found):
        return "human-normalised return"
    return f"share of {'its start' if claim.against is None else claim.against}"


def _unjudged(claim: Claim, found: Pairs, effects: Effects) -> tuple[Ruling, str] | None:
    """Returns "inconclusive" with the reason if there is no interval, otherwise None."""
    sides = (claim.arm, found.arm), (claim.against or claim.arm, found.against)
    absent = [arm for arm, table in sides if np.isnan(table).all()]
    if absent:
        return "inconclusive", f"No finished run of {absent[0]} has measured {claim.quantity.metric}."
    if np.isinf(effects).any():
        return "inconclusive", _UNDEFINED[claim.by]
    if np.count_nonzero(~np.isnan(effects), axis=0).max(initial=0) < 2:
        return "inconclusive", "There are fewer than two pairs of runs in every environment."
    return None


_UNDEFINED = {
    "ratio": "Some quotients are undefined because a value is negative or infinite. Claim a difference instead.",
    "difference": "Some differences are undefined: a value is infinite, or they are divided by a mean return of zero.",
}


def _ruling(claim: Claim, interval: Interval) -> tuple[Ruling, str]:
    sign = 1 if claim.direction == "higher" else -1
    smallest = sign * (math.log(claim.smallest) if claim.by == "ratio" else claim.smallest)
    estimate, (low, high) = sign * interval.estimate, sorted((sign * interval.low, sign * interval.high))
    none, matters = "1" if claim.by == "ratio" else "0", f"{claim.smallest:g}"
    if low > min(0.0, smallest) and estimate >= smallest:
        if smallest < 0:
            return "reproduced", f"The whole interval is {claim.direction} than {matters}."
        return "reproduced", f"The whole interval is {claim.direction} than {none}, and the estimate reaches {matters}."
    if high < smallest:
        bound = f"lies on the other side of {none}" if high < 0 <= smallest else f"falls short of {matters}"
        return "contradicted", f"The whole interval {bound}."
    if low > 0:
        return "inconclusive", f"There is an effect, but the estimate falls short of {matters}."
    return "inconclusive", f"The interval contains both {none if smallest >= 0 else matters} and the claimed effect."


def _left_out(found: Pairs, kept: Bool[np.ndarray, " environments"]) -> str:
    complete = found.complete()[:, kept]
    lost = complete.size - int(complete.sum())
    absent = [name for name, there in zip(found.environments, kept, strict=True) if not there]
    text = f" Environments with too few pairs: {', '.join(absent)}." if absent and kept.any() else ""
    text += f" {lost} of {complete.size} pairs are missing." if lost else ""
    return text + (f" {found.diverged} runs are left out because they diverged." if found.diverged else "")
