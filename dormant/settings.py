"""Checks of settings, and the options of `Renewal`. Interventions for JAX and for PyTorch use this module.

It imports neither JAX nor PyTorch.
"""

from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np

Default = TypeVar("Default")
LATER = "added later"


def added(default: Default) -> Default:
    """Returns a dataclass field for a setting that is newer than some stored runs.

    If the setting has its default, it is left out of the description of a run. The names of run folders depend on this
    description, so folders of older runs keep their names.
    """
    return field(default=default, metadata={LATER: True})


def checked_tau(tau: float) -> float:
    """Returns `tau`. Raises ValueError if it is negative or NaN, and TypeError if it is not a number."""
    try:
        fits = bool(tau >= 0)
    except TypeError:
        raise TypeError(f"tau must be a number, such as 0.1, got a {type(tau).__name__}.") from None
    if not fits:
        raise ValueError(
            f"tau must be at least 0, got {tau}. With 0, only silent neurons are dormant; the ReDo paper uses 0.1."
        )
    return tau


def checked_steps(name: str, steps: int) -> int:
    """Returns `steps`, a positive number of gradient steps. `name` is the setting's name in error messages.

    Raises TypeError if `steps` is not an integer (the float 1e3 is not), and ValueError if it is below 1.
    """
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer):
        hint = f"; write {int(steps)}" if isinstance(steps, float) and steps.is_integer() else ""
        raise TypeError(f"{name} must be a whole number of gradient steps, got {steps!r}{hint}.")
    if steps < 1:
        raise ValueError(f"{name} must be at least 1 gradient step, got {steps}.")
    return steps


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError if `value` is not in `choices`. `name` is the option's name in the message."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


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
        one_of("moments", self.moments, ("fresh", "keep"))
        one_of("step_count", self.step_count, ("keep", "restart"))


def checked_soft_rate(rate: float) -> float:
    """Returns `rate`. Raises ValueError unless it lies above 0 and not above 1."""
    if not 0 < rate <= 1:
        raise ValueError(f"rate must lie above 0 and not above 1, got {rate}; Juliani and Ash 2024 use 1e-6.")
    return rate


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


def checked_silences(quantile: float, period: int, growth: float, least: int, most: int) -> None:
    """Checks the numbers of `SNR`. Raises ValueError or TypeError if one is out of range or has the wrong type."""
    checked_steps("period", period)
    checked_steps("least", least)
    checked_steps("most", most)
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must lie between 0 and 1, got {quantile}.")
    if not growth >= 1:
        raise ValueError(f"growth must be at least 1, got {growth}; the code of Farias and Jozefiak 2025 uses 2.")
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


def checked_swr(utility: str, choice: str, factor: float) -> None:
    """Checks the options of `SWR`. Raises ValueError if one is unknown or out of range."""
    one_of("utility", utility, ("gradient", "magnitude"))
    one_of("choice", choice, ("threshold", "proportional"))
    if not 0 < factor <= 1:
        raise ValueError(
            f"factor must lie above 0 and not above 1, got {factor}; Hernandez-Garcia et al. 2025 use 1e-5 to 5e-4."
        )
