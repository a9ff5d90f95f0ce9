"""A fair comparison: methods are tuned with equal budgets on a seed that is not judged, then judged against DQN."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dormant.experiments.benches import (
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
from dormant.experiments.methods import METHODS, PLAIN, candidates, title
from dormant.files import write_whole
from dormant.lab.design import Arm, Claim, Design, Experiment, Panel, Quantity, Scale
from dormant.names import canonical
from dormant.rl.envs.atari import Atari
from dormant.rl.envs.atari_scores import DQN_GAMES
from dormant.rl.envs.minatar import MinAtar

Suite = Literal["minatar", "atari"]
TUNING_SEED = 100  # not a seed of any design


@dataclass(frozen=True)
class Ground:
    """The bench, environments and seeds of a comparison at one scale. Tuning uses the first environment only."""

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
        "paper": Ground(atari_bench(10), tuple(map(Atari, DQN_GAMES)), tuple(range(5))),
    },
}


def tuning(suite: Suite, scale: Scale, names: Sequence[str]) -> Experiment:
    """The tuning runs: every candidate of the methods and the plain agent, with the tuning seed."""
    ground = GROUNDS[suite][scale]
    arms = tuple(
        Arm(f"{title(name)}, {setting}", training)
        for name in (PLAIN, *names)
        for setting, training in candidates(name, ground.bench).items()
    )
    design = Design(arms, ground.environments[:1], (TUNING_SEED,), "These runs are not judged.")
    return Experiment("compare-tuning", "The tuning of a comparison", {scale: design})


def comparison(suite: Suite, scale: Scale, chosen: Mapping[str, str]) -> Experiment:
    """The methods and the plain agent, each with its chosen setting."""
    ground = GROUNDS[suite][scale]
    arms = tuple(Arm(title(name), candidates(name, ground.bench)[setting]) for name, setting in chosen.items())
    settings = "; ".join(f"{title(name)}: {setting}" for name, setting in chosen.items())
    return Experiment(
        name="compare",
        title="Methods against dormant neurons, tuned alike",
        designs={scale: Design(arms, ground.environments, ground.seeds, ground.leaves_out)},
        panels=(Panel("Return", "eval_return"), Panel("Dormant neurons (τ = 0.1)", "dormant/0.1/all")),
        claims=tuple(claim for arm in arms[1:] for claim in (higher_return(arm.name), fewer_dormant(arm.name))),
        settings=(
            "Each method has three candidate settings, with one tuning run each in the first environment with seed "
            f"{TUNING_SEED}. The setting with the highest mean return in the second half of training is used. The "
            "candidates of the plain agent, and of methods without a setting of their own, are learning rates. "
            f"Chosen settings: {settings}."
        ),
        command=f"dormant compare --interventions {','.join(list(chosen)[1:])} --suite {suite} --scale {scale}",
    )


def higher_return(arm: str) -> Claim:
    """The claim that a method's return in the second half of training is higher than the plain agent's."""
    statement = f"The return of {arm} is higher than that of plain DQN"
    quantity = Quantity("eval_return", "mean", after=0.5, reset_age=LONG_AFTER)
    return Claim(statement, quantity, arm, PLAIN, "higher", HIGHER_RETURN, "ratio")


def fewer_dormant(arm: str) -> Claim:
    """The claim that a method halves the plain agent's fraction of dormant neurons."""
    statement = f"{arm} at least halves the share of dormant neurons (τ = 0.1)"
    quantity = Quantity("dormant/0.1/all", "mean", after=0.5)
    return Claim(statement, quantity, arm, PLAIN, "lower", HALF_AS_MANY, "ratio")


class Record(NamedTuple):
    """The state of a comparison: each method's setting, and its training time relative to plain DQN."""

    suite: Suite
    chosen: dict[str, str]
    cost: dict[str, float]

    def experiment(self, scale: Scale) -> Experiment:
        """The runs that are compared."""
        return comparison(self.suite, scale, self.chosen)


def record_file(root: Path, scale: Scale) -> Path:
    """The file with the record of the newest comparison."""
    return root / scale / "comparison.json"


def write_record(root: Path, scale: Scale, record: Record) -> None:
    """Writes the record, completely or not at all."""
    write_whole(record_file(root, scale), json.dumps(record._asdict(), indent=1, ensure_ascii=False) + "\n")


def read_record(root: Path, scale: Scale) -> Record | None:
    """The record of the newest comparison under a folder, None if there is none or it does not fit this version."""
    try:
        suite, chosen, cost = Record(**json.loads(record_file(root, scale).read_text()))
        record = Record(suite, _with_known_names(chosen), _with_known_names(cost))
        record.experiment(scale)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return record


def _with_known_names(record: dict[str, Any]) -> dict[str, Any]:
    """The record with today's names of methods. Older records have underscores, and cbp for continual backprop."""
    names = {name: canonical({"cbp": "continual-backprop"}.get(name, name), METHODS) for name in record}
    return {names[name]: value for name, value in record.items()}
