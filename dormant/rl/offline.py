"""Offline DQN: gradient steps on logged transitions, with moving targets or with fixed random targets."""

from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from dormant.wiring import Network

from .agents import minatar_dqn
from .agents.dqn import DQN, DQNState, Losses
from .condition import condition
from .data.sources import Arrays, Data, FinishedRun, Memory, Needs, OwnReplay, Source
from .envs import Environment
from .envs.atari import Atari
from .envs.minatar import MinAtar
from .learning import EVALUATED, dormancy, evaluated, network_of, unmeasured
from .networks import Params
from .schedule import by_seed, check_at_least, check_evaluation, check_seeds, in_turn, key_for

Targets = Literal["moving", "frozen network", "fixed numbers"]


class OfflineState(NamedTuple):
    """The complete state of a run, as in a checkpoint. Arrays have a leading axis of seeds."""

    agent: DQNState
    gradient_steps: Int[Array, " seeds"]


@dataclass(frozen=True)
class OfflineTraining:
    """A training of DQN on logged data. On one machine, equal fields give bit-identical results.

    There are three kinds of targets:

    - "moving": the targets of DQN. The target network is copied every `agent.target_period` gradient steps.
    - "frozen network": the targets of DQN, with a random target network that never changes.
    - "fixed numbers": each transition has a fixed random target, instead of its reward and bootstrapped value. Targets
      are normally distributed with mean `numbers_mean` and standard deviation 1.

    Evaluations play in `env`. An `eval_period` of 0 disables them.

    >>> OfflineTraining(targets="frozen network").kind
    'offline-dqn-frozen-network'

    Raises ValueError for inconsistent lengths or periods, for an evaluation on Atari, or if `numbers_mean` is set and
    `targets` is not "fixed numbers".
    Source: Sokar et al. 2023, figure 4. The paper does not state how its fixed random targets are made.
    """

    agent: DQN = field(default_factory=lambda: minatar_dqn(200_000))
    env: Environment | Atari = field(default_factory=MinAtar)
    data: Source = field(default_factory=OwnReplay)
    targets: Targets = "moving"
    gradient_steps: int = 200_000
    log_period: int = 2_000
    seeds: tuple[int, ...] = (0, 1, 2)
    score_batch: int = 64
    eval_episodes: int = 10
    eval_period: int = 20_000
    eval_epsilon: float = 0.001
    numbers_mean: float = 0.0

    def __post_init__(self) -> None:
        if self.numbers_mean and self.targets != "fixed numbers":
            raise ValueError(f"numbers_mean needs targets='fixed numbers', got {self.targets!r}; leave it out.")
        check_length(self.gradient_steps, self.log_period, self.score_batch, self.seeds)
        if self.eval_period < 0 or self.eval_period % self.log_period:
            raise ValueError(
                f"eval_period must be a multiple of log_period, or 0, got {self.eval_period} and {self.log_period}."
            )
        if self.eval_period and isinstance(self.env, Atari):
            raise ValueError("offline training is not evaluated on Atari; set eval_period to 0.")
        check_evaluation(self.eval_epsilon)

    @property
    def kind(self) -> str:
        """The first part of the name of the training's folder."""
        return f"offline-dqn-{'large-numbers' if self.numbers_mean else self.targets.replace(' ', '-')}"

    @property
    def agent_steps(self) -> int:
        """The length of a run in gradient steps. All trainings call the length of a run `agent_steps`."""
        return self.gradient_steps

    @property
    def needs(self) -> Needs:
        """The trainings that must be finished first. Their finished runs are arguments of `after`."""
        return self.data.needs(self.env, self.seeds)

    def after(self, folder: Path, *earlier: FinishedRun) -> "OfflineRun":
        """Opens the data and returns a run on it. Data from one of our runs is also written to the folder.

        Raises ValueError if the data is missing, damaged, or from a different environment.
        """
        return OfflineRun(self, self.data.open(self.agent, self.env, self.seeds, folder, *earlier))

    @cached_property
    def network(self) -> Network:
        """The agent's network, with the wiring that scores its neurons."""
        return network_of(self.agent, self.env, self.score_batch)


