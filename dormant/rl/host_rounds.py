"""Rounds of the host loop: some agent steps, played by the host, then some gradient steps, computed by the device."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, UInt8
from numpy import ndarray

from dormant.interventions.schedule import may_change

from .agents import sac
from .agents.dqn import Losses, random_action
from .envs.atari import AtariGames
from .frames import FrameRing
from .replay import Batch
from .rounds import (
    Experience,
    Mind,
    TrainState,
    dormancy,
    draws_of,
    gradient_step,
    minds_of,
    progress,
)
from .seeds import join_seeds, map_seeds, take_seed

HostTraining = Any  # the class of that name, whose module imports this one


measured = jax.jit(dormancy)


class Stage(NamedTuple):
    """What a state does not hold and is changed in place: the games of all seeds, and the ring of each."""

    games: AtariGames
    rings: tuple[FrameRing, ...]


class Numbers(NamedTuple):
    """What is random in each round of a chunk, drawn for all of it at once and brought to the host."""

    explores: Bool[ndarray, "rounds agent_steps seeds"]
    anything: Integer[ndarray, "rounds agent_steps seeds"]
    batch: Float[ndarray, "rounds gradient_steps seeds batch"]
    score: Float[ndarray, "rounds gradient_steps seeds states"]


def play_chunk(training: HostTraining, stage: Stage, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The state `log_period` agent steps later, and what happened on the way."""
    size, start = training.agent_steps_per_round, int(state.agent_steps[0])
    starts = range(start, start + training.log_period, size)
    numbers = jax.tree.map(np.asarray, _numbers(training, jnp.asarray(starts)))
    stage.games.restore(state.env)
    chunk = _Chunk(training, stage, state, numbers)
    for number, at in enumerate(starts):
        chunk.collect(number, at)
        if at >= training.agent.min_replay:
            chunk.learn(number, at + size, last=number == len(starts) - 1)
    return chunk.end()


class _Chunk:
    """A chunk while it is played."""

    def __init__(self, training: HostTraining, stage: Stage, state: TrainState, numbers: Numbers) -> None:
        self.training, self.stage, self.numbers, self.before = training, stage, numbers, state
        # Copies, because each gradient step takes over the memory of what it changes.
        self.minds = jax.tree.map(jnp.copy, minds_of(training, state))
        self.totals = np.array(state.episode_return)
        # An argument of what is compiled, because XLA may fold a constant, and with it what a network makes of it.
        self.blank = jnp.zeros((training.score_batch, *training.env.observation_shape), jnp.uint8)
        self.gradient_steps = int(state.gradient_steps[0])
        self.experience: list[Experience] = []
        self.losses: list[Losses] = []
        self.early: Batch | None = None

    def collect(self, number: int, start: int) -> None:
        """The agent steps of a round."""
        for step in range(self.training.agent_steps_per_round):
            explores, anything = self.numbers.explores[number, step], self.numbers.anything[number, step]
            self._agent_step(start + step, explores, anything)

    def _agent_step(self, added: int, explores: Bool[ndarray, " seeds"], anything: Integer[ndarray, " seeds"]) -> None:
        training, games = self.training, self.stage.games
        seen = games.observations
        actions = choose(training, [mind.agent.learner.params for mind in self.minds], seen, explores, anything)
        outcome = games.step(actions)
        reward = np.clip(outcome.reward, -1, 1) if training.agent.clip_rewards else outcome.reward
        discount = np.where(outcome.terminal, 0.0, training.agent.gamma)
        last = outcome.terminal | outcome.truncated
        columns = (seen[..., -1], actions, reward, discount, last, outcome.frame)
        for ring, *row in zip(self.stage.rings, *columns, strict=True):
            training.replay.add(ring, added, *row)
        total = self.totals + outcome.reward
        self.experience.append(Experience(outcome.restarted, total))  # pyright: ignore[reportArgumentType]
        self.totals = np.where(outcome.restarted, np.float32(0), total)

    def learn(self, number: int, added: int, last: bool) -> None:
        """The gradient steps of a round, then its target network. The device is not waited for."""
        training = self.training
        updates = range(self.gradient_steps + 1, self.gradient_steps + 1 + training.gradient_steps_per_round)
        looks = last or any(may_change(training.intervention, step) for step in updates)
        batch = self.early or self._batch(number, added)
        states = (
            drawn(training.replay.states, self.stage.rings, added, self.numbers.score[number]) if looks else self.blank
        )
        start = added - training.agent_steps_per_round
        self.minds, losses = _learn(training, looks, self.minds, np.int32(start), batch, states, np.bool_(last))
        if added // training.agent.target_period > start // training.agent.target_period:
            self.minds = _synchronise(training, self.minds, np.int32(start), np.int32(added))
        self.losses.append(losses)
        self.gradient_steps = updates[-1]
        self.early = None if last else self._early(number + 1, added)

    def _batch(self, number: int, added: int) -> Batch:
        return drawn(self.training.replay.sample, self.stage.rings, added, self.numbers.batch[number])

    def _early(self, number: int, added: int) -> Batch | None:
        """The next round's batch while the device computes this one's, if none of it is yet to be played."""
        later = added + self.training.agent_steps_per_round
        if self.training.replay.drawn_before(later, self.numbers.batch[number], added):
            return self._batch(number, later)
        return None

    def end(self) -> tuple[TrainState, dict[str, Any]]:
        """The state after the last round, and the chunk's metrics."""
        training, before = self.training, self.before
        state = TrainState(
            join_seeds([mind.agent for mind in self.minds]),
            join_seeds([mind.intervention for mind in self.minds]),
            self.stage.games.save(),
            (),
            self.totals,  # pyright: ignore[reportArgumentType]
            jnp.asarray(before.agent_steps) + training.log_period,
            jnp.asarray(before.gradient_steps) + (self.gradient_steps - int(before.gradient_steps[0])),
        )
        scores = measured(join_seeds([mind.scores for mind in self.minds])) if self.losses else {}
        none = Losses(*[np.full(len(training.seeds), np.nan, np.float32)] * 2)  # pyright: ignore[reportArgumentType]
        losses = _stacked(self.losses or [none], axis=0)
        experience = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], _stacked(self.experience, axis=0))
        return state, scores | progress(state, experience, losses)


