"""Interfaces of environments, functions that play evaluation episodes, and videos of these episodes.

A body is one simulated robot of a continuous environment. "The paper" is Sokar et al. 2023, which introduced ReDo.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Integer, Key, PyTree, Shaped, UInt8
from numpy import ndarray

EnvState = PyTree[Array]  # its structure is private to the environment
Numbers = TypeVar("Numbers", Array, ndarray)


class Outcome(NamedTuple):
    """The outcome of one agent step. `observation` is the observation after the action and before any reset."""

    observation: Shaped[Array, " *shape"]
    reward: Float[Array, ""]
    terminal: Bool[Array, ""]
    truncated: Bool[Array, ""]


@runtime_checkable
class Environment(Protocol):
    """A pure environment: all its state is in `EnvState`, and all its randomness comes from keys.

    `terminal`: the return ends, so nothing is bootstrapped. `truncated`: the episode ends but the return does not, so
    the value of the last observation is bootstrapped.
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
    """Takes one agent step, and resets the environment if the episode ended. Returns the state and the outcome."""
    key_step, key_reset = jax.random.split(key)
    stepped, outcome = env.step(key_step, state, action)
    over = outcome.terminal | outcome.truncated
    return jax.tree.map(lambda new, old: jnp.where(over, new, old), env.reset(key_reset), stepped), outcome