def check_length(gradient_steps: int, log_period: int, score_batch: int, seeds: tuple[int, ...]) -> None:
    """Raises ValueError if a number is below 1, there is no seed, or the length is not a multiple of `log_period`."""
    check_at_least(1, gradient_steps=gradient_steps, log_period=log_period, score_batch=score_batch)
    if gradient_steps % log_period:
        raise ValueError(f"gradient_steps must be a multiple of log_period, got {gradient_steps} and {log_period}.")
    check_seeds(seeds)


@runtime_checkable
class Actorless(Protocol):
    """A training that only takes gradient steps."""

    @property
    def gradient_steps(self) -> int: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...


@runtime_checkable
class ActorlessRun(Protocol):
    """A run of a training that only takes gradient steps."""

    @property
    def training(self) -> Actorless: ...


class WithoutActor:
    """Base class of runs that only take gradient steps. `training` sets the length and the seeds of the run."""

    @property
    def agent_steps(self: ActorlessRun) -> int:
        """The length of a run in gradient steps."""
        return self.training.gradient_steps

    @property
    def seeds(self: ActorlessRun) -> tuple[int, ...]:
        """The seeds of the training."""
        return self.training.seeds

    def agent_steps_done(self, state: PyTree) -> int:
        """The number of gradient steps done so far. It is equal for all seeds.

        All runs call this method `agent_steps_done`.
        """
        return int(state.gradient_steps[0])


@dataclass(frozen=True, eq=False)
class OfflineRun(WithoutActor):
    """A run of a training on opened data."""

    training: OfflineTraining
    data: Data

    def init(self) -> OfflineState:
        """The state before the first gradient step."""
        return _init(self.training, jnp.array(self.seeds))

    def advance(self, state: OfflineState) -> tuple[OfflineState, dict[str, np.ndarray]]:
        """Takes `log_period` gradient steps. Returns the new state and the metrics of these steps.

        A metric is an array of shape [seeds] or [seeds, neurons]. The metrics of an evaluation are masked if no
        evaluation was due.
        """
        training, seeds = self.training, jnp.array(self.seeds)
        before, memory = state.agent.learner.params, self.data.memory
        state, losses = _chunk(training, memory, seeds, self.data.steps, self._arrays(state), state)
        done = self.agent_steps_done(state)
        metrics = {name: np.full(len(seeds), done) for name in ("agent_steps", "gradient_steps")}
        metrics |= {name: np.asarray(value) for name, value in losses._asdict().items()} | self.measure(state)
        moved = _condition(training, memory, seeds, self.data.steps, self._arrays(state), state, before)
        metrics |= {name: np.asarray(value) for name, value in moved.items()}
        due = training.eval_period and done % training.eval_period == 0
        if due:
            return state, metrics | {name: np.asarray(each) for name, each in _evaluate(training, seeds, state).items()}
        return state, metrics | dict.fromkeys(EVALUATED, unmeasured(len(seeds)))

    def measure(self, state: OfflineState) -> dict[str, np.ndarray]:
        """Returns dormant fractions and neuron scores, measured on states from the data."""
        arguments = (jnp.array(self.seeds), self.data.steps, self._arrays(state), state)
        scores = _measure(self.training, self.data.memory, *arguments)
        return {name: np.asarray(value) for name, value in scores.items()}

    def _arrays(self, state: OfflineState) -> Arrays:
        return self.data.at(self.agent_steps_done(state))


@partial(jax.jit, static_argnums=0)
def _init(training: OfflineTraining, seeds: Int[Array, " seeds"]) -> OfflineState:
    def one(seed: Array) -> OfflineState:
        agent = training.agent.init(key_for(seed, "fresh"), training.env.observation_shape, training.env.actions)
        if training.targets == "frozen network":
            agent = agent._replace(target=training.network.init(key_for(seed, "target")))
        return OfflineState(agent, jnp.zeros((), jnp.int32))

    return jax.vmap(one)(seeds)


@partial(jax.jit, static_argnums=(0, 1, 3))
def _chunk(
    training: OfflineTraining,
    memory: Memory,
    seeds: Int[Array, " seeds"],
    steps: int,
    arrays: Arrays,
    state: OfflineState,
) -> tuple[OfflineState, Losses]:
    return by_seed(partial(_chunk_of, training, memory, steps), seeds, arrays, state)


