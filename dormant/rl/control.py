"""Training of SAC on continuous control, for the host loop."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Key
from numpy import ndarray

from dormant.interventions import Chain, Intervention
from dormant.tracing import trace
from dormant.wiring import Network

from .agents.sac import SAC, SACParams, SACState
from .envs import RANDOM_PLAY, ControlEnvironment, ControlOutcome, HostPlayed, Player, play_on_host
from .envs.mujoco import MuJoCo
from .feeding import HostFeed, HostPolicy, RoundDraws, drawn
from .host import OnHost, slack
from .learning import Learning
from .replay.steps import StepReplay, StepRing, Steps
from .schedule import Schedule, join_seeds, key_for, map_seeds, schedule_of, take_seed

# Stream of the random numbers that training draws. Evaluations and random play use other streams (see `RANDOM_PLAY`).
LEARNING = 2**63 + 1


@dataclass(frozen=True)
class ControlTraining(OnHost):
    """A training of SAC on a continuous environment. On one machine, equal fields give bit-identical results.

    Fields with the same name as in `DeviceTraining` have the same meaning. An evaluation plays `eval_episodes` episodes
    with the policy's mean action. An `eval_period` longer than the run disables evaluation. The gradient steps of a
    round sample only agent steps of earlier rounds. Therefore the device can compute these gradient steps while the
    host plays the round's last agent step. `init` returns the state before the first agent step. `open` returns a
    `HostLoop`. The loop runs the training and stores the agent steps of each seed in files.

    >>> ControlTraining(replay_ratio=2.0).schedule.gradient_steps_per_round
    2

    Raises ValueError for settings that `Schedule` rejects, or if `eval_episodes` is below 1.
    """

    agent: SAC = field(default_factory=SAC)
    env: ControlEnvironment = field(default_factory=MuJoCo)
    intervention: Intervention = field(default_factory=Chain)
    replay_ratio: float = 1.0
    agent_steps: int = 1_000_000
    log_period: int = 1_000
    seeds: tuple[int, ...] = (0,)
    score_batch: int = 256
    eval_episodes: int = 30
    eval_period: int = 10_000

    learns_from_round = False
    rank_batch = 0  # ranks are not measured, because SAC has three networks and no single last layer

    def __post_init__(self) -> None:
        schedule_of(self, eval_episodes=self.eval_episodes)

    @property
    def schedule(self) -> Schedule:
        """The schedule of the run. It sets when the run acts, learns, logs and evaluates."""
        return schedule_of(self)

    @property
    def replay(self) -> StepReplay:
        """The settings of each seed's replay ring."""
        return StepReplay(
            self.agent.replay_capacity,
            self.env.observations,
            self.env.actions,
            slack(self.agent.replay_capacity, self.log_period),
        )

    @property
    def learning(self) -> Learning[SACState, Steps]:
        """The agent, the intervention and the network that a gradient step uses."""
        return Learning(self.agent, self.intervention, self.network)

    @cached_property
    def network(self) -> Network:
        """All networks of the agent, with the wiring that interventions need. Their inputs are rows of the ring."""

        def init(key: Array) -> SACParams:
            return self.agent.init_params(key, self.env.observations, self.env.actions)

        def apply(params: SACParams, rows: Array) -> tuple[Array, Array, Array]:
            return self.agent.apply(params, *self.replay.inputs(rows))

        with jax.ensure_compile_time_eval():
            wiring = trace(apply, init(jax.random.key(0)), self.blank())
        return Network(wiring, init, self.agent.optimizer())

    def fresh_agent(self, key: Key[Array, ""]) -> SACState:
        """The state of a freshly initialised agent."""
        return self.agent.init(key, self.env.observations, self.env.actions)

    def players(self, stream: int = 0) -> Player:
        """Starts one environment per seed. Different values of `stream` give independent random numbers."""
        return self.env.begin(self.seeds, stream)

    def blank(self) -> Float[Array, "states numbers"]:
        """Zero inputs, for gradient steps at which no neuron is scored."""
        return jnp.zeros((self.score_batch, self.replay.numbers))

    def draws(self, starts: range) -> Iterator[RoundDraws]:
        """Yields the random numbers of each round of a chunk."""
        return (self._round_draws(start) for start in starts)

    def _round_draws(self, start: int) -> RoundDraws:
        acts, updates = self.schedule.agent_steps_per_round, self.schedule.gradient_steps_per_round
        actions, size = self.env.actions, self.agent.batch_size
        generators = [_generator(seed, start) for seed in self.seeds]
        explores = np.full((acts, len(self.seeds)), start < self.agent.min_replay)
        if start < self.agent.min_replay:
            action = [draw.uniform(-1, 1, (acts, actions)).astype(np.float32) for draw in generators]
            none = np.zeros((0, len(self.seeds), 0))
            return RoundDraws(explores, np.stack(action, axis=1), none, none)
        action = [draw.standard_normal((acts, actions), np.float32) for draw in generators]
        batch = [draw.random((updates, size)) for draw in generators]
        noise = [draw.standard_normal((updates, 2, size, actions), np.float32) for draw in generators]
        score = [draw.random((updates, self.score_batch)) for draw in generators]
        action, batch, score = (np.stack(each, axis=1) for each in (action, batch, score))
        return RoundDraws(explores, action, batch, score, np.stack(noise, axis=2))

    @property
    def policy(self) -> HostPolicy:
        """A compiled function that returns actions, drawn with the given noise. It returns no Q values."""
        return self._compiled_policy

    @cached_property
    def _compiled_policy(self) -> HostPolicy:
        return jax.jit(partial(_act, self))

    def feed(self, rings: tuple[StepRing, ...], added: int) -> HostFeed:
        """Returns a `HostFeed`: the host sends observations and batches to the device, because they are small."""
        return HostFeed(self, rings)

    def columns(self, seen: ndarray, actions: ndarray, outcome: ControlOutcome) -> tuple[ndarray, ...]:
        """Returns the values that the ring stores for one agent step, as arrays with one entry per seed.

        The discount is 0 at a termination. At a truncation the discount is gamma, because the target bootstraps.
        """
        discount = np.where(outcome.terminal, np.float32(0), np.float32(self.agent.gamma))
        return seen, actions, outcome.reward, discount, outcome.observation

    def batch(self, rings: tuple[StepRing, ...], added: int, draws: RoundDraws) -> tuple[ndarray, ndarray]:
        """Draws the rows of a round's batches. Returns the rows and the noise of the actions.

        The rows have the leading axes [gradient steps, seeds], and the noise has [gradient steps, 2, seeds].
        """
        return drawn(self.replay.rows, rings, added, draws.batch), draws.noise

    def inputs(
        self, rings: tuple[StepRing, ...], added: int, uniform: Float[ndarray, "gradient_steps seeds states"]
    ) -> Float32[ndarray, "gradient_steps seeds states numbers"]:
        """Draws stored rows on which neurons are scored."""
        return drawn(self.replay.rows, rings, added, uniform)

    def prepared(self, start: Array, batch: tuple[Array, Array]) -> tuple[Key[Array, "gradient_steps seeds"], Steps]:
        """Returns the intervention's keys for a round, and the round's batches."""
        updates = self.schedule.gradient_steps_per_round
        split = jax.vmap(lambda seed: jax.random.split(key_for(seed, "round", start), updates), out_axes=1)
        return split(jnp.array(self.seeds)), jax.vmap(self.replay.batch)(*batch)

    def measured_inputs(
        self, rings: tuple[StepRing, ...], added: int, purpose: str, number: int
    ) -> Float32[ndarray, "seeds states numbers"]:
        """Returns rows for a measurement between chunks: stored rows, or rows of random play if none are stored."""
        del purpose  # not needed, because dormancy is the only measurement between chunks
        if added == 0:
            return np.stack([_random_play(self, seed) for seed in self.seeds])
        uniform = np.stack([_generator(seed, added, 1).random(number) for seed in self.seeds])
        return self.inputs(rings, added, uniform[None])[0]

    def evaluate(self, params: list[SACParams], agent_steps: int, videos: Path) -> HostPlayed:
        """Plays an evaluation and returns its results. `agent_steps` is the number of training steps before it.

        Source: dopamine/labs/redo/tfagents/sac_train_eval.py, 30 episodes every 10,000 steps.
        """
        del videos  # no videos are made
        no_noise = np.zeros((len(self.seeds), self.env.actions), np.float32)

        def policy(seen: ndarray) -> tuple[ndarray, None]:
            return np.asarray(self.policy(params, seen, no_noise)[0]), None

        return play_on_host(self.players(stream=agent_steps), policy, self.eval_episodes)


