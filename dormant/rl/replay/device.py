"""A ring of agent steps on the device, from which n-step transitions are drawn uniformly."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num, Shaped, UInt8


class Batch(NamedTuple):
    """n-step transitions. `discount_t` multiplies the value of `observation_t`. It is 0 after a termination.

    `noise` holds the random numbers of the agent's augmentation. It is empty without augmentation.
    """

    observation_tm1: Shaped[Array, "batch *shape"]
    action_tm1: Int[Array, " batch"]
    return_t: Float[Array, " batch"]
    discount_t: Float[Array, " batch"]
    observation_t: Shaped[Array, "batch *shape"]
    noise: Any = ()


class ReplayState(NamedTuple):
    """The arrays of a ring, with one entry per agent step.

    `observations` has the packed observations before and after each step. `discount` is 0 at a termination and gamma
    elsewhere. `last` is True at the end of an episode, by termination or by truncation. The rings of several seeds have
    a leading axis of seeds.
    """

    observations: Num[Array, "*seeds capacity 2 packed"]
    action: UInt8[Array, "*seeds capacity"]
    reward: Float[Array, "*seeds capacity"]
    discount: Float[Array, "*seeds capacity"]
    last: Bool[Array, "*seeds capacity"]


@dataclass(frozen=True)
class Replay:
    """The settings of a ring of the last `capacity` agent steps. The arrays of the ring are in a `ReplayState`.

    In all methods, `added` is the number of steps added so far. The ring stores the observations before and after each
    step. Therefore a truncated episode is bootstrapped from its true last observation. An n-step return stops at the
    end of its episode. Boolean observations are stored as bits. Steps before agent step `begins` are never drawn.
    """

    capacity: int
    observation_shape: tuple[int, ...]
    observation_dtype: np.dtype
    n_step: int = 1
    begins: int = 0

    def init(self) -> ReplayState:
        """Returns an empty ring."""
        packed = jax.eval_shape(self.pack, jnp.zeros(self.observation_shape, self.observation_dtype))
        empty = jnp.zeros(self.capacity)
        return ReplayState(
            jnp.zeros((self.capacity, 2, *packed.shape), packed.dtype),
            empty.astype(jnp.uint8),
            empty,
            empty,
            empty.astype(bool),
        )

    def pack(self, observation: Shaped[Array, "*batch_and_shape"]) -> Num[Array, "*batch_and_packed"]:
        """Returns an observation in the form that the ring stores: flat, with eight Booleans per byte."""
        flat = observation.reshape(*observation.shape[: observation.ndim - len(self.observation_shape)], -1)
        return jnp.packbits(flat, axis=-1) if self._as_bits else flat

    def unpack(self, packed: Num[Array, "*batch_and_packed"]) -> Shaped[Array, "*batch_and_shape"]:
        """Reverses `pack`. Returns the observation with its shape. Booleans become unsigned bytes."""
        size = int(np.prod(self.observation_shape))
        flat = jnp.unpackbits(packed, axis=-1, count=size) if self._as_bits else packed
        return flat.reshape(*packed.shape[:-1], *self.observation_shape)

    def add(
        self,
        ring: ReplayState,
        added: Int[Array, ""],
        observation_tm1: Shaped[Array, "*seeds_and_shape"],
        action_tm1: Int[Array, "*seeds"],
        reward_t: Float[Array, "*seeds"],
        discount_t: Float[Array, "*seeds"],
        last_t: Bool[Array, "*seeds"],
        observation_t: Shaped[Array, "*seeds_and_shape"],
    ) -> ReplayState:
        """Adds one agent step and returns the ring. In a full ring, the new step replaces the oldest step.

        One update in place writes the rings of all seeds, because under `vmap` the update would become a slow scatter.
        """
        seeds = action_tm1.ndim
        pair = self.pack(jnp.stack([observation_tm1, observation_t], axis=seeds))
        step = ReplayState(pair, action_tm1.astype(jnp.uint8), reward_t, discount_t, last_t)

        def write(kept: Array, new: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(kept, jnp.expand_dims(new, seeds), added % self.capacity, seeds)

        return jax.tree.map(write, ring, step)

    def sample(self, ring: ReplayState, added: Int[Array, ""], uniform: Float[Array, " batch"]) -> Batch:
        """Draws n-step transitions with the random numbers `uniform` in [0, 1). 0 draws the oldest transition."""
        first = self._starts(added, uniform)
        steps = [(first + k) % self.capacity for k in range(self.n_step)]
        return_t, discount_t, final = jnp.zeros_like(uniform), jnp.ones_like(uniform), first
        alive = jnp.ones_like(uniform, dtype=bool)
        for step in steps:
            return_t += jnp.where(alive, discount_t * ring.reward[step], 0.0)
            discount_t = jnp.where(alive, discount_t * ring.discount[step], discount_t)
            final = jnp.where(alive, step, final)
            alive &= ~ring.last[step]
        before = self.unpack(ring.observations[first, 0])
        after = self.unpack(ring.observations[final, 1])
        return Batch(before, ring.action[first].astype(jnp.int32), return_t, discount_t, after)

    def states(
        self, ring: ReplayState, added: Int[Array, ""], uniform: Float[Array, " batch"]
    ) -> Num[Array, "batch packed"]:
        """Draws packed observations with the random numbers `uniform` in [0, 1)."""
        return ring.observations[self._starts(added, uniform), 0]

    def _starts(self, added: Array, uniform: Array) -> Array:
        """The slots of the steps at which the drawn transitions start."""
        held = jnp.minimum(added - self.begins, self.capacity)
        number = held - self.n_step + 1
        # A float32 has 24 significant bits, so every step of a ring of up to 2**24 (about 16 million) can be drawn.
        offset = jnp.minimum((uniform * number.astype(jnp.float32)).astype(jnp.int32), number - 1)
        return (added - held + offset) % self.capacity

    @property
    def _as_bits(self) -> bool:
        return self.observation_dtype.kind == "b"
