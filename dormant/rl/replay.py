"""A ring of transitions on the device, from which n-step transitions are drawn uniformly."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num, Shaped, UInt8


class Batch(NamedTuple):
    """n-step transitions. `discount` multiplies the value of `observation_t`: zero where the return ends.

    `noise` is that of an agent's augmentation, if it has one.
    """

    observation_tm1: Shaped[Array, "batch *shape"]
    action_tm1: Int[Array, " batch"]
    return_t: Float[Array, " batch"]
    discount_t: Float[Array, " batch"]
    observation_t: Shaped[Array, "batch *shape"]
    noise: Any = ()


class ReplayState(NamedTuple):
    """What a ring holds for each agent step: the packed observations before and after it, and what lay between.

    Several rings have an axis of seeds before. `discount` is 0 at a termination and gamma elsewhere; `last` marks the
    end of an episode, by truncation too.
    """

    observations: Num[Array, "*seeds capacity 2 packed"]
    action: UInt8[Array, "*seeds capacity"]
    reward: Float[Array, "*seeds capacity"]
    discount: Float[Array, "*seeds capacity"]
    last: Bool[Array, "*seeds capacity"]


@dataclass(frozen=True)
class Replay:
    """A ring of the last `capacity` agent steps. Its methods take how many were added so far, so that seeds share it.

    Every step keeps the observation after it too. A truncated episode is then bootstrapped from its true last
    observation, and an n-step return that meets the end of an episode simply stops there. Boolean observations are kept
    as bits.
    """

    capacity: int
    observation_shape: tuple[int, ...]
    observation_dtype: np.dtype
    n_step: int = 1

    def init(self) -> ReplayState:
        """An empty ring."""
        packed = jax.eval_shape(self.pack, self._no_observation())
        empty = jnp.zeros(self.capacity)
        return ReplayState(
            jnp.zeros((self.capacity, 2, *packed.shape), packed.dtype),
            empty.astype(jnp.uint8),
            empty,
            empty,
            empty.astype(bool),
        )

    def pack(self, observation: Shaped[Array, "*batch_and_shape"]) -> Num[Array, "*batch_and_packed"]:
        """The observation as the ring keeps it: flat, eight Booleans to a byte."""
        flat = observation.reshape(*observation.shape[: observation.ndim - len(self.observation_shape)], -1)
        return jnp.packbits(flat, axis=-1) if self._as_bits else flat

    def unpack(self, packed: Num[Array, "*batch_and_packed"]) -> Shaped[Array, "*batch_and_shape"]:
        """The observation that was packed, Booleans as unsigned bytes."""
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
        """The ring with one more agent step, in place of the oldest if it is full. `added` steps came before.

        Rings of several seeds are filled together, by one write in place; under `vmap` it would be a scatter.
        """
        seeds = action_tm1.ndim
        pair = self.pack(jnp.stack([observation_tm1, observation_t], axis=seeds))
        step = ReplayState(pair, action_tm1.astype(jnp.uint8), reward_t, discount_t, last_t)

        def write(kept: Array, new: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(kept, jnp.expand_dims(new, seeds), added % self.capacity, seeds)

        return jax.tree.map(write, ring, step)

    def sample(self, ring: ReplayState, added: Int[Array, ""], uniform: Float[Array, " batch"]) -> Batch:
        """n-step transitions at the ring's places `uniform`, numbers in [0, 1) over the steps that can begin one."""
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
        """Packed observations at the ring's places `uniform`, numbers in [0, 1)."""
        return ring.observations[self._starts(added, uniform), 0]

    def _starts(self, added: Array, uniform: Array) -> Array:
        """Slots of the steps from which n steps were recorded, oldest first as `uniform` grows."""
        held = jnp.minimum(added, self.capacity)
        number = held - self.n_step + 1
        # A float32 has 24 bits, so all of a ring of up to 16 million steps can be drawn.
        offset = jnp.minimum((uniform * number.astype(jnp.float32)).astype(jnp.int32), number - 1)
        return (added - held + offset) % self.capacity

    @property
    def _as_bits(self) -> bool:
        return self.observation_dtype.kind == "b"

    def _no_observation(self) -> Array:
        return jnp.zeros(self.observation_shape, self.observation_dtype)
