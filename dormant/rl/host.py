"""The host loop: environments and replay run on the host, the networks on the device."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from numpy import ndarray

from dormant.interventions.schedule import may_change

from .agents.dqn import DQN, DQNState
from .condition import REPRESENTED, TRIED, condition, representation, trial
from .envs import HostPlayed, Player
from .feeding import Feed, HostTraining, RoundDraws, Sample, stacked
from .learning import (
    EVALUATED,
    AgentState,
    Experience,
    LearningState,
    Losses,
    Scores,
    TrainState,
    dormancy,
    lane_scores,
    lanes_of,
    no_losses,
    on_host,
    params_of,
    progress,
    synchronised,
    unmeasured,
)
from .replay.files import checksum, flush, refuse_without_room
from .replay.frames import FrameReplay
from .replay.steps import StepReplay
from .schedule import in_turn, join_seeds, key_for


def slack(capacity: int, log_period: int) -> int:
    """The number of extra steps that a ring stores: the smaller of 10,000 and its capacity, but at least one chunk."""
    return max(min(10_000, capacity), log_period)


class OnHost:
    """Base class of trainings for the host loop. `init` creates the first state, and `open` opens the loop."""

    def init(self: HostTraining) -> TrainState:
        """The state before the first agent step."""
        agent, intervention = _fresh(self)
        zeros = jnp.zeros(len(self.seeds), jnp.int32)
        return TrainState(agent, intervention, self.players().save(), (), zeros.astype(jnp.float32), zeros, zeros)

    def agent_steps_done(self, state: TrainState) -> int:
        """The number of agent steps done so far. It is equal for all seeds."""
        return int(state.agent_steps[0])

    def refuse_without_room(self: HostTraining, folder: Path) -> None:
        """Raises ValueError with the sizes if the rings do not fit into memory or on the disk."""
        refuse_without_room(self.replay, len(self.seeds), folder)

    def open(self: HostTraining, folder: Path, state: TrainState, owner: int = 0) -> "HostLoop":
        """Opens the rings in a folder and returns the loop, which continues from `state`.

        Creates the rings if `state` is the state before the first agent step. `owner` is a number that identifies the
        run.

        Raises ValueError if the rings do not fit on this machine, are damaged, or belong to another run or state.
        Raises OSError if a file is missing or the disk is full.
        """
        refuse_without_room(self.replay, len(self.seeds), folder)
        added = int(state.agent_steps[0])
        rings = open_rings(self.replay, self.seeds, folder, added, owner)
        return HostLoop(self, self.players(), rings, self.feed(rings, added), folder.parent / "videos")


@partial(jax.jit, static_argnums=0)
def _fresh(training: HostTraining) -> tuple[AgentState, PyTree[Array]]:
    def one(seed: Array) -> tuple[AgentState, PyTree[Array]]:
        agent = training.fresh_agent(key_for(seed, "init"))
        return agent, training.intervention.init(agent.learner, training.learning.network)

    return jax.vmap(one)(jnp.array(training.seeds))


def open_rings(
    replay: FrameReplay | StepReplay, seeds: tuple[int, ...], folder: Path, added: int, owner: int
) -> tuple[PyTree[ndarray], ...]:
    """Opens the rings of a run in its replay folder, one ring per seed. Raises the same errors as `replay.open`."""
    return tuple(replay.open(folder / f"seed{seed}", added, checksum(owner, seed)) for seed in seeds)


@dataclass(frozen=True)
class HostLoop:
    """A training, its player and its rings. `advance` changes the player and the rings in place.

    `advance` also accepts an earlier state. It then restores the player from that state, and new steps overwrite the
    later steps in the rings.
    """

    training: HostTraining
    player: Player
    rings: tuple[PyTree[ndarray], ...]
    feed: Feed
    videos: Path

    def advance(self, state: TrainState) -> tuple[TrainState, dict[str, np.ndarray]]:
        """Runs `log_period` agent steps. Returns the new state and the metrics of these steps.

        A metric is an array of shape [seeds] or [seeds, neurons]. Values that were not measured are masked, for example
        the training return if no episode ended.
        """
        training, before = self.training, state
        state, metrics = _Chunk(self, state).play()
        learns = int(state.gradient_steps[0]) > int(before.gradient_steps[0])
        if not learns:
            metrics |= self.measure(state)
        metrics |= self.condition(before, state)
        done = int(state.agent_steps[0])
        due = training.schedule.evaluates(done)
        evaluation = self.evaluate(state).metrics() if due else {}
        names = EVALUATED if isinstance(training.agent, DQN) else EVALUATED[:1]
        if training.rank_batch:
            names += REPRESENTED + TRIED
            evaluation |= self.representations(state) if due else {}
            evaluation |= self.trial(state) if due and done >= training.agent.min_replay else {}
        found = dict.fromkeys(names, unmeasured(len(training.seeds)))
        found |= {name: np.asarray(value) for name, value in evaluation.items()}
        return state, on_host(metrics, learns) | found

    def measure(self, state: TrainState) -> dict[str, np.ndarray]:
        """Returns dormant fractions and neuron scores, measured on stored states or on states of random play."""
        inputs = self._inputs(state, "measure", self.training.schedule.score_batch)
        metrics = _dormancy(_scores(self.training, params_of(state), inputs))
        return {name: np.asarray(value) for name, value in metrics.items()}

    def representations(self, state: TrainState) -> dict[str, Float[Array, " seeds"]]:
        """Returns the metrics of `representation` for all seeds, measured on stored states."""
        inputs = self._inputs(state, "rank", self.training.rank_batch)
        return _represent(self.training, state.agent.learner.params, inputs)

    def condition(self, before: TrainState, state: TrainState) -> dict[str, Float[Array, " seeds"]]:
        """Returns the metrics of `condition` for all seeds. `before` is the state at the previous log point."""
        inputs = self._inputs(state, "measure", self.training.schedule.score_batch)
        return _condition(self.training, before.agent.learner.params, state.agent.learner.params, inputs)

    def trial(self, state: TrainState) -> dict[str, Float[Array, " seeds"]]:
        """Returns the metrics of `trial` for all seeds, for a batch with the random numbers of the next round."""
        training, added = self.training, int(state.agent_steps[0])
        draws = next(training.draws(range(added, added + 1)))
        batch, states = training.batch(self.rings, added, draws), self._inputs(state, "trial", training.rank_batch)
        return _try(training, state.agent, np.int32(added), batch, states)

    def evaluate(self, state: TrainState) -> HostPlayed:
        """Plays the evaluation episodes."""
        return self.training.evaluate(params_of(state), int(state.agent_steps[0]), self.videos)

    def _inputs(self, state: TrainState, purpose: str, number: int) -> ndarray:
        return self.training.measured_inputs(self.rings, int(state.agent_steps[0]), purpose, number)

    def save_due(self, done: int, saved: int) -> bool:
        """Whether a checkpoint is due, because the next chunk overwrites steps that the last checkpoint needs."""
        return self.training.replay.save_due(done, saved, self.training.schedule.log_period)

    def flush(self) -> None:
        """Writes the rings to the disk. Must be called before each checkpoint."""
        flush(self.rings)


class _Chunk:
    """One chunk of a run, with the states and totals that change while `play` runs."""

    def __init__(self, loop: HostLoop, state: TrainState) -> None:
        self.training, self.player, self.rings, self.feed = loop.training, loop.player, loop.rings, loop.feed
        self.schedule, self.replay = loop.training.schedule, loop.training.replay
        self.before = state
        self.player.restore(state.env)
        # Copies the caller's state, because a gradient step reuses the memory of its input for its output.
        self.states = jax.tree.map(jnp.copy, lanes_of(self.training.learning, state))
        self.totals = np.array(state.episode_return)
        self.gradient_steps = int(state.gradient_steps[0])
        self.experience: list[Experience] = []
        self.losses: list[Losses] = []

    def play(self) -> tuple[TrainState, dict[str, Array]]:
        """Plays all rounds of the chunk. Returns the new state and the metrics of the chunk."""
        starts = self.schedule.starts(int(self.before.agent_steps[0]))
        upcoming = self.training.draws(starts)
        for start in starts:
            draws, last = next(upcoming), start == starts[-1]
            # Draws the sample while the device still computes the previous round.
            self._round(start, draws, last, self._early_sample(start, draws, last))
        return self._end()

    def _round(self, start: int, draws: RoundDraws, last: bool, sample: Sample | None) -> None:
        """Takes the agent steps of a round. From agent step `min_replay` on, also takes its gradient steps.

        If `sample` is given, the gradient steps start before the environment takes the last agent step.
        """
        size = self.schedule.agent_steps_per_round
        for step in range(size):
            learned = sample if step == size - 1 else None
            policy = self._policy(start + step, draws, step, learned)
            if learned is not None:
                self._learn(start + step, learned)
            explores, action = draws.explores[step], draws.action[step]
            explores = explores.reshape(explores.shape + (1,) * (action.ndim - 1))
            # Waits for the policy here, after the gradient steps have started.
            self._agent_step(start + step, action if policy is None else np.where(explores, action, policy))
        if sample is None and start >= self.training.agent.min_replay:
            self._learn(start + size, self._sample(start, draws, last))

    def _policy(self, added: int, draws: RoundDraws, step: int, sample: Sample | None) -> Array | None:
        """Starts the computation of the policy's actions and returns them. Returns None if all seeds explore."""
        explores, action = draws.explores[step], draws.action[step]
        params = None if explores.all() else [state.agent.learner.params for state in self.states]
        return self.feed.act(params, added, self.player.observations, action, sample)

    def _agent_step(self, added: int, actions: ndarray) -> None:
        seen, outcome = self.player.observations, self.player.step(actions)
        for ring, *columns in zip(self.rings, *self.training.columns(seen, actions, outcome), strict=True):
            self.replay.add(ring, added, *columns)
        total = self.totals + outcome.reward
        self.experience.append(Experience(outcome.restarted, total))  # pyright: ignore[reportArgumentType]
        self.totals = np.where(outcome.restarted, np.float32(0), total)

    def _early_sample(self, start: int, draws: RoundDraws, last: bool) -> Sample | None:
        """Draws the sample of a round before the round's agent steps.

        Returns None if the sample may need one of these agent steps, or if the round takes no gradient steps.
        """
        if start < self.training.agent.min_replay:
            return None
        added, uniforms = self._drawn_from(start), [draws.batch, *([draws.score] if self._looks(last) else [])]
        if all(self.replay.drawn_before(added, uniform, start) for uniform in uniforms):
            return self._sample(start, draws, last)
        return None

    def _sample(self, start: int, draws: RoundDraws, last: bool) -> Sample:
        looks = self._looks(last)
        return Sample(start, looks, last, *self.feed.draw(self._drawn_from(start), draws, looks))

    def _drawn_from(self, start: int) -> int:
        """The number of agent steps added to the replay before the gradient steps of a round sample it."""
        return start + self.schedule.agent_steps_per_round * self.training.learns_from_round

    def _looks(self, last: bool) -> bool:
        """Whether a gradient step of the next round may score neurons."""
        return last or any(may_change(self.training.intervention, step) for step in self._updates())

    def _updates(self) -> range:
        """The numbers of the gradient steps of the next round."""
        return range(self.gradient_steps + 1, self.gradient_steps + 1 + self.schedule.gradient_steps_per_round)

    def _learn(self, added: int, sample: Sample) -> None:
        """Starts a round's gradient steps, and a copy to the target network if one is due.

        Does not wait for the device.
        """
        start, after = sample.start, sample.start + self.schedule.agent_steps_per_round
        self.states, losses = self.feed.learn(self.states, added, self.player.observations, sample)
        if self.training.agent.target_due(start, after):
            self.states = _synchronised(self.training, self.states, np.int32(start), np.int32(after))
        self.losses.append(losses)
        self.gradient_steps = self._updates()[-1]

    def _end(self) -> tuple[TrainState, dict[str, Array]]:
        training, before = self.training, self.before
        state = TrainState(
            join_seeds([state.agent for state in self.states]),
            join_seeds([state.intervention for state in self.states]),
            self.player.save(),
            (),
            self.totals,  # pyright: ignore[reportArgumentType]
            jnp.asarray(before.agent_steps) + self.schedule.log_period,
            jnp.asarray(before.gradient_steps) + (self.gradient_steps - int(before.gradient_steps[0])),
        )
        scores = _dormancy(join_seeds([state.scores for state in self.states])) if self.losses else {}
        losses = stacked(
            jax.device_get(self.losses) or [no_losses(training.agent.losses, (len(training.seeds),))], axis=0
        )
        experience = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], stacked(self.experience, axis=0))
        return state, scores | progress(state, experience, losses)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _synchronised(
    training: HostTraining, states: list[LearningState], before: Array, after: Array
) -> list[LearningState]:
    return synchronised(training.learning.agent, states, before, after)


