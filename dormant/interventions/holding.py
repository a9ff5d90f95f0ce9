"""Interventions that constrain weights at every gradient step: `ClipWeights`, `Prune`, `PlasticityInjection`."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..settings import POSITIVE, added, check_number, check_whole, checked_tau, one_of
from ..surgery import Learner, graft, nothing, recyclable
from ..wiring import Network, by_path, entry_mask, paths
from .schedule import when


class Bounds(NamedTuple):
    """The largest allowed absolute value of each parameter's entries: infinity if the parameter has no bound."""

    bounds: dict[str, Float[Array, ""]]


@dataclass(frozen=True)
class ClipWeights:
    """Clips weights to `factor` times a bound that is computed when training starts.

    Kernels and biases are clipped. Parameters of normalisations and parameters of layers without a kernel are not. The
    state of the optimizer does not change. Call `update` at every gradient step, not within `Every`. Each call costs
    one pass over the weights.

    - `bound`: "initial" is the largest absolute initial weight in the kernels of the layer. "fan_in" is the authors'
      bound, 1 / sqrt(inputs per neuron) of the kernel. A bias gets the largest bound of its layer's kernels.

    >>> ClipWeights(factor=2.0)
    ClipWeights(factor=2.0, bound='initial')

    Raises ValueError for an unknown bound, or unless the factor is positive.
    Source: Elsayed et al. 2024, "Weight clipping for deep continual and reinforcement learning";
    core/optim/weight_clipping.py at mohmdelsayed/weight-clipping 0d3db49, with `factor` 3 for PPO. Their bound is the
    range of PyTorch's default initialiser, even if the network uses another initialiser. "initial" fits every
    initialiser.
    """

    every_step: ClassVar[bool] = True
    factor: float = 2.0
    bound: Literal["initial", "fan_in"] = added("initial")

    def __post_init__(self) -> None:
        check_number("factor", self.factor, POSITIVE)
        one_of("bound", self.bound, ("initial", "fan_in"))

    def init(self, learner: Learner, network: Network) -> Bounds:
        del network
        leaves = by_path(learner.params)
        beside: dict[str, list[Array]] = {}
        for path, leaf in leaves.items():
            if leaf.ndim > 1:
                beside.setdefault(path.rpartition("/")[0], []).append(self._unscaled(leaf))
        bounds = {}
        for path, leaf in leaves.items():
            kernels = beside.get(path.rpartition("/")[0], [])
            if leaf.ndim > 1 and self.bound == "fan_in":
                kernels = [self._unscaled(leaf)]
            # A bias gets the bound of its layer's kernels, because its initial value may be zero. Parameters of
            # normalisations and parameters of layers without a kernel have no bound.
            free = not kernels or (leaf.ndim < 2 and path.rpartition("/")[2] in ("scale", "offset"))
            bounds[path] = jnp.full((), jnp.inf) if free else self.factor * jnp.array(kernels).max()
        return Bounds(bounds)

    def _unscaled(self, kernel: Array) -> Array:
        if self.bound == "initial":
            return jnp.abs(kernel).max()
        return jnp.asarray(1 / math.sqrt(math.prod(kernel.shape[:-1])), kernel.dtype)

    def update(
        self, key: Array, learner: Learner, state: Bounds, network: Network, *inputs: PyTree
    ) -> tuple[Learner, Bounds]:
        del key, inputs
        clipped, outside = [], []
        for path, leaf in by_path(learner.params).items():
            bound = state.bounds[path].astype(leaf.dtype)
            clipped.append(jnp.clip(leaf, -bound, bound))
            outside.append(jnp.abs(leaf) > bound)
        donor, mask = (jax.tree.unflatten(jax.tree.structure(learner.params), leaves) for leaves in (clipped, outside))
        return graft(learner, mask, donor, network.tx, forget=nothing(mask)), state


class Pruned(NamedTuple):
    """The number of gradient steps so far, and a mask of the removed neurons per layer."""

    gradient_steps: Int[Array, ""]
    gone: dict[str, Bool[Array, " neurons"]]


