"""Brings observations and batches to the device: from the host, or from a copy of the replay's frames on the device."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PyTree, Shaped, UInt8
from numpy import ndarray

from dormant.interventions import Intervention

from .agents.dqn import DQN
from .agents.sac import SAC
from .envs import HostPlayed, Player, side_by_side
from .learning import AgentState, Learning, LearningState, Losses, gradient_step, unseen_step
from .replay.frames import FrameReplay, FrameRing
from .replay.packets import Frames, Packets
from .replay.steps import StepReplay
from .schedule import Schedule, Scheduled

# A compiled function. Its arguments are the parameters of all lanes, the observations, and the random actions (for SAC,
# the noise). It returns the actions and, for DQN, the Q values of the greedy actions.
HostPolicy = Callable[..., tuple[Array, Array | None]]


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

    If `learns_from_round` is true, the gradient steps of a round can sample the agent steps of the same round. If it is
    false, they sample only the agent steps of earlier rounds.
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
    @property
    def policy(self) -> HostPolicy: ...
    def fresh_agent(self, key: Key[Array, ""]) -> AgentState: ...
    def players(self, stream: int = 0) -> Player: ...
    def feed(self, rings: tuple[PyTree[ndarray], ...], added: int) -> "Feed": ...
    def blank(self) -> Array: ...  # inputs for steps at which no neuron is scored
    def draws(self, starts: range) -> Iterator[RoundDraws]: ...
    def columns(self, seen: ndarray, actions: ndarray, outcome: Any) -> Sequence[ndarray]: ...  # what a ring stores
    def batch(self, rings: tuple[PyTree[ndarray], ...], added: int, draws: RoundDraws) -> PyTree: ...
    def inputs(self, rings: tuple[PyTree[ndarray], ...], added: int, uniform: ndarray) -> ndarray: ...
    def prepared(self, start: Array, batch: PyTree) -> tuple[Array, PyTree]: ...  # called in compiled code
    def measured_inputs(self, rings: tuple[PyTree[ndarray], ...], added: int, purpose: str, number: int) -> ndarray: ...
    def evaluate(self, params: list[PyTree[Array]], agent_steps: int, videos: Path) -> HostPlayed: ...


class Sample(NamedTuple):
    """The data that the gradient steps of one round need from the replay.

    The round begins at agent step `start`. `last` is true for the last round before a log point. `looks` is true if a
    gradient step may score neurons. `inputs` are the observations on which neurons are scored, or None if `looks` is
    false.
    """

    start: int
    looks: bool
    last: bool
    batch: PyTree
    inputs: PyTree | None


@runtime_checkable
class Feed(Protocol):
    """Gives observations and batches to the compiled functions.

    `draw` returns the fields `batch` and `inputs` of a `Sample`. `act` returns the policy's actions. `learn` takes the
    gradient steps of a round. `act` and `learn` start a computation and do not wait for it. In each round, all calls of
    `act` come before the call of `learn`. `added` is the number of agent steps in the rings. `seen` holds the
    newest observation of each seed.
    """

    def draw(self, added: int, draws: RoundDraws, looks: bool) -> tuple[PyTree, PyTree | None]: ...
    def act(
        self, params: list[PyTree[Array]] | None, added: int, seen: ndarray, action: ndarray, sample: Sample | None
    ) -> Array | None: ...  # None without parameters
    def learn(
        self, states: list[LearningState], added: int, seen: ndarray, sample: Sample
    ) -> tuple[list[LearningState], Losses]: ...


class HostFeed:
    """Gathers observations and batches on the host, and sends them to the device."""

    def __init__(self, training: HostTraining, rings: tuple[PyTree[ndarray], ...]) -> None:
        self._training, self._rings, self._blank = training, rings, training.blank()

    def draw(self, added: int, draws: RoundDraws, looks: bool) -> tuple[PyTree, PyTree | None]:
        """Returns a round's batches, and the inputs on which neurons are scored (None if `looks` is false)."""
        inputs = self._training.inputs(self._rings, added, draws.score) if looks else None
        return self._training.batch(self._rings, added, draws), inputs

    def act(
        self, params: list[PyTree[Array]] | None, added: int, seen: ndarray, action: ndarray, sample: Sample | None
    ) -> Array | None:
        """Returns the policy's actions, or None if `params` is None."""
        return None if params is None else self._training.policy(params, seen, action)[0]

    def learn(
        self, states: list[LearningState], added: int, seen: ndarray, sample: Sample
    ) -> tuple[list[LearningState], Losses]:
        """Returns the states after a round's gradient steps, and the mean losses."""
        # Passes the blank inputs as an argument, because XLA could fold a constant into the network.
        inputs = self._blank if sample.inputs is None else sample.inputs
        start, last = np.int32(sample.start), np.bool_(sample.last)
        return _learn_jitted(self._training, sample.looks, states, sample.batch, inputs, start, last)


