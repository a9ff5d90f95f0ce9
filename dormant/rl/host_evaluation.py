"""Evaluation of the host loop: whole episodes in games of their own, and states of random play."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Integer, UInt8
from numpy import ndarray

from .agents.dqn import random_action
from .envs.atari import Atari, AtariGame, AtariGames
from .films import Film
from .host_rounds import HostTraining, choose
from .rounds import key_for

BLOCK = 1_024  # agent steps drawn for at once
RANDOM_PLAY = 2**63  # a stream of its own: those of evaluations are agent steps


def episode_returns(
    training: HostTraining, params: list[Any], agent_steps: int, film: Film | None = None
) -> list[list[float]]:
    """The undiscounted, unclipped returns of whole episodes of each seed.

    They are as many as take `eval_agent_steps`, and at least `eval_episodes`. A lost life ends none.

    The film, if there is one, shows the first episode of the first seed.
    Source: the paper's evaluation phase; dopamine/discrete_domains/run_experiment.py.
    """
    games = AtariGames(training.env, training.seeds, stream=agent_steps)
    totals, returns = np.zeros(len(training.seeds), np.float32), [[] for _ in training.seeds]
    playing = np.ones(len(training.seeds), bool)
    for step, (explores, anything) in enumerate(_draws(training, agent_steps), start=1):
        if film and not returns[0]:
            film.show(games.screen(0))
        outcome = games.step(choose(training, params, games.observations, explores, anything))
        totals += outcome.reward
        for seed in np.flatnonzero(outcome.restarted & playing):
            returns[seed].append(float(totals[seed]))
        totals[outcome.restarted] = 0
        few = np.array([len(each) < training.eval_episodes for each in returns])
        playing &= ~outcome.restarted | (step < training.eval_agent_steps) | few
        if not playing.any():
            break
    if film:
        film.close()
    return returns


def _draws(
    training: HostTraining, agent_steps: int
) -> Iterator[tuple[Bool[ndarray, " seeds"], Integer[ndarray, " seeds"]]]:
    """For each step without end, which seeds explore, and the random action of each."""
    block = 0
    while True:
        yield from zip(*map(np.asarray, _block(training, np.int32(agent_steps), np.int32(block))), strict=True)
        block += 1


@partial(jax.jit, static_argnums=0)
def _block(training: HostTraining, agent_steps: Array, block: Array) -> tuple[Array, Array]:
    def one(seed: Array) -> Array:
        key = jax.random.fold_in(key_for(seed, "evaluate", agent_steps), block)
        return jax.random.uniform(key, (BLOCK, 2))

    explore, choice = jnp.moveaxis(jax.vmap(one, out_axes=1)(jnp.array(training.seeds)), -1, 0)
    return explore < training.eval_epsilon, random_action(choice, training.env.actions)


def random_play(env: Atari, seed: int, states: int) -> UInt8[ndarray, "states height width stack"]:
    """Observations of random play, every eighth of it, for neighbours in time look alike."""
    game, draw = AtariGame(env, seed, RANDOM_PLAY), np.random.default_rng((RANDOM_PLAY, seed))
    seen = []
    for action in draw.integers(env.actions, size=8 * states):
        game.step(int(action))
        seen.append(game.observation)
    return np.stack(seen[7::8])
