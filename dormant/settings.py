"""Checks of settings, and the options of `Renewal`. Interventions for JAX and for PyTorch use this module.

It imports neither JAX nor PyTorch. A check of a method has the method's settings as arguments, so that both frameworks
refuse the same values with the same words.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

import numpy as np

Default = TypeVar("Default")
Kind = TypeVar("Kind")
Number = float | int
ADDED = "added after runs were made"


def added(default: Default) -> Default:
    """Returns a dataclass field for a setting that is newer than some stored runs.

    If the setting has its default, it is left out of the description of a run. The names of run folders depend on this
    description, so folders of older runs keep their names.
    """
    return field(default=default, metadata={ADDED: True})


class Range(NamedTuple):
    """A range of numbers. `words` follows "the number must" in error messages; `holds` is false for NaN."""

    words: str
    holds: Callable[[float], bool]


POSITIVE = Range("be positive and finite", lambda number: 0 < number < math.inf)
NOT_NEGATIVE = Range("be at least 0 and finite", lambda number: 0 <= number < math.inf)
FRACTION = Range("lie between 0 and 1", lambda number: 0 <= number <= 1)
SHARE = Range("lie above 0 and not above 1", lambda number: 0 < number <= 1)
DECAY = Range("be at least 0 and below 1", lambda number: 0 <= number < 1)
INSIDE = Range("lie above 0 and below 1", lambda number: 0 < number < 1)
THRESHOLD = Range("be at least 0", lambda number: number >= 0)


def check_number(name: str, number: Number, bounds: Range, hint: str = "") -> None:
    """Raises ValueError if a number lies outside of its range, and TypeError if it is not a number.

    `name` is the setting's name in the message, and `hint` says more about its values.
    """
    try:
        fits = None if isinstance(number, bool) else bool(bounds.holds(number))
    except (TypeError, ValueError):  # the value cannot be compared with numbers, or is an array of several numbers
        fits = None
    more = f"; {hint}." if hint else "."
    if fits is None:
        raise TypeError(f"{name} must be a number, got {described(number)}{more}")
    if not fits:
        raise ValueError(f"{name} must {bounds.words}, got {number}{more}")


def check_whole(name: str, number: int, of: str = "gradient steps", least: int = 1, hint: str = "") -> None:
    """Raises TypeError if `number` is not an integer (the float 1e3 is not), and ValueError if it is below `least`.

    `name` is the setting's name in the message. `of` is the unit of the number, or an empty text.
    """
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)):
        write = f"; write {int(number)}" if isinstance(number, float) and number.is_integer() else ""
        kind = f"a whole number of {of}" if of else "a whole number"
        raise TypeError(f"{name} must be {kind}, got {described(number)}{write}.")
    if number < least:
        unit = f" {of.removesuffix('s') if least == 1 else of}" if of else ""
        raise ValueError(f"{name} must be at least {least}{unit}, got {number}{'; ' if hint else ''}{hint}.")


def check_fields(settings: object, bounds: Range, *names: str) -> None:
    """Raises ValueError or TypeError if one of these fields of a dataclass lies outside of the range."""
    for name in names:
        check_number(name, getattr(settings, name), bounds)


def check_counts(settings: object, *names: str) -> None:
    """Raises ValueError or TypeError if one of these fields of a dataclass is not a whole number above 0."""
    for name in names:
        check_whole(name, getattr(settings, name), "")


def check_value(name: str, value: object) -> None:
    """Raises TypeError if `value` is a class."""
    if isinstance(value, type):
        raise TypeError(f"{name} must be a value, got the class {value.__name__}; write {value.__name__}(...).")


def described(value: object) -> str:
    """Returns a value as an error message shows it: its class if its text is long or only an address.

    >>> described("0.1"), described({"kernel": np.ones((8, 8))}), described(dict)
    ("'0.1'", 'a dict', 'the class dict')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text and text[0] != "<" else f"a {type(value).__name__}"


def checked_tau(tau: float) -> float:
    """Returns `tau`. Raises ValueError if it is negative or NaN, and TypeError if it is not a number."""
    check_number("tau", tau, THRESHOLD, "with 0, only silent neurons are dormant; the ReDo paper uses 0.1")
    return tau


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError if `value` is not in `choices`. `name` is the option's name in the message."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {described(value)}.")


