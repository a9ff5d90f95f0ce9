"""Rounds of the control loop: the device learns while the host plays, from all steps before the round."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32
from numpy import ndarray

from dormant.interventions.schedule import may_change
from dormant.scores import dormant_fraction

from .agents.sac import NETWORKS, Losses
from .envs.control import Bodies
from .host_rounds import unseen_step
from .rounds import (
    TAUS,
    Experience,
    Mind,
    Scores,
    TrainState,
    dormancy,
    gradient_step,
    key_for,
    minds_of,
    progress,
)
from .seeds import join_seeds, map_seeds, take_seed
from .steps import no_rows

ControlTraining = Any  # the class of that name, whose module imports this one

LEARNING = 2**63 + 1  # a stream of its own: those of evaluations are agent steps


class Stage(NamedTuple):
    """What a state does not hold and is changed in place: the bodies of all seeds, and the ring of each."""

    bodies: Bodies
    rings: tuple[Float32[ndarray, "slots numbers"], ...]


class Numbers(NamedTuple):
    """All that is random in one round but interventions, and what it drew from the rings."""

    act: Float32[ndarray, "agent_steps seeds actions"]  # noise, or actions while the replay is filled
    rows: Float32[ndarray, "gradient_steps seeds batch numbers"]
    noise: Float32[ndarray, "gradient_steps two seeds batch actions"]
    uniform: Float[ndarray, "gradient_steps seeds states"]


def play_chunk(training: ControlTraining, stage: Stage, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The state `log_period` agent steps later, and what happened on the way."""
    size, start = training.agent_steps_per_round, int(state.agent_steps[0])
    stage.bodies.restore(state.env)
    chunk = _Chunk(training, stage, state)
    for at in range(start, start + training.log_period, size):
        chunk.round(at, last=at + size == start + training.log_period)
    return chunk.end()


class _Chunk:
    """A chunk while it is played."""

    def __init__(self, training: ControlTraining, stage: Stage, state: TrainState) -> None:
        self.training, self.stage, self.before = training, stage, state
        # Copies, because each gradient step takes over the memory of what it changes.
        self.minds = jax.tree.map(jnp.copy, minds_of(training, state))
        self.sums = Losses(*(jnp.zeros(len(training.seeds)) for _ in Losses._fields))
        self.totals = np.array(state.episode_return)
        self.gradient_steps, self.rounds = int(state.gradient_steps[0]), 0
        self.blank = no_rows(training.replay, training.score_batch)
        self.experience: list[Experience] = []
        self.numbers = numbers_of(training, stage.rings, training.agent_steps_done(state))

    def round(self, start: int, last: bool) -> None:
        """Agent steps, the last of them while the device computes the gradient steps."""
        training, learns = self.training, start >= self.training.agent.min_replay
        for step in range(training.agent_steps_per_round):
            actions = self.numbers.act[step]
            if learns:
                params = [mind.agent.learner.params for mind in self.minds]
                actions = np.asarray(act(training, params, self.stage.bodies.observations, actions))
            if learns and step == training.agent_steps_per_round - 1:
                self._learn(start, last)
            self._agent_step(start + step, actions)
        if not last:
            self.numbers = numbers_of(training, self.stage.rings, start + training.agent_steps_per_round)

    def _learn(self, start: int, last: bool) -> None:
        """The round's gradient steps. The device is not waited for."""
        training, numbers = self.training, self.numbers
        updates = range(self.gradient_steps + 1, self.gradient_steps + 1 + training.gradient_steps_per_round)
        looks = last or any(may_change(training.intervention, step) for step in updates)
        states = _drawn(training, self.stage.rings, start, numbers.uniform) if looks else self.blank
        self.minds, self.sums = _learn(
            *(training, looks, self.minds, self.sums),
            *(np.int32(start), numbers.rows, numbers.noise, states, np.bool_(last)),
        )
        self.gradient_steps, self.rounds = updates[-1], self.rounds + 1

    def _agent_step(self, added: int, actions: Float32[ndarray, "seeds actions"]) -> None:
        training, bodies = self.training, self.stage.bodies
        seen = bodies.observations
        outcome = bodies.step(actions)
        discount = np.where(outcome.terminal, np.float32(0), np.float32(training.agent.gamma))
        columns = (seen, actions, outcome.reward, discount, outcome.observation)
        for ring, *row in zip(self.stage.rings, *columns, strict=True):
            training.replay.add(ring, added, *row)
        ended, total = outcome.terminal | outcome.truncated, self.totals + outcome.reward
        self.experience.append(Experience(ended, total))  # pyright: ignore[reportArgumentType]
        self.totals = np.where(ended, np.float32(0), total)

    def end(self) -> tuple[TrainState, dict[str, Any]]:
        """The state after the last round, and the chunk's metrics."""
        training, before = self.training, self.before
        state = TrainState(
            join_seeds([mind.agent for mind in self.minds]),
            join_seeds([mind.intervention for mind in self.minds]),
            self.stage.bodies.save(),
            (),
            self.totals,  # pyright: ignore[reportArgumentType]
            jnp.asarray(before.agent_steps) + training.log_period,
            jnp.asarray(before.gradient_steps) + (self.gradient_steps - int(before.gradient_steps[0])),
        )
        scores = measured(join_seeds([mind.scores for mind in self.minds])) if self.rounds else {}
        # Nothing over nothing is the NaN of a chunk in which nothing was learned.
        losses = jax.tree.map(lambda total: (np.asarray(total) / np.float32(self.rounds or np.nan))[None], self.sums)
        experience = jax.tree.map(lambda *each: np.stack(each)[None], *self.experience)
        return state, scores | progress(state, experience, losses)


