"""Gradient steps of several seeds, and the metrics of training.

In a gradient step, the agent updates its networks. Then the intervention runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from dormant.interventions import Intervention, recycled_counts
from dormant.scores import dormant_fraction
from dormant.surgery import Learner
from dormant.tracing import trace
from dormant.wiring import Network, Wiring

from .agents import dqn, sac
from .envs import Environment, play
from .envs.atari import Atari
from .networks import Params
from .replay.device import Replay
from .schedule import join_seeds, lanes, map_seeds, take_seed

TAUS = (0.0, 0.025, 0.1)
EVALUATED = ("eval_return", "q_gap")  # the metrics of an evaluation
Scores = dict[str, Float[Array, "*seeds neurons"]]
Losses = dqn.Losses | sac.Losses


@runtime_checkable
class AgentState(Protocol):
    """An agent's state: a named tuple of arrays, with the learner that interventions change."""

    @property
    def learner(self) -> Learner: ...


State = TypeVar("State", bound=AgentState)
Batch = TypeVar("Batch", contravariant=True)


@runtime_checkable
class Agent(Protocol[State, Batch]):
    """An agent that takes gradient steps."""

    def update(self, state: State, batch: Batch) -> tuple[State, Losses]: ...
    def intervened(self, state: State, learner: Learner) -> State: ...
    def synchronise(self, state: State, before: Array, after: Array) -> State: ...


def no_losses(losses: type[dqn.Losses] | type[sac.Losses], shape: tuple[int, ...]) -> Losses:
    """Losses of NaN, for a chunk without gradient steps."""
    return losses._make([np.full(shape, np.nan, np.float32)] * len(losses._fields))


class TrainState(NamedTuple):
    """The complete state of a run, as in a checkpoint. Arrays have a leading axis of seeds. Holds no random keys."""

    agent: AgentState
    intervention: PyTree[Array]
    env: PyTree
    replay: PyTree  # a `ReplayState`; empty if the ring is in files
    episode_return: Float[Array, "..."]
    agent_steps: Int[Array, "..."]
    gradient_steps: Int[Array, "..."]


class LearningState(NamedTuple):
    """The state that a gradient step changes: the agent, the intervention's state, and the latest scores."""

    agent: PyTree  # an `AgentState`
    intervention: PyTree[Array]
    scores: Scores


class Experience(NamedTuple):
    """For each agent step: whether the episode ended with this step, and the episode's return so far."""

    ended: Bool[Array, "..."]
    episode_return: Float[Array, "..."]


@dataclass(frozen=True)
class Learning(Generic[State, Batch]):
    """The parts of a gradient step: the agent, the intervention that runs after its update, and the agent's network."""

    agent: Agent[State, Batch]
    intervention: Intervention
    network: Network


def network_of(
    agent: dqn.DQN,
    env: Environment | Atari,
    states: int,
    dtype: np.dtype | type[np.uint8] = np.uint8,
    replay: Replay | None = None,
) -> Network:
    """Traces the network of a DQN on `states` states. Returns it with the wiring that interventions need.

    The network's inputs are observations. With `replay`, they are packed observations, as the ring stores them.
    """

    def init(key: Key[Array, ""]) -> Params:
        return agent.network.init(key, env.observation_shape, env.actions)

    def apply(params: Params, seen: Array) -> Array:
        return agent.network.apply(params, replay.unpack(seen) if replay else seen)

    with jax.ensure_compile_time_eval():
        empty = jnp.zeros((states, *env.observation_shape), dtype)
        wiring = trace(apply, init(jax.random.key(0)), replay.pack(empty) if replay else empty)
    return Network(wiring, init, agent.optimizer())


def lanes_of(learning: Learning[State, Batch], state: TrainState) -> list[LearningState]:
    """The learning state of each lane (a group of seeds, see `schedule.py`). All scores are zero."""
    count = len(state.agent_steps)
    scores = {layer.name: jnp.zeros((count, layer.width)) for layer in learning.network.wiring.layers}
    return [LearningState(*take_seed((state.agent, state.intervention, scores), lane)) for lane in range(lanes(count))]


def params_of(state: TrainState) -> list[PyTree[Array]]:
    """The parameters of each lane (a group of seeds)."""
    return [take_seed(state.agent.learner.params, lane) for lane in range(lanes(len(state.agent_steps)))]


def gradient_step(
    learning: Learning[State, Batch], states: list[LearningState], xs: tuple[tuple[Batch, Array], Array, Array]
) -> tuple[list[LearningState], Losses]:
    """Takes one gradient step in each lane, then runs the intervention.

    `xs` has three entries: a pair of the batch and the inputs on which neurons are scored, the intervention's key, and
    whether to measure scores.
    """
    drawn, keys, measure = xs
    return _each_lane(partial(_step, learning, measure), states, (drawn, keys))


def unseen_step(
    learning: Learning[State, Batch], blank: Array, states: list[LearningState], xs: tuple[Batch, Array]
) -> tuple[list[LearningState], Losses]:
    """Takes one gradient step in each lane, when no intervention is due.

    The intervention gets `blank` as inputs, because it scores no neurons.
    """
    return _each_lane(partial(_unseen_step, learning, blank), states, xs)


def _each_lane(
    step: Callable[..., tuple[LearningState, Losses]], states: list[LearningState], xs: PyTree
) -> tuple[list[LearningState], Losses]:
    learn = map_seeds(step)
    pairs = [learn(state, *take_seed(xs, lane)) for lane, state in enumerate(states)]
    return [state for state, _ in pairs], join_seeds([losses for _, losses in pairs])


