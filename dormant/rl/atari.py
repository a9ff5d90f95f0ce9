"""Training of DQN and DrQ on Atari, for the host loop."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Integer, Key, UInt8
from numpy import ndarray

from dormant.interventions import Chain, Intervention
from dormant.wiring import Network

from .agents import atari_dqn
from .agents.dqn import DQN, DQNState, random_action
from .envs import RANDOM_PLAY, Film, HostPlayed, play_on_host
from .envs.atari import Atari, AtariGame, AtariGames, AtariOutcome
from .feeding import DeviceFeed, Feed, HostFeed, HostPolicy, RoundDraws, drawn
from .host import OnHost, slack
from .learning import Learning, network_of
from .networks import Params
from .replay.device import Batch
from .replay.frames import FrameReplay, FrameRing
from .replay.packets import Packets, device_memory, device_shortage
from .schedule import Schedule, check_evaluation, draws_of, join_seeds, key_for, map_seeds, schedule_of, take_seed

LOG = logging.getLogger("dormant")
REPLAY_ON = ("auto", "device", "host")
EVALUATION_BLOCK = 1_024  # an evaluation draws the random numbers of this many agent steps at once


class ChunkDraws(NamedTuple):
    """The random numbers of a chunk. The device draws all of them at once, and they are copied to the host."""

    explores: Bool[Array, "rounds agent_steps seeds"]
    action: Int[Array, "rounds agent_steps seeds"]
    batch: Float[Array, "rounds gradient_steps seeds batch"]
    score: Float[Array, "rounds gradient_steps seeds states"]


@dataclass(frozen=True)
class AtariTraining(OnHost):
    """A training of DQN or DrQ on an Atari game. On one machine, equal fields give bit-identical results.

    Fields with the same name as in `DeviceTraining` have the same meaning. An evaluation plays at least `eval_episodes`
    whole episodes and at least `eval_agent_steps` agent steps. An `eval_period` longer than the run disables
    evaluation. If `video` is true, each evaluation records the first episode of the first seed. `init` returns the
    state before the first agent step. `open` returns a `HostLoop`. The loop runs the training and stores the frames of
    each seed in files.

    `replay_on` sets where batches are built. With "device", the device has a copy of the stored frames, and the host
    sends one frame per agent step. With "host", the host sends whole batches. The results are the same. "auto" chooses
    "device" if the device is an accelerator and the frames fit into its memory.

    >>> AtariTraining(replay_ratio=0.25).schedule.agent_steps_per_round
    4

    Raises ValueError for settings that `Schedule` rejects, or if an `eval_` setting or `rank_batch` is out of range.
    """

    agent: DQN = field(default_factory=atari_dqn)
    env: Atari = field(default_factory=Atari)
    intervention: Intervention = field(default_factory=Chain)
    replay_ratio: float = 1.0
    agent_steps: int = 2_500_000
    log_period: int = 1_000
    seeds: tuple[int, ...] = (0,)
    score_batch: int = 64
    eval_agent_steps: int = 125_000
    eval_period: int = 250_000
    eval_epsilon: float = 0.001
    eval_episodes: int = 1
    rank_batch: int = 0
    # `video` and `replay_on` do not change results, so a resumed run may change them.
    video: bool = field(default=False, compare=False)
    replay_on: str = field(default="auto", compare=False)

    learns_from_round = True

    def __post_init__(self) -> None:
        schedule_of(self, eval_agent_steps=self.eval_agent_steps, eval_episodes=self.eval_episodes)
        check_evaluation(self.eval_epsilon, self.rank_batch)
        if self.replay_on not in REPLAY_ON:
            raise ValueError(f"replay_on must be one of {', '.join(REPLAY_ON)}, got {self.replay_on!r}.")

    @property
    def schedule(self) -> Schedule:
        """The schedule of the run. It sets when the run acts, learns, logs and evaluates."""
        return schedule_of(self)

    @property
    def replay(self) -> FrameReplay:
        """The settings of each seed's replay ring."""
        return FrameReplay(
            self.agent.replay_capacity,
            n_step=self.agent.n_step,
            slack=slack(self.agent.replay_capacity, self.log_period),
            time_limit=self.env.time_limit,
        )

    @property
    def learning(self) -> Learning[DQNState, Batch]:
        """The agent, the intervention and the network that a gradient step uses."""
        return Learning(self.agent, self.intervention, self.network)

    @cached_property
    def network(self) -> Network:
        """The agent's network, with the wiring that interventions need."""

        return network_of(self.agent, self.env, self.score_batch)

    def fresh_agent(self, key: Key[Array, ""]) -> DQNState:
        """The state of a freshly initialised agent."""
        return self.agent.init(key, self.env.observation_shape, self.env.actions)

    def players(self, stream: int = 0) -> AtariGames:
        """Starts one game per seed. Different values of `stream` give independent random numbers."""
        return AtariGames(self.env, self.seeds, stream)

    def blank(self) -> UInt8[Array, "states height width stack"]:
        """Zero inputs, for gradient steps at which no neuron is scored."""
        return jnp.zeros((self.score_batch, *self.env.observation_shape), jnp.uint8)

    def draws(self, starts: range) -> Iterator[RoundDraws]:
        """Yields the random numbers of each round of a chunk."""
        chunk = jax.tree.map(np.asarray, _chunk_draws(self, jnp.asarray(starts)))
        return (RoundDraws(*round) for round in zip(*chunk, strict=True))

    @property
    def policy(self) -> HostPolicy:
        """A compiled function that returns greedy actions and their Q values. It ignores its argument `action`."""
        return self._compiled_policy

    @cached_property
    def _compiled_policy(self) -> HostPolicy:
        return jax.jit(partial(_greedy, self))

    def feed(self, rings: tuple[FrameRing, ...], added: int) -> Feed:
        """Returns the object that brings observations and batches to the device; see `replay_on`.

        Raises ValueError with the sizes if `replay_on` is "device" and the frames do not fit on the device.
        """
        packets = Packets(self.replay, self.schedule.gradient_steps_per_round, self.agent.batch_size, self.score_batch)
        if self.replay_on == "host" or (self.replay_on == "auto" and jax.default_backend() == "cpu"):
            return HostFeed(self, rings)
        missing = device_shortage(packets, len(rings), device_memory())
        if not missing:
            return DeviceFeed(self, packets, rings, added)
        if self.replay_on == "device":
            raise ValueError(f"{missing}. Use fewer seeds, a smaller replay capacity, or keep the replay on the host.")
        LOG.warning("the replay stays on the host: %s.", missing)
        return HostFeed(self, rings)

    def act_with_value(
        self,
        params: list[Params],
        seen: UInt8[ndarray, "seeds height width stack"],
        explores: Bool[ndarray, " seeds"],
        action: Integer[ndarray, " seeds"],
    ) -> tuple[Integer[ndarray, " seeds"], Float32[ndarray, " seeds"]]:
        """Returns the actions and the Q values of the greedy actions.

        The actions are `action` for each seed that explores, and the greedy action for every other seed.
        """
        greedy, value = self.policy(params, seen, action)
        return np.where(explores, action, np.asarray(greedy)), np.asarray(value)

    def columns(
        self, seen: UInt8[ndarray, "seeds height width stack"], actions: ndarray, outcome: AtariOutcome
    ) -> tuple[ndarray, ...]:
        """Returns the values that the ring stores for one agent step, as arrays with one entry per seed.

        The discount is 0 at a termination. At a truncation the discount is gamma, because the target bootstraps.
        """
        reward = np.clip(outcome.reward, -1, 1) if self.agent.clip_rewards else outcome.reward
        discount = np.where(outcome.terminal, 0.0, self.agent.gamma)
        last = outcome.terminal | outcome.truncated
        return seen[..., -1], actions, reward, discount, last, outcome.frame

    def batch(self, rings: tuple[FrameRing, ...], added: int, draws: RoundDraws) -> Batch:
        """Draws the batches of a round. Their leading axes are [gradient steps, seeds]."""
        return drawn(self.replay.sample, rings, added, draws.batch)

    def inputs(
        self, rings: tuple[FrameRing, ...], added: int, uniform: Float[ndarray, "gradient_steps seeds states"]
    ) -> UInt8[ndarray, "gradient_steps seeds states height width stack"]:
        """Draws stored observations on which neurons are scored."""
        return drawn(self.replay.states, rings, added, uniform)

    def prepared(self, start: Array, batch: Batch) -> tuple[Key[Array, "gradient_steps seeds"], Batch]:
        """Returns the intervention's keys for a round, and the round's batches with augmentation noise."""
        draws = draws_of(self.schedule, self.agent, jnp.array(self.seeds), start[None])
        keys, noise = jax.tree.map(lambda x: x[0], (draws.intervention, draws.noise))
        return keys, batch._replace(noise=noise)

    def measured_inputs(
        self, rings: tuple[FrameRing, ...], added: int, purpose: str, number: int
    ) -> UInt8[ndarray, "seeds states height width stack"]:
        """Returns `number` observations per seed, for a measurement between chunks.

        Draws them from the ring. If fewer than `n_step` steps are stored, plays randomly instead.
        """
        if added < self.agent.n_step:
            return np.stack([_random_play(self.env, seed, number) for seed in self.seeds])
        keys = [key_for(jnp.asarray(seed), purpose, added) for seed in self.seeds]
        uniform = np.stack([np.asarray(jax.random.uniform(key, (number,))) for key in keys])
        return self.inputs(rings, added, uniform[None])[0]

    def evaluate(self, params: list[Params], agent_steps: int, videos: Path) -> HostPlayed:
        """Plays an evaluation and returns its results. `agent_steps` is the number of training steps before it.

        Source: the paper's evaluation phase; dopamine/discrete_domains/run_experiment.py.
        """
        games, draws = self.players(stream=agent_steps), _evaluation_draws(self, agent_steps)
        film = Film(videos / f"{agent_steps}.mp4", lambda: games.screen(0)) if self.video else None

        def policy(seen: ndarray) -> tuple[ndarray, ndarray]:
            return self.act_with_value(params, seen, *next(draws))

        return play_on_host(games, policy, self.eval_episodes, self.eval_agent_steps, self.agent.objective, film)


