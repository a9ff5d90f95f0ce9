"""The host loop: the host plays Atari games and keeps their frames, the device acts and learns."""

from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from numpy import ndarray

from dormant.interventions import Chain, Intervention
from dormant.later import LATER
from dormant.tracing import trace
from dormant.wiring import Network

from .agents.dqn import DQN, DQNState
from .envs.atari import Atari, AtariGames
from .films import Film
from .frames import FrameReplay
from .host_evaluation import episode_returns, random_play
from .host_rounds import Stage, drawn, measured, play_chunk
from .loops import check_epsilon, check_rank_batch, check_schedule
from .mapped import flush
from .presets import atari_dqn
from .rounds import TrainState, key_for, params_of, ranks_of, scores_of
from .storage import refuse_without_room


@dataclass(frozen=True)
class HostTraining:
    """Everything that decides the result of a run; equal trainings give equal results, bit for bit, on one machine.

    Fields that `DeviceTraining` has too mean the same. An evaluation plays whole episodes until they have taken
    `eval_agent_steps` and are `eval_episodes`; a period longer than the run is none. `init` gives the first state, and
    `open` what advances it, which keeps the frames of each seed in files of a folder.

    >>> HostTraining(replay_ratio=0.25).agent_steps_per_round
    4

    Raises ValueError for numbers that do not fit together.
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
    eval_episodes: int = field(default=1, metadata=LATER)
    rank_batch: int = field(default=0, metadata=LATER)
    video: bool = field(default=False, compare=False)  # changes no result, so it may differ when a run is resumed

    def __post_init__(self) -> None:
        check_schedule(self, "eval_agent_steps", "eval_episodes")
        check_epsilon(self.eval_epsilon)
        check_rank_batch(self.rank_batch)

    @property
    def agent_steps_per_round(self) -> int:
        """A round is the least whole number of agent steps with a whole number of gradient steps."""
        return max(1, round(1 / self.replay_ratio))

    @property
    def gradient_steps_per_round(self) -> int:
        """The gradient steps after those agent steps."""
        return max(1, round(self.replay_ratio))

    @cached_property
    def replay(self) -> FrameReplay:
        """The ring that each seed fills. Its slack is never more than doubles it, and holds a chunk."""
        capacity = self.agent.replay_capacity
        slack = max(min(10_000, capacity), self.log_period)
        return FrameReplay(capacity, n_step=self.agent.n_step, slack=slack, time_limit=self.env.time_limit)

    @cached_property
    def network(self) -> Network:
        """The agent's network as interventions see it."""

        def init(key: Array) -> Any:
            return self.agent.network.init(key, self.env.observation_shape, self.env.actions)

        with jax.ensure_compile_time_eval():
            empty = jnp.zeros((self.score_batch, *self.env.observation_shape), self.env.observation_dtype)
            wiring = trace(self.agent.network.apply, init(jax.random.key(0)), empty)
        return Network(wiring, init, self.agent.optimizer())

    def init(self) -> TrainState:
        """The state before the first agent step."""
        agent, intervention = _fresh(self)
        zeros = jnp.zeros(len(self.seeds), jnp.int32)
        env = AtariGames(self.env, self.seeds).save()
        return TrainState(agent, intervention, env, (), zeros.astype(jnp.float32), zeros, zeros)

    def agent_steps_done(self, state: TrainState) -> int:
        """Agent steps behind a state, the same for every seed."""
        return int(state.agent_steps[0])

    def refuse_without_room(self, folder: Path) -> None:
        """Does nothing if the frames fit into memory and on the disk. Raises ValueError with the sum if not."""
        refuse_without_room(self.replay, len(self.seeds), folder)

    def open(self, folder: Path, state: TrainState) -> "HostLoop":
        """What goes on from a state with the frames that the folder keeps, new ones if no agent step was made.

        Raises ValueError if they do not fit, or are not those of the state, OSError if the disk is full.
        """
        self.refuse_without_room(folder)
        added = self.agent_steps_done(state)
        rings = tuple(self.replay.open(folder / f"seed{seed}", added) for seed in self.seeds)
        return HostLoop(self, Stage(AtariGames(self.env, self.seeds), rings), folder.parent / "videos")


