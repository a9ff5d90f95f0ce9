"""Data classes that describe an experiment: its arms, its size at each scale, its claims and its plots."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, replace
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from dormant.rl.envs.mujoco import MuJoCo
from dormant.supervised.images import ImageSet

Scale = Literal["smoke", "pilot", "laptop", "paper"]
FAMILIES = {
    "Atari": "ALE",
    "Games": "MinAtar",
}  # class name of an environment -> name of its family of games, if the two names differ
SCALES: tuple[Scale, ...] = ("smoke", "pilot", "laptop", "paper")


@runtime_checkable
class Game(Protocol):
    """An environment that is one game of a family."""

    @property
    def game(self) -> str: ...


@runtime_checkable
class Trainable(Protocol):
    """The configuration of a training run, called a training. It is a frozen dataclass, such as `DeviceTraining`."""

    __dataclass_fields__: ClassVar[dict[str, Field]]

    @property
    def env(self) -> object: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    @property
    def agent_steps(self) -> int: ...


@dataclass(frozen=True)
class Arm:
    """One line of a figure: a name and a training. The design replaces the training's environment and seeds."""

    name: str
    training: Trainable


@dataclass(frozen=True)
class Design:
    """An experiment at one scale: every arm in every environment with every seed."""

    arms: tuple[Arm, ...]
    environments: tuple[object, ...]
    seeds: tuple[int, ...]
    leaves_out: str = ""  # a sentence that names parts of the paper's figure that this design lacks

    def cells(self) -> Iterator["Cell"]:
        """Yields each arm in each environment, with all seeds."""
        for arm in self.arms:
            for environment in self.environments:
                yield Cell(arm.name, name_of(environment), replace(arm.training, env=environment, seeds=self.seeds))


class Cell(NamedTuple):
    """An arm in one environment."""

    arm: str
    environment: str
    training: Trainable


@dataclass(frozen=True)
class Quantity:
    """One number per seed, from a metric's curve: the start, the end, the mean or the lowest value.

    `judging.claims.reduced` defines these reductions. Values that were not measured are ignored. "per episode" is the
    mean of `train_return` over training episodes. "mean" and "per episode" cover the part of the run between the
    fractions `after` and `until`.

    `reset_age=(low, high)` keeps a log point only if the last reset was at least `low` and less than `high` reset
    periods ago in both arms. Use it to leave out the time shortly after a reset, when an agent plays like a new agent.
    An arm without resets excludes no log point.

    >>> Quantity("eval_return", "mean", after=0.5, reset_age=(0.5, math.inf)).metric
    'eval_return'

    Raises ValueError unless 0 <= after < until <= 1 and the two numbers of `reset_age` increase.
    """

    metric: str
    reduce: Literal["end", "mean", "per episode", "start", "lowest"] = "end"
    after: float = 0.0
    reset_age: tuple[float, float] = (0.0, math.inf)
    until: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.after < 1:
            raise ValueError(f"after must be a fraction of the run in [0, 1), got {self.after}.")
        if not self.after < self.until <= 1:
            raise ValueError(f"until must be a fraction of the run in ({self.after}, 1], got {self.until}.")
        if (self.after or self.until < 1) and self.reduce not in ("mean", "per episode"):
            name = "after" if self.after else "until"
            raise ValueError(f"{name} needs reduce='mean' or 'per episode', got reduce={self.reduce!r}; leave it out.")
        if self.reduce == "per episode" and self.metric != "train_return":
            raise ValueError(f"reduce='per episode' needs the metric train_return, got {self.metric!r}; use 'mean'.")
        if not 0 <= self.reset_age[0] < self.reset_age[1]:
            raise ValueError(f"reset_age must be two increasing numbers of reset periods, got {self.reset_age}.")


@dataclass(frozen=True)
class Precondition:
    """A condition that must hold before a claim can be tested: the mean of an arm's quantity lies between two bounds.

    For example, a dormant fraction can only fall by five percentage points if it starts at five or more.

    >>> Precondition(Quantity("dormant/0/all", "start"), "DQN", least=0.05).most
    inf

    Raises ValueError unless `least` is below `most`.
    """

    quantity: Quantity
    arm: str
    least: float = -math.inf
    most: float = math.inf

    def __post_init__(self) -> None:
        if not self.least < self.most:
            raise ValueError(f"least must be below most, got {self.least} and {self.most}.")


