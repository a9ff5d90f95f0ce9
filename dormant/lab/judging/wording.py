"""The texts of verdicts: names of metrics, units, numbers, and one sentence per verdict."""

import math
from typing import Literal, NamedTuple

from dormant.lab import Claim, Precondition, Quantity
from dormant.lab.judging.table import HISTORIES

Ruling = Literal[
    "reproduced",
    "weaker than claimed",
    "no such effect",
    "opposite",
    "not settled",
    "not testable",
    "not measured",
]
LARGEST_RATIO = 100.0  # quotients are clipped to [1 / LARGEST_RATIO, LARGEST_RATIO]
TIMES, POINTS, SCORE = "times", "percentage points", "of the human-normalised score"
SAME_RUN = "its own start"
UNDEFINED = {
    "ratio": "Some quotients are undefined because a value is negative or infinite. Claim a difference instead.",
    "difference": "Some differences are undefined: a value is infinite, or they are divided by a mean return of zero.",
}


class Bounds(NamedTuple):
    """An estimate and the bounds of its interval. Unknown bounds are NaN."""

    estimate: float
    low: float
    high: float


def is_fraction(metric: str) -> bool:
    """Whether a metric is a fraction. Fractions are shown in percent."""
    return metric.startswith(("dormant/", "overlap", "rise/")) or metric == "accuracy"


def quantity(metric: str) -> str:
    """Returns a text for what a metric measures.

    >>> quantity("dormant/0.1/all"), quantity("dormant/0/dense"), quantity("loss")
    ('dormant neurons (τ = 0.1)', 'dormant neurons in “dense” (τ = 0)', 'loss')
    >>> quantity("overlap/union/0.1/dense"), quantity("rise/0/all")
    ('overlap with all before (τ = 0.1)', 'rise of dormant neurons (τ = 0)')
    """
    named = {
        "eval_return": "return of evaluation episodes",
        "train_return": "return of training episodes",
        "srank": "effective rank (srank)",
    }
    match metric.split("/"):
        case ["dormant", tau, "all"]:
            return f"dormant neurons (τ = {tau})"
        case ["dormant", tau, layer, *_]:
            return f"dormant neurons in “{layer}” (τ = {tau})"
        case ["overlap", history, tau, _] if history in HISTORIES:
            return f"{HISTORIES[history]} (τ = {tau})"
        case ["rise", tau, _]:
            return f"rise of dormant neurons (τ = {tau})"
    return named.get(metric, metric.replace("_", " "))


def reduction(what: Quantity) -> str:
    """Returns a text for how a quantity reduces a run's curve to one number.

    >>> reduction(Quantity("eval_return", "mean", after=0.5)), reduction(Quantity("loss", "mean", 0.05, until=0.15))
    ('mean of the last 50 % of the run', 'mean from 5 % to 15 % of the run')
    """
    over = f"of the last {1 - what.after:.0%} of the run" if what.after else "of the run"
    if what.until < 1:
        over = f"from {what.after:.0%} to {what.until:.0%} of the run"
    over = over.replace("%", " %")
    text = {
        "end": "at the end",
        "mean": f"mean {over}",
        "per episode": f"mean over the training episodes {over}",
        "start": "at the start",
        "lowest": "lowest after the start",
    }[what.reduce]
    youngest, oldest = what.reset_age
    if (youngest, oldest) == (0, math.inf):
        return text
    until = f"to {oldest:g}" if math.isfinite(oldest) else "or more"
    return f"{text}, {youngest:g} {until} reset periods after a reset"


def unit_of(claim: Claim, atari: bool) -> str:
    """The unit of a claim's effect. `atari` is true if the environments are Atari games."""
    if claim.by == "ratio":
        return TIMES
    if is_fraction(claim.quantity.metric):
        return POINTS
    if claim.quantity.metric.endswith("_return"):
        return SCORE if atari else f"% of {claim.against or SAME_RUN}"
    return f"of the {quantity(claim.quantity.metric)}"


def number(value: float) -> str:
    """Formats a number with three significant digits and thousands separators.

    >>> number(4000.0), number(1.3349), number(0.00001234)
    ('4,000', '1.33', '0.0000123')
    """
    rounded = float(f"{value:.3g}")
    if abs(rounded) >= 1_000:
        return f"{rounded:,.0f}"
    return f"{rounded:.12f}".rstrip("0").rstrip(".") if rounded else "0"


