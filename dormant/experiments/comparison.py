"""A fair comparison: tunes methods with equal budgets on separate seeds, then judges them against DQN."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from dormant.experiments.benches import (
    HIGHER_RETURN,
    MINATAR,
    NOTHING_LEARNT,
    SMOKE,
    SMOKE_RESNET,
    THREE,
    TWO,
    Bench,
    atari_bench,
    halves_dormancy,
    returns,
)
from dormant.experiments.methods import METHODS, PLAIN, candidates, method, title
from dormant.files import write_whole
from dormant.hints import canonical
from dormant.lab import Arm, Claim, Design, Experiment, Panel, Scale
from dormant.lab.runs.schema import Checksum, Model, read, sealed
from dormant.rl.envs.atari import DQN_GAMES, Atari
from dormant.rl.envs.minatar import MinAtar

Value = TypeVar("Value")
Suite = Literal["minatar", "atari"]


@dataclass(frozen=True)
class Budget:
    """The tuning of each method: `draws` settings, run with `seeds` in the first `environments` environments."""

    draws: int
    environments: int
    seeds: tuple[int, ...] = (110,)


@dataclass(frozen=True)
class Ground:
    """The bench, environments, seeds and tuning budget of a comparison at one scale.

    The seeds of the comparison are not used for tuning.
    """

    bench: Bench
    environments: tuple[object, ...]
    seeds: tuple[int, ...]
    tuning: Budget
    leaves_out: str = ""


def _on_minatar(games: Sequence[str], seeds: tuple[int, ...], tuning: Budget, leaves_out: str) -> Ground:
    return Ground(MINATAR, tuple(map(MinAtar, games)), seeds, tuning, leaves_out)


# The scales pilot and laptop have new seeds, because we had seen runs of other seeds before we chose the outcome.
GROUNDS: Mapping[Suite, Mapping[Scale, Ground]] = {
    "minatar": {
        "smoke": Ground(SMOKE, (MinAtar("Asterix", time_limit=100),), (0, 1), Budget(2, 1), NOTHING_LEARNT),
        "pilot": _on_minatar(
            TWO, (10, 11, 12), Budget(5, 2), "Three of MinAtar's five games, and two of five seeds at least."
        ),
        "laptop": _on_minatar(
            THREE,
            (20, 21, 22, 23, 24),
            Budget(8, 3, (110, 111)),
            "Atari, two of MinAtar's five games, and runs of more than 200,000 agent steps.",
        ),
    },
    "atari": {
        "smoke": Ground(SMOKE_RESNET, (Atari("Pong", time_limit=50),), (0, 1), Budget(2, 1), NOTHING_LEARNT),
        "paper": Ground(atari_bench(10), tuple(map(Atari, DQN_GAMES)), tuple(range(5)), Budget(5, 2)),
    },
}


def tuning_arm(name: str, setting: str) -> str:
    """The name of the arm that tries a setting of a method."""
    return f"{title(name)}, {setting}"


def tuning(suite: Suite, scale: Scale, names: Sequence[str]) -> Experiment:
    """The experiment of the tuning runs: all drawn settings of the methods and the plain agent, on the tuning seeds."""
    ground = GROUNDS[suite][scale]
    budget = ground.tuning
    arms = tuple(
        Arm(tuning_arm(name, setting), training)
        for name in (PLAIN, *names)
        for setting, training in candidates(name, ground.bench, budget.draws).items()
    )
    environments = ground.environments[: budget.environments]
    design = Design(arms, environments, budget.seeds, "These runs are not judged.")
    return Experiment("compare-tuning", "The tuning of a comparison", {scale: design})


def comparison(suite: Suite, scale: Scale, chosen: Mapping[str, str]) -> Experiment:
    """The experiment that compares the methods and the plain agent, each with its chosen setting.

    Raises KeyError if a setting is not a drawn setting of its method.
    """
    ground = GROUNDS[suite][scale]
    budget = ground.tuning
    arms = tuple(
        Arm(title(name), candidates(name, ground.bench, budget.draws)[setting]) for name, setting in chosen.items()
    )
    settings = "; ".join(f"{title(name)}: {setting}" for name, setting in chosen.items())
    return Experiment(
        name="compare",
        title="Methods against dormant neurons, tuned alike",
        designs={scale: Design(arms, ground.environments, ground.seeds, ground.leaves_out)},
        panels=(
            Panel("Training return", "train_return"),
            Panel("Return", "eval_return"),
            Panel("Dormant neurons (τ = 0.1)", "dormant/0.1/all"),
        ),
        claims=claims(chosen),
        settings=f"{tuning_text(budget)} Chosen settings: {settings}.",
        command=f"dormant compare --interventions {','.join(list(chosen)[1:])} --suite {suite} --scale {scale}",
    )


def tuning_text(budget: Budget) -> str:
    """Sentences about how the settings of a comparison are chosen."""
    return (
        f"Each method has {budget.draws} settings, drawn uniformly on a logarithmic scale from its ranges. Each "
        f"setting has one tuning run per seed ({', '.join(map(str, budget.seeds))}) in the first {budget.environments} "
        "environments. The setting with the highest return of training episodes in the last fifth of the runs is used. "
        "The plain agent, and methods without a setting of their own, draw a learning rate."
    )


def claims(names: Iterable[str]) -> tuple[Claim, ...]:
    """The claims of a comparison of some methods and the plain agent.

    Each method has a primary claim about its return relative to the plain agent. Holm's method corrects the primary
    claims for their number. A variant of another method is also compared with that method.
    """
    names = [name for name in names if name != PLAIN]
    variants = [(name, method(name).variant_of) for name in names]
    return (
        *(replace(higher_return(title(name)), primary=True) for name in names),
        *(fewer_dormant(title(name)) for name in names),
        *(higher_return(title(name), title(other)) for name, other in variants if other in names),
    )


def higher_return(arm: str, against: str = PLAIN) -> Claim:
    """The claim that a method's return of training episodes in the last fifth of a run is higher than the other's."""
    statement = f"The return of {arm} is higher than that of {f'plain {PLAIN}' if against == PLAIN else against}"
    return returns(statement, arm, against, "higher", HIGHER_RETURN)


def fewer_dormant(arm: str) -> Claim:
    """The claim that a method halves the plain agent's fraction of dormant neurons."""
    return halves_dormancy(arm, PLAIN)