def check_flag(name: str, value: bool) -> None:
    """Raises TypeError if `value` is neither True nor False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {described(value)}.")


def check_layers(layers: tuple[str, ...] | None, name: str = "layers") -> None:
    """Raises TypeError if `layers` is neither None nor a tuple of names, such as a text or a list."""
    if layers is None or (isinstance(layers, tuple) and all(isinstance(each, str) for each in layers)):
        return
    several = isinstance(layers, list) and all(isinstance(each, str) for each in layers)
    write = tuple(layers) if several else (layers,) if isinstance(layers, str) else ("dense",)
    raise TypeError(f"{name} must be a tuple of names, got {described(layers)}; write {name}={write!r}.")


def layers_within(names: tuple[str, ...] | None, layers: list[str], separator: str) -> list[str]:
    """Returns the layers that `names` selects: those with such a name, and those inside of a part with such a name.

    None selects all layers.

    >>> layers_within(("actor", "critic/1"), ["actor/0", "actor/1", "critic/1", "critic/10"], "/")
    ['actor/0', 'actor/1', 'critic/1']

    Raises ValueError if a name selects no layer.
    """
    if names is None:
        return layers
    within = {name: {each for each in layers if f"{each}{separator}".startswith(name + separator)} for name in names}
    for name, found in within.items():
        if not found:
            raise ValueError(
                f"no layer is called {name!r}, or begins with {name + separator!r}; the layers are {layers}."
            )
    return [layer for layer in layers if any(layer in found for found in within.values())]


def check_moments(moments: str, step_count: str = "keep") -> None:
    """Checks what happens to the optimizer's state. Raises ValueError for an unknown option."""
    one_of("moments", moments, ("fresh", "keep"))
    one_of("step_count", step_count, ("keep", "restart"))


@dataclass(frozen=True)
class Renewal:
    """Options for replacing a neuron's weights and their optimizer state. The docstring of `ReDo` explains them.

    >>> Renewal(incoming="scaled").outgoing
    'zero'

    Raises ValueError for an unknown option.
    """

    outgoing: Literal["zero", "fresh"] = "zero"
    incoming: Literal["fresh", "scaled"] = "fresh"
    moments: Literal["fresh", "keep"] = "fresh"
    step_count: Literal["keep", "restart"] = "keep"

    def __post_init__(self) -> None:
        one_of("outgoing", self.outgoing, ("zero", "fresh"))
        one_of("incoming", self.incoming, ("fresh", "scaled"))
        check_moments(self.moments, self.step_count)


def check_recycling(renewal: Renewal, coupled: str, layers: tuple[str, ...] | None) -> None:
    """Checks the options of every method that recycles neurons. Raises ValueError or TypeError."""
    if not isinstance(renewal, Renewal):
        raise TypeError(f"renewal must be a Renewal, got {described(renewal)}; write Renewal(...).")
    one_of("coupled", coupled, ("recycle", "skip"))
    check_layers(layers)


def check_recycle(score: str, number: object, order: str, at_most: int | None, rule: type) -> None:
    """Checks the settings that only `Recycle` has. `rule` is the protocol of `number` in the framework."""
    one_of("score", score, ("activation", "gradient", "contribution", "utility"))
    if isinstance(number, type) or not isinstance(number, rule):
        raise TypeError(
            f"number must be a rule that sets how many neurons to recycle, got {described(number)}; "
            "write for instance Dormant(tau=0.1) or Share(0.1)."
        )
    one_of("order", order, ("lowest", "highest", "random"))
    if at_most is not None:
        check_whole("at_most", at_most, "neurons", hint="omit it to recycle without a limit")


def check_continual_backprop(replacement_rate: Number, maturity: int, decay: Number, utility: str) -> None:
    """Checks the settings that only `ContinualBackprop` has. Raises ValueError or TypeError."""
    check_number("replacement_rate", replacement_rate, SHARE)
    check_whole("maturity", maturity, "updates", least=0)
    check_number("decay", decay, DECAY, "0 uses only the last utility")
    one_of("utility", utility, ("contribution", "overall"))


def check_share(share: Number, recyclings: int | None = None) -> None:
    """Checks the share of the neurons to recycle, and after how many recyclings it is zero."""
    check_number("share", share, SHARE, "0.1 is a tenth of the neurons")
    if recyclings is not None:
        check_whole("recyclings", recyclings, "updates", hint="leave it out for a constant share")


