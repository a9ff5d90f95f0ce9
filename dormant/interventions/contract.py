"""What every intervention offers, and which misuse of one is refused."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array

from ..surgery import Learner
from ..wiring import Network


@runtime_checkable
class Intervention(Protocol):
    """A value that looks at a learner now and then and changes its weights.

    `init` returns the intervention's state, a tree of arrays. `update` is called after every gradient step with a
    key and the inputs of a score batch; it returns the changed learner and state, with the same tree, shapes and
    dtypes. Both can be compiled, and `update` can be mapped over seeds with `jax.vmap`.
    """

    def init(self, learner: Learner, network: Network) -> Any: ...

    def update(
        self, key: Array, learner: Learner, state: Any, network: Network, *inputs: Any
    ) -> tuple[Learner, Any]: ...


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless a named option has one of its values."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def checked_intervention(what: Intervention) -> Intervention:
    """`what` itself, if it is an intervention.

    Raises TypeError for a class in place of a value, and for anything else that is not an intervention.
    """
    if isinstance(what, type):
        raise TypeError(f"expected an intervention, got the class {what.__name__}; write {what.__name__}(...).")
    if not isinstance(what, Intervention):
        raise TypeError(
            f"expected an intervention, which has `init` and `update`, got {what!r}; write for instance ReDo(tau=0.1)."
        )
    return what


def checked_occasional(what: Intervention, within: str) -> Intervention:
    """`what` itself, if it is an intervention that can be called at some gradient steps only.

    An intervention that works only when it is called at every gradient step has a class attribute `every_step`, which
    is True; one that holds others has it as a property.

    Raises TypeError for what is not an intervention, and ValueError for one that must be called at every step.
    """
    if getattr(checked_intervention(what), "every_step", False):
        raise ValueError(
            f"{what!r} works only when it is called at every gradient step, so it may not stand within {within}; "
            "leave it by itself, or put it beside other interventions in a Chain."
        )
    return what


def checked_steps(name: str, steps: int) -> int:
    """`steps` itself, if it is a positive whole number of gradient steps.

    Raises TypeError for another type, such as the float 1e3, and ValueError for a number that is too small.
    """
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer):
        hint = f"; write {int(steps)}" if isinstance(steps, float) and steps.is_integer() else ""
        raise TypeError(f"{name} must be a whole number of gradient steps, got {steps!r}{hint}.")
    if steps < 1:
        raise ValueError(f"{name} must be at least 1 gradient step, got {steps}.")
    return steps
