"""Judges each claim of an experiment from one number per run, with t-intervals and Holm's correction."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, get_args

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from dormant.lab import Claim, Experiment, Precondition, Quantity, Scale
from dormant.lab.judging import LEVEL, Degrees, at_end, holm_levels, mean, p_value, stratified_interval
from dormant.lab.judging.wording import LARGEST_RATIO, UNDEFINED, Bounds, Ruling, sentence, unit_of, unmeasured, unmet
from dormant.rl.envs.atari import human_normalised

PerRun = dict[tuple[str, int], float]  # (environment, seed) -> a quantity


class Pairs(NamedTuple):
    """The two values that a claim compares, for each seed and environment. A missing value is NaN."""

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
    """Returns the pairs of values that a claim compares. `frame` is a table of `judging.table.read`.

    If the claim has no `against`, both values of a pair come from the same run. The second value is then the start of
    the run, or the claim's `baseline`. Ignores runs whose network diverged.
    """
    compared, lost = frame.filter(pl.col("arm").is_in([claim.arm, claim.against or claim.arm])), 0
    if "diverged" in frame.columns:
        lost = compared.filter(pl.col("diverged").is_not_null()).n_unique(["arm", "environment", "seed"])
        compared = compared.filter(pl.col("diverged").is_null())
    start = Quantity(claim.quantity.metric, "start", reset_age=claim.quantity.reset_age)
    other = claim.baseline or (claim.quantity if claim.against else start)
    arm = _per_run(compared, claim.arm, claim.quantity)
    against = _per_run(compared, claim.against or claim.arm, other)
    environments = tuple(sorted({environment for environment, _ in arm | against}))
    seeds = sorted({seed for _, seed in arm | against})
    tables = [_table(values, seeds, environments) for values in (arm, against)]
    return Pairs(environments, *tables, diverged=lost)


def _table(values: PerRun, seeds: Sequence[int], environments: Sequence[str]) -> Float[np.ndarray, "s e"]:
    rows = [[values.get((name, seed), np.nan) for name in environments] for seed in seeds]
    return np.array(rows, float).reshape(len(seeds), len(environments))


def _per_run(frame: pl.DataFrame, arm: str, quantity: Quantity) -> PerRun:
    """The quantity of each run of an arm. Ignores a log point if `reset_age` excludes it in any arm of the table."""
    low, high = quantity.reset_age
    wrong_age = ((pl.col("reset_age") < low) | (pl.col("reset_age") >= high)).fill_null(False)
    ignored = wrong_age.any().over("environment", "agent_steps")
    points = frame.select(
        *("arm", "environment", "seed", "agent_steps"),
        value=pl.when(~ignored).then(_column(frame, quantity.metric)),
        episodes=_column(frame, "train_episodes"),
    ).sort("agent_steps")
    numbers = {}
    for (environment, seed), run in points.filter(arm=arm).group_by("environment", "seed", maintain_order=True):
        columns = (run[name].to_numpy().astype(float) for name in ("value", "episodes"))
        numbers[str(environment), int(seed)] = reduced(quantity, run["agent_steps"].to_numpy(), *columns)
    return numbers


def _column(frame: pl.DataFrame, metric: str) -> pl.Expr:
    return (pl.col(metric) if metric in frame.columns else pl.lit(None)).cast(pl.Float64)


def reduced(
    quantity: Quantity,
    steps: Int[np.ndarray, " points"],
    values: Float[np.ndarray, " points"],
    episodes: Float[np.ndarray, " points"] | None = None,
) -> float:
    """Reduces a curve to one number. The number is NaN if nothing was measured.

    - "start": the first measured value.
    - "end": the mean of the last tenth of the run.
    - "lowest": the lowest value after the first measured point.
    - "mean": the area under the curve divided by its length, between the fractions `after` and `until` of the run.
    - "per episode": the mean over the training episodes that ended between the fractions `after` and `until` of the
      run. Each value of the curve is the mean of the episodes since the previous log point. `episodes` has the number
      of these episodes.

    >>> reduced(Quantity("loss", "mean", after=0.5), np.array([0, 50, 75, 100]), np.array([9.0, 1.0, 2.0, 1.0]))
    1.5
    >>> over_episodes, steps = Quantity("train_return", "per episode", after=0.5), np.array([50, 75, 100])
    >>> reduced(over_episodes, steps, np.array([9.0, 2.0, 4.0]), np.array([1.0, 3.0, 1.0]))
    2.5
    """
    measured = ~np.isnan(values)
    if quantity.reduce == "per episode":
        assert episodes is not None, "the number of episodes at each log point"
        # Excludes the log point at `after`, because its value is about episodes that ended before this point.
        measured &= (steps > quantity.after * steps[-1]) & (steps <= quantity.until * steps[-1]) & (episodes > 0)
        return float(np.average(values[measured], weights=episodes[measured])) if measured.any() else np.nan
    if quantity.reduce == "mean":
        measured &= (steps >= quantity.after * steps[-1]) & (steps <= quantity.until * steps[-1])
    if not measured.any():
        return np.nan
    if quantity.reduce == "end":
        return float(values[at_end(steps, measured)].mean())
    steps, values = steps[measured], values[measured]
    if quantity.reduce == "start" or len(steps) == 1:
        return float(values[0])
    if quantity.reduce == "lowest":
        return float(values[1:].min())
    return float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))


Effects = Float[np.ndarray, "seeds environments"]
RULINGS: tuple[Ruling, ...] = get_args(Ruling)
SMALLEST_SCORE = 0.05  # half the width of the paper's intervals over 5 seeds and 17 games (figure 10)
WITHOUT_VERDICTS: Scale = "smoke"  # runs at this scale are too short to learn anything


class Verdict(NamedTuple):
    """The verdict on a claim: a ruling, and the estimate and the interval on which the ruling is based.

    The estimate is the difference between the two values that the claim compares. If the claim is a ratio, it is their
    quotient, clipped to [1/100, 100]. The direction of the claim does not change the sign of the estimate.

    - `runs`: the number of pairs, one per seed and environment.
    - `interval`: the name of the method that computes the interval. `level` is its confidence level.
    - `unit`: the unit of the estimate. For example, an estimate of 0.05 is shown as 5 percentage points.
    - `why`: one sentence that explains the ruling.
    - `claim`: the claim that was judged. On Atari, a claim about a quotient of returns is replaced by a claim about a
      difference of human-normalised scores.
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
    level: float = LEVEL

    @property
    def bounds(self) -> Bounds:
        """The estimate and the bounds of its interval."""
        return Bounds(self.estimate, self.low, self.high)


