"""Distillation: trains a network, fresh or pretrained, to predict the Q values of a trained DQN."""

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Shaped

from dormant.surgery import Learner
from dormant.wiring import Network

from .agents import minatar_dqn
from .agents.dqn import DQN
from .atari import AtariTraining
from .condition import condition
from .data.sources import FinishedRun
from .device import DeviceTraining
from .envs import Environment
from .envs.atari import Atari
from .envs.minatar import MinAtar
from .host import open_rings
from .learning import dormancy, network_of
from .networks import OUTPUT_LAYERS, Params
from .offline import WithoutActor, check_length
from .schedule import by_seed, in_turn, key_for

Played = DeviceTraining | AtariTraining


class DistillationState(NamedTuple):
    """The complete state of a run, as in a checkpoint. Arrays have a leading axis of seeds."""

    learner: Learner
    gradient_steps: Int[Array, " seeds"]


class Lesson(NamedTuple):
    """What a student learns from: the teacher's parameters, states from the teacher's replay, and initial parameters.

    `begin` holds the student's initial parameters. All arrays have a leading axis of seeds.
    """

    teacher: Params
    states: Shaped[Array, "states *shape"]
    begin: Params


@dataclass(frozen=True)
class DistillationTraining:
    """A training that distils a DQN into a student. On one machine, equal fields give bit-identical results.

    The student minimises the squared error between its Q values and the Q values of the teacher's final network. The
    error is averaged over all actions and over a batch. Batches are drawn from `states` states of the teacher's replay.
    The student starts from the final network of the training `student`. If `student` is None, it starts from a fresh
    network. If `new_head` is true, a pretrained student gets fresh output layers. The optimizer is the agent's
    optimizer, with a fresh state. The trainings `teacher` and `student` use the same `env` and `seeds` as this
    training.

    >>> DistillationTraining(student=DeviceTraining()).kind, len(DistillationTraining().needs)
    ('distillation-pretrained', 1)

    Raises ValueError for inconsistent lengths, for `new_head` without a student, or if the teacher or the student has a
    different network than the agent.
    Source: Sokar et al. 2023, figure 8, describes the regression and its 50,000 gradient steps. The paper does not
    state the loss, the optimizer and the states, so they are our choice.
    """

    agent: DQN = field(default_factory=lambda: minatar_dqn(200_000))
    env: Environment | Atari = field(default_factory=MinAtar)
    teacher: Played = field(default_factory=lambda: DeviceTraining(replay_ratio=0.25))
    student: Played | None = None
    states: int = 20_000
    gradient_steps: int = 50_000
    log_period: int = 500
    seeds: tuple[int, ...] = (0, 1, 2)
    score_batch: int = 64
    new_head: bool = False

    def __post_init__(self) -> None:
        if self.new_head and self.student is None:
            raise ValueError("new_head needs a pretrained student; a fresh network has a new head.")
        check_length(self.gradient_steps, self.log_period, self.score_batch, self.seeds)
        if self.states < 1:
            raise ValueError(f"states must be at least 1, got {self.states}.")
        for name in ("teacher", "student"):
            other = getattr(self, name)
            if other is not None and other.agent.network != self.agent.network:
                raise ValueError(
                    f"the {name} must have the agent's network {self.agent.network}, got {other.agent.network}."
                )

    @property
    def kind(self) -> str:
        """The first part of the name of the training's folder."""
        if self.new_head:
            return "distillation-new-head"
        return "distillation-fresh" if self.student is None else "distillation-pretrained"

    @property
    def agent_steps(self) -> int:
        """The length of a run in gradient steps. All trainings call the length of a run `agent_steps`."""
        return self.gradient_steps

    @property
    def needs(self) -> tuple[Played, ...]:
        """The training of the teacher, and the training of a pretrained student. Both must be finished first."""
        others = (self.teacher,) if self.student is None else (self.teacher, self.student)
        return tuple(replace(other, env=self.env, seeds=self.seeds) for other in others)

    def after(self, folder: Path, *earlier: FinishedRun) -> "DistillationRun":
        """Builds a run from the final states of the earlier runs and returns it. Writes nothing to the folder."""
        del folder
        teacher, *student = earlier
        begin = _fresh(self, jnp.array(self.seeds))
        if student:
            pretrained = student[0].state.agent.learner.params
            begin = with_head(pretrained, begin) if self.new_head else pretrained
        states = remembered(self.needs[0], teacher, self.states)
        return DistillationRun(self, Lesson(teacher.state.agent.learner.params, states, begin))

    @cached_property
    def network(self) -> Network:
        """The agent's network, with the wiring that scores its neurons."""
        return network_of(self.agent, self.env, 1)


