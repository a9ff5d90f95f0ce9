"""What is left to do for some experiments at a scale: jobs, each a training in its run folder, none of them twice."""

import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dormant.lab.design import Cell, Experiment, Scale
from dormant.lab.runs.description import kind, place
from dormant.lab.runs.folder import RunFolder, RunInUse, RunRefused
from dormant.lab.runs.runner import FULL, FollowingTraining, Progress, run


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


ON_THE_WAY = ("queued", "begun", "steps")


class Event(NamedTuple):
    """What is said of a job: that it waits for a machine or has begun, its agent steps so far, or how it ended."""

    kind: Literal["queued", "begun", "steps", "done", "in use", "refused", "full", "crashed", "lost"]
    agent_steps: int = 0
    message: str = ""

    @property
    def ends(self) -> bool:
        """Whether nothing more will be said of that job."""
        return self.kind not in ON_THE_WAY


def outcome(job: Job, checkpoint_seconds: float, progress: Progress = lambda agent_steps: None) -> Event:
    """Runs a job, and says how it ended, whatever it died of."""
    try:
        with logged(job.path):
            run(job.training, job.path, progress, checkpoint_seconds)
    except RunInUse as error:
        return Event("in use", message=str(error))
    except RunRefused as error:
        return Event("refused", message=str(error))
    except OSError as error:
        kind = "full" if error.errno in FULL else "crashed"
        return Event(kind, message=f"{error.filename or job.path}: {error.strerror}")
    except Exception as error:  # whatever a run dies of, the others go on
        return Event("crashed", message=" ".join(f"{type(error).__name__}: {error}".split()))
    return Event("done", job.training.agent_steps)


def log(path: Path) -> Path:
    """Where a job's output goes, which is kept if it fails."""
    return path.with_name(path.name + ".log")


def last_line(file: Path) -> str:
    """The last line in a file that has something on it."""
    lines = file.read_text(errors="replace").split("\n") if file.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Sends all output, that of compiled code too, to the job's log, and takes it away if all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that want the same folder have the same log, so neither empties it.
    with log(path).open("a") as stream:
        kept = [os.dup(number) for number in (1, 2)]
        try:
            for number in (1, 2):
                os.dup2(stream.fileno(), number)
            yield
        except Exception as error:
            if not isinstance(error, RunRefused):
                traceback.print_exc()
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)
    log(path).unlink(missing_ok=True)
