"""The device loop: act, store, learn and intervene in one compiled scan, for several seeds at once."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, PyTree

from dormant.interventions import Chain, Intervention
from dormant.settings import added
from dormant.wiring import Network

from .agents.dqn import DQN, DQNState, Losses
from .condition import REPRESENTED, TRIED, condition, representation, trial
from .envs import Environment, EnvState, step_or_restart
from .envs.minatar import MinAtar
from .learning import (
    EVALUATED,
    Experience,
    Learning,
    LearningState,
    Scores,
    TrainState,
    dormancy,
    evaluated,
    gradient_step,
    lanes_of,
    network_of,
    no_losses,
    on_host,
    progress,
    synchronised,
    unmeasured,
)
from .networks import Params
from .replay.device import Batch, Replay, ReplayState
from .schedule import (
    Draws,
    Phase,
    Schedule,
    check_evaluation,
    draws_of,
    in_turn,
    join_seeds,
    key_for,
    map_seeds,
    over_seeds,
    schedule_of,
    share_out,
    take_seed,
)


@dataclass(frozen=True)
class DeviceTraining:
    """A training of DQN with the device loop. On one machine, equal fields give bit-identical results.

    `Schedule` explains the fields that count steps. One call of `advance` runs a chunk of `log_period` agent steps.
    The size of the chunks does not change the results of learning. Each row has the metrics of `condition`. An
    evaluation plays `eval_episodes` episodes. It also measures `representation` and `trial` on `rank_batch` states. A
    `rank_batch` of 0 disables these measurements. `phase` is set by trainings that play environments in turn.

    Raises ValueError for settings that `Schedule` rejects, or if an `eval_` setting or `rank_batch` is out of range.
    """

    agent: DQN = field(default_factory=DQN)
    env: Environment = field(default_factory=MinAtar)
    intervention: Intervention = field(default_factory=Chain)
    replay_ratio: float = 1.0
    agent_steps: int = 200_000
    log_period: int = 2_000
    seeds: tuple[int, ...] = (0, 1, 2)
    score_batch: int = 64
    eval_episodes: int = 10
    eval_period: int = 20_000
    eval_epsilon: float = 0.001
    rank_batch: int = 0
    phase: Phase | None = added(None)  # noqa: RUF009 (a default)

    def __post_init__(self) -> None:
        schedule_of(self, eval_episodes=self.eval_episodes)
        check_evaluation(self.eval_epsilon, self.rank_batch)

    @cached_property
    def schedule(self) -> Schedule:
        """The schedule of the run. It sets when the run acts, learns, logs and evaluates."""
        return schedule_of(self)

    @cached_property
    def replay(self) -> Replay:
        """The settings of each seed's replay ring."""
        begins = 0 if self.phase is None or self.phase.keeps_replay else self.phase.begins
        return Replay(
            *(self.agent.replay_capacity, self.env.observation_shape, self.env.observation_dtype),
            *(self.agent.n_step, begins),
        )

    @property
    def learns_from(self) -> int:
        """The agent step at which learning starts."""
        return self.agent.min_replay + (self.phase.begins if self.phase else 0)

    @cached_property
    def learning(self) -> Learning[DQNState, Batch]:
        """The agent, the intervention and the network that a gradient step uses."""
        return Learning(self.agent, self.intervention, self.network)

    @cached_property
    def network(self) -> Network:
        """The agent's network, with the wiring that interventions need. Its inputs are packed as in the ring."""

        return network_of(self.agent, self.env, self.score_batch, self.env.observation_dtype, self.replay)

    @cached_property
    def program(self) -> tuple["DeviceTraining", Int[Array, " seeds"]]:
        """The training with seeds 0 to n - 1, and an array of the n actual seeds.

        Code is compiled for the training with seeds 0 to n - 1. Thus trainings that differ only in their seeds share
        compiled code.
        """
        with jax.ensure_compile_time_eval():  # the array is cached, so it must be a value and not a tracer
            return replace(self, seeds=tuple(range(len(self.seeds)))), jnp.array(self.seeds)

    def init(self) -> TrainState:
        """The state before the first agent step."""
        return _init(*self.program)

    def advance(self, state: TrainState) -> tuple[TrainState, dict[str, np.ndarray]]:
        """Runs `log_period` agent steps. Returns the new state and the metrics of these steps.

        A metric is an array of shape [seeds] or [seeds, neurons]. Values that were not measured are masked, for example
        the training return if no episode ended.
        """
        state = share_out(state, len(self.seeds))  # needed because a restored state is on one device
        done, size = self.agent_steps_done(state), self.schedule.agent_steps_per_round
        warm_rounds, rounds = -(-(self.learns_from - done) // size), self.log_period // size
        before, (state, metrics) = state, chunk(*self.program, state, min(max(warm_rounds, 0), rounds))
        if warm_rounds >= rounds:
            metrics |= _measure(*self.program, state)
        done += self.log_period
        if done >= self.agent.n_step:  # else no state is stored
            metrics |= _condition(*self.program, before.agent.learner.params, state)
        due, names = self.schedule.evaluates(done), EVALUATED
        evaluation = _evaluate(*self.program, state) if due else {}
        if self.rank_batch:
            names += REPRESENTED + TRIED
            evaluation |= _represent(*self.program, state) if due else {}
            evaluation |= _try(*self.program, state) if due and done >= self.learns_from else {}
        found = dict.fromkeys(names, unmeasured(len(self.seeds)))
        found |= {name: np.asarray(value) for name, value in evaluation.items()}
        return state, on_host(metrics, learned=warm_rounds < rounds) | found

    def measure(self, state: TrainState) -> dict[str, np.ndarray]:
        """Returns dormant fractions and neuron scores.

        Measures them on stored states. If fewer than `n_step` steps are stored, plays randomly instead.
        """
        return {name: np.asarray(value) for name, value in _measure(*self.program, state).items()}

    def agent_steps_done(self, state: TrainState) -> int:
        """The number of agent steps done so far. It is equal for all seeds."""
        return int(state.agent_steps[0])


class World(NamedTuple):
    """The state that agent steps change: the environments, the rings, and the returns of the current episodes."""

    env: EnvState
    replay: ReplayState
    episode_return: Float[Array, " seeds"]


@partial(jax.jit, static_argnums=0)
def _init(training: DeviceTraining, seeds: Int[Array, " seeds"]) -> TrainState:
    def one(seed: Array) -> TrainState:
        agent = training.agent.init(key_for(seed, "init"), training.env.observation_shape, training.env.actions)
        state = training.intervention.init(agent.learner, training.network)
        env = training.env.reset(key_for(seed, "reset"))
        zero = jnp.zeros((), jnp.int32)
        return TrainState(agent, state, env, training.replay.init(), jnp.zeros(()), zero, zero)

    return over_seeds(seeds, jax.vmap(one))()


@partial(jax.jit, static_argnums=(0, 3))
def chunk(
    training: DeviceTraining, seeds: Int[Array, " seeds"], state: TrainState, warm_rounds: int
) -> tuple[TrainState, dict[str, Array]]:
    """Runs one chunk of agent steps for each of `seeds`. Returns the new state and the metrics.

    The first `warm_rounds` rounds of the chunk only fill the replay.
    """
    return over_seeds(seeds, partial(_chunk, training, warm_rounds))(state)


def _chunk(
    training: DeviceTraining, warm_rounds: int, seeds: Array, state: TrainState
) -> tuple[TrainState, dict[str, Array]]:
    """Runs a chunk in two scans: the rounds that only fill the replay, then the rounds that also learn.

    A single scan over both kinds of rounds would copy the ring at every step.
    """
    schedule = training.schedule
    rounds = training.log_period // schedule.agent_steps_per_round
    starts = state.agent_steps[0] + schedule.agent_steps_per_round * jnp.arange(rounds)
    warm, learning = _split((starts, draws_of(schedule, training.agent, seeds, starts)), warm_rounds)

    states = lanes_of(training.learning, state)
    world = World(state.env, state.replay, state.episode_return)
    world, experience = jax.lax.scan(partial(_collect, training, states), world, warm)
    metrics, losses = {}, no_losses(Losses, (1, len(seeds)))
    if warm_rounds < rounds:
        body = partial(_round, training, starts[-1])
        (world, states), (more, losses) = jax.lax.scan(body, (world, states), learning)
        experience = jax.tree.map(lambda *both: jnp.concatenate(both), experience, more)
        metrics = dormancy(join_seeds([each.scores for each in states]))
    state = TrainState(
        join_seeds([each.agent for each in states]),
        join_seeds([each.intervention for each in states]),
        world.env,
        world.replay,
        world.episode_return,
        state.agent_steps + training.log_period,
        state.gradient_steps + (rounds - warm_rounds) * schedule.gradient_steps_per_round,
    )
    return state, metrics | progress(state, experience, losses)


def _split(tree: PyTree, first: int) -> tuple[PyTree, PyTree]:
    return jax.tree.map(lambda x: x[:first], tree), jax.tree.map(lambda x: x[first:], tree)


def _collect(
    training: DeviceTraining, states: list[LearningState], world: World, xs: tuple[Array, Draws]
) -> tuple[World, Experience]:
    """Takes the agent steps of a round. Returns the new world and the experience of these steps."""
    start, draws = xs
    agent_steps = start + jnp.arange(training.schedule.agent_steps_per_round)
    params = [state.agent.learner.params for state in states]
    return jax.lax.scan(partial(_agent_step, training, params), world, (agent_steps, draws.act, draws.env))


def _agent_step(
    training: DeviceTraining, params: list[Params], world: World, xs: tuple[Array, Array, Array]
) -> tuple[World, Experience]:
    agent, env = training.agent, training.env
    agent_steps, uniform, key = xs
    observation = jax.vmap(env.observe)(world.env)
    epsilon = training.phase.epsilon(agent, agent_steps) if training.phase else agent.epsilon(agent_steps)
    act = map_seeds(partial(agent.act, epsilon=epsilon))
    seen = [take_seed((observation, uniform), lane) for lane in range(len(params))]
    action = join_seeds([act(own, observation=o, uniform=u) for own, (o, u) in zip(params, seen, strict=True)])
    env_state, outcome = in_turn(partial(step_or_restart, env), key, world.env, action)
    ended = outcome.terminal | outcome.truncated
    reward = jnp.clip(outcome.reward, -1.0, 1.0) if agent.clip_rewards else outcome.reward
    discount = jnp.where(outcome.terminal, 0.0, agent.gamma)  # a truncated episode is bootstrapped
    ring = training.replay.add(
        world.replay, agent_steps, observation, action, reward, discount, ended, outcome.observation
    )
    total = world.episode_return + outcome.reward
    return World(env_state, ring, jnp.where(ended, 0.0, total)), Experience(ended, total)


def _round(
    training: DeviceTraining, final: Array, carry: tuple[World, list[LearningState]], xs: tuple[Array, Draws]
) -> tuple[tuple[World, list[LearningState]], tuple[Experience, Losses]]:
    """Takes the agent steps and then the gradient steps of a round. Then copies the target network if a copy is due."""
    (world, states), (start, draws) = carry, xs
    world, experience = _collect(training, states, world, xs)
    added, updates = start + training.schedule.agent_steps_per_round, training.schedule.gradient_steps_per_round
    # All batches are drawn before the inner scan, so that the scan does not carry the ring.
    drawn = _from_replay(training, world.replay, added, draws)
    last = (start == final) & (jnp.arange(updates) == updates - 1)
    states, losses = jax.lax.scan(partial(gradient_step, training.learning), states, (drawn, draws.intervention, last))
    states = synchronised(training.agent, states, start, added)
    return (world, states), (experience, jax.tree.map(lambda x: x.mean(0), losses))


def _from_replay(training: DeviceTraining, ring: ReplayState, added: Array, draws: Draws) -> tuple[Batch, Array]:
    """Draws training batches, and inputs on which neurons are scored. Leading axes are [gradient steps, seeds]."""

    def drawn(function: Callable[..., PyTree], uniform: Array) -> PyTree:
        seeds = jax.vmap(function, in_axes=(0, None, 0))
        return jax.vmap(seeds, in_axes=(None, None, 0))(ring, added, uniform)

    batch = drawn(training.replay.sample, draws.batch)
    return batch._replace(noise=draws.noise), drawn(training.replay.states, draws.score)


@partial(jax.jit, static_argnums=0)
def _measure(training: DeviceTraining, seeds: Int[Array, " seeds"], state: TrainState) -> dict[str, Array]:
    def one(added: Array, seed: Array, state: TrainState) -> Scores:
        key = key_for(seed, "measure", added)
        uniform = jax.random.uniform(key, (training.score_batch,))
        played = training.replay.states(state.replay, added, uniform)
        states = jax.lax.cond(added < training.agent.n_step, lambda: _random_play(training, key), lambda: played)
        return training.network.wiring.scores(state.agent.learner.params, states)

    def several(seeds: Array, state: TrainState) -> Scores:
        # All seeds share `added`. With one value per seed, `vmap` would compute both branches of the `cond`.
        return jax.vmap(partial(one, state.agent_steps[0]))(seeds, state)

    return dormancy(over_seeds(seeds, several)(state))


@partial(jax.jit, static_argnums=0)
def _condition(
    training: DeviceTraining, seeds: Int[Array, " seeds"], before: Params, state: TrainState
) -> dict[str, Float[Array, " seeds"]]:
    def one(seed: Array, before: Params, state: TrainState) -> dict[str, Array]:
        start = training.network.init(key_for(seed, "init"))
        uniform = jax.random.uniform(key_for(seed, "measure", state.agent_steps), (training.score_batch,))
        states = training.replay.states(state.replay, state.agent_steps, uniform)
        return condition(training.network.wiring, state.agent.learner.params, start, before, states)

    return over_seeds(seeds, partial(in_turn, one))(before, state)


def _random_play(training: DeviceTraining, key: Array) -> Num[Array, "states packed"]:
    """Plays randomly. Returns every eighth packed observation, because successive states are similar."""
    env = training.env

    def step(state: EnvState, key: Array) -> tuple[EnvState, Array]:
        key_act, key_step = jax.random.split(key)
        state, _ = step_or_restart(env, key_step, state, jax.random.randint(key_act, (), 0, env.actions))
        return state, training.replay.pack(env.observe(state))

    _, seen = jax.lax.scan(step, env.reset(key), jax.random.split(key, 8 * training.score_batch))
    return seen[7::8]


@partial(jax.jit, static_argnums=0)
def _represent(
    training: DeviceTraining, seeds: Int[Array, " seeds"], state: TrainState
) -> dict[str, Float[Array, " seeds"]]:
    def one(seed: Array, state: TrainState) -> dict[str, Array]:
        uniform = jax.random.uniform(key_for(seed, "rank", state.agent_steps), (training.rank_batch,))
        states = training.replay.states(state.replay, state.agent_steps, uniform)
        return representation(training.network.wiring, apply, state.agent.learner.params, states)

    def apply(params: Params, packed: Array) -> Array:
        return training.agent.network.apply(params, training.replay.unpack(packed))

    return over_seeds(seeds, partial(in_turn, one))(state)


@partial(jax.jit, static_argnums=0)
def _try(training: DeviceTraining, seeds: Int[Array, " seeds"], state: TrainState) -> dict[str, Float[Array, " seeds"]]:
    agent, replay = training.agent, training.replay

    def one(seed: Array, state: TrainState) -> dict[str, Array]:
        assert isinstance(state.agent, DQNState)
        key = key_for(seed, "trial", state.agent_steps)
        uniform = jax.random.uniform(key, (agent.drawn_batch + training.rank_batch,))
        batch = replay.sample(state.replay, state.agent_steps, uniform[: agent.drawn_batch])
        noise = jax.tree.map(lambda each: each[0], agent.augmentation.draw(key, 1, agent.drawn_batch))
        states = replay.unpack(replay.states(state.replay, state.agent_steps, uniform[agent.drawn_batch :]))
        return trial(agent, training.network.wiring, state.agent, batch._replace(noise=noise), states)

    return over_seeds(seeds, partial(in_turn, one))(state)


@partial(jax.jit, static_argnums=0)
def _evaluate(
    training: DeviceTraining, seeds: Int[Array, " seeds"], state: TrainState
) -> dict[str, Float[Array, " seeds"]]:
    def one(seed: Array, state: TrainState) -> dict[str, Array]:
        key, params = key_for(seed, "evaluate", state.agent_steps), state.agent.learner.params
        return evaluated(training.agent, training.env, params, key, training.eval_episodes, training.eval_epsilon)

    return over_seeds(seeds, jax.vmap(one))(state)
