"""Evaluation: whole episodes apart from training, with their own keys and environment states."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Shaped

from .envs.episode import Environment

Policy = Callable[[Shaped[Array, " *shape"], Float[Array, "2"]], Int[Array, ""]]


def episode_returns(env: Environment, policy: Policy, key: Key[Array, ""], episodes: int) -> Float[Array, " episodes"]:
    """The undiscounted, unclipped return of each of `episodes` episodes, each played until it ends or is truncated.

    Source: the paper's evaluation phase, which plays with epsilon 0.001; dopamine/discrete_domains/run_experiment.py.
    """
    return jax.vmap(lambda key: _episode_return(env, policy, key))(jax.random.split(key, episodes))


def _episode_return(env: Environment, policy: Policy, key: Array) -> Array:
    def step(carry):
        number, state, total, _ = carry
        key_act, key_step = jax.random.split(jax.random.fold_in(key, number))
        action = policy(env.observe(state), jax.random.uniform(key_act, (2,)))
        state, outcome = env.step(key_step, state, action)
        return number + 1, state, total + outcome.reward, outcome.terminal | outcome.truncated

    start = (jnp.zeros((), jnp.int32), env.reset(key), jnp.zeros(()), jnp.zeros((), bool))
    return jax.lax.while_loop(lambda carry: ~carry[3], step, start)[2]
