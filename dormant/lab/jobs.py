"""What is left to do for some experiments at a scale: jobs, each a training in its run folder, none of them twice."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from dormant.lab.runner import FollowingTraining
from dormant.lab.spec import Cell, Experiment, Scale, kind, place
from dormant.lab.store import RunFolder


class Job(NamedTuple):
    """A training, with the seeds that it still has to be run for, and the folder of that run."""

    arm: str
    environment: str
    training: Any
    path: Path

    @property
    def name(self) -> str:
        """What a line of progress calls it."""
        seeds = ", ".join(map(str, self.training.seeds))
        return f"{self.arm} on {self.environment}, seed{'s' * (len(self.training.seeds) > 1)} {seeds}"


def jobs(experiments: Iterable[Experiment], scale: Scale, root: Path, together: bool) -> list[Job]:
    """The runs that are missing, with all seeds of an arm in one environment `together`, or each in a run of its own.

    Runs that several experiments share are there once. Seeds are missing that no finished run holds, in whichever
    company it did them; a run that was begun and not finished is gone on with if it had the same seeds.
    """
    found = {job.path: job for cell in cells(experiments, scale) for job in missing(cell, scale, root, together)}
    return list(found.values())


def cells(experiments: Iterable[Experiment], scale: Scale) -> Iterator[Cell]:
    """Every arm in every environment of the experiments that have a design at that scale, shared ones once.

    What an arm goes on from comes before it.
    """
    seen = set()
    for experiment in experiments:
        for cell in experiment.designs[scale].cells() if scale in experiment.designs else ():
            for each in (*needed(cell), cell):
                where = place(Path(), scale, each.training, each.training.seeds)
                if where not in seen:
                    seen.add(where)
                    yield each


def needed(cell: Cell) -> Iterator[Cell]:
    """The trainings whose last states an arm's training goes on from."""
    if isinstance(cell.training, FollowingTraining):
        for training in cell.training.needs:
            yield Cell(f"{kind(training)} for {cell.arm}", cell.environment, training)


def missing(cell: Cell, scale: Scale, root: Path, together: bool) -> Iterator[Job]:
    """The jobs of one arm in one environment."""
    done = finished(place(root, scale, cell.training, cell.training.seeds).parent)
    left = tuple(seed for seed in cell.training.seeds if seed not in done)
    for seeds in [left] if together and left else [(seed,) for seed in left]:
        yield Job(
            cell.arm, cell.environment, replace(cell.training, seeds=seeds), place(root, scale, cell.training, seeds)
        )


def finished(folder: Path) -> set[int]:
    """The seeds of the finished runs in a folder of runs that differ in their seeds only."""
    done = (run.name for run in folder.glob("seed*") if RunFolder(run).done.exists())
    return {int(seed) for name in done for seed in name.removeprefix("seed").split("-")}