@dataclass(frozen=True, eq=False)
class DistillationRun(WithoutActor):
    """A run of a `DistillationTraining`, with its lesson."""

    training: DistillationTraining
    lesson: Lesson

    def init(self) -> DistillationState:
        """The state before the first gradient step."""
        return _init(self.training, self.lesson.begin)

    def advance(self, state: DistillationState) -> tuple[DistillationState, dict[str, np.ndarray]]:
        """Takes `log_period` gradient steps. Returns the new state and the metrics of these steps.

        A metric is an array of shape [seeds] or [seeds, neurons]. The loss is the mean over the gradient steps.
        """
        before, seeds = state.learner.params, jnp.array(self.seeds)
        state, loss = _chunk(self.training, seeds, self.lesson, state)
        done = np.full(len(self.seeds), self.agent_steps_done(state))
        counts = {"agent_steps": done, "gradient_steps": done}
        found = _condition(self.training, seeds, self.lesson, state, before) | {"loss": loss}
        return state, counts | self.measure(state) | {name: np.asarray(value) for name, value in found.items()}

    def measure(self, state: DistillationState) -> dict[str, np.ndarray]:
        """Returns dormant fractions, neuron scores and the loss, measured on states from the teacher's replay."""
        measured = _measure(self.training, jnp.array(self.seeds), self.lesson, state)
        return {name: np.asarray(value) for name, value in measured.items()}


def with_head(params: Params, fresh: Params) -> Params:
    """Returns `params` with its output layers replaced by the output layers of `fresh`.

    >>> one, two = ({name: {"bias": jnp.full(1, value)} for name in ("dense", "head")} for value in (1, 2))
    >>> {name: int(layer["bias"][0]) for name, layer in with_head(one, two).items()}
    {'dense': 1, 'head': 2}
    """
    return {name: fresh[name] if name in OUTPUT_LAYERS else layer for name, layer in params.items()}


def regression_loss(
    agent: DQN, params: Params, states: Shaped[Array, "batch *shape"], values: Float[Array, "batch actions"]
) -> Float[Array, ""]:
    """The squared error between the network's Q values and `values`, averaged over states and actions."""
    return jnp.square(agent.network.apply(params, states) - values).mean()


def remembered(played: Played, ended: FinishedRun, states: int) -> Shaped[Array, "seeds states *shape"]:
    """Draws states with replacement from the replay of a finished run.

    The replay of an Atari run is in files. The replay of any other run is in its last state.
    """
    added = int(ended.state.agent_steps[0])
    uniform = [np.random.default_rng(seed).random(states, np.float32) for seed in played.seeds]
    if isinstance(played, AtariTraining):
        rings = open_rings(played.replay, played.seeds, ended.replay, added, ended.owner)
        drawn = [played.replay.states(ring, added, places) for ring, places in zip(rings, uniform, strict=True)]
        return jnp.asarray(np.stack(drawn))
    of_seeds = jax.vmap(played.replay.states, in_axes=(0, None, 0))
    return played.replay.unpack(of_seeds(ended.state.replay, jnp.array(added), jnp.stack(uniform)))