def judged(experiment: Experiment, frame: pl.DataFrame, scale: Scale) -> list[Verdict]:
    """Judges each claim of an experiment from a table of `judging.table.read`. Returns no verdict at scale "smoke".

    Holm's method corrects the intervals of the primary claims for their number. If there is no effect in any primary
    claim, the probability that any of them is judged reproduced or opposite is at most 5 %. Exploratory claims are not
    corrected.
    """
    if scale == WITHOUT_VERDICTS:
        return []
    primary = [claim for claim in experiment.claims if claim.primary]
    levels = dict(zip(primary, holm_levels([_p_value(claim, frame) for claim in primary]), strict=True))
    return [judge(claim, frame, levels.get(claim, LEVEL)) for claim in experiment.claims]


def judge(claim: Claim, frame: pl.DataFrame, level: float = LEVEL) -> Verdict:
    """Judges a claim from a table of `judging.table.read`. `level` is the confidence level of the interval.

    Runs are paired by seed and environment. The effect of a pair is the difference of its two values, or the logarithm
    of their quotient. The effect of the claim is the mean over environments of the mean effect of the pairs.
    Environments with fewer than two pairs are ignored. `ruling` defines the verdicts that are based on the interval.
    Two verdicts do not depend on the interval:

    - *not testable*: a precondition of the claim does not hold, or the effect is undefined.
    - *not measured*: no finished run has measured the quantity.

    The returns of different games are converted to one scale. On Atari, a quotient of human-normalised scores is
    undefined if an arm only reaches the score of random play. Therefore the difference of these scores is judged, and a
    claim about a quotient becomes a claim about a difference of `SMALLEST_SCORE`. In other environments a difference of
    returns is divided by the mean return of the arm `against`.
    """
    return verdict(claim, pairs(claim, frame), level, _failed_precondition(claim, frame))