@partial(jax.jit, static_argnums=0)
def _scores(training: HostTraining, params: list[PyTree[Array]], inputs: Array) -> Scores:
    return lane_scores(training.learning.network.wiring, params, inputs)


@partial(jax.jit, static_argnums=0)
def _represent(training: HostTraining, params: PyTree[Array], inputs: Array) -> dict[str, Float[Array, " seeds"]]:
    agent = training.agent
    assert isinstance(agent, DQN)  # only DQN's trainings have a rank_batch
    measure = partial(representation, training.learning.network.wiring, agent.network.apply)
    return in_turn(lambda _, *one: measure(*one), jnp.array(training.seeds), params, inputs)


@partial(jax.jit, static_argnums=0)
def _condition(
    training: HostTraining, before: PyTree[Array], params: PyTree[Array], inputs: Array
) -> dict[str, Float[Array, " seeds"]]:
    def one(seed: Array, before: PyTree[Array], params: PyTree[Array], inputs: Array) -> dict[str, Array]:
        start = training.fresh_agent(key_for(seed, "init")).learner.params
        return condition(training.learning.network.wiring, params, start, before, inputs)

    return in_turn(one, jnp.array(training.seeds), before, params, inputs)


@partial(jax.jit, static_argnums=0)
def _try(
    training: HostTraining, state: DQNState, start: Array, batch: PyTree, states: Array
) -> dict[str, Float[Array, " seeds"]]:
    agent = training.agent
    assert isinstance(agent, DQN)  # only DQN's trainings have a rank_batch
    _, batches = training.prepared(start, batch)
    measure = partial(trial, agent, training.learning.network.wiring)
    first = jax.tree.map(lambda each: each[0], batches)
    return in_turn(lambda _, *one: measure(*one), jnp.array(training.seeds), state, first, states)


_dormancy = jax.jit(dormancy)