def numbers_of(training: ControlTraining, rings: tuple[ndarray, ...], start: int) -> Numbers:
    """The numbers of the round that begins after so many agent steps."""
    acts, updates, actions = training.agent_steps_per_round, training.gradient_steps_per_round, training.env.actions
    draws = [
        np.random.Generator(np.random.Philox(key=(seed, LEARNING), counter=[0, start, 0, 0])) for seed in training.seeds
    ]
    if start < training.agent.min_replay:
        anything = np.stack([draw.uniform(-1, 1, (acts, actions)).astype(np.float32) for draw in draws], axis=1)
        none: Any = ()
        return Numbers(anything, none, none, none)
    size = training.agent.batch_size
    normal = [draw.standard_normal((acts, actions), np.float32) for draw in draws]
    places = [draw.random((updates, size)) for draw in draws]
    noise = [draw.standard_normal((updates, 2, size, actions), np.float32) for draw in draws]
    uniform = [draw.random((updates, training.score_batch)) for draw in draws]
    rows = _drawn(training, rings, start, np.stack(places, axis=1))
    return Numbers(np.stack(normal, axis=1), rows, np.stack(noise, axis=2), np.stack(uniform, axis=1))


def _drawn(
    training: ControlTraining, rings: tuple[ndarray, ...], added: int, uniform: Float[ndarray, "steps seeds draws"]
) -> Float32[ndarray, "steps seeds draws numbers"]:
    rows = [training.replay.rows(ring, added, uniform[:, seed]) for seed, ring in enumerate(rings)]
    return np.stack(rows, axis=1)


@partial(jax.jit, static_argnums=0)
def act(
    training: ControlTraining, params: list[Any], seen: Float[Array, "seeds observation"], noise: Array
) -> Float[Array, "seeds actions"]:
    """An action of each seed."""
    lane = [take_seed((seen[:, None], noise[:, None]), lane) for lane in range(len(params))]
    draw = map_seeds(training.agent.act)
    return join_seeds([draw(own, *each) for own, each in zip(params, lane, strict=True)])[:, 0]


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def _learn(
    training: ControlTraining,
    looks: bool,
    minds: list[Mind],
    sums: Losses,
    start: Array,
    rows: Float[Array, "gradient_steps seeds batch numbers"],
    noise: Float[Array, "gradient_steps two seeds batch actions"],
    states: Any,
    last: Array,
) -> tuple[list[Mind], Losses]:
    """The gradient steps of a round, compiled twice: where neurons are looked at or may be changed, and elsewhere."""
    updates = training.gradient_steps_per_round
    keys = jax.vmap(lambda seed: jax.random.split(key_for(seed, "round", start), updates))(jnp.array(training.seeds))
    losses = []
    for number in range(updates):
        batch, final = training.replay.batch(rows[number], noise[number]), number == updates - 1
        if looks:
            minds, loss = gradient_step(training, minds, ((batch, states[number]), keys[:, number], last & final))
        else:
            minds, loss = unseen_step(training, states, minds, (batch, keys[:, number]))
        losses.append(loss)
    return minds, jax.tree.map(lambda total, *each: total + sum(each) / updates, sums, *losses)


@jax.jit
def measured(scores: Scores) -> dict[str, Array]:
    """Dormant fractions of each layer, pooled over each network and over all of them, and the scores themselves."""

    @jax.vmap
    def pooled(scores: Scores) -> dict[str, Array]:
        return {
            f"dormant/{tau:g}/{network}/all": dormant_fraction(
                {name: each for name, each in scores.items() if name.startswith(f"{network}/")}, tau
            )
            for tau in TAUS
            for network in NETWORKS
        }

    return dormancy(scores) | pooled(scores)