def _act(
    training: ControlTraining, params: list[SACParams], seen: Float[Array, "seeds observation"], noise: Array
) -> tuple[Float[Array, "seeds actions"], None]:
    lane = [take_seed((seen[:, None], noise[:, None]), lane) for lane in range(len(params))]
    draw = map_seeds(training.agent.act)
    return join_seeds([draw(own, *each) for own, each in zip(params, lane, strict=True)])[:, 0], None


def _generator(seed: int, agent_steps: int, purpose: int = 0) -> np.random.Generator:
    """Returns a random generator whose numbers depend only on the arguments."""
    return np.random.Generator(np.random.Philox(key=(seed, LEARNING), counter=[0, agent_steps, purpose, 0]))


def _random_play(training: ControlTraining, seed: int) -> Float32[ndarray, "states numbers"]:
    """Plays randomly. Returns the row of every eighth step, because successive states are similar."""
    bodies, draw = training.env.begin([seed], RANDOM_PLAY), np.random.default_rng((RANDOM_PLAY, seed))
    ring = replace(training.replay, capacity=training.score_batch, slack=1).init()
    for step in range(8 * training.score_batch):
        seen, action = bodies.observations, draw.uniform(-1, 1, (1, training.env.actions)).astype(np.float32)
        outcome = bodies.step(action)
        assert isinstance(outcome, ControlOutcome)
        if step % 8 == 7:
            training.replay.add(ring, step // 8, seen[0], action[0], outcome.reward, 0.0, outcome.observation[0])
    return ring.steps[: training.score_batch]