def verdict(claim: Claim, found: Pairs, level: float = LEVEL, failed: tuple[Ruling, str] | None = None) -> Verdict:
    """Judges a claim from its pairs; see `judge`.

    If a precondition of the claim does not hold, `failed` is the ruling and the reason.
    """
    claim, found = _comparable(claim, found)
    count = found.complete().sum(axis=0)
    # If no environment has two pairs, keeps environments with one pair. These give an estimate without an interval.
    kept = count >= max(1, min(2, count.max(initial=0)))
    used = found.of(kept)
    effects = _effects(claim, used)
    interval, unit = _interval(claim, effects, level), unit_of(claim, bool(_atari_games(used)))
    clipped = Bounds(*(_shown(claim, bound) for bound in interval))
    settled = _absent(claim, found) or failed or _without_interval(claim, effects)
    rule = settled[0] if settled else ruling(*_towards_claim(claim, interval))
    why = settled[1] if settled else sentence(claim, rule, unit, clipped)
    number, why = int(count[kept].sum()), why + _left_out(found, kept)
    return Verdict(claim, rule, *clipped, number, _method(claim, used), why, unit, level)


def ruling(interval: Bounds, smallest: float) -> Ruling:
    """Returns the first ruling below that fits the interval. The claimed direction is upwards, and 0 is no effect.

    - *reproduced*: the whole interval lies above 0, and the estimate is at least the smallest effect that matters.
    - *weaker than claimed*: the whole interval lies above 0 and below the smallest effect.
    - *no such effect*: the whole interval lies within plus or minus the smallest effect.
    - *opposite*: the whole interval lies below 0.
    - *not settled*: none of these fits.

    A negative `smallest` is a bound: the claim is reproduced if the whole interval lies above it, and opposite if the
    whole interval lies below it.

    >>> ruling(Bounds(0.3, 0.1, 0.5), 0.2), ruling(Bounds(0.02, -0.05, 0.09), 0.2)
    ('reproduced', 'no such effect')
    """
    estimate, low, high = interval
    if smallest < 0:
        return "reproduced" if low > smallest else "opposite" if high < smallest else "not settled"
    if low > 0 and estimate >= smallest:
        return "reproduced"
    if low > 0 and high < smallest:
        return "weaker than claimed"
    if -smallest < low and high < smallest:
        return "no such effect"
    return "opposite" if high < 0 else "not settled"


def _towards_claim(claim: Claim, interval: Bounds) -> tuple[Bounds, float]:
    """Returns the interval and the smallest effect. Changes both signs if the claimed direction is downwards."""
    smallest = math.log(claim.smallest) if claim.by == "ratio" else claim.smallest
    if claim.direction == "higher":
        return interval, smallest
    return Bounds(-interval.estimate, -interval.high, -interval.low), -smallest


def _shown(claim: Claim, bound: float) -> float:
    return float(np.clip(np.exp(bound), 1 / LARGEST_RATIO, LARGEST_RATIO)) if claim.by == "ratio" else float(bound)


def _comparable(claim: Claim, found: Pairs) -> tuple[Claim, Pairs]:
    """Returns the claim and the pairs. Converts the returns of Atari games to human-normalised scores.

    On Atari, a claim about a quotient of returns becomes a claim about a difference of scores.
    """
    games = _atari_games(found) if _of_returns(claim) else []
    if not games:
        return claim, found
    arm, against = found.arm.copy(), found.against.copy()
    for column, game in games:
        for table in (arm, against):
            table[:, column] = human_normalised(game, table[:, column])
    if claim.by == "ratio":
        smallest = math.copysign(SMALLEST_SCORE, math.log(claim.smallest))
        claim = replace(claim, by="difference", smallest=smallest)
    return claim, found._replace(arm=arm, against=against)


def _of_returns(claim: Claim) -> bool:
    return claim.quantity.metric.endswith("_return")


def _atari_games(found: Pairs) -> list[tuple[int, str]]:
    split = [name.partition("/") for name in found.environments]
    return [(column, game) for column, (family, _, game) in enumerate(split) if family == "ALE"]


