"""What an environment is, and how an episode that ended gives way to the next."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, Key, Shaped

EnvState = Any  # a pytree of arrays, whose structure is the environment's own business


class Outcome(NamedTuple):
    """What one agent step led to: the observation is the one after the action, before any reset."""

    observation: Shaped[Array, " *shape"]
    reward: Float[Array, ""]
    terminal: Bool[Array, ""]
    truncated: Bool[Array, ""]


@runtime_checkable
class Environment(Protocol):
    """A pure environment: all of its state is in `EnvState`, all of its randomness comes from keys.

    `terminal` says that the return ends here, so nothing is bootstrapped; `truncated` says that only the episode does,
    so the value of the last observation still counts.
    """

    @property
    def observation_shape(self) -> tuple[int, ...]: ...
    @property
    def observation_dtype(self) -> np.dtype: ...
    @property
    def actions(self) -> int: ...
    def reset(self, key: Key[Array, ""]) -> EnvState: ...
    def observe(self, state: EnvState) -> Shaped[Array, " *shape"]: ...
    def step(self, key: Key[Array, ""], state: EnvState, action: Integer[Array, ""]) -> tuple[EnvState, Outcome]: ...


def step_or_restart(
    env: Environment, key: Key[Array, ""], state: EnvState, action: Integer[Array, ""]
) -> tuple[EnvState, Outcome]:
    """The state to act from next, which is a new episode's first where this one ended, and what the action led to."""
    key_step, key_reset = jax.random.split(key)
    stepped, outcome = env.step(key_step, state, action)
    over = outcome.terminal | outcome.truncated
    return jax.tree.map(lambda new, old: jnp.where(over, new, old), env.reset(key_reset), stepped), outcome
