"""The interfaces of environments: pure ones on the device, and ones with continuous actions on the host."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Integer, Key, PyTree, Shaped
from numpy import ndarray

EnvState = PyTree[Array]  # whose structure only the environment knows


class Outcome(NamedTuple):
    """What one agent step led to. `observation` is the one after the action, before any reset."""

    observation: Shaped[Array, " *shape"]
    reward: Float[Array, ""]
    terminal: Bool[Array, ""]
    truncated: Bool[Array, ""]


@runtime_checkable
class Environment(Protocol):
    """A pure environment: all its state is in `EnvState`, and all its randomness comes from keys.

    `terminal`: the return ends, so nothing is bootstrapped. `truncated`: only the episode ends, so the last observation
    is bootstrapped.
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
    """The next state, which starts a new episode if this one ended, and what the action led to."""
    key_step, key_reset = jax.random.split(key)
    stepped, outcome = env.step(key_step, state, action)
    over = outcome.terminal | outcome.truncated
    return jax.tree.map(lambda new, old: jnp.where(over, new, old), env.reset(key_reset), stepped), outcome


@runtime_checkable
class HostOutcome(Protocol):
    """What one agent step led to in each environment on the host.

    `terminal`: the return ends, so nothing is bootstrapped. `restarted`: a new episode has begun.
    """

    @property
    def reward(self) -> Float32[ndarray, " seeds"]: ...
    @property
    def terminal(self) -> Bool[ndarray, " seeds"]: ...
    @property
    def restarted(self) -> Bool[ndarray, " seeds"]: ...


@runtime_checkable
class Player(Protocol):
    """Several copies of an environment on the host, one per seed, none of which affects another.

    `step` restarts the episodes that ended. `save` returns a tree of arrays, from which `restore` continues exactly.
    """

    @property
    def observations(self) -> Shaped[ndarray, "seeds *shape"]: ...
    def step(self, actions: ndarray) -> HostOutcome: ...
    def save(self) -> PyTree: ...
    def restore(self, state: PyTree) -> None: ...


class ControlOutcome(NamedTuple):
    """What one agent step led to in each body. `observation` is the one after the action, before any restart."""

    observation: Float32[ndarray, "bodies observation"]
    reward: Float32[ndarray, " bodies"]
    terminal: Bool[ndarray, " bodies"]
    truncated: Bool[ndarray, " bodies"]

    @property
    def restarted(self) -> Bool[ndarray, " bodies"]:
        """Whether a new episode has begun."""
        return self.terminal | self.truncated


@runtime_checkable
class ControlEnvironment(Protocol):
    """An environment on the host with `observations` numbers per observation and `actions` numbers in [-1, 1].

    `begin` starts one body per seed; its steps return a `ControlOutcome`. `stream` separates evaluation from training.
    """

    @property
    def observations(self) -> int: ...
    @property
    def actions(self) -> int: ...
    def begin(self, seeds: Sequence[int], stream: int = 0) -> Player: ...