def _effects(claim: Claim, found: Pairs) -> Effects:
    """The effect of each pair. It is NaN if a run is missing, and infinite if the effect is undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if claim.by == "ratio":
            effects = log_quotients(found.arm, found.against)
        else:
            effects = (found.arm - found.against) / _divisors(claim, found)
    return np.where(found.complete() & np.isnan(effects), np.inf, effects)


def log_quotients(
    arm: Float[np.ndarray, "*shape"], against: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """The logarithms of quotients. Clips the quotients to [1 / `LARGEST_RATIO`, `LARGEST_RATIO`]. 0 / 0 gives 0."""
    bound = math.log(LARGEST_RATIO)
    with np.errstate(divide="ignore", invalid="ignore"):
        quotients = np.clip(np.log(arm) - np.log(against), -bound, bound)
    return np.where((arm == 0) & (against == 0), 0.0, quotients)


def _divisors(claim: Claim, found: Pairs) -> Float[np.ndarray, " environments"]:
    if not _of_returns(claim) or _atari_games(found):
        return np.ones(len(found.environments))
    complete = found.complete()
    return np.abs(np.where(complete, found.against, 0.0).sum(axis=0) / complete.sum(axis=0))


def _interval(claim: Claim, effects: Effects, level: float) -> Bounds:
    if not effects.size or np.isinf(effects).any():
        return Bounds(math.nan, math.nan, math.nan)
    return Bounds(*map(float, stratified_interval(effects, _degrees(claim), level)))


def _degrees(claim: Claim) -> Degrees:
    # In the difference of two arms, the skews of the arms cancel, so Welch's interval is valid. In the change of one
    # arm, nothing cancels the skew, so Welch's interval is too narrow.
    return "fewest" if claim.against is None else "welch"


def _p_value(claim: Claim, frame: pl.DataFrame) -> float:
    """The p-value of the hypothesis "no effect". For a bound, the hypothesis is "the effect equals the bound".

    The result is NaN if the claim has no interval.
    """
    claim, found = _comparable(claim, pairs(claim, frame))
    effects = _effects(claim, found.of(found.complete().sum(axis=0) >= 2))
    if _failed_precondition(claim, frame) or not effects.size or np.isinf(effects).any():
        return math.nan
    smallest = math.log(claim.smallest) if claim.by == "ratio" else claim.smallest
    return float(p_value(effects, smallest if claim.is_bound else 0.0, _degrees(claim)))


def _method(claim: Claim, found: Pairs) -> str:
    several = len(found.environments) > 1
    if claim.against is None:
        return "t of each run's change" + (", stratified, with the degrees of freedom of one environment" * several)
    return "paired t" + (", stratified by environment, Welch-Satterthwaite" * several)


def _failed_precondition(claim: Claim, frame: pl.DataFrame) -> tuple[Ruling, str] | None:
    """If a precondition does not hold, returns "not testable" or "not measured" and the reason. Otherwise None."""
    for condition in claim.requires:
        value = _mean_of(condition, frame)
        if math.isnan(value):
            return "not measured", unmeasured(condition.arm, condition.quantity.metric)
        if not condition.least <= value <= condition.most:
            return "not testable", unmet(condition, value)
    return None


def _mean_of(condition: Precondition, frame: pl.DataFrame) -> float:
    values = _per_run(frame.filter(arm=condition.arm), condition.arm, condition.quantity)
    measured = {key: value for key, value in values.items() if not math.isnan(value)}
    environments, seeds = sorted({name for name, _ in measured}), sorted({seed for _, seed in measured})
    return float(mean(_table(measured, seeds, environments))) if measured else math.nan


def _absent(claim: Claim, found: Pairs) -> tuple[Ruling, str] | None:
    """If one of the two values was never measured, returns "not measured" and the reason. Otherwise None."""
    metrics = claim.quantity.metric, (claim.baseline or claim.quantity).metric
    sides = (claim.arm, found.arm, metrics[0]), (claim.against or claim.arm, found.against, metrics[1])
    absent = [unmeasured(arm, metric) for arm, table, metric in sides if np.isnan(table).all()]
    return ("not measured", absent[0]) if absent else None


def _without_interval(claim: Claim, effects: Effects) -> tuple[Ruling, str] | None:
    """If there is no interval, returns a ruling and the reason. Otherwise None."""
    if np.isinf(effects).any():
        return "not testable", UNDEFINED[claim.by]
    if np.count_nonzero(~np.isnan(effects), axis=0).max(initial=0) < 2:
        return "not settled", "There are fewer than two pairs of runs in every environment."
    return None


def _left_out(found: Pairs, kept: Bool[np.ndarray, " environments"]) -> str:
    complete = found.complete()[:, kept]
    lost = complete.size - int(complete.sum())
    absent = [name for name, there in zip(found.environments, kept, strict=True) if not there]
    text = f" Environments with too few pairs: {', '.join(absent)}." if absent and kept.any() else ""
    text += f" {lost} of {complete.size} pairs are missing." if lost else ""
    return text + (f" {found.diverged} runs are left out because they diverged." if found.diverged else "")
