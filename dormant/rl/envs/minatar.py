"""MinAtar's five games from pgx. Only this file imports pgx (GPL-3.0, the extra `minatar`)."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Integer, Key, PyTree

from dormant.settings import added

from . import Outcome

# Name -> pgx module, pgx class, number of observation channels, number of actions in the minimal action set.
GAMES = {
    "Asterix": ("asterix", "MinAtarAsterix", 4, 5),
    "Breakout": ("breakout", "MinAtarBreakout", 4, 3),
    "Freeway": ("freeway", "MinAtarFreeway", 7, 3),
    "Seaquest": ("seaquest", "MinAtarSeaquest", 10, 6),
    "SpaceInvaders": ("space_invaders", "MinAtarSpaceInvaders", 6, 4),
}
CHANNELS, ACTIONS = 10, 6  # of a padded game: the most channels of any game, and all actions of MinAtar


class MinAtarState(NamedTuple):
    """The state of a pgx game, and the number of agent steps since the episode began."""

    game: PyTree
    elapsed: Int[Array, ""]


@dataclass(frozen=True)
class MinAtar:
    """One MinAtar game as a pure environment. It has its minimal action set, or all six actions if it is `padded`.

    Observations are Boolean: 10 x 10 cells with one channel per kind of object. `sticky` is the probability that the
    last action is repeated instead of the chosen action. An episode is truncated after `time_limit` agent steps. A
    `padded` game has ten channels, of which the last are empty, so that all games have the same shapes.

    >>> MinAtar("Breakout").observation_shape
    (10, 10, 4)

    Raises ValueError for an unknown game, ImportError at its first use if pgx is not installed.
    Source: Young & Tian 2019 (MinAtar 1.0.15). Every step of our games equals a step of MinAtar, with two exceptions.
    Our games do not repeat the last action of the previous episode, and they have a time limit. `_as_minatar` corrects
    the rules of Seaquest in pgx 2.6.
    """

    game: str = "Asterix"
    sticky: float = 0.1
    time_limit: int = 5_000
    padded: bool = added(False)

    def __post_init__(self) -> None:
        if self.game not in GAMES:
            raise ValueError(f"unknown MinAtar game {self.game!r}; there are {', '.join(GAMES)}.")
        if not 0 <= self.sticky < 1:
            raise ValueError(f"sticky must be a probability below 1, got {self.sticky}; MinAtar has 0.1.")
        if self.time_limit < 1:
            raise ValueError(f"time_limit must be at least 1 agent step, got {self.time_limit}.")

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        return (10, 10, CHANNELS if self.padded else GAMES[self.game][2])

    @property
    def observation_dtype(self) -> np.dtype:
        return np.dtype(bool)

    @property
    def actions(self) -> int:
        return ACTIONS if self.padded else GAMES[self.game][3]

    def reset(self, key: Key[Array, ""]) -> MinAtarState:
        """The first state of an episode."""
        with _lenient():
            game = _pgx(self.game, self.sticky, self.padded).init(key)
        return MinAtarState(_first(self.game, game), jnp.zeros((), jnp.int32))

    def observe(self, state: MinAtarState) -> Bool[Array, "10 10 channels"]:
        """The agent's observation of a state."""
        return self._seen(state.game)

    def _seen(self, game: PyTree) -> Bool[Array, "10 10 channels"]:
        empty = self.observation_shape[-1] - game.observation.shape[-1]
        return jnp.pad(game.observation, ((0, 0), (0, 0), (0, empty))) if empty else game.observation

    def step(
        self, key: Key[Array, ""], state: MinAtarState, action: Integer[Array, ""]
    ) -> tuple[MinAtarState, Outcome]:
        """The state after the action, and the outcome of the agent step."""
        pgx = _pgx(self.game, self.sticky, self.padded)
        with _lenient():
            game = _as_minatar(self.game, pgx, state.game, pgx.step(state.game, action, key))
        elapsed = state.elapsed + 1
        truncated = (elapsed >= self.time_limit) & ~game.terminated
        return MinAtarState(game, elapsed), Outcome(self._seen(game), game.rewards[0], game.terminated, truncated)


@cache
def _pgx(game: str, sticky: float, all_actions: bool = False) -> Any:
    module, name, _, _ = GAMES[game]
    # pgx creates arrays when it is imported. `ensure_compile_time_eval` keeps these arrays from being tracers.
    with _lenient(), jax.ensure_compile_time_eval():
        try:
            source = import_module(f"pgx.minatar.{module}")
        except ImportError as error:
            raise ImportError(f"MinAtar/{game} needs pgx ({error}): pip install 'dormant[minatar]'") from error
        return getattr(source, name)(sticky_action_prob=sticky, use_minimal_action_set=not all_actions)


def _lenient() -> ExitStack:
    """Returns a context in which pgx can add Booleans to integers, even if JAX's type promotion is set to strict."""
    stack = ExitStack()
    stack.enter_context(jax.numpy_dtype_promotion("standard"))
    stack.enter_context(jax.numpy_rank_promotion("allow"))
    return stack


def _first(name: str, game: PyTree) -> PyTree:
    # Lowers Seaquest's ramp index by one. pgx increments the index and then tests whether the index is odd. MinAtar
    # tests first.
    return game.replace(_ramp_index=game._ramp_index - 1) if name == "Seaquest" else game


def _as_minatar(name: str, pgx: PyTree, before: PyTree, after: PyTree) -> PyTree:
    """Corrects pgx's game after a step to MinAtar's rules. Only Seaquest differs.

    pgx ends an episode when the oxygen is below zero, which is one step too late: MinAtar ends it at zero. pgx also
    keeps enemy bullets that have left the screen, and these block other bullets. One difference remains: in MinAtar, an
    enemy submarine still fires if it is shot in the same step.
    """
    if name != "Seaquest":
        return after
    bullets = after._e_bullets
    inside = (bullets[:, 0] >= 0) & (bullets[:, 0] <= 9)
    order = jnp.argsort(~inside, stable=True)
    over = after.terminated | (before._oxygen <= 0)
    game = after.replace(
        _e_bullets=jnp.where(inside[order][:, None], bullets[order], -1),
        _oxygen=jnp.maximum(after._oxygen, 0),
        _terminal=over,
        terminated=over,
    )
    return game.replace(observation=pgx.observe(game))