class DeviceFeed:
    """Keeps a copy of the rings' frames on the device, and sends one packet per agent step to the device.

    An agent step has two compiled calls. The first call writes the newest frame and computes the greedy action. The
    second call gathers the batches and learns. With two calls, the action is ready before the learning ends, so that
    the emulator runs at the same time as the learning. The packet holds the data for both calls.
    """

    def __init__(self, training: HostTraining, packets: Packets, rings: tuple[FrameRing, ...], added: int) -> None:
        self._training, self._packets, self._rings, self._blank = training, packets, rings, training.blank()
        self._frames = tuple(packets.upload(ring, added) for ring in rings)
        self._sent: Sample | None = None  # the sample that the last packet holds
        self._packet = jnp.zeros((len(rings), packets.bytes), jnp.uint8)

    def draw(self, added: int, draws: RoundDraws, looks: bool) -> tuple[PyTree, PyTree | None]:
        """Returns a round's batches, and the inputs on which neurons are scored. Both are lists with an entry per seed.

        The entries hold the positions of frames in the ring instead of frames. If `looks` is false, inputs are None.
        """
        replay, each = self._packets.replay, list(enumerate(self._rings))
        batch = [replay.draw(ring, added, draws.batch[:, seed]) for seed, ring in each]
        return batch, [replay.draw_states(ring, added, draws.score[:, seed]) for seed, ring in each] if looks else None

    def act(
        self, params: list[PyTree[Array]] | None, added: int, seen: ndarray, action: ndarray, sample: Sample | None
    ) -> Array | None:
        """Sends a packet. Returns the policy's actions, or None if `params` is None."""
        self._send(added, seen, sample)
        if params is None:
            self._frames = _write_jitted(self._packets, self._frames, self._packet)
            return None
        self._frames, policy = _act_jitted(self._training, self._packets, self._frames, params, self._packet)
        return policy

    def learn(
        self, states: list[LearningState], added: int, seen: ndarray, sample: Sample
    ) -> tuple[list[LearningState], Losses]:
        """Returns the states after a round's gradient steps, and the mean losses."""
        if self._sent is not sample:  # the sample has steps of this round, so it was drawn after `act` sent its packet
            self._send(added, seen, sample)
            self._frames = _write_jitted(self._packets, self._frames, self._packet)
        training, packets = self._training, self._packets
        return _learn_frames_jitted(training, packets, sample.looks, states, self._frames, self._packet, self._blank)

    def _send(self, added: int, seen: ndarray, sample: Sample | None) -> None:
        """Sends a packet with the newest frames. After a truncation, first writes the ended episode's last frame."""
        replay, newest = self._packets.replay, seen[..., -1]
        stacks = [replay.newest(ring, added) for ring in self._rings]
        ended = [replay.truncated(ring, added) for ring in self._rings]
        if any(ended):
            last, places = newest.copy(), list(stacks)
            for seed in np.flatnonzero(ended):
                place = (stacks[seed].place - np.int32(1)) % np.int32(replay.places)
                last[seed], places[seed] = self._rings[seed].frames[place], stacks[seed]._replace(place=place)
            self._frames = _write_jitted(self._packets, self._frames, self._put(self._packets.packed(last, places)))
        if sample is None:
            packets = self._packets.packed(newest, stacks)
        else:
            packets = self._packets.packed(newest, stacks, sample.batch, sample.inputs or ())
            packets["start"], packets["last"] = sample.start, sample.last
        self._packet, self._sent = self._put(packets), sample

    def _put(self, packets: ndarray) -> Array:
        return jax.device_put(packets.view(np.uint8).reshape(len(self._rings), -1))


def _written(packets: Packets, frames: tuple[Frames, ...], packet: UInt8[Array, "seeds bytes"]) -> tuple[Frames, ...]:
    return tuple(packets.write(own, packets.opened(each)) for own, each in zip(frames, packet, strict=True))


def _act_on_frames(
    training: HostTraining,
    packets: Packets,
    frames: tuple[Frames, ...],
    params: list[PyTree[Array]],
    packet: UInt8[Array, "seeds bytes"],
) -> tuple[tuple[Frames, ...], Array]:
    frames = _written(packets, frames, packet)
    seen = [packets.observations(own, packets.opened(each), "newest") for own, each in zip(frames, packet, strict=True)]
    # The barrier keeps XLA from fusing the gathering of frames into the network. Fusion could change the rounding.
    return frames, training.policy(params, jax.lax.optimization_barrier(jnp.stack(seen)), None)[0]


def _learn_from_frames(
    training: HostTraining,
    packets: Packets,
    looks: bool,
    states: list[LearningState],
    frames: tuple[Frames, ...],
    packet: UInt8[Array, "seeds bytes"],
    blank: Array,
) -> tuple[list[LearningState], Losses]:
    """Gathers the frames of a round's batches. Then takes the gradient steps of the round on these batches."""
    fields = [packets.opened(each) for each in packet]
    pairs = list(zip(frames, fields, strict=True))
    batches = [packets.batch(own, each) for own, each in pairs]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *batches)
    inputs = [packets.observations(own, each, "states") for own, each in pairs] if looks else []
    inputs = jnp.stack(inputs, axis=1) if looks else blank
    batch, inputs = jax.lax.optimization_barrier((batch, inputs))
    return _learn(training, looks, states, batch, inputs, fields[0]["start"], fields[0]["last"] != 0)


def _learn(
    training: HostTraining,
    looks: bool,
    states: list[LearningState],
    batch: PyTree,
    inputs: Array,
    start: Array,
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


# Equal trainings share compiled code, so a run that is opened again in the same process does not compile again.
_write_jitted = jax.jit(_written, static_argnums=0, donate_argnums=1)
_act_jitted = jax.jit(_act_on_frames, static_argnums=(0, 1), donate_argnums=2)
_learn_jitted = jax.jit(_learn, static_argnums=(0, 1), donate_argnums=2)
_learn_frames_jitted = jax.jit(_learn_from_frames, static_argnums=(0, 1, 2), donate_argnums=3)


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
    return jax.tree.map(lambda *leaves: side_by_side(leaves, axis), *trees)
