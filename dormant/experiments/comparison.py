"""A fair comparison: methods tuned with one budget, on a seed that is not judged, then judged beside plain DQN."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dormant.experiments.benches import (
    ATARI_17,
    HALF_AS_MANY,
    HIGHER_RETURN,
    MINATAR,
    NOTHING_LEARNT,
    ONE,
    SMOKE,
    SMOKE_RESNET,
    THREE,
    Bench,
    atari_bench,
)
from dormant.experiments.fig13_methods import LONG_AFTER
from dormant.experiments.methods import PLAIN, candidates, title
from dormant.lab.design import Arm, Claim, Design, Experiment, Panel, Quantity, Scale
from dormant.lab.runs.folder import write_whole
from dormant.rl.envs.atari import Atari
from dormant.rl.envs.minatar import MinAtar

Suite = Literal["minatar", "atari"]
TUNING_SEED = 100  # no design judges it


@dataclass(frozen=True)
class Ground:
    """Where methods are compared at a scale: they are tuned in the first environment only."""

    bench: Bench
    environments: tuple[Any, ...]
    seeds: tuple[int, ...]
    leaves_out: str = ""


def _on_minatar(games: Sequence[str], seeds: int, leaves_out: str) -> Ground:
    return Ground(MINATAR, tuple(map(MinAtar, games)), tuple(range(seeds)), leaves_out)


GROUNDS: Mapping[Suite, Mapping[Scale, Ground]] = {
    "minatar": {
        "smoke": Ground(SMOKE, (MinAtar("Asterix", time_limit=100),), (0, 1), NOTHING_LEARNT),
        "pilot": _on_minatar(ONE, 3, "All games but Asterix, and two of the five seeds."),
        "laptop": _on_minatar(THREE, 5, "Atari, and runs of more than 200,000 agent steps."),
    },
    "atari": {
        "smoke": Ground(SMOKE_RESNET, (Atari("Pong", time_limit=50),), (0, 1), NOTHING_LEARNT),
        "paper": Ground(atari_bench(10), tuple(map(Atari, ATARI_17)), tuple(range(5))),
    },
}


def tuning(suite: Suite, scale: Scale, names: Sequence[str]) -> Experiment:
    """Every candidate of the methods and of the plain agent, in the first environment with the tuning seed."""
    ground = GROUNDS[suite][scale]
    arms = tuple(
        Arm(f"{title(name)}, {setting}", training)
        for name in (PLAIN, *names)
        for setting, training in candidates(name, ground.bench).items()
    )
    design = Design(arms, ground.environments[:1], (TUNING_SEED,), "Nothing is judged of these.")
    return Experiment("compare-tuning", "The tuning of a comparison", {scale: design})


def comparison(suite: Suite, scale: Scale, chosen: Mapping[str, str]) -> Experiment:
    """The methods with the setting `chosen` for each, beside the plain agent with its own."""
    ground = GROUNDS[suite][scale]
    arms = tuple(Arm(title(name), candidates(name, ground.bench)[setting]) for name, setting in chosen.items())
    told = "; ".join(f"{title(name)}: {setting}" for name, setting in chosen.items())
    return Experiment(
        name="compare",
        title="Methods against dormant neurons, tuned alike",
        designs={scale: Design(arms, ground.environments, ground.seeds, ground.leaves_out)},
        panels=(Panel("Return", "eval_return"), Panel("Dormant neurons (τ = 0.1)", "dormant/0.1/all")),
        claims=tuple(claim for arm in arms[1:] for claim in (higher_return(arm.name), fewer_dormant(arm.name))),
        settings=(
            f"Each method chose among three settings by one run each in the first environment with seed {TUNING_SEED}, "
            "by the mean return of the second half; the plain agent, and methods without a setting of their own, chose "
            f"a learning rate. Chosen: {told}."
        ),
        command=f"dormant compare --interventions {','.join(list(chosen)[1:])} --suite {suite} --scale {scale}",
    )


def higher_return(arm: str) -> Claim:
    """That a method's return is higher than the plain agent's over the second half of training."""
    statement = f"The return of {arm} is higher than that of plain DQN"
    quantity = Quantity("eval_return", "mean", after=0.5, reset_age=LONG_AFTER)
    return Claim(statement, quantity, arm, PLAIN, "higher", HIGHER_RETURN, "ratio")


def fewer_dormant(arm: str) -> Claim:
    """That a method halves the plain agent's share of dormant neurons."""
    statement = f"{arm} at least halves the share of dormant neurons (τ = 0.1)"
    quantity = Quantity("dormant/0.1/all", "mean", after=0.5)
    return Claim(statement, quantity, arm, PLAIN, "lower", HALF_AS_MANY, "ratio")


class Record(NamedTuple):
    """What a comparison has found out so far: the setting of each method, and how long each takes beside plain DQN."""

    suite: Suite
    chosen: dict[str, str]
    cost: dict[str, float]

    def experiment(self, scale: Scale) -> Experiment:
        """The runs that are compared."""
        return comparison(self.suite, scale, self.chosen)


def place_of(root: Path, scale: Scale) -> Path:
    """The file of a comparison's record."""
    return root / scale / "comparison.json"


def keep(root: Path, scale: Scale, record: Record) -> None:
    """Writes the record, whole or not at all."""
    write_whole(place_of(root, scale), json.dumps(record._asdict(), indent=1, ensure_ascii=False) + "\n")


def kept(root: Path, scale: Scale) -> Record | None:
    """The record of the comparison that was last made under a folder, None if there is none or it no longer fits."""
    try:
        record = Record(**json.loads(place_of(root, scale).read_text()))
        record.experiment(scale)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return record
