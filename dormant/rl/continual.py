"""Games in a row: one agent plays one MinAtar game after another, and is not told when the game changes."""

from dataclasses import dataclass, field
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from dormant.interventions import Chain, Intervention

from .agents.dqn import DQN
from .device import DeviceTraining
from .envs import EnvState
from .envs.minatar import MinAtar
from .learning import TrainState
from .schedule import Phase, key_for


@dataclass(frozen=True)
class Games:
    """A sequence of MinAtar games. Each game is played for `steps` agent steps. Observations are padded to one shape.

    >>> [world.game for world in Games(("Asterix", "Breakout"), steps=100).worlds]
    ['Asterix', 'Breakout']

    Raises ValueError for an unknown game, no game, or `steps` below 1.
    Source: C-CHAIN's continual MinAtar plays these three games in this order, with all six actions, and appends empty
    channels up to ten (bluecontra/C-CHAIN 2f8bedf, crl_minatar).
    """

    games: tuple[str, ...] = ("SpaceInvaders", "Asterix", "Seaquest")
    steps: int = 2_000_000
    sticky: float = MinAtar.sticky
    time_limit: int = MinAtar.time_limit

    def __post_init__(self) -> None:
        if not self.games or self.steps < 1:
            raise ValueError(f"expected games and at least 1 agent step for each, got {self.games} and {self.steps}.")
        _ = self.worlds

    @property
    def game(self) -> str:
        """The names of the games, as one name."""
        return "-".join(self.games)

    @property
    def worlds(self) -> tuple[MinAtar, ...]:
        """The games, with padded observations and all actions."""
        return tuple(MinAtar(game, self.sticky, self.time_limit, padded=True) for game in self.games)


@dataclass(frozen=True)
class ContinualTraining:
    """A training of DQN on games in a row, with the device loop.

    Fields with the same name as in `DeviceTraining` have the same meaning. A game begins with `agent.min_replay` random
    agent steps without learning. The network, the target network, the optimizer, the intervention and the exploration
    continue from the previous game. If `keep_replay` is true, the agent also learns from stored steps of earlier games.
    If it is false, the agent learns only from steps of the current game.

    A chunk never contains steps of two games. The state holds the environments of all games, so a run also resumes
    exactly between two games. If a game ends during an episode, the episode is not counted. The metric `game` is the
    number of the current game. An evaluation plays the game of the chunk before it.

    >>> ContinualTraining(env=Games(steps=100_000)).agent_steps
    300000

    Raises ValueError for settings that `DeviceTraining` rejects. Also raises it if a game's length is not a multiple of
    `log_period`, if it is not above `agent.min_replay`, or if `agent.n_step` is above 1, because n-step returns could
    span two games.
    Source: see `Games`. docs/differences.md lists the differences.
    """

    agent: DQN = field(default_factory=DQN)
    env: Games = field(default_factory=Games)
    intervention: Intervention = field(default_factory=Chain)
    replay_ratio: float = 1.0
    log_period: int = 10_000
    seeds: tuple[int, ...] = (0, 1, 2)
    score_batch: int = 64
    eval_episodes: int = 10
    eval_period: int = 50_000
    eval_epsilon: float = 0.0
    rank_batch: int = 0
    keep_replay: bool = True

    def __post_init__(self) -> None:
        if self.env.steps % self.log_period or self.env.steps <= self.agent.min_replay:
            raise ValueError(
                f"a game must be longer than min_replay and a multiple of log_period, got {self.env.steps} agent steps "
                f"with min_replay {self.agent.min_replay} and log_period {self.log_period}."
            )
        if self.agent.n_step > 1:
            raise ValueError(f"n_step must be 1, because returns must not span two games, got {self.agent.n_step}.")
        _ = self.phases

    @property
    def kind(self) -> str:
        """The first part of the name of the training's folder."""
        return f"continual-dqn-rr{self.replay_ratio:g}{'' if self.keep_replay else '-new-replay'}"

    @property
    def agent_steps(self) -> int:
        """The agent steps of all games together."""
        return len(self.env.games) * self.env.steps

    @cached_property
    def phases(self) -> tuple[DeviceTraining, ...]:
        """The training of each game."""
        return tuple(
            DeviceTraining(
                self.agent,
                world,
                self.intervention,
                self.replay_ratio,
                self.agent_steps,
                self.log_period,
                self.seeds,
                self.score_batch,
                self.eval_episodes,
                self.eval_period,
                self.eval_epsilon,
                self.rank_batch,
                phase=Phase(number, number * self.env.steps, self.keep_replay),
            )
            for number, world in enumerate(self.env.worlds)
        )

    def init(self) -> TrainState:
        """The state before the first agent step. Its `env` has one entry per game."""
        first = self.phases[0].init()
        return first._replace(env=_begun(self.env, jnp.array(self.seeds)))

    def advance(self, state: TrainState) -> tuple[TrainState, dict[str, np.ndarray]]:
        """Runs `log_period` agent steps of the current game. Returns the new state and the metrics of these steps.

        The metrics are those of `DeviceTraining.advance`, and `game`, the number of the game.
        """
        done = self.agent_steps_done(state)
        number, begins = done // self.env.steps, done % self.env.steps == 0
        returned = jnp.zeros_like(state.episode_return) if begins else state.episode_return
        now = state._replace(env=state.env[number], episode_return=returned)
        now, metrics = self.phases[number].advance(now)
        games = (*state.env[:number], now.env, *state.env[number + 1 :])
        return now._replace(env=games), metrics | {"game": np.full(len(self.seeds), number)}

    def measure(self, state: TrainState) -> dict[str, np.ndarray]:
        """Returns dormant fractions and neuron scores in the current game, as `DeviceTraining.measure` does."""
        number = min(self.agent_steps_done(state) // self.env.steps, len(self.phases) - 1)
        return self.phases[number].measure(state._replace(env=state.env[number]))

    def agent_steps_done(self, state: TrainState) -> int:
        """The number of agent steps done so far. It is equal for all seeds."""
        return int(state.agent_steps[0])


@partial(jax.jit, static_argnums=0)
def _begun(games: Games, seeds: Int[Array, " seeds"]) -> tuple[EnvState, ...]:
    """The first states of all games. Each game has a key of its own."""

    def one(number: int, world: MinAtar, seed: Array) -> EnvState:
        return world.reset(key_for(seed, "reset", number))

    return tuple(jax.vmap(partial(one, number, world))(seeds) for number, world in enumerate(games.worlds))