@partial(jax.jit, static_argnums=0)
def _chunk_draws(training: AtariTraining, starts: Int[Array, " rounds"]) -> ChunkDraws:
    draws = draws_of(training.schedule, training.agent, jnp.array(training.seeds), starts)
    steps = starts[:, None] + jnp.arange(training.schedule.agent_steps_per_round)[None]
    epsilon = jax.vmap(jax.vmap(training.agent.epsilon))(steps)
    explores = draws.act[..., 0] < epsilon[..., None]
    return ChunkDraws(explores, random_action(draws.act[..., 1], training.env.actions), draws.batch, draws.score)


def _greedy(
    training: AtariTraining, params: list[Params], seen: Array, action: Array | None
) -> tuple[Int[Array, " seeds"], Float[Array, " seeds"]]:
    del action
    act = map_seeds(partial(training.agent.act_with_value, epsilon=jnp.zeros(()), uniform=jnp.zeros(2)))
    return join_seeds([act(own, take_seed(seen, lane)) for lane, own in enumerate(params)])


def _evaluation_draws(training: AtariTraining, agent_steps: int) -> Iterator[tuple[ndarray, ndarray]]:
    """Yields two arrays per agent step, endlessly: whether each seed explores, and a random action per seed."""
    for block in count():
        yield from zip(
            *map(np.asarray, _evaluation_block(training, np.int32(agent_steps), np.int32(block))), strict=True
        )


@partial(jax.jit, static_argnums=0)
def _evaluation_block(training: AtariTraining, agent_steps: Array, block: Array) -> tuple[Array, Array]:
    def one(seed: Array) -> Array:
        key = jax.random.fold_in(key_for(seed, "evaluate", agent_steps), block)
        return jax.random.uniform(key, (EVALUATION_BLOCK, 2))

    explore, choice = jnp.moveaxis(jax.vmap(one, out_axes=1)(jnp.array(training.seeds)), -1, 0)
    return explore < training.eval_epsilon, random_action(choice, training.env.actions)


def _random_play(env: Atari, seed: int, states: int) -> UInt8[ndarray, "states height width stack"]:
    """Plays randomly. Returns every eighth observation, because successive states are similar."""
    game, draw = AtariGame(env, seed, RANDOM_PLAY), np.random.default_rng((RANDOM_PLAY, seed))
    seen = []
    for action in draw.integers(env.actions, size=8 * states):
        game.step(int(action))
        seen.append(game.observation)
    return np.stack(seen[7::8])
