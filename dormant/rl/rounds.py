"""The compiled part of the device loop: chunks of rounds, each some agent steps and then some gradient steps."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dormant.interventions import recycled_counts
from dormant.metrics import srank
from dormant.scores import dormant_fraction

from .agents import dqn, sac
from .envs.episode import EnvState, step_or_restart
from .replay import Batch, ReplayState
from .seeds import join_seeds, lanes, map_seeds, over_devices, take_seed

TAUS = (0.0, 0.025, 0.1)
AgentState = dqn.DQNState | sac.SACState
Losses = dqn.Losses | sac.Losses
Scores = dict[str, Float[Array, "*seeds neurons"]]
DeviceTraining = Any  # the class of that name, or HostTraining; their modules import this one


class TrainState(NamedTuple):
    """Everything that a run goes on from, with a leading axis of seeds: plain arrays, and no random keys."""

    agent: AgentState
    intervention: Any
    env: EnvState
    replay: Any  # a ReplayState, or nothing where the ring lies in files
    episode_return: Float[Array, "..."]
    agent_steps: Int[Array, "..."]
    gradient_steps: Int[Array, "..."]


class Mind(NamedTuple):
    """What a seed learns with, and the neuron scores measured last."""

    agent: AgentState
    intervention: Any
    scores: Scores


class World(NamedTuple):
    """What the seeds act in and remember."""

    env: EnvState
    replay: ReplayState
    episode_return: Float[Array, " seeds"]


class Draws(NamedTuple):
    """All that is random in one round, drawn for a whole chunk at once: inside the scan it would cost much more."""

    act: Float[Array, "... agent_steps 2"]
    env: Key[Array, "... agent_steps"]
    batch: Float[Array, "... gradient_steps batch"]
    score: Float[Array, "... gradient_steps states"]
    intervention: Key[Array, "... gradient_steps"]
    noise: Any  # of the agent's augmentation, with axes gradient steps, batch


class Experience(NamedTuple):
    """Of each agent step, whether an episode ended with it and that episode's return."""

    ended: Bool[Array, "..."]
    episode_return: Float[Array, "..."]


@partial(jax.jit, static_argnums=(0, 3))
def chunk(
    training: DeviceTraining, seeds: Int[Array, " seeds"], state: TrainState, warm_rounds: int
) -> tuple[TrainState, dict[str, Array]]:
    """A chunk whose first rounds only fill the replay. The seeds are these, whatever the training's own are."""
    return over_seeds(seeds, partial(_chunk, training, warm_rounds))(state)


