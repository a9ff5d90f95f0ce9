"""Interventions that reset weights or optimizer state: `Reset`, `SWR`, `ShrinkPerturb`, `HareTortoise` and others."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..settings import FRACTION, check_hare, check_layers, check_moments, check_number, check_reset_optimizer, check_swr
from ..surgery import Learner, everything, first_moments, fresh, graft, nothing, restart_step_count
from ..wiring import Network, paths
from .schedule import when


@dataclass(frozen=True)
class Reset:
    """Replaces all parameters of some layers by fresh parameters from the network's initialiser.

    `layers` contains names of layers in the wiring, which may be output layers. None resets every parameter. `moments`
    and `step_count` control the optimizer's state as in `ReDo`.

    >>> Reset(layers=("dense",))
    Reset(layers=('dense',), moments='fresh', step_count='keep')

    Raises ValueError for an unknown option. `init` raises ValueError for a layer that does not exist.
    Source: Nikishin et al. 2022. Sokar et al. reset the penultimate layer, but their code can only reset a layer
    together with all layers after it.
    """

    layers: tuple[str, ...] | None = None
    moments: Literal["fresh", "keep"] = "fresh"
    step_count: Literal["keep", "restart"] = "keep"

    def __post_init__(self) -> None:
        check_layers(self.layers)
        check_moments(self.moments, self.step_count)

    def init(self, learner: Learner, network: Network) -> tuple[()]:
        del network
        self._mask(learner.params)
        return ()

    def _mask(self, params: PyTree[Array]) -> PyTree[Bool[Array, ""]]:
        names = paths(params)
        owners = [{path} if self.layers is None else owner(path, self.layers) for path in names]
        missing = set(self.layers or ()) - set().union(*owners)
        if missing:
            raise ValueError(f"no parameters belong to layers {sorted(missing)}; the parameters are {names}.")
        return jax.tree.unflatten(jax.tree.structure(params), [jnp.array(bool(found)) for found in owners])

    def update(
        self, key: Array, learner: Learner, state: tuple[()], network: Network, *inputs: PyTree
    ) -> tuple[Learner, tuple[()]]:
        del inputs
        mask = self._mask(learner.params)
        forget = mask if self.moments == "fresh" else nothing(mask)
        learner = graft(learner, mask, fresh(network, key, learner), network.tx, forget=forget)
        return (restart_step_count(learner, jnp.array(True)) if self.step_count == "restart" else learner), state


def owner(path: str, layers: tuple[str, ...]) -> set[str]:
    """Returns the names of the layers in `layers` that contain the parameter at `path`.

    A layer whose name is "a+b" contains the parameters of "a" and of "b".

    >>> owner("params/dense/kernel", ("dense", "head"))
    {'dense'}
    """
    plain = path.removeprefix("params/")
    return {layer for layer in layers for part in layer.split("+") if plain == part or plain.startswith(part + "/")}


@dataclass(frozen=True)
class SWR:
    """Replaces single weights of low utility by fresh weights (selective weight reinitialisation).

    The weights are chosen separately in each parameter array.

    - `utility`: "gradient" is |gradient * weight|, with the running average of the gradient in the optimizer's state.
      "magnitude" is |weight|.
    - `choice`: "threshold" replaces all weights whose utility is at most `factor` times the mean utility of the array.
      "proportional" replaces the fraction `factor` of the weights with the lowest utilities.
    - `moments`: "keep" does not change the optimizer's state of these weights. "fresh" resets it.

    An array whose utilities are all 0 does not change. Put this intervention within `Every`.

    >>> SWR(factor=1e-4)
    SWR(utility='gradient', choice='threshold', factor=0.0001, moments='keep')

    Raises ValueError for an unknown option or a factor outside its range. `init` raises ValueError for "gradient" if
    the optimizer keeps no average of the gradient.
    Source: Hernandez-Garcia et al. 2025, "Reinitializing weights vs units for maintaining plasticity in neural
    networks"; src/swr_functions at JFernando4/collas_2025_swr_paper 5c8ef03. They use the gradient of the last batch.
    If all utilities are 0, they replace all weights.
    """

    utility: Literal["gradient", "magnitude"] = "gradient"
    choice: Literal["threshold", "proportional"] = "threshold"
    factor: float = 5e-4
    moments: Literal["fresh", "keep"] = "keep"

    def __post_init__(self) -> None:
        check_swr(self.utility, self.choice, self.factor, self.moments)

    def init(self, learner: Learner, network: Network) -> tuple[()]:
        del network
        self._utilities(learner)
        return ()

    def update(
        self, key: Array, learner: Learner, state: tuple[()], network: Network, *inputs: PyTree
    ) -> tuple[Learner, tuple[()]]:
        del inputs
        draw, lots = jax.random.split(key)
        leaves, structure = jax.tree.flatten(self._utilities(learner))
        chosen = [self.chosen(one, leaf) for one, leaf in zip(jax.random.split(lots, len(leaves)), leaves, strict=True)]
        mask = jax.tree.unflatten(structure, chosen)
        forget = mask if self.moments == "fresh" else nothing(mask)
        return graft(learner, mask, fresh(network, draw, learner), network.tx, forget=forget), state

    def _utilities(self, learner: Learner) -> PyTree[Float[Array, "..."]]:
        if self.utility == "magnitude":
            return jax.tree.map(jnp.abs, learner.params)
        return jax.tree.map(lambda slope, leaf: jnp.abs(slope * leaf), first_moments(learner), learner.params)

    def chosen(self, key: Array, utility: Float[Array, "..."]) -> Bool[Array, "..."]:
        """Returns a mask of the weights to replace, given the utilities of the weights in one array.

        >>> utility = jnp.array([0.05, 0.02, 0.0, 0.3])
        >>> SWR(factor=0.3).chosen(jax.random.key(0), utility).tolist()  # at most 0.3 * 0.0925
        [False, True, True, False]
        """
        mean = utility.mean()
        if self.choice == "threshold":
            return (utility <= self.factor * mean) & (mean > 0)
        whole, rest = divmod(self.factor * utility.size, 1.0)
        # The number is factor * size on average. A fraction of a weight is rounded up or down at random.
        number = int(whole) + (jax.random.uniform(key, (1,)) < rest).astype(jnp.int32)[0]
        ranks = jnp.argsort(jnp.argsort(utility.ravel())).reshape(utility.shape)
        return (ranks < number) & (mean > 0)


@dataclass(frozen=True)
class ShrinkPerturb:
    """Replaces every weight w by keep * w + (1 - keep) * w', where w' is a newly initialised weight.

    With `moments="fresh"`, the optimizer's state of every weight is reset, too.

    >>> ShrinkPerturb(keep=0.8)
    ShrinkPerturb(keep=0.8, moments='keep')

    Raises ValueError if `keep` is not between 0 and 1.
    Source: Ash and Adams 2020. Mixing with newly initialised weights follows D'Oro et al. 2023.
    """

    keep: float = 0.8
    moments: Literal["fresh", "keep"] = "keep"

    def __post_init__(self) -> None:
        check_number("keep", self.keep, FRACTION, "1 keeps all weights, 0 replaces all")
        check_moments(self.moments)

    def init(self, learner: Learner, network: Network) -> tuple[()]:
        del learner, network
        return ()

    def update(
        self, key: Array, learner: Learner, state: tuple[()], network: Network, *inputs: PyTree
    ) -> tuple[Learner, tuple[()]]:
        del inputs
        donor = fresh(network, key, learner)
        blended = jax.tree.map(lambda old, new: self.keep * old + (1 - self.keep) * new, learner.params, donor)
        every = everything(learner.params)
        forget = every if self.moments == "fresh" else nothing(every)
        return graft(learner, every, blended, network.tx, forget=forget), state


@dataclass(frozen=True)
class ResetOptimizer:
    """Resets the optimizer's state, as if training started from the current weights.

    With `moments="fresh"`, the state of each weight is reset (Adam's two moments). With `step_count="restart"`, the
    step count for Adam's bias correction is set to zero. If the step count is kept, the first step after the reset is
    (1 - b1) / sqrt(1 - b2) = 3.2 learning rates long.

    >>> ResetOptimizer(step_count="keep")
    ResetOptimizer(moments='fresh', step_count='keep')

    Raises ValueError for an unknown option. Also raises it if both options are "keep", which would reset nothing.
    Source: Asadi et al. 2023, "Resetting the optimizer in deep RL: an empirical study". The paper resets both at
    every update of the target network.
    """

    moments: Literal["fresh", "keep"] = "fresh"
    step_count: Literal["keep", "restart"] = "restart"

    def __post_init__(self) -> None:
        check_reset_optimizer(self.moments, self.step_count)

    def init(self, learner: Learner, network: Network) -> tuple[()]:
        del learner, network
        return ()

    def update(
        self, key: Array, learner: Learner, state: tuple[()], network: Network, *inputs: PyTree
    ) -> tuple[Learner, tuple[()]]:
        del key, inputs
        every = everything(learner.params)
        if self.moments == "fresh":
            learner = graft(learner, nothing(every), learner.params, network.tx, forget=every)
        return (restart_step_count(learner, jnp.array(True)) if self.step_count == "restart" else learner), state


class Tortoise(NamedTuple):
    """The number of gradient steps so far, and the running average of the weights."""

    gradient_steps: Int[Array, ""]
    params: PyTree[Array]


@dataclass(frozen=True)
class HareTortoise:
    """Sets the weights (the hare) to their running average (the tortoise) every `period` gradient steps.

    At every gradient step, the average is updated: tortoise <- momentum * tortoise + (1 - momentum) * hare. Call
    `update` at every gradient step, not within `Every`. Each call costs one pass over the weights. With
    `moments="fresh"`, the optimizer state is reset whenever the weights are set to the average.

    >>> HareTortoise(momentum=0.99, period=500).moments
    'keep'

    Raises ValueError for an unknown option, a momentum outside of [0, 1) or a period below 1.
    Source: Lee et al. 2024, "Slow and steady wins the race: maintaining plasticity with hare and tortoise networks".
    As far as we know, they evaluate the tortoise. Our agents act with the hare.
    """

    every_step: ClassVar[bool] = True
    momentum: float = 0.999
    period: int = 10_000
    moments: Literal["fresh", "keep"] = "keep"

    def __post_init__(self) -> None:
        check_hare(self.momentum, self.period, self.moments)

    def init(self, learner: Learner, network: Network) -> Tortoise:
        del network
        return Tortoise(jnp.zeros((), jnp.int32), learner.params)

    def update(
        self, key: Array, learner: Learner, state: Tortoise, network: Network, *inputs: PyTree
    ) -> tuple[Learner, Tortoise]:
        del key, inputs
        step = state.gradient_steps + 1
        slow = jax.tree.map(
            lambda old, new: self.momentum * old + (1 - self.momentum) * new, state.params, learner.params
        )
        every = everything(learner.params)
        forget = every if self.moments == "fresh" else nothing(every)
        learner = when(step % self.period == 0, lambda: graft(learner, every, slow, network.tx, forget), learner)
        return learner, Tortoise(step, slow)
