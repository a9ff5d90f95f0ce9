"""Evaluation: whole episodes apart from training, on the device or on the host, and videos of them."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Key, Shaped, UInt8
from numpy import ndarray

from .envs import Environment, Player

RANDOM_PLAY = 2**63  # the stream of random play; the streams of evaluations are numbers of agent steps
FRAMES_PER_SECOND = 15  # agent steps, at 60 emulator frames per second
SCALE = 2  # of the Atari's screen in a video

Policy = Callable[[Shaped[Array, " *shape"], Float[Array, "2"]], Int[Array, ""]]
HostPolicy = Callable[[ndarray], ndarray]  # from the observations of all players to their actions


def episode_returns(env: Environment, policy: Policy, key: Key[Array, ""], episodes: int) -> Float[Array, " episodes"]:
    """The undiscounted, unclipped returns of `episodes` episodes on the device, each played to its end.

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


class Film:
    """An MP4 video, which appears under its name once it is complete. Raises OSError if it cannot be written."""

    def __init__(self, path: Path, screen: Callable[[], UInt8[ndarray, "rows columns 3"]]) -> None:
        self._path, self._part, self._screen = path, path.with_suffix(".part.mp4"), screen
        self._writer: Any = None
        path.parent.mkdir(parents=True, exist_ok=True)

    def take(self) -> None:
        """Adds the current screen."""
        import cv2

        screen = self._screen()
        rows, columns = screen.shape[:2]
        size = (SCALE * columns, SCALE * rows)
        self._writer = self._writer or self._opened(size)
        self._writer.write(cv2.resize(screen[..., ::-1], size, interpolation=cv2.INTER_NEAREST))

    def close(self) -> None:
        """Completes the file."""
        if self._writer:
            self._writer.release()
            self._part.replace(self._path)

    def _opened(self, size: tuple[int, int]) -> Any:
        import cv2

        writer = cv2.VideoWriter(str(self._part), cv2.VideoWriter.fourcc(*"mp4v"), FRAMES_PER_SECOND, size)
        if not writer.isOpened():
            raise OSError(f"OpenCV cannot write the video {self._part}; run without --video.")
        return writer


def host_episode_returns(
    player: Player, policy: HostPolicy, episodes: int, agent_steps: int = 1, film: Film | None = None
) -> list[Float32[ndarray, " episodes"]]:
    """The undiscounted, unclipped returns of whole episodes on the host, for each seed.

    Every seed plays until `agent_steps` steps have passed and `episodes` episodes have ended. A lost life does not end
    an episode. The film, if there is one, shows the first episode of the first seed.
    """
    seeds = len(player.observations)
    totals, playing = np.zeros(seeds, np.float32), np.ones(seeds, bool)
    returns: list[list[np.float32]] = [[] for _ in range(seeds)]
    for step in count(1):
        if film and not returns[0]:
            film.take()
        outcome = player.step(policy(player.observations))
        totals += outcome.reward
        for seed in np.flatnonzero(outcome.restarted & playing):
            returns[seed].append(totals[seed])
        totals[outcome.restarted] = 0
        enough = np.array([len(each) >= episodes for each in returns])
        playing &= ~(outcome.restarted & enough & (step >= agent_steps))
        if not playing.any():
            break
    if film:
        film.close()
    return [np.array(each, np.float32) for each in returns]
