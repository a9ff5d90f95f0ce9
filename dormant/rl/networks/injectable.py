"""A network with three heads, as plasticity injection needs it."""

from dataclasses import dataclass

import jax
from jaxtyping import Array, Float, Key, Shaped

from dormant.interventions.plasticity_injection import MINUS, NEW

from .atari import ImpalaResNet, NatureCNN
from .layers import Params, Shape
from .minatar import MinAtarCNN
from .mlp import MLP

OUTPUTS = ("head", "value", "advantage")


@dataclass(frozen=True)
class Injectable:
    """A Q-network whose values are head(x) + new_head(x) - minus_head(x). The last two heads start equal.

    `shared` names the layers below the head, which all three heads read. `PlasticityInjection` decides which heads
    learn, and when; without it all of them learn. The cost is three passes through the head.

    >>> params = Injectable(MLP((4, 3)), shared=("dense_0",)).init(jax.random.key(0), (2,), actions=2)
    >>> list(params)
    ['dense_0', 'dense_1', 'head', 'new_dense_1', 'new_head', 'minus_dense_1', 'minus_head']

    Raises ValueError at `init` for a shared layer that the network does not have.
    Source: Nikishin et al. 2023, "Deep reinforcement learning with plasticity injection".
    """

    network: MinAtarCNN | MLP | NatureCNN | ImpalaResNet
    shared: tuple[str, ...] = ("conv",)

    def init(self, key: Key[Array, ""], observation_shape: Shape, actions: int) -> Params:
        """Fresh parameters."""
        first, second = (self.network.init(one, observation_shape, actions) for one in jax.random.split(key))
        missing = sorted(set(self.shared) - set(first))
        if missing:
            raise ValueError(f"the network has no layers {missing} to share; it has {sorted(first)}.")
        head = {name: layer for name, layer in second.items() if name not in self.shared}
        return {**first, **{mark + name: layer for mark in (NEW, MINUS) for name, layer in head.items()}}

    def apply(self, params: Params, observations: Shaped[Array, "batch *shape"]) -> Float[Array, "batch actions"]:
        """Q values of a batch of observations."""
        old, new, minus = (self.network.apply(self._with_head(params, mark), observations) for mark in ("", NEW, MINUS))
        return old + new - minus

    def _with_head(self, params: Params, mark: str) -> Params:
        names = [name for name in params if not name.startswith((NEW, MINUS))]
        return {name: params[name if name in self.shared else mark + name] for name in names}


def injectable(network: MinAtarCNN | MLP | NatureCNN | ImpalaResNet | Injectable) -> Injectable:
    """The network with every layer below its last hidden layer shared, as plasticity injection needs it.

    >>> injectable(NatureCNN()).shared
    ('conv1', 'conv2', 'conv3')
    """
    if isinstance(network, Injectable):
        return network
    shape = (4,) if isinstance(network, MLP) else (84, 84, 4)
    params = jax.eval_shape(lambda key: network.init(key, shape, 2), jax.random.key(0))
    hidden = [name for name in params if name.startswith("dense")]
    return Injectable(network, tuple(name for name in params if name not in (*hidden[-1:], *OUTPUTS)))
