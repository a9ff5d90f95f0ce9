"""The protocol of interventions, and wrappers around them: `Every`, `Chain`, `WhenDormant`, `WarmUp`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from ..settings import check_every, check_when_dormant, check_whole, checked_kind, checked_links
from ..surgery import Learner
from ..wiring import Network


@runtime_checkable
class Intervention(Protocol):
    """An object that changes a learner's weights during training, outside of the gradient step.

    `init` returns the intervention's state, a tree of arrays. `update` is called after every gradient step with a
    random key and a batch of inputs on which neurons are scored. It returns the new learner and the new state. They
    have the same trees, shapes and dtypes as before. Both functions can be compiled, and `update` can be mapped over
    seeds with `jax.vmap`.
    """

    def init(self, learner: Learner, network: Network) -> PyTree: ...

    def update(
        self, key: Array, learner: Learner, state: PyTree, network: Network, *inputs: PyTree
    ) -> tuple[Learner, PyTree]: ...


def checked_intervention(what: Intervention) -> Intervention:
    """Returns `what`. Raises TypeError if it is not an intervention, for example a class in place of an instance."""
    return checked_kind(what, Intervention)


class Scheduled(NamedTuple):
    """The number of gradient steps so far, and the state of the scheduled intervention."""

    gradient_steps: Int[Array, ""]
    inner: PyTree


@dataclass(frozen=True)
class Every:
    """Applies `what` at the gradient steps start, start + period, start + 2 * period, and so on, below `stop`.

    The first gradient step is 1. With `start=0`, `what` is therefore first applied at step `period`. At all other steps
    only a comparison runs, because `what` is in one branch of a `lax.cond`. This is also the case if `update` is mapped
    over seeds.

    >>> from dormant import ReDo
    >>> Every(1_000, ReDo(tau=0.1), stop=2_500_000).period
    1000

    Raises TypeError if the period is not a whole number or `what` is not an intervention. Raises ValueError if the
    period is below 1, if `0 <= start < stop` does not hold, or if `what` must be called at every gradient step, like
    `ClipWeights`.
    Source: the reference code also counts the steps before learning starts. We only count calls of `update`.
    """

    period: int
    what: Intervention
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        check_every(self.period, self.what, self.start, self.stop, Intervention)

    def init(self, learner: Learner, network: Network) -> Scheduled:
        return Scheduled(jnp.zeros((), jnp.int32), self.what.init(learner, network))

    def update(
        self, key: Array, learner: Learner, state: Scheduled, network: Network, *inputs: PyTree
    ) -> tuple[Learner, Scheduled]:
        step = state.gradient_steps + 1

        def change() -> tuple[Learner, PyTree]:
            return self.what.update(key, learner, state.inner, network, *inputs)

        learner, inner = when(jnp.asarray(self.due(step)), change, (learner, state.inner))
        return learner, Scheduled(step, inner)

    def due(self, step: int | Int[Array, ""]) -> bool | Bool[Array, ""]:
        """Whether `what` is applied at gradient step `step`.

        >>> Every(10, Chain(), stop=30).due(20), Every(10, Chain(), stop=30).due(30)
        (True, False)
        """
        due = ((step - self.start) % self.period == 0) & (step >= self.start)
        return due if self.stop is None else due & (step < self.stop)


@dataclass(frozen=True, init=False, repr=False)
class Chain:
    """Applies several interventions, one after the other. `Chain()` does nothing.

    >>> from dormant import ReDo, ShrinkPerturb
    >>> Chain(Every(1_000, ReDo()), Every(50_000, ShrinkPerturb(keep=0.8))).links[1].period
    50000

    Raises TypeError if an argument is not an intervention, such as a list of interventions.
    """

    links: tuple[Intervention, ...]

    def __init__(self, *links: Intervention) -> None:
        object.__setattr__(self, "links", checked_links(links, Intervention))

    @property
    def every_step(self) -> bool:
        """Whether an intervention in the chain must be called at every gradient step."""
        return any(getattr(link, "every_step", False) for link in self.links)

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.links))})"

    def init(self, learner: Learner, network: Network) -> tuple[PyTree, ...]:
        return tuple(link.init(learner, network) for link in self.links)

    def update(
        self, key: Array, learner: Learner, state: tuple[PyTree, ...], network: Network, *inputs: PyTree
    ) -> tuple[Learner, tuple[PyTree, ...]]:
        states = []
        for index, (link, inner) in enumerate(zip(self.links, state, strict=True)):
            learner, inner = link.update(jax.random.fold_in(key, index), learner, inner, network, *inputs)
            states.append(inner)
        return learner, tuple(states)


def may_change(intervention: Intervention, step: int) -> bool:
    """Whether an intervention may change a learner at gradient step `step`, apart from `WarmUp`'s shorter steps.

    If the result is False, `update` does not use the score batch at this step.

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
        case WarmUp(what=what):
            return may_change(what, step)
        case _:
            return True