@dataclass(frozen=True)
class Prune:
    """Removes tau-dormant neurons. Their outgoing weights are zero for the rest of training.

    Every `period` gradient steps, `update` removes the neurons that are dormant. At every step, it sets the outgoing
    weights of all removed neurons to zero. Call `update` at every gradient step, not within `Every`.

    >>> Prune(tau=0.0, period=1_000)
    Prune(tau=0.0, period=1000)

    Raises ValueError for a negative tau or a period below 1.
    Source: Sokar et al. 2023, figure 6. The paper does not state how often or how it removes neurons. We chose both.
    """

    every_step: ClassVar[bool] = True
    tau: float = 0.0
    period: int = 1_000

    def __post_init__(self) -> None:
        checked_tau(self.tau)
        check_whole("period", self.period)

    def init(self, learner: Learner, network: Network) -> Pruned:
        layers = recyclable(network, learner.params, None, "recycle")
        return Pruned(jnp.zeros((), jnp.int32), {layer.name: jnp.zeros(layer.width, bool) for layer in layers})

    def update(
        self, key: Array, learner: Learner, state: Pruned, network: Network, *inputs: PyTree
    ) -> tuple[Learner, Pruned]:
        del key
        step = state.gradient_steps + 1

        def check() -> dict[str, Array]:
            dormant = network.wiring.dormant(learner.params, *inputs, tau=self.tau)
            return {name: mask | dormant[name] for name, mask in state.gone.items()}

        gone = when(step % self.period == 0, check, state.gone)
        read = {name: network.wiring[name].outgoing for name in gone}
        zeros = jax.tree.map(jnp.zeros_like, learner.params)
        held = graft(learner, entry_mask(learner.params, read, gone), zeros, network.tx)
        return held, Pruned(step, gone)


NEW, MINUS = "new_", "minus_"


class Injection(NamedTuple):
    """The number of gradient steps so far, and a copy of the parameters from which frozen weights are restored."""

    gradient_steps: Int[Array, ""]
    held: PyTree[Array]


@dataclass(frozen=True)
class PlasticityInjection:
    """Freezes the head after gradient step `at` and trains a new head. Switching heads does not change the outputs.

    The network must compute head(x) + new_head(x) - minus_head(x), as `dormant.rl.networks.Injectable` does. If the
    head has a layer `dense`, the other two heads have layers `new_dense` and `minus_dense` with equal initial weights.
    Up to step `at`, these two are frozen and cancel out. After step `at`, `dense` is frozen and `new_dense` is trained.
    To freeze weights, `update` restores them and their optimizer state after every gradient step. Call `update` at
    every gradient step, not within `Every`.

    >>> PlasticityInjection(at=50_000)
    PlasticityInjection(at=50000)

    Raises ValueError if `at` is below 1. `init` raises ValueError if the network lacks one of the three heads.
    Source: Nikishin et al. 2023, "Deep reinforcement learning with plasticity injection".
    """

    every_step: ClassVar[bool] = True
    at: int

    def __post_init__(self) -> None:
        check_whole("at", self.at)

    def init(self, learner: Learner, network: Network) -> Injection:
        del network
        _roles(learner.params)
        return Injection(jnp.zeros((), jnp.int32), learner.params)

    def update(
        self, key: Array, learner: Learner, state: Injection, network: Network, *inputs: PyTree
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
    """Returns the role of each parameter: "old", "new" or "minus" if it is in one of the heads, or else "shared".

    "minus" is the head whose outputs are subtracted. Raises ValueError if a head is missing, or if the new head and the
    subtracted head have different layers.
    """
    tops = [path.removeprefix("params/").partition("/")[0] for path in paths(params)]
    new, minus = ({top.removeprefix(mark) for top in tops if top.startswith(mark)} for mark in (NEW, MINUS))
    if not new or new != minus or not new <= set(tops):
        raise ValueError(
            f"expected, for each layer x of the head, two more layers {NEW}x and {MINUS}x, as in "
            f"dormant.rl.networks.Injectable; the layers are {sorted(set(tops))}."
        )
    return [_role(top, new) for top in tops]


def _role(top: str, heads: set[str]) -> str:
    if top in heads:
        return "old"
    if top.removeprefix(NEW) in heads:
        return "new"
    return "minus" if top.removeprefix(MINUS) in heads else "shared"
