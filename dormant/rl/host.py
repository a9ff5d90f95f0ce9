"""The host loop: the host plays and stores what it saw, the device acts and learns."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PyTree, Shaped
from numpy import ndarray

from dormant.interventions import Intervention
from dormant.interventions.schedule import may_change

from .agents.dqn import DQN
from .agents.sac import SAC
from .envs import Player
from .learning import (
    AgentState,
    Experience,
    Learning,
    LearningState,
    Losses,
    Scores,
    TrainState,
    dormancy,
    gradient_step,
    lane_ranks,
    lane_scores,
    lanes_of,
    no_losses,
    on_host,
    params_of,
    progress,
    synchronised,
    unmeasured,
    unseen_step,
)
from .replay.files import checksum, flush, refuse_without_room
from .replay.frames import FrameReplay
from .replay.steps import StepReplay
from .schedule import Schedule, Scheduled, join_seeds, key_for


class RoundDraws(NamedTuple):
    """Everything random in one round on the host.

    `action` is what an exploring seed does; for the others it is the noise of their actions, if they need any.
    """

    explores: Bool[ndarray, "agent_steps seeds"]
    action: Shaped[ndarray, "agent_steps seeds *action"]
    batch: Float[ndarray, "gradient_steps seeds batch"]
    score: Float[ndarray, "gradient_steps seeds states"]
    noise: PyTree = ()  # of the gradient steps, if the host draws it


@runtime_checkable
class HostTraining(Scheduled, Protocol):
    """What the host loop needs of a training. `AtariTraining` and `ControlTraining` are the two.

    `learns_from_round`: gradient steps draw from the steps of their own round too, and follow it. Otherwise they draw
    only from steps before their round, and the device computes them while the host plays the round's last step.
    """

    @property
    def agent(self) -> DQN | SAC: ...
    @property
    def intervention(self) -> Intervention: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def learning(self) -> Learning: ...
    @property
    def replay(self) -> FrameReplay | StepReplay: ...
    @property
    def learns_from_round(self) -> bool: ...
    @property
    def rank_batch(self) -> int: ...
    def fresh_agent(self, key: Key[Array, ""]) -> AgentState: ...
    def players(self, stream: int = 0) -> Player: ...
    def blank(self) -> Array: ...  # inputs for steps at which no neuron is scored
    def draws(self, starts: range) -> Iterator[RoundDraws]: ...
    def act(self, params: list[PyTree[Array]], seen: ndarray, explores: ndarray, action: ndarray) -> ndarray: ...
    def columns(self, seen: ndarray, actions: ndarray, outcome: Any) -> Sequence[ndarray]: ...  # what a ring stores
    def batch(self, rings: tuple[PyTree[ndarray], ...], added: int, draws: RoundDraws) -> PyTree: ...
    def inputs(self, rings: tuple[PyTree[ndarray], ...], added: int, uniform: ndarray) -> ndarray: ...
    def prepared(self, start: Array, batch: PyTree) -> tuple[Array, PyTree]: ...  # in compiled code
    def measured_inputs(self, rings: tuple[PyTree[ndarray], ...], added: int, purpose: str, number: int) -> ndarray: ...
    def evaluate(self, params: list[PyTree[Array]], agent_steps: int, videos: Path) -> list[ndarray]: ...


def slack(capacity: int, log_period: int) -> int:
    """Steps that a ring keeps beyond its capacity: at most 10,000 and its capacity, but at least one chunk."""
    return max(min(10_000, capacity), log_period)


class OnHost:
    """What every training of the host loop has: its first state, and the loop that continues from a state."""

    def init(self: "HostTraining") -> TrainState:
        """The state before the first agent step."""
        agent, intervention = _fresh(self)
        zeros = jnp.zeros(len(self.seeds), jnp.int32)
        return TrainState(agent, intervention, self.players().save(), (), zeros.astype(jnp.float32), zeros, zeros)

    def agent_steps_done(self, state: TrainState) -> int:
        """Agent steps done so far, the same for every seed."""
        return int(state.agent_steps[0])

    def refuse_without_room(self: "HostTraining", folder: Path) -> None:
        """Raises ValueError, with the sum, unless the rings fit into memory and on the disk."""
        refuse_without_room(self.replay, len(self.seeds), folder)

    def open(self: "HostTraining", folder: Path, state: TrainState, owner: int = 0) -> "HostLoop":
        """The loop that continues from a state with the rings in a folder. They are new before the first agent step.

        `owner` is a number that stands for the run. The rings of another run are refused.

        Raises ValueError if the rings do not fit on this machine or are not those of the state, OSError if a file is
        missing or the disk is full.
        """
        refuse_without_room(self.replay, len(self.seeds), folder)
        added = int(state.agent_steps[0])
        rings = open_rings(self.replay, self.seeds, folder, added, owner)
        return HostLoop(self, self.players(), rings, folder.parent / "videos")


@partial(jax.jit, static_argnums=0)
def _fresh(training: HostTraining) -> tuple[AgentState, PyTree[Array]]:
    def one(seed: Array) -> tuple[AgentState, PyTree[Array]]:
        agent = training.fresh_agent(key_for(seed, "init"))
        return agent, training.intervention.init(agent.learner, training.learning.network)

    return jax.vmap(one)(jnp.array(training.seeds))


def open_rings(
    replay: FrameReplay | StepReplay, seeds: tuple[int, ...], folder: Path, added: int, owner: int
) -> tuple[Any, ...]:
    """The rings of a run in its folder of replay files, one per seed. Raises what the replay's `open` raises."""
    return tuple(replay.open(folder / f"seed{seed}", added, checksum(owner, seed)) for seed in seeds)