@partial(jax.jit, static_argnums=0)
def _fresh(training: DistillationTraining, seeds: Int[Array, " seeds"]) -> Params:
    return jax.vmap(lambda seed: training.network.init(key_for(seed, "fresh")))(seeds)


@partial(jax.jit, static_argnums=0)
def _init(training: DistillationTraining, begin: Params) -> DistillationState:
    def one(params: Params) -> DistillationState:
        return DistillationState(Learner(params, training.agent.optimizer().init(params)), jnp.zeros((), jnp.int32))

    return jax.vmap(one)(begin)


@partial(jax.jit, static_argnums=0)
def _chunk(
    training: DistillationTraining, seeds: Int[Array, " seeds"], lesson: Lesson, state: DistillationState
) -> tuple[DistillationState, Float[Array, " seeds"]]:
    return by_seed(partial(_chunk_of, training), seeds, lesson, state)


def _chunk_of(
    training: DistillationTraining, seed: Array, lesson: Lesson, state: DistillationState
) -> tuple[DistillationState, Float[Array, ""]]:
    """Takes the gradient steps of one seed. Returns the new state and the mean loss."""
    agent = training.agent
    key = key_for(seed, "batches", state.gradient_steps)
    drawn = jax.random.randint(key, (training.log_period, agent.batch_size), 0, training.states)

    def step(learner: Learner, places: Array) -> tuple[Learner, Array]:
        states, values = _taught(training, lesson, places)
        loss, gradient = jax.value_and_grad(partial(regression_loss, agent))(learner.params, states, values)
        with jax.numpy_dtype_promotion("standard"):  # strict promotion forbids Adam's float ** int
            change, opt_state = agent.optimizer().update(gradient, learner.opt_state, learner.params)
        return Learner(optax.apply_updates(learner.params, change), opt_state), loss

    learner, losses = jax.lax.scan(step, state.learner, drawn)
    return DistillationState(learner, state.gradient_steps + training.log_period), losses.mean()


@partial(jax.jit, static_argnums=0)
def _measure(
    training: DistillationTraining, seeds: Int[Array, " seeds"], lesson: Lesson, state: DistillationState
) -> dict[str, Array]:
    def one(seed: Array, lesson: Lesson, state: DistillationState) -> tuple[dict[str, Array], Array]:
        states, values = _seen(training, seed, lesson, state)
        params = state.learner.params
        return training.network.wiring.scores(params, states), regression_loss(training.agent, params, states, values)

    scores, loss = by_seed(one, seeds, lesson, state)
    return dormancy(scores) | {"loss": loss}


@partial(jax.jit, static_argnums=0)
def _condition(
    training: DistillationTraining,
    seeds: Int[Array, " seeds"],
    lesson: Lesson,
    state: DistillationState,
    before: Params,
) -> dict[str, Float[Array, " seeds"]]:
    def one(seed: Array, lesson: Lesson, state: DistillationState, before: Params) -> dict[str, Array]:
        states, _ = _seen(training, seed, lesson, state)
        return condition(training.network.wiring, state.learner.params, lesson.begin, before, states)

    return in_turn(one, seeds, lesson, state, before)


def _seen(
    training: DistillationTraining, seed: Array, lesson: Lesson, state: DistillationState
) -> tuple[Array, Float[Array, "batch actions"]]:
    """States for a measurement, and the teacher's Q values of these states."""
    key = key_for(seed, "score", state.gradient_steps)
    return _taught(training, lesson, jax.random.randint(key, (training.score_batch,), 0, training.states))


def _taught(
    training: DistillationTraining, lesson: Lesson, places: Int[Array, " batch"]
) -> tuple[Array, Float[Array, "batch actions"]]:
    """The states at the indices `places`, and the teacher's Q values of these states."""
    states = lesson.states[places]
    return states, training.agent.network.apply(lesson.teacher, states)
