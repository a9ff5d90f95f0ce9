"""Checks of settings, and the options of `Renewal`. Interventions for JAX and for PyTorch use this module.

It imports neither JAX nor PyTorch.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np


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
    """Options for replacing the weights of a chosen neuron and their optimizer state. `ReDo` explains all four options.

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