def bare(unit: str, value: float) -> str:
    """Formats an effect without its unit. A clipped ratio becomes "at least" or "at most" the limit.

    >>> bare("times", 250.0), bare("times", 0.001), bare("percentage points", -0.059), bare("% of DQN", 0.2)
    ('at least 100', 'at most 0.01', '-5.9', '+20')
    """
    if unit == TIMES:
        if value >= LARGEST_RATIO * (1 - 1e-9):
            return f"at least {LARGEST_RATIO:g}"
        return f"at most {1 / LARGEST_RATIO:g}" if value <= (1 + 1e-9) / LARGEST_RATIO else number(value)
    if unit == POINTS:
        return f"{100 * value:+.1f}"
    if unit.startswith("%"):
        return f"{100 * value:+.0f}"
    return f"{'+' if value > 0 else ''}{number(value)}"


def amount(unit: str, value: float) -> str:
    """Formats an effect with its unit.

    >>> amount("times", 1.3), amount("percentage points", 0.05)
    ('1.3 times', '+5.0 percentage points')
    """
    return f"{bare(unit, value)} {unit}"


def unknown(unit: str, interval: Bounds) -> bool:
    """Whether an interval of quotients is wider than the range to which quotients are clipped."""
    return unit == TIMES and interval.low <= 1 / LARGEST_RATIO and interval.high >= LARGEST_RATIO


def effect(unit: str, interval: Bounds) -> str:
    """Formats an estimate with its interval and unit.

    >>> effect("times", Bounds(1.3, 0.9, 1.7)), effect("times", Bounds(1.0, 1e-26, 1e25))
    ('1.3 times [0.9, 1.7]', 'cannot be estimated')
    """
    if not math.isfinite(interval.estimate):
        return "not measured"
    if unknown(unit, interval):
        return "cannot be estimated"
    if interval.low == interval.high:  # all pairs are equal, for example because all quotients are clipped
        return f"{amount(unit, interval.estimate)} in every pair"
    bounds = f"[{bare(unit, interval.low)}, {bare(unit, interval.high)}]"
    return f"{amount(unit, interval.estimate)} {bounds if math.isfinite(interval.low) else '(no interval)'}"


def matters(claim: Claim, unit: str) -> str:
    """Returns a phrase that names the smallest effect that matters to a claim, or the claim's bound."""
    more = "more" if claim.direction == "higher" else "less"
    if claim.is_bound:
        return f"{'less' if more == 'more' else 'more'} than {amount(unit, claim.smallest)} would contradict it"
    return f"{amount(unit, claim.smallest)} or {more} would matter"


def sentence(claim: Claim, ruling: Ruling, unit: str, interval: Bounds) -> str:
    """Returns a sentence that explains a ruling which is based on an interval."""
    if unknown(unit, interval):
        return "The quotient cannot be estimated: these runs fit anything from a hundredth to 100 times."
    smallest = amount(unit, claim.smallest)
    if claim.is_bound:
        text = {
            "reproduced": f"it keeps within the bound of {smallest}",
            "opposite": f"it lies beyond the bound of {smallest}",
            "not settled": f"it can lie on either side of the bound of {smallest}",
        }[ruling]
    else:
        none = 1.0 if unit == TIMES else 0.0
        least = f"{smallest}, the smallest effect that matters"
        sure = interval.low > none if claim.direction == "higher" else interval.high < none
        text = {
            "reproduced": f"it goes the claimed way, and the estimate reaches {smallest}, which matters",
            "weaker than claimed": f"it goes the claimed way, but falls short of {least}",
            "no such effect": f"in both directions it falls short of {least}",
            "opposite": "it goes the other way",
            "not settled": f"it goes the claimed way, but may fall short of {least}"
            if sure
            else f"these runs fit both no effect and {smallest}, which would matter"
            if _holds(claim, interval)
            else "these runs do not show which way it goes",
        }[ruling]
    return f"The effect is {effect(unit, interval)}: {text}."


def _holds(claim: Claim, interval: Bounds) -> bool:
    """Whether the interval contains an effect that is at least as large as the smallest effect that matters."""
    return interval.high >= claim.smallest if claim.direction == "higher" else interval.low <= claim.smallest


def unmet(condition: Precondition, value: float) -> str:
    """Returns a sentence for a precondition that does not hold. `value` is the mean of its quantity."""
    what, metric = condition.quantity, condition.quantity.metric
    shown = [f"{100 * each:.1f} %" if is_fraction(metric) else number(each) for each in (value, condition.least)]
    needed = f"at least {shown[1]}"
    if value > condition.most:
        most = f"{100 * condition.most:.1f} %" if is_fraction(metric) else number(condition.most)
        needed = f"at most {most}"
    return f"The claim needs {needed} {quantity(metric)} of {condition.arm}, {reduction(what)}, but finds {shown[0]}."


def unmeasured(arm: str, metric: str) -> str:
    """Returns a sentence for a metric that no finished run of an arm has measured."""
    return f"No finished run of {arm} has measured {metric}."