def over_seeds(seeds: Int[Array, " seeds"], function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of seeds, with an axis of them, and of a state as one of these seeds and their state."""
    return partial(over_devices(function, len(seeds)), seeds)


def _chunk(
    training: DeviceTraining, warm_rounds: int, seeds: Array, state: TrainState
) -> tuple[TrainState, dict[str, Array]]:
    """Two scans, since a `cond` would copy the ring at every step."""
    size = training.agent_steps_per_round
    rounds = training.log_period // size
    starts = state.agent_steps[0] + size * jnp.arange(rounds)
    warm, learning = _parts((starts, draws_of(training, seeds, starts)), warm_rounds)

    minds, world = minds_of(training, state), _world(state)
    world, experience = jax.lax.scan(partial(_collect, training, minds), world, warm)
    metrics, losses = {}, dqn.Losses(*[jnp.full((1, len(seeds)), jnp.nan)] * 2)
    if warm_rounds < rounds:
        body = partial(_round, training, starts[-1])
        (world, minds), (more, losses) = jax.lax.scan(body, (world, minds), learning)
        experience = jax.tree.map(lambda *both: jnp.concatenate(both), experience, more)
        metrics = dormancy(join_seeds([mind.scores for mind in minds]))
    state = TrainState(
        join_seeds([mind.agent for mind in minds]),
        join_seeds([mind.intervention for mind in minds]),
        world.env,
        world.replay,
        world.episode_return,
        state.agent_steps + training.log_period,
        state.gradient_steps + (rounds - warm_rounds) * training.gradient_steps_per_round,
    )
    return state, metrics | progress(state, experience, losses)


def draws_of(training: DeviceTraining, seeds: Array, starts: Array) -> Draws:
    """Draws with axes rounds, steps of a round, seeds."""

    def of_seed(seed: Array, start: Array) -> Draws:
        return draw(training, key_for(seed, "round", start))

    of_round = jax.vmap(of_seed, in_axes=(0, None), out_axes=1)
    return jax.vmap(of_round, in_axes=(None, 0))(seeds, starts)


def _parts(tree: Any, first: int) -> tuple[Any, Any]:
    return jax.tree.map(lambda x: x[:first], tree), jax.tree.map(lambda x: x[first:], tree)


def minds_of(training: DeviceTraining, state: TrainState) -> list[Mind]:
    """What each lane learns with, without scores yet."""
    count = len(state.agent_steps)
    scores = {layer.name: jnp.zeros((count, layer.width)) for layer in training.network.wiring.layers}
    return [Mind(*take_seed((state.agent, state.intervention, scores), lane)) for lane in range(lanes(count))]


def params_of(training: DeviceTraining, state: TrainState) -> list[Any]:
    """The parameters of each lane."""
    return [take_seed(state.agent.learner.params, lane) for lane in range(lanes(len(training.seeds)))]


@partial(jax.jit, static_argnums=0)
def scores_of(training: DeviceTraining, params: list[Any], states: Array) -> Scores:
    """The neuron scores of lanes on states of each seed, outside of any round."""
    scores = map_seeds(training.network.wiring.scores)
    return join_seeds([scores(own, take_seed(states, lane)) for lane, own in enumerate(params)])


def feature_rank(training: DeviceTraining, params: Any, states: Array) -> Float[Array, ""]:
    """The srank of one seed's last neuron layer on its states, one row of activations for each of them.

    Source: the paper's table 7, whose definition we take to be that of Kumar et al. 2021.
    """
    wiring = training.network.wiring
    features = wiring.activations(params, states)[wiring.layers[-1].name]
    return srank(features.reshape(len(features), -1))


@partial(jax.jit, static_argnums=0)
def ranks_of(training: DeviceTraining, params: list[Any], states: Array) -> Float[Array, " seeds"]:
    """The feature ranks of lanes on states of each seed, outside of any round."""
    rank = map_seeds(partial(feature_rank, training))
    return join_seeds([rank(own, take_seed(states, lane)) for lane, own in enumerate(params)])


def _world(state: TrainState) -> World:
    return World(state.env, state.replay, state.episode_return)


def _collect(
    training: DeviceTraining, minds: list[Mind], world: World, xs: tuple[Array, Draws]
) -> tuple[World, Experience]:
    """The round's agent steps."""
    start, draws = xs
    agent_steps = start + jnp.arange(training.agent_steps_per_round)
    params = [mind.agent.learner.params for mind in minds]
    return jax.lax.scan(partial(_agent_step, training, params), world, (agent_steps, draws.act, draws.env))


def _agent_step(
    training: DeviceTraining, params: list[Any], world: World, xs: tuple[Array, Array, Array]
) -> tuple[World, Experience]:
    agent, env = training.agent, training.env
    agent_steps, uniform, key = xs
    observation = jax.vmap(env.observe)(world.env)
    act = map_seeds(partial(agent.act, epsilon=agent.epsilon(agent_steps)))
    seen = [take_seed((observation, uniform), lane) for lane in range(len(params))]
    action = join_seeds([act(own, observation=o, uniform=u) for own, (o, u) in zip(params, seen, strict=True)])
    env_state, outcome = jax.vmap(partial(step_or_restart, env))(key, world.env, action)
    ended = outcome.terminal | outcome.truncated
    reward = jnp.clip(outcome.reward, -1.0, 1.0) if agent.clip_rewards else outcome.reward
    discount = jnp.where(outcome.terminal, 0.0, agent.gamma)
    ring = training.replay.add(
        world.replay, agent_steps, observation, action, reward, discount, ended, outcome.observation
    )
    total = world.episode_return + outcome.reward
    return World(env_state, ring, jnp.where(ended, 0.0, total)), Experience(ended, total)


def _round(
    training: DeviceTraining, final: Array, carry: tuple[World, list[Mind]], xs: tuple[Array, Draws]
) -> tuple[Any, tuple[Experience, Losses]]:
    """Agent steps, then gradient steps, then the target network."""
    (world, minds), (start, draws) = carry, xs
    world, experience = _collect(training, minds, world, xs)
    added = start + training.agent_steps_per_round
    # Everything is drawn from the ring before the inner scan, which then need not carry it.
    drawn = _from_replay(training, world.replay, added, draws)
    last = (start == final) & (jnp.arange(training.gradient_steps_per_round) == training.gradient_steps_per_round - 1)
    minds, losses = jax.lax.scan(partial(gradient_step, training), minds, (drawn, draws.intervention, last))
    synchronise = map_seeds(partial(training.agent.synchronise, before=start, after=added))
    minds = [mind._replace(agent=synchronise(mind.agent)) for mind in minds]
    return (world, minds), (experience, jax.tree.map(lambda x: x.mean(0), losses))


def _from_replay(training: DeviceTraining, ring: ReplayState, added: Array, draws: Draws) -> tuple[Batch, Array]:
    """Training batches and score states, with axes gradient steps, seeds."""
    replay = training.replay

    def drawn(function: Any, uniform: Array) -> Any:
        seeds = jax.vmap(function, in_axes=(0, None, 0))
        return jax.vmap(seeds, in_axes=(None, None, 0))(ring, added, uniform)

    batch = drawn(replay.sample, draws.batch)
    return batch._replace(noise=draws.noise), drawn(replay.states, draws.score)


def gradient_step(
    training: DeviceTraining, minds: list[Mind], xs: tuple[tuple[Batch | sac.Steps, Array], Array, Array]
) -> tuple[list[Mind], Losses]:
    """One gradient step of each lane, then its intervention."""
    drawn, keys, last = xs
    learn = map_seeds(partial(_learn, training, last))
    pairs = [learn(mind, *take_seed((drawn, keys), lane)) for lane, mind in enumerate(minds)]
    return [mind for mind, _ in pairs], join_seeds([losses for _, losses in pairs])


def _learn(
    training: DeviceTraining, last: Array, mind: Mind, drawn: tuple[Batch | sac.Steps, Array], key: Array
) -> tuple[Mind, Losses]:
    """One gradient step of one seed, then its intervention."""
    batch, states = drawn
    agent, losses = training.agent.update(mind.agent, batch)
    # Measured after the update and before an intervention, as the paper logs it.
    params, network = agent.learner.params, training.network
    scores = jax.lax.cond(last, lambda: network.wiring.scores(params, states), lambda: mind.scores)
    learner, inner = training.intervention.update(key, agent.learner, mind.intervention, network, states)
    return Mind(training.agent.intervened(agent, learner), inner, scores), losses


@jax.vmap
def dormancy(scores: Scores) -> dict[str, Array]:
    """Dormant fractions, each layer's and pooled over all neurons, and the scores themselves."""
    metrics = {f"scores/{name}": values for name, values in scores.items()}
    for tau in TAUS:
        metrics |= {f"dormant/{tau:g}/{name}": dormant_fraction({name: each}, tau) for name, each in scores.items()}
        metrics[f"dormant/{tau:g}/all"] = dormant_fraction(scores, tau)
    return metrics


def progress(state: TrainState, experience: Experience, losses: Losses) -> dict[str, Array]:
    """Counters, and averages over the chunk's rounds and their steps, the axes before that of the seeds."""
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


PURPOSES = ("init", "reset", "round", "measure", "evaluate", "rank")


def key_for(seed: Array, purpose: str, number: Array | int = 0) -> Array:
    """A key that depends on nothing but its arguments, so a state holds none, and no use of one disturbs another."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), PURPOSES.index(purpose)), number)


def draw(training: DeviceTraining, key: Array) -> Draws:
    """What one round of one seed draws."""
    acts, updates = training.agent_steps_per_round, training.gradient_steps_per_round
    act, env, batch, score, intervention = jax.random.split(key, 5)
    return Draws(
        jax.random.uniform(act, (acts, 2)),
        jax.random.split(env, acts),
        jax.random.uniform(batch, (updates, training.agent.batch_size)),
        jax.random.uniform(score, (updates, training.score_batch)),
        jax.random.split(intervention, updates),
        # A key beside the five, whose numbers stay what they were without augmentation.
        training.agent.augmentation.draw(jax.random.fold_in(key, 5), updates, training.agent.batch_size),
    )
