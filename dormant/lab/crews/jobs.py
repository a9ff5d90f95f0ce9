"""The jobs that a set of experiments still needs, and how one job is run."""

import os
import sys
import textwrap
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dormant.lab.design import Cell, Experiment, Scale
from dormant.lab.runs.description import kind, run_path
from dormant.lab.runs.folder import RunInUse, RunRefused, runs_by_seed
from dormant.lab.runs.runner import FULL, FollowingTraining, Progress, run

UNFINISHED = ("queued", "begun", "steps")


class Job(NamedTuple):
    """A training with the seeds that are missing, and its run folder."""

    arm: str
    environment: str
    training: Any
    path: Path

    @property
    def name(self) -> str:
        """The job's name in lines of progress."""
        seeds = ", ".join(map(str, self.training.seeds))
        return f"{self.arm} on {self.environment}, seed{'s' * (len(self.training.seeds) > 1)} {seeds}"


class Event(NamedTuple):
    """A change of a job: it waits for a machine, it has begun, it has done more agent steps, or it has ended."""

    kind: Literal["queued", "begun", "steps", "done", "in use", "refused", "full", "crashed", "lost"]
    agent_steps: int = 0
    message: str = ""

    @property
    def ends(self) -> bool:
        """Whether this is the last event of the job."""
        return self.kind not in UNFINISHED


def jobs(experiments: Iterable[Experiment], scale: Scale, root: Path, together: bool) -> list[Job]:
    """The missing runs of some experiments.

    A job has all missing seeds of an arm in one environment if `together` is true, otherwise a single seed. A run that
    several experiments share is listed once. A seed is missing if no finished run contains it. An unfinished run is
    resumed if it has the same seeds as the job.
    """
    found = {job.path: job for cell in cells(experiments, scale) for job in _missing(cell, scale, root, together)}
    return list(found.values())


def cells(experiments: Iterable[Experiment], scale: Scale) -> Iterator[Cell]:
    """Every arm in every environment of the experiments that have a design at that scale, without repetitions.

    The trainings that an arm needs come before the arm.
    """
    seen = set()
    for experiment in experiments:
        for cell in experiment.designs[scale].cells() if scale in experiment.designs else ():
            for each in (*_needed(cell), cell):
                path = run_path(Path(), scale, each.training)
                if path not in seen:
                    seen.add(path)
                    yield each


def _needed(cell: Cell) -> Iterator[Cell]:
    """The trainings whose last states an arm's training starts from."""
    if isinstance(cell.training, FollowingTraining):
        for training in cell.training.needs:
            yield Cell(f"{kind(training)} for {cell.arm}", cell.environment, training)


def _missing(cell: Cell, scale: Scale, root: Path, together: bool) -> Iterator[Job]:
    done = runs_by_seed(root, scale, cell.training)
    left = tuple(seed for seed in cell.training.seeds if seed not in done)
    for seeds in [left] if together and left else [(seed,) for seed in left]:
        training = replace(cell.training, seeds=seeds)
        yield Job(cell.arm, cell.environment, training, run_path(root, scale, training))


def run_job(job: Job, checkpoint_seconds: float, progress: Progress = lambda agent_steps: None) -> Event:
    """Runs a job and returns how it ended. Errors become events, so that other jobs continue."""
    try:
        with _logged(job.path):
            run(job.training, job.path, progress, checkpoint_seconds)
    except RunInUse as error:
        return Event("in use", message=str(error))
    except RunRefused as error:
        return Event("refused", message=str(error))
    except OSError as error:
        kind = "full" if error.errno in FULL else "crashed"
        return Event(kind, message=f"{error.filename or job.path}: {error.strerror}")
    except Exception as error:
        return Event("crashed", message=" ".join(f"{type(error).__name__}: {error}".split()))
    return Event("done", job.training.agent_steps)


def log_file(path: Path) -> Path:
    """The file with the output of the job in a run folder. It is kept if the job fails."""
    return path.with_name(path.name + ".log")


def last_line(file: Path) -> str:
    """The last line of a file that is not empty, "" if there is none."""
    lines = file.read_text(errors="replace").split("\n") if file.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def last_log_line(job: Job | None) -> str:
    """The last line of a job's log as the end of an error message, "" if there is none."""
    line = last_line(log_file(job.path)) if job else ""
    return f"; last line of its log: {textwrap.shorten(line, 120)}" if line else ""


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Sends all output, including that of compiled code, to the job's log. Removes the log if no error is raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that want the same folder share this log, so neither may empty it.
    with log_file(path).open("a") as stream:
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
    log_file(path).unlink(missing_ok=True)