@runtime_checkable
class HostOutcome(Protocol):
    """The outcome of one agent step in each environment on the host.

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
    """Independent environments on the host, one per seed.

    `step` restarts the episodes that ended. `save` returns the exact state as a tree of arrays. `restore` goes back to
    a saved state.
    """

    @property
    def observations(self) -> Shaped[ndarray, "seeds *shape"]: ...
    def step(self, actions: ndarray) -> HostOutcome: ...
    def save(self) -> PyTree: ...
    def restore(self, state: PyTree) -> None: ...


def side_by_side(leaves: Sequence[Array | ndarray], axis: int = 0) -> ndarray:
    """Stacks arrays along a new axis. A single array gets the axis without a copy, which is much faster.

    >>> side_by_side([np.zeros(3)]).shape, side_by_side([np.zeros(3), np.ones(3)], axis=1).shape
    ((1, 3), (3, 2))
    """
    if len(leaves) > 1:
        return np.stack(leaves, axis)
    return np.asarray(leaves[0])[(slice(None),) * axis + (None,)]


class ControlOutcome(NamedTuple):
    """The outcome of one agent step of each body. `observation` is taken after the action and before any restart."""

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
    """A continuous environment on the host. An action has `actions` numbers in [-1, 1].

    An observation has `observations` numbers. `begin` starts one body per seed. The `step` of the bodies returns a
    `ControlOutcome`. Different values of `stream` give independent random numbers, for training and evaluation.
    """

    @property
    def observations(self) -> int: ...
    @property
    def actions(self) -> int: ...
    def begin(self, seeds: Sequence[int], stream: int = 0) -> Player: ...


# The `stream` of random play. Training has the stream 0. An evaluation has the number of agent steps before it.
RANDOM_PLAY = 2**63
# The frame rate of videos, which show one frame per agent step: 60 emulator frames per second, 4 per agent step.
FRAMES_PER_SECOND = 15
SCALE = 2  # factor by which videos enlarge the Atari screen

# Maps an observation and two uniform numbers to an action and the Q value of the greedy action.
Policy = Callable[[Shaped[Array, " *shape"], Float[Array, "2"]], tuple[Int[Array, ""], Float[Array, ""]]]
# Maps the observations of all seeds to their actions and Q values. For SAC the Q values are None: the critics of SAC
# include an entropy bonus, and an evaluation with the mean action does not earn this bonus.
HostPolicy = Callable[[ndarray], tuple[ndarray, ndarray | None]]


@dataclass(frozen=True)
class Objective:
    """The return that Q estimates: the sum of rewards, discounted by `gamma`.

    If `clip_rewards` is true, each reward is clipped to [-1, 1].
    """

    gamma: float = 1.0
    clip_rewards: bool = False

    def reward(self, reward: Numbers) -> Numbers:
        """Returns the rewards that the agent learns from: clipped if `clip_rewards` is true."""
        return reward.clip(-1.0, 1.0) if self.clip_rewards else reward


class QGap(NamedTuple):
    """Two sums over the visited states of evaluation episodes. `total / states` is the metric `q_gap`.

    `total` is the sum, over states, of Q minus the discounted return from the state. `states` is the number of states.
    `weight` is the factor of the last reward in this sum of returns, or 0 before the first reward of an episode.

    >>> zero, one = np.float32([0.0]), np.float32([1.0])
    >>> gap = QGap(zero, zero, zero).after(3 * one, one, zero, zero, Objective(gamma=0.5))
    >>> gap = gap.after(2 * one, one, one, zero, Objective(gamma=0.5))  # the returns were 1.5 and 1
    >>> gap.total.tolist(), gap.states.tolist()
    ([2.5], [2.0])
    """

    total: Float[Array | ndarray, "*episodes"]
    states: Float[Array | ndarray, "*episodes"]
    weight: Float[Array | ndarray, "*episodes"]

    def after(
        self, value: Numbers, reward: Numbers, terminal: Numbers, truncated: Numbers, objective: Objective
    ) -> "QGap":
        """Returns the sums after one more state and the agent step from it. `value` is the Q value of the state.

        `terminal` and `truncated` are 0 or 1. At a truncation, the return from the last state on is unknown. The Q
        value of the last state replaces this return, and the last state is not counted.
        """
        before = objective.gamma * self.weight
        followed = truncated * before * value + (1.0 - truncated) * (before + 1.0) * objective.reward(reward)
        total = self.total + (1.0 - truncated) * value - followed
        return QGap(total, self.states + (1.0 - truncated), (1.0 - terminal) * (1.0 - truncated) * (before + 1.0))


UNDISCOUNTED = Objective()
# The number of episodes that a CPU plays at once. With more, each agent step takes longer, and all episodes wait for
# the longest one (LOG.md).
AT_ONCE = 10


class Played(NamedTuple):
    """Results of evaluation episodes on the device: undiscounted, unclipped returns, and the sums for `q_gap`."""

    returns: Float[Array, " episodes"]
    gap: QGap


def play(env: Environment, policy: Policy, key: Key[Array, ""], episodes: int, objective: Objective) -> Played:
    """Plays `episodes` whole episodes on the device. Returns their results.

    Source: the paper's evaluation phase, which plays with epsilon 0.001; dopamine/discrete_domains/run_experiment.py.
    """

    def episode(key: Array) -> Played:
        return _episode(env, policy, key, objective)

    keys = jax.random.split(key, episodes)
    if episodes <= AT_ONCE or jax.default_backend() != "cpu":
        return jax.vmap(episode)(keys)
    return jax.lax.map(episode, keys, batch_size=AT_ONCE)


def _episode(env: Environment, policy: Policy, key: Array, objective: Objective) -> Played:
    def step(carry):
        number, state, total, gap, _ = carry
        key_act, key_step = jax.random.split(jax.random.fold_in(key, number))
        action, value = policy(env.observe(state), jax.random.uniform(key_act, (2,)))
        state, outcome = env.step(key_step, state, action)
        ends = outcome.terminal.astype(jnp.float32), outcome.truncated.astype(jnp.float32)
        gap = gap.after(value, outcome.reward, *ends, objective)
        return number + 1, state, total + outcome.reward, gap, outcome.terminal | outcome.truncated

    zero = jnp.zeros(())
    start = (jnp.zeros((), jnp.int32), env.reset(key), zero, QGap(zero, zero, zero), jnp.zeros((), bool))
    _, _, total, gap, _ = jax.lax.while_loop(lambda carry: ~carry[4], step, start)
    return Played(total, gap)


class Film:
    """Writes an MP4 video. `close` gives the file its final name. Raises OSError if the file cannot be written."""

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
        """Completes the file and gives it its final name."""
        if self._writer:
            self._writer.release()
            self._part.replace(self._path)

    def _opened(self, size: tuple[int, int]) -> Any:
        import cv2

        writer = cv2.VideoWriter(str(self._part), cv2.VideoWriter.fourcc(*"mp4v"), FRAMES_PER_SECOND, size)
        if not writer.isOpened():
            raise OSError(f"OpenCV cannot write the video {self._part}; run without --video.")
        return writer


class HostPlayed(NamedTuple):
    """Results of evaluation episodes on the host per seed: undiscounted, unclipped returns and the sums for `q_gap`."""

    returns: list[Float32[ndarray, " episodes"]]
    gap: QGap | None  # None without Q values

    def metrics(self) -> dict[str, Float[ndarray, " seeds"]]:
        """Returns the mean return of each seed, and `q_gap` if there are Q values."""
        found = {"eval_return": np.array([np.mean(each) for each in self.returns])}
        if self.gap is not None:
            found["q_gap"] = np.asarray(self.gap.total / np.maximum(self.gap.states, 1.0))
        return found


def play_on_host(
    player: Player,
    policy: HostPolicy,
    episodes: int,
    agent_steps: int = 1,
    objective: Objective = UNDISCOUNTED,
    film: Film | None = None,
) -> HostPlayed:
    """Plays whole episodes on the host. Returns their results.

    Every seed plays at least `agent_steps` agent steps and at least `episodes` episodes. A lost life does not end an
    episode. With `life_loss` (see `Atari`), a lost life ends the return that Q estimates. `film` records the first
    episode of the first seed.
    """
    seeds = len(player.observations)
    totals, playing = np.zeros(seeds, np.float32), np.ones(seeds, bool)
    returns: list[list[np.float32]] = [[] for _ in range(seeds)]
    gap = None
    for step in count(1):
        if film and not returns[0]:
            film.take()
        actions, values = policy(player.observations)
        outcome = player.step(actions)
        if values is not None:
            gap = _gap_after(gap or QGap(*np.zeros((3, seeds), np.float32)), playing, values, outcome, objective)
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
    return HostPlayed([np.array(each, np.float32) for each in returns], gap)


def _gap_after(
    gap: QGap, playing: Bool[ndarray, " seeds"], values: ndarray, outcome: HostOutcome, objective: Objective
) -> QGap:
    """Returns the sums after one more agent step. Only the sums of seeds that still play change."""
    terminal, truncated = outcome.terminal, outcome.restarted & ~outcome.terminal
    ends = terminal.astype(np.float32), truncated.astype(np.float32)
    after = gap.after(values, outcome.reward, *ends, objective)
    return QGap._make(np.where(playing, new, old) for new, old in zip(after, gap, strict=True))
