"""Whether the runs bear out what an experiment claims."""

import math
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from dormant.lab.design import Claim, Experiment
from dormant.lab.judging.intervals import Interval, stratified_interval
from dormant.lab.judging.quantities import Pairs, pairs
from dormant.rl.envs.atari_scores import human_normalised

LARGEST_RATIO = 100.0  # a quotient by zero counts as this one, and one of zero as one over it
Ruling = Literal["reproduced", "contradicted", "inconclusive"]
Effects = Float[np.ndarray, "seeds environments"]


class Verdict(NamedTuple):
    """What the runs say of a claim.

    The estimate and its 95 % interval are of the arm's quantity less the other arm's (or its own start), or over it for
    a ratio: they are not turned by the claim's direction. `runs` counts the pairs of runs, one for each seed and
    environment, `interval` names the method, and `unit` is what the estimate is measured in.
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
    """The verdict of every claim of an experiment, on a table of `results.read`."""
    return [judge(claim, frame) for claim in experiment.claims]


def judge(claim: Claim, frame: pl.DataFrame) -> Verdict:
    """What the runs of a table of `results.read` say of a claim.

    Runs are paired by seed and environment. The effect is the mean over environments of the mean difference of pairs,
    or of the logarithm of their quotients; environments with fewer than two pairs are left out. *Reproduced*: the whole
    interval lies on the claimed side of no effect (of the smallest effect that matters, where that is on the other
    side), and the estimate is at least that smallest effect. *Contradicted*: the whole interval falls short of it.
    *Inconclusive*: anything else.

    Returns are compared on one scale: human-normalised on Atari, where a quotient takes what is below random play for
    nothing; elsewhere a difference is a share of the mean of the arm compared with, in each environment.
    """
    return verdict(claim, pairs(claim, frame))


def verdict(claim: Claim, found: Pairs) -> Verdict:
    """What pairs of runs say of a claim, as `judge` does."""
    found = _comparable(claim, found)
    count = found.present().sum(axis=0)
    # Where no environment has two pairs there is no interval, but still an estimate.
    kept = count >= max(1, min(2, count.max(initial=0)))
    used = found.of(kept)
    effects = _effects(claim, used)
    interval = _interval(claim, effects)
    ruling, why = _unjudged(claim, found, effects) or _ruling(claim, interval)
    estimate, low, high = (math.exp(bound) if claim.by == "ratio" else bound for bound in interval)
    why += _left_out(found, kept)
    return Verdict(
        claim, ruling, estimate, low, high, int(count[kept].sum()), _method(claim, used), why, _unit(claim, used)
    )


def _comparable(claim: Claim, found: Pairs) -> Pairs:
    """Atari's returns on the scale of a human's."""
    if not _of_returns(claim):
        return found
    mine, theirs = found.mine.copy(), found.theirs.copy()
    for column, game in _atari_games(found):
        for table in (mine, theirs):
            values = np.asarray(human_normalised(game, table[:, column]))
            table[:, column] = np.maximum(values, 0.0) if claim.by == "ratio" else values
    return found._replace(mine=mine, theirs=theirs)


def _of_returns(claim: Claim) -> bool:
    return claim.quantity.metric.endswith("_return")


def _atari_games(found: Pairs) -> list[tuple[int, str]]:
    split = [name.partition("/") for name in found.environments]
    return [(column, game) for column, (family, _, game) in enumerate(split) if family == "ALE"]


def _effects(claim: Claim, found: Pairs) -> Effects:
    """The effect in each pair, NaN where it is missing, infinite where it has no value."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if claim.by == "ratio":
            effects = _log_quotients(found.mine, found.theirs)
        else:
            effects = (found.mine - found.theirs) / _divisors(claim, found)
    return np.where(found.present() & np.isnan(effects), np.inf, effects)


def _log_quotients(mine: Effects, theirs: Effects) -> Effects:
    bound = math.log(LARGEST_RATIO)
    quotients = np.clip(np.log(mine) - np.log(theirs), -bound, bound)
    return np.where((mine == 0) & (theirs == 0), 0.0, quotients)


def _divisors(claim: Claim, found: Pairs) -> Float[np.ndarray, " environments"]:
    divisors = np.ones(len(found.environments))
    if _of_returns(claim):
        divisors = np.abs(np.where(found.present(), found.theirs, 0.0).sum(axis=0) / found.present().sum(axis=0))
        divisors[[column for column, _ in _atari_games(found)]] = 1.0
    return divisors


def _interval(claim: Claim, effects: Effects) -> Interval:
    """Welch's is right for the differences of two arms, whose skews cancel, and too narrow for the changes of one."""
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
    """Why there is no interval, if there is none."""
    sides = (claim.arm, found.mine), (claim.against or claim.arm, found.theirs)
    absent = [arm for arm, table in sides if np.isnan(table).all()]
    if absent:
        return "inconclusive", f"No finished run of {absent[0]} has measured {claim.quantity.metric}."
    if np.isinf(effects).any():
        return "inconclusive", _UNDEFINED[claim.by]
    if np.count_nonzero(~np.isnan(effects), axis=0).max(initial=0) < 2:
        return "inconclusive", "There are fewer than two pairs of runs in every environment."
    return None


_UNDEFINED = {
    "ratio": "Some quotients are not defined: a value is negative or infinite. A difference would be.",
    "difference": "Some differences are not defined: a value is infinite, or the mean they are a share of is zero.",
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
    return "inconclusive", f"The interval holds both {none if smallest >= 0 else matters} and what is claimed."


def _left_out(found: Pairs, kept: Bool[np.ndarray, " environments"]) -> str:
    lost = found.present()[:, kept].size - int(found.present()[:, kept].sum())
    absent = [name for name, there in zip(found.environments, kept, strict=True) if not there]
    text = f" Left out for want of pairs: {', '.join(absent)}." if absent and kept.any() else ""
    return text + (f" {lost} of {found.present()[:, kept].size} pairs are missing." if lost else "")
