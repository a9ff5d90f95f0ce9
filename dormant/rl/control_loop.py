"""The control loop: SAC where the host plays MuJoCo and keeps its steps, and the device acts and learns."""

from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32
from numpy import ndarray

from dormant.interventions import Chain, Intervention
from dormant.tracing import trace
from dormant.wiring import Network

from .agents.sac import SAC, SACState
from .control_rounds import LEARNING, Stage, act, measured, play_chunk
from .envs.control import ControlEnvironment
from .envs.mujoco import MuJoCo
from .loops import check_schedule
from .mapped import flush
from .rounds import TrainState, key_for, params_of, scores_of
from .steps import StepReplay, no_rows
from .storage import refuse_without_room

RANDOM_PLAY = 2**63  # a stream of its own: those of evaluations are agent steps


@dataclass(frozen=True)
class ControlTraining:
    """Everything that decides the result of a run; equal trainings give equal results, bit for bit, on one machine.

    Fields that `DeviceTraining` has too mean the same. An evaluation plays `eval_episodes` episodes with the policy's
    mean; a period longer than the run is none. The gradient steps of a round draw from the steps before it, so that
    they are computed while its last step is played. `open` gives what advances a state, with the steps of each seed in
    a file of a folder.

    >>> ControlTraining(replay_ratio=2.0).gradient_steps_per_round
    2

    Raises ValueError for numbers that do not fit together.
    """

    agent: SAC = field(default_factory=SAC)
    env: ControlEnvironment = field(default_factory=MuJoCo)
    intervention: Intervention = field(default_factory=Chain)
    replay_ratio: float = 1.0
    agent_steps: int = 1_000_000
    log_period: int = 1_000
    seeds: tuple[int, ...] = (0,)
    score_batch: int = 256
    eval_episodes: int = 30
    eval_period: int = 10_000

    def __post_init__(self) -> None:
        check_schedule(self, "eval_episodes")

    @property
    def agent_steps_per_round(self) -> int:
        """A round is the least whole number of agent steps with a whole number of gradient steps."""
        return max(1, round(1 / self.replay_ratio))

    @property
    def gradient_steps_per_round(self) -> int:
        """The gradient steps of those agent steps."""
        return max(1, round(self.replay_ratio))

    @cached_property
    def replay(self) -> StepReplay:
        """The ring that each seed fills. Its slack is never more than doubles it, and holds a chunk."""
        capacity = self.agent.replay_capacity
        slack = max(min(10_000, capacity), self.log_period)
        return StepReplay(capacity, self.env.observations, self.env.actions, slack)

    @cached_property
    def network(self) -> Network:
        """All networks of the agent as interventions see them. Their input is rows of the replay."""

        def init(key: Array) -> Any:
            return self.agent.init_params(key, self.env.observations, self.env.actions)

        def apply(params: Any, rows: Array) -> Any:
            return self.agent.apply(params, *self.replay.seen(rows))

        with jax.ensure_compile_time_eval():
            wiring = trace(apply, init(jax.random.key(0)), no_rows(self.replay, self.score_batch))
        return Network(wiring, init, self.agent.optimizer())

    def init(self) -> TrainState:
        """The state before the first agent step."""
        agent, intervention = _fresh(self)
        zeros = jnp.zeros(len(self.seeds), jnp.int32)
        env = self.env.begin(self.seeds).save()
        return TrainState(agent, intervention, env, (), zeros.astype(jnp.float32), zeros, zeros)

    def agent_steps_done(self, state: TrainState) -> int:
        """Agent steps behind a state, the same for every seed."""
        return int(state.agent_steps[0])

    def refuse_without_room(self, folder: Path) -> None:
        """Does nothing if the steps fit into memory and on the disk. Raises ValueError with the sum if not."""
        refuse_without_room(self.replay, len(self.seeds), folder)

    def open(self, folder: Path, state: TrainState) -> "ControlLoop":
        """What goes on from a state with the steps that the folder keeps, new ones if no agent step was made.

        Raises ValueError if they do not fit, OSError if they are not there or the disk is full.
        """
        self.refuse_without_room(folder)
        added = self.agent_steps_done(state)
        rings = tuple(self.replay.open(folder / f"seed{seed}", added) for seed in self.seeds)
        return ControlLoop(self, Stage(self.env.begin(self.seeds), rings))