def when(due: Bool[Array, ""], change: Callable[[], PyTree[Array]], unchanged: PyTree[Array]) -> PyTree[Array]:
    """Returns `change()` if `due` is true, else `unchanged`.

    If it is mapped over seeds, `change` runs only if `due` is true for at least one seed.

    >>> when(jnp.array(False), lambda: jnp.ones(2), jnp.zeros(2)).tolist()
    [0.0, 0.0]
    """

    def changed() -> PyTree[Array]:
        return jax.tree.map(lambda new, old: jnp.where(due, new, old), change(), unchanged)

    return jax.lax.cond(_any_seed(due), changed, lambda: unchanged)


@jax.custom_batching.custom_vmap
def _any_seed(due: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether `due` is true for at least one seed of an enclosing `vmap`.

    If the predicate of a `cond` differs between seeds, `vmap` turns the `cond` into a `select`, which always computes
    both branches. The result of this function is the same for all seeds, so the `cond` stays a `cond`.
    """
    return due


@_any_seed.def_vmap
def _over_seeds(axis_size: int, in_batched: object, due: Bool[Array, " seeds"]) -> tuple[Bool[Array, ""], bool]:
    del axis_size, in_batched
    return _any_seed(jnp.any(due)), False


@dataclass(frozen=True)
class WhenDormant:
    """Applies `what` if at least `share` of all neurons are tau-dormant on the score batch.

    Use it to reset a network only if the network needs it. Each check costs a forward pass of the score batch. Put this
    intervention within `Every` to set how often it checks.

    >>> from dormant import Every, ShrinkPerturb
    >>> Every(1_000, WhenDormant(0.25, ShrinkPerturb(0.5))).what.share
    0.25

    Raises TypeError if `what` is not an intervention. Raises ValueError if the share is outside of (0, 1], if tau is
    negative, or if `what` must be called at every gradient step.
    Source: ours. A similar method perturbs the network more strongly if the dormant share is larger: Xu et al. 2024,
    "DrM: mastering visual reinforcement learning through dormant ratio minimization".
    """

    share: float
    what: Intervention
    tau: float = 0.1

    def __post_init__(self) -> None:
        check_when_dormant(self.share, self.what, self.tau, Intervention)

    def init(self, learner: Learner, network: Network) -> PyTree:
        return self.what.init(learner, network)

    def update(
        self, key: Array, learner: Learner, state: PyTree, network: Network, *inputs: PyTree
    ) -> tuple[Learner, PyTree]:
        now = network.wiring.dormant_fraction(learner.params, *inputs, tau=self.tau)
        return when(
            now >= self.share, lambda: self.what.update(key, learner, state, network, *inputs), (learner, state)
        )


class Warming(NamedTuple):
    """The weights after the last call, the age of each weight in gradient steps, and the state of `what`."""

    params: PyTree[Array]
    ages: PyTree[Int[Array, "..."]]
    inner: PyTree


@dataclass(frozen=True)
class WarmUp:
    """Applies `what`, and shortens the first gradient steps of each weight that `what` has changed.

    The first gradient step of a changed weight is 1 / `steps` as long as the optimizer's step. The second one is
    2 / `steps` as long, and from number `steps` on the steps are not changed. The state of the optimizer is not changed
    either. With Adam, the first step of a recycled weight is otherwise 3.2 learning rates long. Call `update` at every
    gradient step, not within `Every`: `what` has its own schedule. Each call costs a few passes over the weights.

    >>> from dormant import ReDo
    >>> WarmUp(Every(1_000, ReDo(tau=0.1)), steps=100).what.period
    1000

    Raises TypeError if `what` is not an intervention or `steps` is not a whole number. Raises ValueError if `steps` is
    below 1.
    Source: ours. Sokar et al. 2023 leave the optimisation of recycled neurons to future work.
    """

    every_step: ClassVar[bool] = True
    what: Intervention
    steps: int = 100

    def __post_init__(self) -> None:
        checked_intervention(self.what)
        check_whole("steps", self.steps)

    def init(self, learner: Learner, network: Network) -> Warming:
        ages = jax.tree.map(lambda leaf: jnp.full(leaf.shape, self.steps, jnp.int32), learner.params)
        return Warming(learner.params, ages, self.what.init(learner, network))

    def update(
        self, key: Array, learner: Learner, state: Warming, network: Network, *inputs: PyTree
    ) -> tuple[Learner, Warming]:
        ages = jax.tree.map(lambda age: jnp.minimum(age + 1, self.steps), state.ages)
        params = jax.tree.map(self._shortened, state.params, learner.params, ages)
        learner, inner = self.what.update(key, learner._replace(params=params), state.inner, network, *inputs)
        ages = jax.tree.map(lambda age, old, new: jnp.where(old == new, age, 0), ages, params, learner.params)
        return learner, Warming(learner.params, ages, inner)

    def _shortened(self, before: Array, now: Array, age: Int[Array, "..."]) -> Array:
        """A parameter after a gradient step, with shorter steps for its young entries."""
        share = (age.astype(jnp.float32) / self.steps).astype(now.dtype)
        return jnp.where(age < self.steps, before + share * (now - before), now)