def _step(
    learning: Learning[State, Batch],
    measure: Bool[Array, ""],
    state: LearningState,
    drawn: tuple[Batch, Array],
    key: Array,
) -> tuple[LearningState, Losses]:
    """Takes one gradient step of one seed, then runs the intervention."""
    batch, inputs = drawn
    agent, losses = learning.agent.update(state.agent, batch)
    # Measures scores after the update and before the intervention, as in the paper.
    params, network = agent.learner.params, learning.network
    scores = jax.lax.cond(measure, lambda: network.wiring.scores(params, inputs), lambda: state.scores)
    learner, inner = learning.intervention.update(key, agent.learner, state.intervention, network, inputs)
    return LearningState(learning.agent.intervened(agent, learner), inner, scores), losses


def _unseen_step(
    learning: Learning[State, Batch], blank: Array, state: LearningState, batch: Batch, key: Array
) -> tuple[LearningState, Losses]:
    """Takes a gradient step at which no intervention is due. Only the intervention's state is updated.

    The learner that the intervention returns is discarded, because it has not changed. Keeping it would copy the
    learner at every step.
    """
    agent, losses = learning.agent.update(state.agent, batch)
    _, inner = learning.intervention.update(key, agent.learner, state.intervention, learning.network, blank)
    return LearningState(agent, inner, state.scores), losses


def synchronised(
    agent: Agent[State, Batch], states: list[LearningState], before: Array, after: Array
) -> list[LearningState]:
    """Returns the states. Updates their target networks if this is due between `before` and `after` agent steps."""
    synchronise = map_seeds(partial(agent.synchronise, before=before, after=after))
    return [state._replace(agent=synchronise(state.agent)) for state in states]


def lane_scores(wiring: Wiring, params: list[PyTree[Array]], inputs: Array) -> Scores:
    """The neuron scores of all seeds. `params` has one entry per lane. `inputs` has a leading axis of seeds."""
    scores = map_seeds(wiring.scores)
    return join_seeds([scores(own, take_seed(inputs, lane)) for lane, own in enumerate(params)])


@jax.vmap
def dormancy(scores: Scores) -> dict[str, Array]:
    """Returns the dormant fraction of each layer, of each network and of all neurons. Also returns the scores.

    If there are several networks, a layer's name begins with the name of its network and a slash.
    """
    metrics = {f"scores/{name}": values for name, values in scores.items()}
    networks = sorted({name.partition("/")[0] for name in scores if "/" in name})
    for tau in TAUS:
        metrics |= {f"dormant/{tau:g}/{name}": dormant_fraction({name: each}, tau) for name, each in scores.items()}
        metrics[f"dormant/{tau:g}/all"] = dormant_fraction(scores, tau)
        for network in networks:
            own = {name: each for name, each in scores.items() if name.startswith(f"{network}/")}
            metrics[f"dormant/{tau:g}/{network}/all"] = dormant_fraction(own, tau)
    return metrics


def evaluated(
    agent: dqn.DQN, env: Environment, params: Params, key: Key[Array, ""], episodes: int, epsilon: float
) -> dict[str, Float[Array, ""]]:
    """Plays evaluation episodes of one seed on the device.

    `eval_return` is the mean return of the episodes. `q_gap` is Q minus the discounted return that followed, averaged
    over all visited states. It measures how far the network overestimates the returns of its policy.
    """

    def policy(observation: Array, uniform: Array) -> tuple[Array, Array]:
        return agent.act_with_value(params, observation, jnp.float32(epsilon), uniform)

    returns, gap = play(env, policy, key, episodes, agent.objective)
    return {"eval_return": returns.mean(), "q_gap": gap.total.sum() / jnp.maximum(gap.states.sum(), 1.0)}


def unmeasured(seeds: int) -> np.ma.MaskedArray:
    """A masked array, for a metric that was not measured. It is not NaN, because NaN means that a network diverged."""
    return np.ma.masked_all(seeds)


def on_host(metrics: Mapping[str, Array | np.ndarray], learned: bool) -> dict[str, np.ndarray]:
    """Converts the metrics of a chunk to NumPy arrays. Masks the values that were not measured.

    These are the losses of a chunk without gradient steps, and the return of a seed for which no episode ended.
    """
    found = {name: np.asarray(value) for name, value in metrics.items()}
    if not learned:
        losses = {*dqn.Losses._fields, *sac.Losses._fields} & found.keys()
        found |= {name: unmeasured(len(found[name])) for name in losses}
    found["train_return"] = np.ma.masked_where(found["train_episodes"] == 0, found["train_return"])
    return found


def progress(state: TrainState, experience: Experience, losses: Losses) -> dict[str, Array]:
    """Computes the metrics of a chunk per seed: counters, mean losses, and the mean return of ended episodes."""
    ended = experience.ended.sum((0, 1))
    returned = jnp.where(experience.ended, experience.episode_return, 0.0).sum((0, 1))
    counts = jax.vmap(recycled_counts, axis_size=len(state.agent_steps))(state.intervention)
    return {
        "agent_steps": state.agent_steps,
        "gradient_steps": state.gradient_steps,
        **{name: value.mean(0) for name, value in losses._asdict().items()},
        "train_return": jnp.where(ended > 0, returned / jnp.maximum(ended, 1).astype(jnp.float32), jnp.nan),
        "train_episodes": ended,
        **{f"recycled/{name}": count for name, count in counts.items()},
    }
