"""What is reproduced, as values: arms, what a scale costs, and what is claimed of the result."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from dormant.rl.envs.mujoco import MuJoCo
from dormant.supervised.images import ImageSet

Scale = Literal["smoke", "pilot", "laptop", "paper"]
SCALES: tuple[Scale, ...] = ("smoke", "pilot", "laptop", "paper")


@dataclass(frozen=True)
class Arm:
    """One line of a figure: a training whose environment and seeds the design fills in."""

    name: str
    training: Any  # a frozen dataclass with `env` and `seeds`, as `lab.runs.runner.Training` wants it


@dataclass(frozen=True)
class Design:
    """An experiment at one scale: every arm in every environment with every seed."""

    arms: tuple[Arm, ...]
    environments: tuple[Any, ...]
    seeds: tuple[int, ...]
    leaves_out: str = ""  # what the paper's figure has and this design has not, as a sentence

    def cells(self) -> Iterator["Cell"]:
        """Each arm in each environment, with all seeds."""
        for arm in self.arms:
            for environment in self.environments:
                yield Cell(arm.name, name_of(environment), replace(arm.training, env=environment, seeds=self.seeds))


class Cell(NamedTuple):
    """An arm in an environment."""

    arm: str
    environment: str
    training: Any


@dataclass(frozen=True)
class Quantity:
    """A number for each seed: a metric of the run, brought down to its end, its mean (the area under it), or its start.

    The start and the end are those of what was measured, and the lowest is that of what was measured after the start.
    Log points before the share `after` of the run are left out of its mean. `reset_age` leaves out, from everything,
    log points at which the network of either arm is not that many reset periods old, from the first bound on and before
    the second: right after a reset an agent plays like a new one, and how many of its evaluations fall there is an
    accident of their periods. Arms without resets have any age.

    >>> Quantity("eval_return", "mean", after=0.5, reset_age=(0.5, math.inf)).metric
    'eval_return'

    Raises ValueError for a share of the run outside of [0, 1), and for ages that do not rise.
    """

    metric: str
    reduce: Literal["end", "mean", "start", "lowest"] = "end"
    after: float = 0.0
    reset_age: tuple[float, float] = (0.0, math.inf)

    def __post_init__(self) -> None:
        if not 0 <= self.after < 1:
            raise ValueError(f"after must be a share of the run in [0, 1), got {self.after}.")
        if self.after and self.reduce != "mean":
            raise ValueError(f"after is for reduce='mean' only, got reduce={self.reduce!r}; leave it out.")
        if not 0 <= self.reset_age[0] < self.reset_age[1]:
            raise ValueError(f"reset_age must be two rising numbers of reset periods, got {self.reset_age}.")


@dataclass(frozen=True)
class Claim:
    """That one arm's quantity is above (or below) another's, or its own at the run's start, by an effect that matters.

    `by="ratio"` compares quotients, with 1 for no effect, so that `smallest` is 1.5, or 0.67 for "lower";
    `by="difference"` compares differences, with 0 for none, so that it is 0.1, or -0.1 for "lower". On the other side
    of no effect it makes the claim one of doing no harm: "higher" than 0.9 says that less than a tenth is lost.
    `against=None` means the arm's own start.

    Raises ValueError for a smallest quotient that is not above zero.
    """

    statement: str
    quantity: Quantity
    arm: str
    against: str | None
    direction: Literal["higher", "lower"]
    smallest: float
    by: Literal["difference", "ratio"] = "difference"

    def __post_init__(self) -> None:
        if self.by == "ratio" and not self.smallest > 0:
            raise ValueError(f"smallest must be a quotient above 0, got {self.smallest}; 1 is no effect.")


@dataclass(frozen=True)
class Panel:
    """One plot: a metric over time for each arm, or its end over the replay ratio where `over` says so."""

    title: str
    metric: str
    over: Literal["agent_steps", "gradient_steps", "epoch", "replay_ratio"] = "agent_steps"
    arms: tuple[str, ...] = ()  # all, if none is named


@dataclass(frozen=True)
class Experiment:
    """A figure of the paper: what is run at each scale, what is drawn, what is claimed.

    `published` names the panels of shared curves in published.csv that stand beside ours.
    """

    name: str
    title: str
    designs: Mapping[Scale, Design]
    panels: tuple[Panel, ...] = ()
    claims: tuple[Claim, ...] = ()
    published: tuple[str, ...] = ()
    settings: str = field(default="")  # a plain sentence about what differs from the paper
    command: str = ""  # what makes it, where that is not `dormant figure`


def name_of(environment: Any) -> str:
    """The name that the command line gives an environment.

    >>> from dormant.rl.envs.minatar import MinAtar
    >>> name_of(MinAtar("Breakout")), name_of(MuJoCo("Hopper-v5"))
    ('MinAtar/Breakout', 'Hopper-v5')
    """
    if isinstance(environment, MuJoCo):
        return environment.task
    if isinstance(environment, ImageSet):
        return environment.name
    family = {"Atari": "ALE"}.get(type(environment).__name__, type(environment).__name__)
    return f"{family}/{environment.game}"