def check_gap(least: Number, highest: Number, floor: Number) -> None:
    """Checks the settings of `Gap`. Raises ValueError or TypeError."""
    check_number("highest", highest, THRESHOLD)
    above_one = Range("be above 1", lambda number: number > 1)
    check_number("least", least, above_one, "neighbours that are equal have a gap of 1")
    check_number("floor", floor, POSITIVE, "scores below it count as equal")


def soft_factors(rate: float, steps: int) -> tuple[float, float]:
    """Returns the factors of the old weights and of the noise after `steps` steps of soft shrink and perturb.

    One step sets w <- (1 - rate) * w + rate * w', where w' is a fresh weight. With k = 1 - rate, n steps multiply w by
    k^n. The variance of their noise is rate^2 * (1 - k^(2 n)) / (1 - k^2) times the variance of a fresh weight.

    >>> soft_factors(0.25, 1)
    (0.75, 0.25)
    >>> [round(factor, 7) for factor in soft_factors(1e-6, 1_000)]
    [0.9990005, 3.16e-05]
    """
    kept = (1 - rate) ** steps
    return kept, rate * np.sqrt((1 - kept**2) / (1 - (1 - rate) ** 2)).item()


def check_drm(least: Number, most: Number, slope: Number, tau: Number, convolutions: str) -> None:
    """Checks the settings that only `DrM` has. Raises ValueError or TypeError."""
    check_number("least", least, FRACTION)
    check_number("most", most, FRACTION)
    if least > most:
        raise ValueError(f"expected least <= most, got least={least} and most={most}.")
    check_number("slope", slope, NOT_NEGATIVE, "the paper uses 2")
    checked_tau(tau)
    one_of("convolutions", convolutions, ("keep", "perturb"))


def check_snr(quantile: Number, period: int, growth: Number, least: int, most: int) -> None:
    """Checks the settings that only `SNR` has. Raises ValueError or TypeError."""
    check_number("quantile", quantile, INSIDE)
    for name, steps in {"period": period, "least": least, "most": most}.items():
        check_whole(name, steps)
    at_least_one = Range("be at least 1 and finite", lambda number: 1 <= number < math.inf)
    check_number("growth", growth, at_least_one, "the code of Farias and Jozefiak 2025 uses 2")
    if not least <= most <= 2**30:
        raise ValueError(f"expected least <= most <= 2**30 gradient steps, got least={least} and most={most}.")


def silence_lengths(most: int) -> np.ndarray:
    """Returns the lower ends of bins of lengths from 1 to `most`. There are about four bins per doubling of the length.

    >>> silence_lengths(20).tolist()
    [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20]
    """
    steps = np.arange(4 * int(np.log2(most)) + 5)
    lengths = np.unique(np.ceil(2.0 ** (steps / 4)).astype(np.int32))
    return lengths[lengths <= most]


def check_swr(utility: str, choice: str, factor: Number, moments: str) -> None:
    """Checks the settings of `SWR`. Raises ValueError or TypeError."""
    one_of("utility", utility, ("gradient", "magnitude"))
    one_of("choice", choice, ("threshold", "proportional"))
    check_number("factor", factor, SHARE, "Hernandez-Garcia et al. 2025 use 1e-5 to 5e-4")
    check_moments(moments)


def check_fire(iterations: int, heads: str, moments: str) -> None:
    """Checks the settings of `FIRE`. Raises ValueError or TypeError."""
    check_whole("iterations", iterations, "steps", hint="the paper uses 10")
    one_of("heads", heads, ("project", "keep", "fresh"))
    check_moments(moments)


def check_reset_optimizer(moments: str, step_count: str) -> None:
    """Checks the options of `ResetOptimizer`. Raises ValueError if one is unknown, or if both change nothing."""
    check_moments(moments, step_count)
    if (moments, step_count) == ("keep", "keep"):
        raise ValueError(
            "moments and step_count are both 'keep', so nothing would be reset; set moments='fresh' or "
            "step_count='restart'."
        )


def check_hare(momentum: Number, period: int, moments: str) -> None:
    """Checks the settings of `HareTortoise`. Raises ValueError or TypeError."""
    check_number("momentum", momentum, DECAY, "with 0, nothing is averaged")
    check_whole("period", period)
    check_moments(moments)


