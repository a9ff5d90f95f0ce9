"""Reset: draw whole layers anew."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from ..surgery import Learner, graft, restart_step_count
from ..wiring import Network, paths
from .contract import one_of
from .renewal import fresh, nothing


@dataclass(frozen=True)
class Reset:
    """Draws the parameters of whole layers anew from the network's initialiser.

    `layers` are names as a wiring shows them, output layers included; None resets every parameter. `moments` and
    `step_count` say what becomes of the optimizer's state, as in `ReDo`.

    >>> Reset(layers=("dense",))
    Reset(layers=('dense',), moments='fresh', step_count='keep')

    Raises ValueError for an unknown option, and at `init` for a layer that does not exist.
    Source: Nikishin et al. 2022. Sokar et al. reset the penultimate layer; their code can only reset from a layer to
    the end.
    """

    layers: tuple[str, ...] | None = None
    moments: Literal["fresh", "keep"] = "fresh"
    step_count: Literal["keep", "restart"] = "keep"

    def __post_init__(self) -> None:
        one_of("moments", self.moments, ("fresh", "keep"))
        one_of("step_count", self.step_count, ("keep", "restart"))

    def init(self, learner: Learner, network: Network) -> tuple[()]:
        del network
        self._mask(learner.params)
        return ()

    def _mask(self, params: PyTree[Array]) -> PyTree[Bool[Array, ""]]:
        names = paths(params)
        owners = [{path} if self.layers is None else owner(path, self.layers) for path in names]
        missing = set(self.layers or ()) - set().union(*owners)
        if missing:
            raise ValueError(f"no parameters belong to layers {sorted(missing)}; parameters are {names}.")
        return jax.tree.unflatten(jax.tree.structure(params), [jnp.array(bool(found)) for found in owners])

    def update(
        self, key: Array, learner: Learner, state: tuple[()], network: Network, *inputs: Any
    ) -> tuple[Learner, tuple[()]]:
        del inputs
        mask = self._mask(learner.params)
        forget = mask if self.moments == "fresh" else nothing(mask)
        learner = graft(learner, mask, fresh(network, key, learner), network.tx, forget=forget)
        return (restart_step_count(learner, jnp.array(True)) if self.step_count == "restart" else learner), state


def owner(path: str, layers: tuple[str, ...]) -> set[str]:
    """Which of the layers a parameter's path lies in.

    >>> owner("params/dense/kernel", ("dense", "head"))
    {'dense'}
    """
    plain = path.removeprefix("params/")
    return {layer for layer in layers for part in layer.split("+") if plain == part or plain.startswith(part + "/")}