def choose(
    training: HostTraining,
    params: list[Any],
    seen: UInt8[ndarray, "seeds height width stack"],
    explores: Bool[ndarray, " seeds"],
    anything: Integer[ndarray, " seeds"],
) -> Integer[ndarray, " seeds"]:
    """Actions: `anything` where a seed explores, else the greedy one. Waits for the network only if one is greedy."""
    if explores.all():
        return anything
    return np.where(explores, anything, np.asarray(_greedy(training, params, seen)))


@partial(jax.jit, static_argnums=0)
def _greedy(training: HostTraining, params: list[Any], seen: Array) -> Int[Array, " seeds"]:
    act = map_seeds(partial(training.agent.act, epsilon=jnp.zeros(()), uniform=jnp.zeros(2)))
    return join_seeds([act(own, take_seed(seen, lane)) for lane, own in enumerate(params)])


def drawn(method: Any, rings: tuple[FrameRing, ...], added: int, uniform: Float[ndarray, "steps seeds draws"]) -> Any:
    """What a replay's method draws from the ring of each seed, with axes gradient steps, seeds."""
    return _stacked([method(ring, added, uniform[:, seed]) for seed, ring in enumerate(rings)], axis=1)


def _stacked(trees: list[Any], axis: int) -> Any:
    def stack(*leaves: Any) -> ndarray:
        # A batch of frames is too large to be copied for the sake of an axis.
        return np.expand_dims(leaves[0], axis) if len(leaves) == 1 else np.stack(leaves, axis)

    return jax.tree.map(stack, *trees)


@partial(jax.jit, static_argnums=0)
def _numbers(training: HostTraining, starts: Int[Array, " rounds"]) -> Numbers:
    draws = draws_of(training, jnp.array(training.seeds), starts)
    steps = starts[:, None] + jnp.arange(training.agent_steps_per_round)[None]
    epsilon = jax.vmap(jax.vmap(training.agent.epsilon))(steps)
    explores = draws.act[..., 0] < epsilon[..., None]
    anything = random_action(draws.act[..., 1], training.env.actions)
    # Any, because they become NumPy's only outside.
    leaves: Any = (explores, anything, draws.batch, draws.score)
    return Numbers(*leaves)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _learn(
    training: HostTraining, looks: bool, minds: list[Mind], start: Array, batch: Batch, states: Any, last: Array
) -> tuple[list[Mind], Losses]:
    """The gradient steps of a round, compiled twice: where neurons are looked at or may be changed, and elsewhere.

    One after another and not in a scan, in whose body XLA computes the gradients of convolutions 13 times slower on a
    CPU: it brings them into the form that is fast only outside of loops.
    """
    draws = draws_of(training, jnp.array(training.seeds), start[None])
    keys, noise = jax.tree.map(lambda x: x[0], (draws.intervention, draws.noise))
    batch, losses = batch._replace(noise=noise), []
    for number in range(training.gradient_steps_per_round):
        own, key, final = jax.tree.map(lambda x, n=number: x[n], batch), keys[number], number == len(keys) - 1
        if looks:
            minds, loss = gradient_step(training, minds, ((own, states[number]), key, last & final))
        else:
            minds, loss = unseen_step(training, states, minds, (own, key))
        losses.append(loss)
    return minds, jax.tree.map(lambda *each: jnp.stack(each).mean(0), *losses)


def unseen_step(
    training: HostTraining, blank: Array, minds: list[Mind], xs: tuple[Batch | sac.Steps, Array]
) -> tuple[list[Mind], Losses | sac.Losses]:
    """One gradient step of each lane, after which no intervention looks at anything and none may change a weight."""
    learn = map_seeds(partial(_learn_unseen, training, blank))
    pairs = [learn(mind, *take_seed(xs, lane)) for lane, mind in enumerate(minds)]
    return [mind for mind, _ in pairs], join_seeds([losses for _, losses in pairs])


def _learn_unseen(
    training: HostTraining, blank: Array, mind: Mind, batch: Batch | sac.Steps, key: Array
) -> tuple[Mind, Losses | sac.Losses]:
    """A gradient step at which the intervention only counts: a `cond` of it would copy the learner at every step."""
    agent, losses = training.agent.update(mind.agent, batch)
    _, inner = training.intervention.update(key, agent.learner, mind.intervention, training.network, blank)
    return Mind(agent, inner, mind.scores), losses


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _synchronise(training: HostTraining, minds: list[Mind], before: Array, after: Array) -> list[Mind]:
    synchronise = map_seeds(partial(training.agent.synchronise, before=before, after=after))
    return [mind._replace(agent=synchronise(mind.agent)) for mind in minds]