def check_cchain(share: Number | None, strength: Number, fixed: int, window: int) -> None:
    """Checks the settings of `CChain`. Raises ValueError or TypeError."""
    check_strength(strength)
    if share is not None:
        check_number("share", share, POSITIVE, "None keeps the strength fixed")
    check_whole("fixed", fixed)
    check_whole("window", window)


def check_strength(strength: Number) -> None:
    """Checks the strength of a penalty. Raises ValueError or TypeError."""
    check_number("strength", strength, NOT_NEGATIVE, "0 has no effect")


def check_parseval(strength: Number, scale: Number, free: tuple[str, ...]) -> None:
    """Checks the settings of `Parseval`. Raises ValueError or TypeError."""
    check_strength(strength)
    check_number("scale", scale, POSITIVE, "with 1, incoming vectors are pulled towards length 1")
    check_layers(free, "free")


def check_spectral(strength: Number, power: int) -> None:
    """Checks the settings of `Spectral`. Raises ValueError or TypeError."""
    check_strength(strength)
    check_whole("power", power, "factors", hint="the paper uses 2, a square")


def checked_kind(what: Kind, protocol: type, within: str = "") -> Kind:
    """Returns `what`, an intervention. `protocol` is the protocol of interventions in the framework.

    `within` is the name of a wrapper in which no intervention may stand that must be called at every gradient step.
    Such an intervention has an attribute `every_step` that is true.

    Raises TypeError if `what` is not an intervention, and ValueError if it may not stand in the wrapper. The messages
    explain common mistakes, such as a class in place of a value, or an intervention of the other framework.
    """
    if isinstance(what, type):
        raise TypeError(f"expected an intervention, got the class {what.__name__}; write {what.__name__}(...).")
    home, name = type(what).__module__, type(what).__name__
    torch = protocol.__module__.startswith("dormant.torch")
    if home.startswith("dormant.interventions" if torch else "dormant.torch."):
        right, wrong = ("dormant.torch", "dormant.") if torch else ("dormant", "dormant.torch.")
        framework = "JAX" if torch else "PyTorch"
        raise TypeError(f"{wrong}{name} is for {framework}; write {right}.{name}(...), which has the same options.")
    if not isinstance(what, protocol):
        methods = ", ".join(f"`{each}`" for each, value in vars(protocol).items() if callable(value) and each[0] != "_")
        raise TypeError(
            f"expected an intervention (an object with {methods}), got {described(what)}; "
            "write for instance ReDo(tau=0.1)."
        )
    if within and getattr(what, "every_step", False):
        raise ValueError(
            f"{what!r} must be called at every gradient step, so it can't be used within {within}; "
            "use it alone, or in a Chain with other interventions."
        )
    return what


def check_every(period: int, what: object, start: int, stop: int | None, protocol: type) -> None:
    """Checks the settings of `Every`. Raises ValueError or TypeError."""
    if isinstance(period, protocol):
        raise TypeError(f"the period comes first: write Every(1_000, {period!r}).")
    check_whole("period", period)
    checked_kind(what, protocol, "Every")
    check_whole("start", start, least=0)
    if stop is not None:
        check_whole("stop", stop, least=0)
        if stop <= start:
            raise ValueError(f"expected 0 <= start < stop in gradient steps, got start={start}, stop={stop}.")


def check_when_dormant(share: Number, what: object, tau: Number, protocol: type) -> None:
    """Checks the settings of `WhenDormant`. Raises ValueError or TypeError."""
    if isinstance(share, protocol):
        raise TypeError(f"the share comes first: write WhenDormant(0.25, {share!r}).")
    checked_tau(tau)
    checked_kind(what, protocol, "WhenDormant")
    check_number("share", share, SHARE, "0.25 is a quarter of the neurons")


def checked_links(links: tuple[Kind, ...], protocol: type) -> tuple[Kind, ...]:
    """Returns the interventions of a `Chain`. Raises TypeError if one of them is not an intervention."""
    if len(links) == 1 and isinstance(links[0], list | tuple):
        raise TypeError("Chain takes each intervention as an argument of its own: write Chain(*interventions).")
    return tuple(checked_kind(link, protocol) for link in links)
