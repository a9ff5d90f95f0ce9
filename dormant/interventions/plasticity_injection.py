"""Plasticity injection: from some gradient step on, new parameters learn beside the old ones, which are frozen."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ..surgery import Learner, graft
from ..wiring import Network, paths
from .contract import checked_steps

NEW, MINUS = "new_", "minus_"


class Injection(NamedTuple):
    """The gradient steps seen so far, and the weights that frozen layers are held at."""

    gradient_steps: Int[Array, ""]
    held: PyTree[Array]


@dataclass(frozen=True)
class PlasticityInjection:
    """Freezes the head after gradient step `at` and lets a new one learn, without changing what the network computes.

    The network is of the form head(x) + new_head(x) - minus_head(x), such as `rl.injectable.Injectable` makes it:
    beside a layer called `dense` there are `new_dense` and `minus_dense`, which begin equal. Until `at` both of these
    are held where they are, so that they cancel; then the old layers are held instead of the new ones. Held weights are
    put back and their optimizer's state starts afresh at every gradient step, so call it at each and not within
    `Every`.

    >>> PlasticityInjection(at=50_000)
    PlasticityInjection(at=50000)

    Raises ValueError for a step below 1, and at `init` for a network that is not of that form.
    Source: Nikishin et al. 2023, "Deep reinforcement learning with plasticity injection".
    """

    every_step: ClassVar[bool] = True
    at: int

    def __post_init__(self) -> None:
        checked_steps("at", self.at)

    def init(self, learner: Learner, network: Network) -> Injection:
        del network
        _roles(learner.params)
        return Injection(jnp.zeros((), jnp.int32), learner.params)

    def update(
        self, key: Array, learner: Learner, state: Injection, network: Network, *inputs: Any
    ) -> tuple[Learner, Injection]:
        del key, inputs
        step = state.gradient_steps + 1
        roles = _roles(learner.params)
        old_learns = step <= self.at
        frozen = {"old": ~old_learns, "new": old_learns, "minus": jnp.ones((), bool), "shared": jnp.zeros((), bool)}
        structure = jax.tree.structure(learner.params)
        mask = jax.tree.unflatten(structure, [frozen[role] for role in roles])
        pairs = zip(roles, jax.tree.leaves(state.held), jax.tree.leaves(learner.params), strict=True)
        held = [jnp.where(old_learns, now, then) if role == "old" else then for role, then, now in pairs]
        held = jax.tree.unflatten(structure, held)
        return graft(learner, mask, held, network.tx), Injection(step, held)


def _roles(params: PyTree[Array]) -> list[str]:
    """Of each leaf, whether it belongs to the old head, the new one, the one that is subtracted, or to what they share.

    Raises ValueError where the three heads are not there, or the last two are not alike.
    """
    tops = [path.removeprefix("params/").partition("/")[0] for path in paths(params)]
    new, minus = ({top.removeprefix(mark) for top in tops if top.startswith(mark)} for mark in (NEW, MINUS))
    if not new or new != minus or not new <= set(tops):
        raise ValueError(
            f"expected layers called {NEW}x and {MINUS}x beside some layers x, as in "
            f"dormant.rl.networks.injectable.Injectable; the layers are {sorted(set(tops))}."
        )
    return [_role(top, new) for top in tops]


def _role(top: str, heads: set[str]) -> str:
    if top in heads:
        return "old"
    if top.removeprefix(NEW) in heads:
        return "new"
    return "minus" if top.removeprefix(MINUS) in heads else "shared"