@dataclass(frozen=True)
class HostLoop:
    """A training with its players and rings, which it changes in place.

    `advance` may be given any earlier state again: it first restores the players from it, and then overwrites the ring
    steps that came after it.
    """

    training: HostTraining
    player: Player
    rings: tuple[PyTree[ndarray], ...]
    videos: Path

    def advance(self, state: TrainState) -> tuple[TrainState, dict[str, np.ndarray]]:
        """The state `log_period` agent steps later, and the metrics of that chunk: arrays [seeds] or [seeds, neurons].

        A metric without a value is masked, for example if no episode ended or no evaluation was due.
        """
        training, learned = self.training, int(state.gradient_steps[0])
        state, metrics = _Chunk(self, state).play()
        learns = int(state.gradient_steps[0]) > learned
        if not learns:
            metrics |= self.measure(state)
        due = training.schedule.evaluates(int(state.agent_steps[0]))
        absent = unmeasured(len(training.seeds))
        measured = on_host(metrics, learns)
        measured["eval_return"] = np.array([np.mean(each) for each in self.evaluate(state)]) if due else absent
        if training.rank_batch:
            measured["srank"] = np.asarray(self.ranks(state)) if due else absent
        return state, measured

    def measure(self, state: TrainState) -> dict[str, np.ndarray]:
        """Dormant fractions and neuron scores of a state, on stored states, or on random play if none are stored."""
        inputs = self._inputs(state, "measure", self.training.schedule.score_batch)
        metrics = _dormancy(_scores(self.training, params_of(state), inputs))
        return {name: np.asarray(value) for name, value in metrics.items()}

    def ranks(self, state: TrainState) -> Float[Array, " seeds"]:
        """The rank of the last layer's features, on stored states."""
        return _ranks(self.training, params_of(state), self._inputs(state, "rank", self.training.rank_batch))

    def evaluate(self, state: TrainState) -> list[ndarray]:
        """The returns of the evaluation episodes of each seed."""
        return self.training.evaluate(params_of(state), int(state.agent_steps[0]), self.videos)

    def _inputs(self, state: TrainState, purpose: str, number: int) -> ndarray:
        return self.training.measured_inputs(self.rings, int(state.agent_steps[0]), purpose, number)

    def save_due(self, done: int, saved: int) -> bool:
        """Whether a checkpoint is needed now, because the next chunk would overwrite steps that the last one needs."""
        return self.training.replay.save_due(done, saved, self.training.schedule.log_period)

    def flush(self) -> None:
        """Writes the rings to the disk. Every checkpoint needs this first."""
        flush(self.rings)


