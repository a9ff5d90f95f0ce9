"""Measures how fast each network of the experiments acts and learns, and writes dormant/experiments/speeds.csv.

Times are CPU seconds on one core with one thread, because other programs hardly affect CPU seconds. Chunks that only
fill the replay give the time per agent step. Chunks at replay ratio 1, minus this time, give the time per gradient
step.
"""

import argparse
import csv
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from dormant.experiments import EXPERIMENTS
from dormant.experiments.comparison import GROUNDS, tuning
from dormant.experiments.methods import METHODS
from dormant.lab.machine import cores, origin, pin
from dormant.lab.runs.costs import TABLE_COLUMNS, kind_of
from dormant.rl.continual import ContinualTraining, Games

TABLE = Path(__file__).parents[1] / "dormant" / "experiments" / "speeds.csv"


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--core", type=int, default=cores()[-1])
    flags.add_argument("--seconds", type=float, default=5.0, help="smallest CPU time of a measurement in seconds")
    flags.add_argument("--families", nargs="+", default=["MinAtar", "Games", "Atari", "MuJoCo"])
    flags.add_argument("--missing", action="store_true", help="measure only kinds that are not in the table")
    given = flags.parse_args()
    pin(given.core)
    known = read(TABLE)
    for kind, training in kinds():
        if kind.environment in given.families and not (given.missing and kind in known):
            known[kind] = {**kind._asdict(), **speeds(training, given.seconds), **machine()}
            print(*known[kind].values(), flush=True)
            write(TABLE, known)


def kinds() -> Iterator[tuple]:
    """Yields each kind of training in the experiments, with one training of this kind. Leaves out the smoke scale.

    Trainings with the same family of environments and the same network are of one kind.
    """
    compared = [
        tuning(suite, scale, list(METHODS))
        for suite, grounds in GROUNDS.items()
        for scale in grounds
        if scale != "smoke"
    ]
    trainings = [
        cell.training
        for experiment in (*compared, *EXPERIMENTS)
        for scale, design in experiment.designs.items()
        if scale in ("pilot", "laptop", "paper")
        for cell in design.cells()
    ]
    yield from {kind_of(each, "cpu"): each for each in reversed(trainings)}.items()


def speeds(training, seconds: float) -> dict[str, float]:
    """Measures agent steps and gradient steps per second, with a short version of a training.

    Agent steps per second are infinite if the training does not act in an environment.
    """
    if not hasattr(training, "replay_ratio"):
        learning = pace(replace(training, seeds=(0,)), 1, seconds)
        return {"agent_steps_per_second": math.inf, "gradient_steps_per_second": round(1 / learning, 2)}
    steps = {"MinAtar": 1_000, "Games": 1_000, "MuJoCo": 400}.get(kind_of(training, "cpu").environment, 20)
    # The field `env` of a `ContinualTraining` also sets the length of the run.
    games = isinstance(training, ContinualTraining)
    length = {"env": Games(steps=10**6)} if games else {"env": type(training.env)(), "agent_steps": 10**6}
    short = replace(
        training,
        **length,
        seeds=(0,),
        replay_ratio=1.0,
        log_period=steps,
        eval_period=10**6,
        agent=replace(training.agent, min_replay=steps, replay_capacity=100_000),
    )
    acting = pace(replace(short, agent=replace(short.agent, min_replay=100_000)), 0, seconds)
    both = pace(short, 1, seconds)
    return {
        "agent_steps_per_second": round(1 / acting, 1),
        "gradient_steps_per_second": round(1 / (both - acting), 2),
    }


def pace(training, skip: int, seconds: float) -> float:
    """CPU seconds per step of a training. Leaves out the first `skip` + 1 chunks, because they compile."""
    with TemporaryDirectory() as folder:
        state = training.init()
        loop = training.open(Path(folder), state) if hasattr(training, "open") else training
        for _ in range(skip + 1):
            state, _ = loop.advance(state)
        begun, before = time.process_time(), training.agent_steps_done(state)
        while time.process_time() < begun + seconds:
            state, _ = loop.advance(state)
        return (time.process_time() - begun) / (training.agent_steps_done(state) - before)


def machine() -> dict[str, str]:
    made = origin()
    return {"revision": made["revision"], "time": made["time"]}


def read(table: Path) -> dict:
    from dormant.lab.runs.costs import Kind

    with table.open() if table.exists() else open("/dev/null") as stream:
        return {Kind(*(row[name] for name in Kind._fields)): row for row in csv.DictReader(stream)}


def write(table: Path, known: dict) -> None:
    with table.open("w", newline="") as stream:
        rows = csv.DictWriter(stream, TABLE_COLUMNS, lineterminator="\n")
        rows.writeheader()
        rows.writerows(known.values())


if __name__ == "__main__":
    main()
