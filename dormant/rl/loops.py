"""The device loop: act, remember, learn and intervene in one compiled scan, several seeds side by side."""

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from dormant.interventions import Chain, Intervention
from dormant.later import LATER
from dormant.tracing import trace
from dormant.wiring import Network

from .agents.dqn import DQN
from .envs.episode import Environment, EnvState, step_or_restart
from .envs.minatar import MinAtar
from .evaluation import episode_returns
from .replay import Replay
from .rounds import Scores, TrainState, chunk, dormancy, feature_rank, key_for, over_seeds
from .seeds import share_out


@dataclass(frozen=True)
class DeviceTraining:
    """Everything that decides the result of a run; equal trainings give equal results, bit for bit, on one machine.

    `replay_ratio` counts gradient steps for each agent step, r or 1/r whole. Neurons are scored on `score_batch` states
    of the replay. A chunk is `log_period` agent steps, after which `advance` returns; chunks do not change results. The
    rank of the last layer's features is measured with each evaluation, on `rank_batch` states if there are any.

    Raises ValueError for numbers that do not fit together.
    """

    agent: DQN = field(default_factory=DQN)
    env: Environment = field(default_factory=MinAtar)
    intervention: Intervention = field(default_factory=Chain)
    replay_ratio: float = 1.0
    agent_steps: int = 200_000
    log_period: int = 2_000
    seeds: tuple[int, ...] = (0, 1, 2)
    score_batch: int = 64
    eval_episodes: int = 10
    eval_period: int = 20_000
    eval_epsilon: float = 0.001
    rank_batch: int = field(default=0, metadata=LATER)

    def __post_init__(self) -> None:
        check_schedule(self, "eval_episodes")
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
    def replay(self) -> Replay:
        """The ring that each seed fills."""
        return Replay(
            self.agent.replay_capacity, self.env.observation_shape, self.env.observation_dtype, self.agent.n_step
        )

    @cached_property
    def network(self) -> Network:
        """The agent's network as interventions see it. Its input is packed observations, cheap to draw and not use."""

        def init(key: Array) -> Any:
            return self.agent.network.init(key, self.env.observation_shape, self.env.actions)

        def apply(params: Any, packed: Array) -> Array:
            return self.agent.network.apply(params, self.replay.unpack(packed))

        with jax.ensure_compile_time_eval():
            empty = jnp.zeros((self.score_batch, *self.env.observation_shape), self.env.observation_dtype)
            wiring = trace(apply, init(jax.random.key(0)), self.replay.pack(empty))
        return Network(wiring, init, self.agent.optimizer())

    @cached_property
    def program(self) -> tuple["DeviceTraining", Int[Array, " seeds"]]:
        """What code is compiled for, and what it is given: seeds that are as many share their code."""
        with jax.ensure_compile_time_eval():  # kept, so it must not belong to what is traced just now
            return replace(self, seeds=tuple(range(len(self.seeds)))), jnp.array(self.seeds)

    def init(self) -> TrainState:
        """The state before the first agent step."""
        return _init(*self.program)

    def advance(self, state: TrainState) -> tuple[TrainState, dict[str, np.ndarray]]:
        """The state `log_period` agent steps later, and what happened on the way: arrays [seeds] or [seeds, neurons].

        A metric that nothing was recorded for (no episode ended, no evaluation was due) is NaN.
        """
        state = share_out(state, len(self.seeds))  # a restored one lies on one device
        before = self.agent_steps_done(state)
        warm_rounds = -(-(self.agent.min_replay - before) // self.agent_steps_per_round)
        rounds = self.log_period // self.agent_steps_per_round
        state, metrics = chunk(*self.program, state, min(max(warm_rounds, 0), rounds))
        if warm_rounds >= rounds:
            metrics |= _measure(*self.program, state)
        due = (before + self.log_period) % self.eval_period == 0
        metrics["eval_return"] = (
            _evaluate(*self.program, state) if due else np.full(len(self.seeds), np.nan, np.float32)
        )
        if self.rank_batch:
            metrics["srank"] = _ranks(*self.program, state) if due else np.full(len(self.seeds), np.nan, np.float32)
        return state, {name: np.asarray(value) for name, value in metrics.items()}

    def measure(self, state: TrainState) -> dict[str, np.ndarray]:
        """Dormant fractions and neuron scores of a state, on states of the replay, or of random play if it is empty."""
        return {name: np.asarray(value) for name, value in _measure(*self.program, state).items()}

    def agent_steps_done(self, state: TrainState) -> int:
        """Agent steps behind a state, the same for every seed."""
        return int(state.agent_steps[0])


def check_schedule(training: Any, *evaluation: str) -> None:
    """Raises ValueError for numbers that do not fit together; `evaluation` names what an evaluation's length is."""
    _check_ratio(training.replay_ratio)
    for whole, part in (
        ("agent_steps", "log_period"),
        ("log_period", "agent_steps_per_round"),
        ("eval_period", "log_period"),
    ):
        long, short = getattr(training, whole), getattr(training, part)
        if short < 1 or long < 1 or long % short:
            raise ValueError(f"{whole} must be a multiple of {part}, got {long} and {short}.")
    for name in ("score_batch", *evaluation):
        if getattr(training, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(training, name)}.")
    if not training.seeds:
        raise ValueError("seeds must hold at least one number, got none.")


def check_epsilon(eval_epsilon: float) -> None:
    """Raises ValueError unless it is a probability."""
    if not 0 <= eval_epsilon <= 1:
        raise ValueError(f"eval_epsilon must lie between 0 and 1, got {eval_epsilon}.")


def check_rank_batch(rank_batch: int) -> None:
    """Raises ValueError unless it is a number of states, or 0."""
    if rank_batch < 0:
        raise ValueError(f"rank_batch must be at least 0, got {rank_batch}; 0 measures no rank.")


def _check_ratio(ratio: float) -> None:
    if not 1e-6 <= ratio <= 1e6:
        raise ValueError(f"replay_ratio must be positive, got {ratio}; 1 is one gradient step for each agent step.")
    rounded = round(ratio) if ratio >= 1 else 1 / round(1 / ratio)
    if abs(rounded - ratio) > 1e-9:
        raise ValueError(
            f"replay_ratio must be a whole number or one over it, got {ratio}; the nearest is {rounded:g}."
        )


@partial(jax.jit, static_argnums=0)
def _init(training: DeviceTraining, seeds: Int[Array, " seeds"]) -> TrainState:
    def one(seed: Array) -> TrainState:
        agent = training.agent.init(key_for(seed, "init"), training.env.observation_shape, training.env.actions)
        state = training.intervention.init(agent.learner, training.network)
        env = training.env.reset(key_for(seed, "reset"))
        zero = jnp.zeros((), jnp.int32)
        return TrainState(agent, state, env, training.replay.init(), jnp.zeros(()), zero, zero)

    return over_seeds(seeds, jax.vmap(one))()


@partial(jax.jit, static_argnums=0)
def _measure(training: DeviceTraining, seeds: Int[Array, " seeds"], state: TrainState) -> dict[str, Array]:
    def one(added: Array, seed: Array, state: TrainState) -> Scores:
        key = key_for(seed, "measure", added)
        uniform = jax.random.uniform(key, (training.score_batch,))
        played = training.replay.states(state.replay, added, uniform)
        states = jax.lax.cond(added < training.agent.n_step, lambda: _random_play(training, key), lambda: played)
        return training.network.wiring.scores(state.agent.learner.params, states)

    def several(seeds: Array, state: TrainState) -> Scores:
        # A number that all seeds share keeps the `cond` a branch.
        return jax.vmap(partial(one, state.agent_steps[0]))(seeds, state)

    return dormancy(over_seeds(seeds, several)(state))


@partial(jax.jit, static_argnums=0)
def _ranks(training: DeviceTraining, seeds: Int[Array, " seeds"], state: TrainState) -> Float[Array, " seeds"]:
    def one(seed: Array, state: TrainState) -> Array:
        uniform = jax.random.uniform(key_for(seed, "rank", state.agent_steps), (training.rank_batch,))
        states = training.replay.states(state.replay, state.agent_steps, uniform)
        return feature_rank(training, state.agent.learner.params, states)

    return over_seeds(seeds, jax.vmap(one))(state)


def _random_play(training: DeviceTraining, key: Array) -> Num[Array, "states packed"]:
    """Packed observations of random play, every eighth step of it, for neighbours in time look alike."""
    env = training.env

    def step(state: EnvState, key: Array) -> tuple[EnvState, Array]:
        key_act, key_step = jax.random.split(key)
        state, _ = step_or_restart(env, key_step, state, jax.random.randint(key_act, (), 0, env.actions))
        return state, training.replay.pack(env.observe(state))

    _, seen = jax.lax.scan(step, env.reset(key), jax.random.split(key, 8 * training.score_batch))
    return seen[7::8]


@partial(jax.jit, static_argnums=0)
def _evaluate(training: DeviceTraining, seeds: Int[Array, " seeds"], state: TrainState) -> Float[Array, " seeds"]:
    agent, epsilon = training.agent, jnp.float32(training.eval_epsilon)

    def one(seed: Array, state: TrainState) -> Array:
        def policy(observation: Array, uniform: Array) -> Array:
            return agent.act(state.agent.learner.params, observation, epsilon, uniform)

        key = key_for(seed, "evaluate", state.agent_steps)
        return episode_returns(training.env, policy, key, training.eval_episodes).mean()

    return over_seeds(seeds, jax.vmap(one))(state)