@dataclass(frozen=True)
class ControlLoop:
    """A training with its bodies and rings, which it changes in place. No state needs them as they were left:

    bodies are set to a state's before they are played, and steps in the rings that came after it are written over.
    """

    training: ControlTraining
    stage: Stage

    def advance(self, state: TrainState) -> tuple[TrainState, dict[str, np.ndarray]]:
        """The state `log_period` agent steps later, and what happened on the way: arrays [seeds] or [seeds, neurons].

        A metric that nothing was recorded for (no episode ended, no evaluation was due) is NaN.
        """
        training, learned = self.training, int(state.gradient_steps[0])
        state, metrics = play_chunk(training, self.stage, state)
        if int(state.gradient_steps[0]) == learned:
            metrics |= self.measure(state)
        done = training.agent_steps_done(state)
        due = done % training.eval_period == 0
        absent = np.full(len(training.seeds), np.nan, np.float32)
        metrics["eval_return"] = mean_returns(training, params_of(training, state), done) if due else absent
        return state, {name: np.asarray(value) for name, value in metrics.items()}

    def measure(self, state: TrainState) -> dict[str, np.ndarray]:
        """Dormant fractions and neuron scores of a state, on steps of the replay, or of random play if it is empty."""
        training = self.training
        metrics = measured(scores_of(training, params_of(training, state), self._rows(state)))
        return {name: np.asarray(value) for name, value in metrics.items()}

    def _rows(self, state: TrainState) -> Float32[ndarray, "seeds states numbers"]:
        training, added = self.training, self.training.agent_steps_done(state)
        if added == 0:
            return np.stack([_random_play(training, seed) for seed in training.seeds])
        draws = [
            np.random.Generator(np.random.Philox(key=(seed, LEARNING), counter=[0, added, 1, 0]))
            for seed in training.seeds
        ]
        uniform = [draw.random(training.score_batch) for draw in draws]
        return np.stack(
            [training.replay.rows(ring, added, u) for ring, u in zip(self.stage.rings, uniform, strict=True)]
        )

    def save_due(self, done: int, saved: int) -> bool:
        """Whether a checkpoint must be made now, because the next chunk would overwrite what the last one needs."""
        return self.training.replay.save_due(done, saved, self.training.log_period)

    def flush(self) -> None:
        """Writes to the disk what the rings hold; a checkpoint counts on it."""
        flush(self.stage.rings)


def mean_returns(training: ControlTraining, params: list[Any], agent_steps: int) -> Float32[ndarray, " seeds"]:
    """The mean undiscounted return of `eval_episodes` episodes of each seed, played with the policy's mean action.

    Source: dopamine/labs/redo/tfagents/sac_train_eval.py, 30 episodes every 10,000 steps.
    """
    bodies = training.env.begin(training.seeds, stream=agent_steps)
    still = np.zeros((len(training.seeds), training.env.actions), np.float32)
    totals, returns = np.zeros(len(training.seeds), np.float32), [[] for _ in training.seeds]
    while min(map(len, returns)) < training.eval_episodes:
        outcome = bodies.step(np.asarray(act(training, params, bodies.observations, still)))
        totals += outcome.reward
        ended = outcome.terminal | outcome.truncated
        for seed in np.flatnonzero(ended):
            returns[seed].append(totals[seed])
        totals[ended] = 0
    return np.array([np.mean(each[: training.eval_episodes]) for each in returns], np.float32)


def _random_play(training: ControlTraining, seed: int) -> Float32[ndarray, "states numbers"]:
    """Rows of random play, every eighth step of it, for neighbours in time look alike."""
    bodies, draw = training.env.begin([seed], RANDOM_PLAY), np.random.default_rng((RANDOM_PLAY, seed))
    rows = np.zeros((training.score_batch, training.replay.numbers), np.float32)
    for step in range(8 * training.score_batch):
        seen, action = bodies.observations, draw.uniform(-1, 1, (1, training.env.actions)).astype(np.float32)
        outcome = bodies.step(action)
        if step % 8 == 7:
            training.replay.add(rows, step // 8, seen[0], action[0], outcome.reward, 0.0, outcome.observation[0])
    return rows


@partial(jax.jit, static_argnums=0)
def _fresh(training: ControlTraining) -> tuple[SACState, Any]:
    def one(seed: Array) -> tuple[SACState, Any]:
        agent = training.agent.init(key_for(seed, "init"), training.env.observations, training.env.actions)
        return agent, training.intervention.init(agent.learner, training.network)

    return jax.vmap(one)(jnp.array(training.seeds))