@dataclass(frozen=True)
class Claim:
    """A claim: a quantity is higher (or lower) in the arm `arm` than in the arm `against`, by at least `smallest`.

    The claim compares two values. The first value is `quantity` in the arm `arm`. The second value is `quantity` in the
    arm `against`. If `against` is None, the second value is the start of `quantity`'s metric in the arm `arm`. If
    `baseline` is set, the second value is `baseline` in the arm `against`, or in the arm `arm` if `against` is None.

    - `by="ratio"`: the effect is the first value divided by the second. A ratio of 1 means no effect. `smallest` is for
      example 1.5 for "higher" or 0.67 for "lower".
    - `by="difference"`: the effect is the first value minus the second. A difference of 0 means no effect. `smallest`
      is for example 0.1 for "higher" or -0.1 for "lower".

    A claim is called a bound if its `smallest` allows a small effect in the other direction. For example, "higher" with
    a ratio of 0.9 claims that the first value is at least 90 % of the second.

    The intervals of an experiment's primary claims are corrected for the number of these claims (see
    `judging.claims.judged`). All other claims are exploratory. The claim can only be tested if all preconditions in
    `requires` hold.

    Raises ValueError if `by` is "ratio" and `smallest` is not positive.
    """

    statement: str
    quantity: Quantity
    arm: str
    against: str | None
    direction: Literal["higher", "lower"]
    smallest: float
    by: Literal["difference", "ratio"] = "difference"
    baseline: Quantity | None = None
    requires: tuple[Precondition, ...] = ()
    primary: bool = False

    def __post_init__(self) -> None:
        if self.by == "ratio" and not self.smallest > 0:
            raise ValueError(
                f'smallest must be positive if by="ratio", got {self.smallest}. A ratio of 1 means no effect.'
            )

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """All quantities that must be measured to judge the claim."""
        other = (self.baseline,) if self.baseline else ()
        return (self.quantity, *other, *(condition.quantity for condition in self.requires))

    @property
    def is_bound(self) -> bool:
        """Whether the claim is a bound: it limits an effect instead of claiming that there is an effect."""
        effect = self.smallest - (1 if self.by == "ratio" else 0)
        return effect < 0 if self.direction == "higher" else effect > 0


@dataclass(frozen=True)
class Panel:
    """One plot with one line per arm. The y-axis is `metric`, and the x-axis is `over`.

    If `over` is "replay_ratio", the plot shows the values at the end of the runs.
    """

    title: str
    metric: str
    over: Literal["agent_steps", "gradient_steps", "epoch", "replay_ratio"] = "agent_steps"


@dataclass(frozen=True)
class Experiment:
    """A figure of the paper: its design at each scale, its panels and its claims.

    `published` names panels in published.csv. The plot shows the curves of these panels next to our curves.
    """

    name: str
    title: str
    designs: Mapping[Scale, Design]
    panels: tuple[Panel, ...] = ()
    claims: tuple[Claim, ...] = ()
    published: tuple[str, ...] = ()
    settings: str = ""  # a sentence about the differences from the paper
    command: str = ""  # the command that runs the experiment, if it is not `dormant figure`


def name_of(environment: object) -> str:
    """The name of an environment on the command line.

    >>> from dormant.rl.envs.minatar import MinAtar
    >>> name_of(MinAtar("Breakout")), name_of(MuJoCo("Hopper-v5"))
    ('MinAtar/Breakout', 'Hopper-v5')
    """
    if isinstance(environment, MuJoCo):
        return environment.task
    if isinstance(environment, ImageSet):
        return environment.name
    assert isinstance(environment, Game), f"{environment!r} has no name on the command line"
    kind = type(environment).__name__
    return f"{FAMILIES.get(kind, kind)}/{environment.game}"