def _chunk_of(
    training: OfflineTraining, memory: Memory, steps: int, seed: Array, arrays: Arrays, state: OfflineState
) -> tuple[OfflineState, Losses]:
    """Takes the gradient steps of one seed. Returns the new state and the mean losses."""
    arrays = aimed(training.targets, seed, arrays, training.numbers_mean)
    numbers = state.gradient_steps + jnp.arange(training.log_period)
    key = key_for(seed, "batches", state.gradient_steps)
    # Draws all numbers at once, because drawing inside the scan costs much more.
    uniform = jax.random.uniform(key, (training.log_period, training.agent.drawn_batch))

    def step(agent: DQNState, xs: tuple[Array, Array]) -> tuple[DQNState, Losses]:
        number, places = xs
        agent, losses = training.agent.update(agent, memory.sample(arrays, jnp.array(steps), places))
        if training.targets == "moving":
            agent = training.agent.synchronise(agent, number, number + 1)
        return agent, losses

    agent, losses = jax.lax.scan(step, state.agent, (numbers, uniform))
    return OfflineState(agent, numbers[-1] + 1), jax.tree.map(jnp.mean, losses)


def aimed(targets: Targets, seed: Array | int, arrays: Arrays, numbers_mean: float = 0.0) -> Arrays:
    """Returns the arrays of one seed. For "fixed numbers", replaces the rewards by the targets and sets discounts to 0.

    With a discount of 0 nothing is bootstrapped, so the reward is the whole target.
    """
    if targets != "fixed numbers":
        return arrays
    numbers = numbers_mean + jax.random.normal(key_for(seed, "numbers"), arrays.reward.shape)
    return arrays._replace(reward=numbers, discount=jnp.zeros_like(arrays.discount))


@partial(jax.jit, static_argnums=(0, 1, 3))
def _measure(
    training: OfflineTraining,
    memory: Memory,
    seeds: Int[Array, " seeds"],
    steps: int,
    arrays: Arrays,
    state: OfflineState,
) -> dict[str, Array]:
    def one(seed: Array, arrays: Arrays, state: OfflineState) -> dict[str, Array]:
        states = _seen(training, memory, steps, seed, arrays, state)
        return training.network.wiring.scores(state.agent.learner.params, states)

    return dormancy(by_seed(one, seeds, arrays, state))


def _seen(
    training: OfflineTraining, memory: Memory, steps: int, seed: Array, arrays: Arrays, state: OfflineState
) -> Array:
    """States from the data, for a measurement."""
    uniform = jax.random.uniform(key_for(seed, "score", state.gradient_steps), (training.score_batch,))
    return memory.unpack(memory.states(arrays, jnp.array(steps), uniform))


@partial(jax.jit, static_argnums=(0, 1, 3))
def _condition(
    training: OfflineTraining,
    memory: Memory,
    seeds: Int[Array, " seeds"],
    steps: int,
    arrays: Arrays,
    state: OfflineState,
    before: Params,
) -> dict[str, Float[Array, " seeds"]]:
    def one(seed: Array, arrays: Arrays, state: OfflineState, before: Params) -> dict[str, Array]:
        start, states = (
            training.network.init(key_for(seed, "fresh")),
            _seen(training, memory, steps, seed, arrays, state),
        )
        return condition(training.network.wiring, state.agent.learner.params, start, before, states)

    return in_turn(one, seeds, arrays, state, before)


@partial(jax.jit, static_argnums=0)
def _evaluate(
    training: OfflineTraining, seeds: Int[Array, " seeds"], state: OfflineState
) -> dict[str, Float[Array, " seeds"]]:
    agent, env = training.agent, training.env
    assert not isinstance(env, Atari)  # checked by the training

    def one(seed: Array, state: OfflineState) -> dict[str, Array]:
        key, params = key_for(seed, "evaluate", state.gradient_steps), state.agent.learner.params
        return evaluated(agent, env, params, key, training.eval_episodes, training.eval_epsilon)

    return jax.vmap(one)(seeds, state)