@dataclass(frozen=True)
class HostLoop:
    """A training with its games and rings, which it changes in place. No state needs them as they were left:

    games are set to a state's before they are played, and steps in the rings that came after it are written over.
    """

    training: HostTraining
    stage: Stage
    videos: Path

    def advance(self, state: TrainState) -> tuple[TrainState, dict[str, np.ndarray]]:
        """The state `log_period` agent steps later, and what happened on the way: arrays [seeds] or [seeds, neurons].

        A metric that nothing was recorded for (no episode ended, no evaluation was due) is NaN.
        """
        training, learned = self.training, int(state.gradient_steps[0])
        state, metrics = play_chunk(training, self.stage, state)
        if int(state.gradient_steps[0]) == learned:
            metrics |= self.measure(state)
        done = training.agent_steps_done(state)
        metrics["eval_return"] = np.full(len(training.seeds), np.nan, np.float32)
        if done % training.eval_period == 0:
            metrics["eval_return"] = np.array([np.mean(each) for each in self.evaluate(state)], np.float32)
        if training.rank_batch:
            due = done % training.eval_period == 0
            metrics["srank"] = self.ranks(state) if due else np.full(len(training.seeds), np.nan, np.float32)
        return state, {name: np.asarray(value) for name, value in metrics.items()}

    def ranks(self, state: TrainState) -> Float[Array, " seeds"]:
        """The rank of the last layer's features, on states of the replay."""
        states = self._replayed(state, "rank", self.training.rank_batch)
        return ranks_of(self.training, params_of(self.training, state), states)

    def evaluate(self, state: TrainState) -> list[list[float]]:
        """The returns of the evaluation episodes of each seed; the first seed's first one is filmed if asked for."""
        training, done = self.training, self.training.agent_steps_done(state)
        film = Film(self.videos / f"{done}.mp4") if training.video else None
        return episode_returns(training, params_of(training, state), done, film)

    def measure(self, state: TrainState) -> dict[str, np.ndarray]:
        """Dormant fractions and neuron scores of a state, on states of the replay, or of random play if it is empty."""
        training = self.training
        metrics = measured(scores_of(training, params_of(training, state), self._states(state)))
        return {name: np.asarray(value) for name, value in metrics.items()}

    def _states(self, state: TrainState) -> UInt8[ndarray, "seeds states height width stack"]:
        training, added = self.training, self.training.agent_steps_done(state)
        if added < training.agent.n_step:
            return np.stack([random_play(training.env, seed, training.score_batch) for seed in training.seeds])
        return self._replayed(state, "measure", training.score_batch)

    def _replayed(
        self, state: TrainState, purpose: str, batch: int
    ) -> UInt8[ndarray, "seeds states height width stack"]:
        training, added = self.training, self.training.agent_steps_done(state)
        keys = [key_for(jnp.asarray(seed), purpose, added) for seed in training.seeds]
        uniform = np.stack([np.asarray(jax.random.uniform(key, (batch,))) for key in keys])
        return drawn(training.replay.states, self.stage.rings, added, uniform[None])[0]

    def save_due(self, done: int, saved: int) -> bool:
        """Whether a checkpoint must be made now, because the next chunk would overwrite what the last one needs."""
        return self.training.replay.checkpoint_due(done, saved, self.training.log_period)

    def flush(self) -> None:
        """Writes to the disk what the rings hold; a checkpoint counts on it."""
        for ring in self.stage.rings:
            flush(ring)


@partial(jax.jit, static_argnums=0)
def _fresh(training: HostTraining) -> tuple[DQNState, Any]:
    def one(seed: Array) -> tuple[DQNState, Any]:
        agent = training.agent.init(key_for(seed, "init"), training.env.observation_shape, training.env.actions)
        return agent, training.intervention.init(agent.learner, training.network)

    return jax.vmap(one)(jnp.array(training.seeds))
