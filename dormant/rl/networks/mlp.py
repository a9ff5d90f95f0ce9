"""A plain multi-layer perceptron."""

import math
from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from .layers import Params, Shape, fresh_layer, linear


@dataclass(frozen=True)
class MLP:
    """Dense layers with ReLU and a linear head, on flattened observations.

    >>> MLP((8, 4)).init(jax.random.key(0), (2, 3), actions=5)["dense_1"]["kernel"].shape
    (8, 4)
    """

    hidden: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        if min(self.hidden, default=1) < 1:
            raise ValueError(f"hidden layers must have at least 1 neuron, got {self.hidden}.")

    def init(self, key: Key[Array, ""], observation_shape: Shape, actions: int) -> Params:
        """Fresh parameters."""
        widths = [math.prod(observation_shape), *self.hidden, actions]
        names = [*(f"dense_{number}" for number in range(len(self.hidden))), "head"]
        keys = jax.random.split(key, len(names))
        shapes = pairwise(widths)
        return {name: fresh_layer(key, shape) for name, key, shape in zip(names, keys, shapes, strict=True)}

    def apply(self, params: Params, observations: Shaped[Array, "batch *shape"]) -> Float[Array, "batch actions"]:
        """Q values of a batch of observations."""
        values = observations.reshape(len(observations), -1).astype(jnp.float32)
        for number in range(len(self.hidden)):
            values = jax.nn.relu(linear(values, params[f"dense_{number}"]))
        return linear(values, params["head"])