class Record(Model):
    """The state of a comparison: each method's chosen setting, and its training time relative to plain DQN.

    `revisions` has the code revisions that made the runs. `tuning` explains how the settings were chosen. `note` has
    further remarks for readers of the table.
    """

    suite: Suite
    chosen: dict[str, str]
    cost: dict[str, float] = Field(default_factory=dict)
    revisions: list[str] = Field(default_factory=list)
    tuning: str = ""
    note: str = ""
    checksum: Checksum | None = None  # None in files that older versions wrote

    def experiment(self, scale: Scale) -> Experiment:
        """The experiment that compares the chosen settings."""
        return comparison(self.suite, scale, self.chosen)


def record_file(root: Path, scale: Scale) -> Path:
    """The path of the newest comparison's record."""
    return root / scale / "comparison.json"


def write_record(root: Path, scale: Scale, record: Record) -> None:
    """Writes the record, completely or not at all."""
    write_whole(record_file(root, scale), sealed(record.model_dump(exclude={"checksum"})))


def read_record(root: Path, scale: Scale) -> Record | None:
    """Reads the newest comparison's record. Returns None if no record exists, or if it names an unknown setting.

    Raises Damaged if the file is damaged, OSError if it cannot be read.
    """
    try:
        record = stored_record(root, scale)
        record.experiment(scale)
    except (FileNotFoundError, NotADirectoryError, KeyError):
        return None
    return record


def stored_record(root: Path, scale: Scale) -> Record:
    """Reads a comparison's record, even if its settings are unknown to this version.

    Raises Damaged if the file is damaged, OSError if it cannot be read.
    """
    found = read(Record, record_file(root, scale))
    names = {"chosen": _with_known_names(found.chosen), "cost": _with_known_names(found.cost)}
    return found.model_copy(update={**names, "checksum": None})


def _with_known_names(record: dict[str, Value]) -> dict[str, Value]:
    """Replaces old names of methods with current names. Old names have underscores; "cbp" was continual backprop."""
    names = {name: canonical({"cbp": "continual-backprop"}.get(name, name), METHODS) for name in record}
    return {names[name]: value for name, value in record.items()}
