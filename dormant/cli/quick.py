"""`dormant demo --quick`: a classifier on labels that change, with and without recycling, within a minute."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from dormant.cli.terminal import counted, each_seed, latest, live_table, sparkline
from dormant.interventions import Chain, Every, ReDo
from dormant.supervised.renamed import TAU, RenamedDigits

SEEDS, TASKS, PERIOD = 3, 40, 100
LATE = 5  # the table averages over this number of last tasks
ARMS = {"plain": Chain(), "with ReDo": Every(PERIOD, ReDo(tau=TAU))}
Tasks = Float[np.ndarray, "tasks seeds"]
Measured = Mapping[str, tuple[Tasks, Tasks]]  # arm -> accuracy, dormant fraction


def run(console: Console, picture: Path, seeds: int) -> int:
    """Trains both arms, prints the table and the closing lines, and draws the picture. Returns 0."""
    trainings = {arm: RenamedDigits(intervention, tuple(range(seeds))) for arm, intervention in ARMS.items()}
    example = next(iter(trainings.values()))
    size = f"{TASKS} tasks of {example.steps} gradient steps, {counted(seeds, 'seed')} per arm"
    console.print(f"[bold]Digits[/] of scikit-learn, {size}. Each task gives the ten digits new labels.")
    states = {arm: training.init() for arm, training in trainings.items()}
    measured: dict[str, tuple[Tasks, Tasks]] = {arm: (np.empty((0, seeds)), np.empty((0, seeds))) for arm in ARMS}
    with live_table(console) as show:
        show(lambda: _progress(measured))
        for number in range(TASKS):
            for arm, training in trainings.items():
                states[arm], task = training.advance(states[arm], number)
                accuracy, dormant = measured[arm]
                measured[arm] = np.vstack([accuracy, task.accuracy]), np.vstack([dormant, task.dormant])
            show(lambda: _progress(measured))
    console.print(_table(measured))
    console.print(closing(measured, example.learning_rate), highlight=False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    numbers = picture.with_suffix(".csv")
    write(measured, numbers)
    draw(read(numbers), picture)
    console.print(f"Picture: {picture}, and its numbers: {numbers}", soft_wrap=True, highlight=False)
    return 0


def _progress(measured: Measured) -> Table:
    table = Table("", "tasks", "accuracy on the newest task", "dormant neurons", box=None, padding=(0, 1))
    for arm, (accuracy, dormant) in measured.items():
        curves = [sparkline(100 * each.mean(axis=1), 100.0) for each in (accuracy, dormant)]
        numbers = [latest(100 * each.mean(axis=1), ".0f") + " %" for each in (accuracy, dormant)]
        table.add_row(arm, f"{len(accuracy)}/{TASKS}", *(f"{c} {n}" for c, n in zip(curves, numbers, strict=True)))
    return table


def _table(measured: Measured) -> Table:
    note = "Mean over seeds, and each seed in brackets. Accuracy is on images that were not trained on."
    table = Table("", *measured, caption=note)
    rows = {
        "accuracy on the first task": [accuracy[0] for accuracy, _ in measured.values()],
        f"accuracy on the last {LATE} tasks": [_late(accuracy) for accuracy, _ in measured.values()],
        f"dormant neurons then (τ = {TAU:g})": [_late(dormant) for _, dormant in measured.values()],
    }
    for name, values in rows.items():
        table.add_row(name, *(each_seed(100 * each, ".0f", " %") for each in values))
    return table


def _late(values: Tasks) -> Float[np.ndarray, " seeds"]:
    return values[-LATE:].mean(axis=0)


def closing(measured: Measured, learning_rate: float) -> str:
    """What the numbers show and what they do not, in plain words."""
    (plain, silent), (recycled, renewed) = measured.values()
    before, after = _late(plain), _late(recycled)
    higher = int(np.sum(after > before))
    return (
        f"Seen: the plain network starts with {plain[0].mean():.0%} and ends with {before.mean():.0%} of new tasks "
        f"right, while {_late(silent).mean():.0%} of its neurons are dormant. With ReDo, it ends with "
        f"{after.mean():.0%}, and {_late(renewed).mean():.0%} are dormant. ReDo is ahead in {higher} of {len(before)} "
        f"seeds.\nNot seen: another problem, network or step size than Adam's {learning_rate:g}. At 0.001 the plain "
        "network hardly gets worse (LOG.md). `dormant demo` trains agents."
    ).replace("%", " %")


def write(measured: Measured, file: Path) -> None:
    """Writes the numbers of the picture as a table in CSV."""
    with file.open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("arm", "task", "seed", "accuracy", "dormant"))
        for arm, (accuracy, dormant) in measured.items():
            for task, seed in np.ndindex(accuracy.shape):
                table.writerow((arm, task + 1, seed, f"{accuracy[task, seed]:.6g}", f"{dormant[task, seed]:.6g}"))


def read(file: Path) -> Measured:
    """Reads the numbers that `write` wrote."""
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))

    def column(arm: str, name: str) -> Tasks:
        mine = [row for row in rows if row["arm"] == arm]
        return np.array([float(row[name]) for row in mine]).reshape(int(mine[-1]["task"]), -1)

    return {arm: (column(arm, "accuracy"), column(arm, "dormant")) for arm in dict.fromkeys(row["arm"] for row in rows)}


def draw(measured: Measured, file: Path) -> None:
    """Draws the accuracy on each new task and the dormant neurons into a file."""
    from dormant.lab.drawing import two_panels  # imported late, because it loads slowly

    panels = {
        "Accuracy on each new task": {arm: accuracy.T for arm, (accuracy, _) in measured.items()},
        f"Dormant neurons (τ = {TAU:g})": {arm: dormant.T for arm, (_, dormant) in measured.items()},
    }
    seeds = next(iter(measured.values()))[0].shape[1]
    caption = (
        f"dormant demo --quick --seeds {seeds}: each task gives scikit-learn's digits new labels. Thin lines are "
        "seeds, thick lines are their means."
    )
    two_panels(panels, "The same network on one task after another", "task", caption).savefig(file)