class _Chunk:
    """A chunk while it is played."""

    def __init__(self, loop: HostLoop, state: TrainState) -> None:
        self.training, self.player, self.rings, self.before = loop.training, loop.player, loop.rings, state
        self.schedule, self.replay = loop.training.schedule, loop.training.replay
        self.player.restore(state.env)
        # Copies, because each gradient step reuses the memory of the state that it changes.
        self.states = jax.tree.map(jnp.copy, lanes_of(self.training.learning, state))
        self.totals = np.array(state.episode_return)
        # An argument of compiled code and not a constant, which XLA could fold together with the network.
        self.blank = self.training.blank()
        self.gradient_steps = int(state.gradient_steps[0])
        self.experience: list[Experience] = []
        self.losses: list[Losses] = []

    def play(self) -> tuple[TrainState, dict[str, Array]]:
        """The state after all rounds, and the chunk's metrics."""
        starts = self.schedule.starts(int(self.before.agent_steps[0]))
        upcoming = self.training.draws(starts)
        draws, batch = next(upcoming), None
        for start in starts:
            last = start == starts[-1]
            self._round(start, draws, batch, last)
            if not last:
                draws = next(upcoming)
                batch = self._early_batch(start + starts.step, draws)
        return self._end()

    def _round(self, start: int, draws: RoundDraws, batch: PyTree, last: bool) -> None:
        """Agent steps, and gradient steps once the replay is filled."""
        training, size = self.training, self.schedule.agent_steps_per_round
        learns = start >= training.agent.min_replay
        for step in range(size):
            actions = self._actions(draws, step)
            if learns and not training.learns_from_round and step == size - 1:
                self._learn(start, draws, batch, last)
            self._agent_step(start + step, actions)
        if learns and training.learns_from_round:
            self._learn(start, draws, batch, last)

    def _actions(self, draws: RoundDraws, step: int) -> ndarray:
        """The actions of all seeds. Waits for the network only if some seed does not explore."""
        explores, action = draws.explores[step], draws.action[step]
        if explores.all():
            return action
        params = [state.agent.learner.params for state in self.states]
        return self.training.act(params, self.player.observations, explores, action)

    def _agent_step(self, added: int, actions: ndarray) -> None:
        seen, outcome = self.player.observations, self.player.step(actions)
        for ring, *columns in zip(self.rings, *self.training.columns(seen, actions, outcome), strict=True):
            self.replay.add(ring, added, *columns)
        total = self.totals + outcome.reward
        self.experience.append(Experience(outcome.restarted, total))  # pyright: ignore[reportArgumentType]
        self.totals = np.where(outcome.restarted, np.float32(0), total)

    def _learn(self, start: int, draws: RoundDraws, batch: PyTree, last: bool) -> None:
        """The gradient steps of a round, then its target network. Does not wait for the device."""
        training, schedule, added = self.training, self.schedule, self._drawn_from(start)
        updates = range(self.gradient_steps + 1, self.gradient_steps + 1 + schedule.gradient_steps_per_round)
        looks = last or any(may_change(training.intervention, step) for step in updates)
        inputs = training.inputs(self.rings, added, draws.score) if looks else self.blank
        batch = training.batch(self.rings, added, draws) if batch is None else batch
        self.states, losses = _learn(training, looks, self.states, np.int32(start), batch, inputs, np.bool_(last))
        after = start + schedule.agent_steps_per_round
        if training.agent.target_due(start, after):
            self.states = _synchronised(training, self.states, np.int32(start), np.int32(after))
        self.losses.append(losses)
        self.gradient_steps = updates[-1]

    def _drawn_from(self, start: int) -> int:
        """The number of steps in the ring that the gradient steps of a round draw from."""
        return start + self.schedule.agent_steps_per_round * self.training.learns_from_round

    def _early_batch(self, start: int, draws: RoundDraws) -> PyTree | None:
        """The batch of the next round, drawn while the device computes, unless it needs steps still to be played."""
        training, added = self.training, self._drawn_from(start)
        if start >= training.agent.min_replay and self.replay.drawn_before(added, draws.batch, start):
            return training.batch(self.rings, added, draws)
        return None

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
        losses = stacked(self.losses or [no_losses(training.agent.losses, (len(training.seeds),))], axis=0)
        experience = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], stacked(self.experience, axis=0))
        return state, scores | progress(state, experience, losses)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _learn(
    training: HostTraining,
    looks: bool,
    states: list[LearningState],
    start: Array,
    batch: PyTree,
    inputs: Array,
    last: Array,
) -> tuple[list[LearningState], Losses]:
    """The gradient steps of a round, compiled twice: with and without neuron scores.

    They are not in a scan, because in a scan XLA computes the gradients of convolutions 13 times as slowly on a CPU.
    """
    keys, batches = training.prepared(start, batch)
    losses = []
    for number in range(len(keys)):
        own, key, final = jax.tree.map(lambda x, n=number: x[n], batches), keys[number], number == len(keys) - 1
        if looks:
            states, loss = gradient_step(training.learning, states, ((own, inputs[number]), key, last & final))
        else:
            states, loss = unseen_step(training.learning, inputs, states, (own, key))
        losses.append(loss)
    return states, jax.tree.map(lambda *each: jnp.stack(each).mean(0), *losses)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _synchronised(
    training: HostTraining, states: list[LearningState], before: Array, after: Array
) -> list[LearningState]:
    return synchronised(training.learning.agent, states, before, after)


@partial(jax.jit, static_argnums=0)
def _scores(training: HostTraining, params: list[PyTree[Array]], inputs: Array) -> Scores:
    return lane_scores(training.learning.network.wiring, params, inputs)


@partial(jax.jit, static_argnums=0)
def _ranks(training: HostTraining, params: list[PyTree[Array]], inputs: Array) -> Float[Array, " seeds"]:
    return lane_ranks(training.learning.network.wiring, params, inputs)


_dormancy = jax.jit(dormancy)


def drawn(
    method: Callable[..., PyTree],
    rings: tuple[PyTree[ndarray], ...],
    added: int,
    uniform: Float[ndarray, "steps seeds draws"],
) -> PyTree:
    """What a replay's method draws from the ring of each seed, with axes gradient steps, seeds."""
    return stacked([method(ring, added, uniform[:, seed]) for seed, ring in enumerate(rings)], axis=1)


def stacked(trees: list[PyTree], axis: int) -> PyTree:
    """One tree of NumPy arrays with the given axis for these trees."""

    def stack(*leaves: Array | ndarray) -> ndarray:
        # A batch of frames is too large to be copied just to add an axis.
        return np.expand_dims(leaves[0], axis) if len(leaves) == 1 else np.stack(leaves, axis)

    return jax.tree.map(stack, *trees)
