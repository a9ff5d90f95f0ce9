"""Screens games for the laptop scale: tests whether DQN learns and whether dormancy grows, on separate seeds."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import polars as pl

from dormant.experiments.benches import LAPTOP, MANY_NEURONS, RATIOS
from dormant.lab import Arm, Design, Experiment
from dormant.rl.envs.minatar import MinAtar

SEEDS = (100, 101)  # these seeds are used only for screening, and never in runs that are judged
LOW, HIGH = RATIOS[0], RATIOS[-1]
RANDOM_PLAY = 10_000  # the first agent steps of a run, in which most actions are random
START, END = 0.1, 0.8  # the first tenth and the last fifth of a run
LEARNS = 2.0  # DQN learns if its return at the end is at least this multiple of the return of random play


class Screened(NamedTuple):
    """The growth of DQN's return and dormant fraction in one game, per seed.

    `returns` is the return of training episodes in the last fifth of the run, divided by the return of random play, at
    replay ratio 0.25. `growth` is the dormant fraction (τ = 0.1) in the last fifth, minus the fraction in the first
    tenth, at replay ratio 2.
    """

    game: str
    returns: tuple[float, ...]
    growth: tuple[float, ...]

    @property
    def passes(self) -> bool:
        """Whether DQN learns and its dormant fraction grows with every seed."""
        complete = len(self.returns) == len(self.growth) == len(SEEDS)
        learns = all(each >= LEARNS for each in self.returns)  # false for NaN
        return complete and learns and all(each >= MANY_NEURONS for each in self.growth)


def screening(games: Iterable[str]) -> Experiment:
    """The experiment of the screening runs: plain DQN at the lowest and the highest replay ratio."""
    arms = tuple(Arm(_arm(ratio), LAPTOP.dqn(ratio)) for ratio in (LOW, HIGH))
    design = Design(arms, tuple(map(MinAtar, games)), SEEDS, "These runs are not judged.")
    return Experiment("screening", "Games for the laptop scale", {"laptop": design})


def screened(game: str, frame: pl.DataFrame) -> Screened:
    """Screens a game. `frame` is a table of `judging.table.read` with the screening runs."""
    rows = frame.filter(pl.col("environment") == f"MinAtar/{game}", pl.col("seed").is_in(SEEDS))
    low, high = (rows.filter(pl.col("arm") == _arm(ratio)) for ratio in (LOW, HIGH))
    return Screened(
        game,
        tuple(_learnt(run) for _, run in low.group_by("seed", maintain_order=True)),
        tuple(_grown(run) for _, run in high.group_by("seed", maintain_order=True)),
    )


def _arm(ratio: float) -> str:
    return f"DQN, RR {ratio:g}"


def _learnt(run: pl.DataFrame) -> float:
    at_random = _per_episode(run.filter(pl.col("agent_steps") <= RANDOM_PLAY))
    at_end = _per_episode(run.filter(pl.col("agent_steps") > END * pl.col("agent_steps").max()))
    return at_end / at_random if at_random else np.inf if at_end > 0 else 0.0


def _per_episode(run: pl.DataFrame) -> float:
    ended = run.filter(pl.col("train_episodes") > 0)
    return float(np.average(ended["train_return"], weights=ended["train_episodes"])) if len(ended) else np.nan


def _grown(run: pl.DataFrame) -> float:
    steps, shares = run["agent_steps"].to_numpy(), run["dormant/0.1/all"].to_numpy()
    return float(shares[steps > END * steps.max()].mean() - shares[steps <= START * steps.max()].mean())
