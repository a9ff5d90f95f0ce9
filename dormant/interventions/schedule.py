"""When interventions act: `Every` so many gradient steps, and `Chain` for several in a row."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from ..surgery import Learner
from ..wiring import Network
from .contract import Intervention, checked_intervention, checked_occasional, checked_steps


class Scheduled(NamedTuple):
    """The gradient steps seen so far, and the state of what is scheduled."""

    gradient_steps: Int[Array, ""]
    inner: Any


@dataclass(frozen=True)
class Every:
    """Applies `what` at every `period`-th gradient step, from `start` on and before `stop`.

    On other steps only a comparison runs: the work is in one branch of a `lax.cond`, which stays a branch when
    `update` is mapped over seeds.

    >>> from dormant import ReDo
    >>> Every(1_000, ReDo(tau=0.1), stop=2_500_000).period
    1000

    Raises TypeError if the period is not a whole number or `what` is not an intervention. Raises ValueError for a
    period below 1, a negative start, a stop that is not after it, and for an intervention that must be called at every
    gradient step, such as ClipWeights.
    Source: the reference counts gradient steps from the first possible one, before learning starts; we count updates.
    """

    period: int
    what: Intervention
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.period, Intervention):
            raise TypeError(f"the period comes first: write Every(1_000, {self.period!r}).")
        checked_steps("period", self.period)
        checked_occasional(self.what, "Every")
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise ValueError(f"expected 0 <= start < stop in gradient steps, got start={self.start}, stop={self.stop}.")

    def init(self, learner: Learner, network: Network) -> Scheduled:
        return Scheduled(jnp.zeros((), jnp.int32), self.what.init(learner, network))

    def update(
        self, key: Array, learner: Learner, state: Scheduled, network: Network, *inputs: Any
    ) -> tuple[Learner, Scheduled]:
        step = state.gradient_steps + 1

        def change() -> tuple[Learner, Any]:
            return self.what.update(key, learner, state.inner, network, *inputs)

        learner, inner = when(self.due(step), change, (learner, state.inner))
        return learner, Scheduled(step, inner)

    def due(self, step: Any) -> Any:
        """Whether it acts at that gradient step, a number or an array.

        >>> Every(10, Chain(), stop=30).due(20), Every(10, Chain(), stop=30).due(30)
        (True, False)
        """
        due = (step % self.period == 0) & (step >= self.start)
        return due if self.stop is None else due & (step < self.stop)


@dataclass(frozen=True, init=False, repr=False)
class Chain:
    """Applies several interventions one after the other; `Chain()` does nothing.

    >>> from dormant import ReDo, ShrinkPerturb
    >>> Chain(Every(1_000, ReDo()), Every(50_000, ShrinkPerturb(keep=0.8))).links[1].period
    50000

    Raises TypeError for a list of interventions in place of several arguments, and for what is not an intervention.
    """

    links: tuple[Intervention, ...]

    def __init__(self, *links: Intervention) -> None:
        if len(links) == 1 and isinstance(links[0], list | tuple):
            raise TypeError("Chain takes each intervention as an argument of its own: write Chain(*interventions).")
        object.__setattr__(self, "links", tuple(checked_intervention(link) for link in links))

    @property
    def every_step(self) -> bool:
        """Whether one of its links must be called at every gradient step."""
        return any(getattr(link, "every_step", False) for link in self.links)

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.links))})"

    def init(self, learner: Learner, network: Network) -> tuple[Any, ...]:
        return tuple(link.init(learner, network) for link in self.links)

    def update(
        self, key: Array, learner: Learner, state: tuple[Any, ...], network: Network, *inputs: Any
    ) -> tuple[Learner, tuple[Any, ...]]:
        states = []
        for index, (link, inner) in enumerate(zip(self.links, state, strict=True)):
            learner, inner = link.update(jax.random.fold_in(key, index), learner, inner, network, *inputs)
            states.append(inner)
        return learner, tuple(states)


def may_change(intervention: Intervention, step: int) -> bool:
    """Whether an intervention may change a learner at that gradient step; where it may not, it looks at no inputs.

    >>> from dormant import Prune, ReDo
    >>> redo = Every(1_000, ReDo())
    >>> may_change(redo, 999), may_change(Chain(redo), 1_000), may_change(Prune(), 1), may_change(Chain(), 1)
    (False, True, True, False)
    """
    match intervention:
        case Every():
            return bool(intervention.due(step))
        case Chain(links=links):
            return any(may_change(link, step) for link in links)
        case _:
            return True


def when(due: Bool[Array, ""], change: Callable[[], PyTree[Array]], unchanged: PyTree[Array]) -> PyTree[Array]:
    """The changed values where `due`, else the unchanged ones; computes the change only if some seed needs it.

    >>> when(jnp.array(False), lambda: jnp.ones(2), jnp.zeros(2)).tolist()
    [0.0, 0.0]
    """

    def changed() -> PyTree[Array]:
        return jax.tree.map(lambda new, old: jnp.where(due, new, old), change(), unchanged)

    return jax.lax.cond(_any_seed(due), changed, lambda: unchanged)


@jax.custom_batching.custom_vmap
def _any_seed(due: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether it is due for any seed of an enclosing `vmap`.

    Under `vmap`, a `cond` on a value that differs between seeds becomes a `select` that computes both branches every
    time; a value shared by all seeds keeps it a `cond`.
    """
    return due


@_any_seed.def_vmap
def _over_seeds(axis_size: int, in_batched: Any, due: Bool[Array, " seeds"]) -> tuple[Bool[Array, ""], bool]:
    del axis_size, in_batched
    return _any_seed(jnp.any(due)), False
