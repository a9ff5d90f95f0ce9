"""The host loop: environments and replay run on the host, the networks on the device."""

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
from .envs import HostPlayed, Player
from .learning import (
    EVALUATED,
    REPRESENTED,
    AgentState,
    Experience,
    Learning,
    LearningState,
    Losses,
    Scores,
    TrainState,
    dormancy,
    gradient_step,
    lane_representations,
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
    """The random numbers of one round on the host.

    `action` holds the random actions of seeds that explore. For SAC, if the seeds do not explore, it holds the noise of
    their actions.
    """

    explores: Bool[ndarray, "agent_steps seeds"]
    action: Shaped[ndarray, "agent_steps seeds *action"]
    batch: Float[ndarray, "gradient_steps seeds batch"]
    score: Float[ndarray, "gradient_steps seeds states"]
    noise: PyTree = ()  # noise of the gradient steps; empty if the device draws it


@runtime_checkable
class HostTraining(Scheduled, Protocol):
    """A training that the host loop can run: `AtariTraining` or `ControlTraining`.

    If `learns_from_round` is true, the gradient steps of a round come after its agent steps and can sample these agent
    steps. If `learns_from_round` is false, the gradient steps sample only agent steps of earlier rounds. The device
    then computes the gradient steps while the host plays the round's last agent step.
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
    def prepared(self, start: Array, batch: PyTree) -> tuple[Array, PyTree]: ...  # called in compiled code
    def measured_inputs(self, rings: tuple[PyTree[ndarray], ...], added: int, purpose: str, number: int) -> ndarray: ...
    def evaluate(self, params: list[PyTree[Array]], agent_steps: int, videos: Path) -> HostPlayed: ...


def slack(capacity: int, log_period: int) -> int:
    """The number of extra steps that a ring stores: the smaller of 10,000 and its capacity, but at least one chunk."""
    return max(min(10_000, capacity), log_period)


class OnHost:
    """Base class of trainings for the host loop. `init` creates the first state, and `open` opens the loop."""

    def init(self: "HostTraining") -> TrainState:
        """The state before the first agent step."""
        agent, intervention = _fresh(self)
        zeros = jnp.zeros(len(self.seeds), jnp.int32)
        return TrainState(agent, intervention, self.players().save(), (), zeros.astype(jnp.float32), zeros, zeros)

    def agent_steps_done(self, state: TrainState) -> int:
        """The number of agent steps done so far. It is equal for all seeds."""
        return int(state.agent_steps[0])

    def refuse_without_room(self: "HostTraining", folder: Path) -> None:
        """Raises ValueError with the sizes if the rings do not fit into memory or on the disk."""
        refuse_without_room(self.replay, len(self.seeds), folder)

    def open(self: "HostTraining", folder: Path, state: TrainState, owner: int = 0) -> "HostLoop":
        """Opens the rings in a folder and returns the loop, which continues from `state`.

        Creates the rings if `state` is the state before the first agent step. `owner` is a number that identifies the
        run.

        Raises ValueError if the rings do not fit on this machine, are damaged, or belong to another run or state.
        Raises OSError if a file is missing or the disk is full.
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
    videos: Path

    def advance(self, state: TrainState) -> tuple[TrainState, dict[str, np.ndarray]]:
        """Runs `log_period` agent steps. Returns the new state and the metrics of these steps.

        A metric is an array of shape [seeds] or [seeds, neurons]. Values that were not measured are masked, for example
        the training return if no episode ended.
        """
        training, learned = self.training, int(state.gradient_steps[0])
        state, metrics = _Chunk(self, state).play()
        learns = int(state.gradient_steps[0]) > learned
        if not learns:
            metrics |= self.measure(state)
        due = training.schedule.evaluates(int(state.agent_steps[0]))
        absent = unmeasured(len(training.seeds))
        measured = on_host(metrics, learns)
        names = EVALUATED if isinstance(training.agent, DQN) else EVALUATED[:1]
        measured |= self.evaluate(state).metrics() if due else dict.fromkeys(names, absent)
        if training.rank_batch:
            representations = self.representations(state) if due else {}
            measured |= {name: np.asarray(representations[name]) if due else absent for name in REPRESENTED}
        return state, measured

    def measure(self, state: TrainState) -> dict[str, np.ndarray]:
        """Returns dormant fractions and neuron scores, measured on stored states or on states of random play."""
        inputs = self._inputs(state, "measure", self.training.schedule.score_batch)
        metrics = _dormancy(_scores(self.training, params_of(state), inputs))
        return {name: np.asarray(value) for name, value in metrics.items()}

    def representations(self, state: TrainState) -> dict[str, Float[Array, " seeds"]]:
        """Returns the metrics of `representation` for all seeds, measured on stored states."""
        return _represent(self.training, params_of(state), self._inputs(state, "rank", self.training.rank_batch))

    def evaluate(self, state: TrainState) -> HostPlayed:
        """Plays the evaluation episodes."""
        return self.training.evaluate(params_of(state), int(state.agent_steps[0]), self.videos)

    def _inputs(self, state: TrainState, purpose: str, number: int) -> ndarray:
        return self.training.measured_inputs(self.rings, int(state.agent_steps[0]), purpose, number)

    def save_due(self, done: int, saved: int) -> bool:
        """Whether a checkpoint is due. If so, the next chunk would overwrite steps that the last checkpoint needs."""
        return self.training.replay.save_due(done, saved, self.training.schedule.log_period)

    def flush(self) -> None:
        """Writes the rings to the disk. Must be called before each checkpoint."""
        flush(self.rings)


class _Chunk:
    """One chunk of a run, with the states and totals that change while `play` runs."""

    def __init__(self, loop: HostLoop, state: TrainState) -> None:
        self.training, self.player, self.rings, self.before = loop.training, loop.player, loop.rings, state
        self.schedule, self.replay = loop.training.schedule, loop.training.replay
        self.player.restore(state.env)
        # Copies the caller's state, because a gradient step reuses the memory of its input for its output.
        self.states = jax.tree.map(jnp.copy, lanes_of(self.training.learning, state))
        self.totals = np.array(state.episode_return)
        # Compiled code gets `blank` as an argument, because XLA could fold a constant into the network.
        self.blank = self.training.blank()
        self.gradient_steps = int(state.gradient_steps[0])
        self.experience: list[Experience] = []
        self.losses: list[Losses] = []

    def play(self) -> tuple[TrainState, dict[str, Array]]:
        """Plays all rounds of the chunk. Returns the new state and the metrics of the chunk."""
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
        """Takes the agent steps of a round. From agent step `min_replay` on, also takes its gradient steps."""
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
        """Starts a round's gradient steps, and a copy to the target network if one is due.

        Does not wait for the device.
        """
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
        """The number of agent steps added to the replay before the gradient steps of a round sample it."""
        return start + self.schedule.agent_steps_per_round * self.training.learns_from_round

    def _early_batch(self, start: int, draws: RoundDraws) -> PyTree | None:
        """Draws the batch of the next round while the device computes.

        Returns None if the batch needs steps of that round, or if that round does not learn.
        """
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
    """Takes the gradient steps of a round in one scan. JAX compiles it twice: with and without neuron scores."""
    keys, batches = training.prepared(start, batch)
    if looks:
        final = last & (jnp.arange(len(keys)) == len(keys) - 1)
        states, losses = jax.lax.scan(
            partial(gradient_step, training.learning), states, ((batches, inputs), keys, final)
        )
    else:
        states, losses = jax.lax.scan(partial(unseen_step, training.learning, inputs), states, (batches, keys))
    return states, jax.tree.map(lambda each: each.mean(0), losses)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _synchronised(
    training: HostTraining, states: list[LearningState], before: Array, after: Array
) -> list[LearningState]:
    return synchronised(training.learning.agent, states, before, after)


@partial(jax.jit, static_argnums=0)
def _scores(training: HostTraining, params: list[PyTree[Array]], inputs: Array) -> Scores:
    return lane_scores(training.learning.network.wiring, params, inputs)


@partial(jax.jit, static_argnums=0)
def _represent(training: HostTraining, params: list[PyTree[Array]], inputs: Array) -> dict[str, Float[Array, " seeds"]]:
    return lane_representations(training.learning.network.wiring, params, inputs)


_dormancy = jax.jit(dormancy)


def drawn(
    method: Callable[..., PyTree],
    rings: tuple[PyTree[ndarray], ...],
    added: int,
    uniform: Float[ndarray, "steps seeds draws"],
) -> PyTree:
    """Calls a replay's `method` on each seed's ring. The results have leading axes [gradient steps, seeds]."""
    return stacked([method(ring, added, uniform[:, seed]) for seed, ring in enumerate(rings)], axis=1)


def stacked(trees: list[PyTree], axis: int) -> PyTree:
    """Stacks trees along a new axis. Returns one tree of NumPy arrays."""

    def stack(*leaves: Array | ndarray) -> ndarray:
        # A single array gets the axis without a copy, because copying a batch of frames takes long.
        return np.expand_dims(leaves[0], axis) if len(leaves) == 1 else np.stack(leaves, axis)

    return jax.tree.map(stack, *trees)
