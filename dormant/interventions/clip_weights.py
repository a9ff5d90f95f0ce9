"""Weight clipping: no weight leaves the range that its layer was initialised in, times a factor."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..surgery import Learner, graft
from ..wiring import Network, paths
from .renewal import nothing


class Bounds(NamedTuple):
    """The largest absolute value of each parameter's entries; infinite where there is no bound."""

    bounds: dict[str, Float[Array, ""]]


@dataclass(frozen=True)
class ClipWeights:
    """Clips every kernel and bias to `factor` times the largest absolute weight that its layer's kernels began with.

    Call it at every gradient step, not within `Every`; it costs one pass over the weights and leaves the optimizer's
    state alone. Parameters beside no kernel, and those of a normalisation (which begin at one), are not clipped.

    >>> ClipWeights(factor=2.0)
    ClipWeights(factor=2.0)

    Raises ValueError for a factor that is not positive.
    Source: Elsayed et al. 2024, "Weight clipping for deep continual and reinforcement learning". Their
    bound is that of the uniform distribution which draws a layer; we take the largest weight drawn, which is nearly
    that, and is there for any initialiser.
    """

    every_step: ClassVar[bool] = True
    factor: float = 2.0

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"factor must be positive, got {self.factor}.")

    def init(self, learner: Learner, network: Network) -> Bounds:
        del network
        leaves = dict(zip(paths(learner.params), jax.tree.leaves(learner.params), strict=True))
        drawn: dict[str, list[Array]] = {}
        for path, leaf in leaves.items():
            if leaf.ndim > 1:
                drawn.setdefault(path.rpartition("/")[0], []).append(jnp.abs(leaf).max())
        bounds = {}
        for path, leaf in leaves.items():
            beside = drawn.get(path.rpartition("/")[0], [])
            # At the start a bias is zero, or lies in its kernel's range.
            free = not beside or (leaf.ndim < 2 and path.rpartition("/")[2] in ("scale", "offset"))
            bounds[path] = jnp.full((), jnp.inf) if free else self.factor * jnp.array(beside).max()
        return Bounds(bounds)

    def update(
        self, key: Array, learner: Learner, state: Bounds, network: Network, *inputs: Any
    ) -> tuple[Learner, Bounds]:
        del key, inputs
        clipped, outside = [], []
        for path, leaf in zip(paths(learner.params), jax.tree.leaves(learner.params), strict=True):
            bound = state.bounds[path].astype(leaf.dtype)
            clipped.append(jnp.clip(leaf, -bound, bound))
            outside.append(jnp.abs(leaf) > bound)
        donor, mask = (jax.tree.unflatten(jax.tree.structure(learner.params), leaves) for leaves in (clipped, outside))
        return graft(learner, mask, donor, network.tx, forget=nothing(mask)), state
