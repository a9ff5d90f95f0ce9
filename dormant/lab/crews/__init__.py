"""Jobs (the missing runs of experiments), a function that runs a job, and a scheduler that assigns jobs to workers."""

import logging
import os
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from dormant.lab import Cell, Experiment, Scale
from dormant.lab.runs.description import kind, run_path
from dormant.lab.runs.folder import RunInUse, RunRefused, runs_by_seed
from dormant.lab.runs.runner import FULL, LOG, FollowingTraining, Progress, run

UNFINISHED = ("queued", "begun", "steps")


class Job(NamedTuple):
    """A training of seeds that no finished run contains, and its run folder."""

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
    """A change of a job: it is queued, has begun, has done more agent steps, or has ended."""

    kind: Literal["queued", "begun", "steps", "done", "in use", "refused", "full", "crashed", "lost"]
    agent_steps: int = 0
    message: str = ""

    @property
    def ends(self) -> bool:
        """Whether this is the last event of the job."""
        return self.kind not in UNFINISHED


def jobs(experiments: Iterable[Experiment], scale: Scale, root: Path, together: bool) -> list[Job]:
    """The jobs for the missing runs of some experiments.

    If `together` is true, a job trains all missing seeds of an arm in one environment. Otherwise a job trains one seed.
    A seed is missing if no finished run contains it. A run that several experiments share is included once. A job
    resumes an unfinished run that has the same seeds.
    """
    found = {job.path: job for cell in cells(experiments, scale) for job in _missing(cell, scale, root, together)}
    return list(found.values())


def cells(experiments: Iterable[Experiment], scale: Scale) -> Iterator[Cell]:
    """Yields each arm of the experiments in each environment once. Skips experiments without a design at this scale.

    If an arm's training needs other trainings, the other trainings come before the arm.
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
    """Yields the trainings that must be finished before the cell's training starts."""
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
    """Runs a job. Returns its last event, with the run's warnings. Errors become events, so other jobs continue."""
    try:
        with _logged(job.path), _warnings() as warnings:
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
    return Event("done", job.training.agent_steps, " ".join(warnings))


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collects the warnings that runs log inside the block, for example about a diverged network."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())
    LOG.addHandler(handler)
    try:
        yield found
    finally:
        LOG.removeHandler(handler)


def log_file(path: Path) -> Path:
    """The path of a job's log, next to its run folder. The log holds the job's output and is kept if the job fails."""
    return path.with_name(path.name + ".log")


def last_line(file: Path) -> str:
    """Returns the last non-empty line of a file. Returns "" if there is none."""
    lines = file.read_text(errors="replace").split("\n") if file.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def last_log_line(job: Job | None) -> str:
    """Returns the last line of a job's log in a form that can end an error message. Returns "" if there is none."""
    line = last_line(log_file(job.path)) if job else ""
    return f"; last line of its log: {textwrap.shorten(line, 120)}" if line else ""


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Sends all output, also the output of compiled code, to the job's log. Removes the log if no error is raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Appends to the log. If two processes try to claim one folder, both write to this log, so neither may empty it.
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


TRIES = 2
RETRY_SECONDS = 2.0  # the pause before the next attempt if another process uses the folder
State = Literal["waiting", "queued", "running", "in use", "done", "failed"]


@runtime_checkable
class Worker(Protocol):
    """Runs one job after another and reports events. `last` is the run folder of the newest job."""

    job: Job | None
    last: Path | None

    def give(self, job: Job) -> None: ...
    def events(self) -> Iterable[Event]: ...


@runtime_checkable
class Crew(Protocol):
    """A set of workers whose number can change. `workers` returns the usable workers."""

    def workers(self, wanted: int) -> Sequence[Worker]: ...
    def wait(self, seconds: float) -> None: ...  # returns when a worker has an event, or after `seconds`
    def end(self) -> None: ...


class DiskFull(Exception):
    """A job could not write because a disk is full. The message names the file."""


@dataclass
class Standing:
    """The progress of a job. `begun_at` is the number of agent steps at which the job was started or resumed."""

    job: Job
    state: State = "waiting"
    agent_steps: int = 0
    begun_at: int | None = None
    tries: int = 0
    furthest: int = 0  # agent steps of the job when it last lost its machine
    message: str = ""
    not_before: float = 0.0
    since: float = 0.0

    def begin(self) -> Job:
        """Marks the job as running and returns it."""
        self.state, self.since = "running", time.monotonic()
        return self.job

    def take(self, event: Event) -> None:
        """Updates the state with a worker's event. Raises DiskFull if the event reports a full disk."""
        match event.kind:
            case "queued":
                self.state = "queued"
            case "begun":
                self.state, self.since = "running", time.monotonic()
            case "steps":
                self.begun_at = event.agent_steps if self.begun_at is None else self.begun_at
                self.agent_steps = event.agent_steps
            case "done":
                self.state, self.agent_steps, self.message = "done", event.agent_steps, event.message
            case "in use":
                self.state, self.message = "in use", event.message
                self.not_before = time.monotonic() + RETRY_SECONDS
            case "full":
                raise DiskFull(event.message)
            case "refused":
                self.state, self.message = "failed", event.message
            case "lost" if self.agent_steps > self.furthest:
                # Losing a machine is not a failed try if the job has made progress since it last lost a machine.
                self.state, self.furthest, self.message = "waiting", self.agent_steps, event.message
            case "crashed" | "lost":
                self.tries += 1
                self.state = "waiting" if self.tries < TRIES else "failed"
                self.message = event.message


@dataclass
class Board:
    """All jobs with their progress, in the order in which they are started."""

    standings: list[Standing]
    started: float = field(default_factory=time.monotonic)

    def count(self, *states: State) -> int:
        """The number of jobs in the given states."""
        return sum(each.state in states for each in self.standings)

    def left(self) -> int:
        """The number of jobs that have not ended."""
        return self.count("waiting", "queued", "running", "in use")

    def next(self, last: Path | None = None) -> Standing | None:
        """Returns the job that a worker should start now, or None. `last` is the folder of the worker's last job.

        The best choice is another seed of the last job's training, because the worker has already compiled its code.
        The second best choice is a training that no other worker is running. A job whose folder was in use comes last,
        and only after RETRY_SECONDS.
        """
        now = time.monotonic()
        running = {each.job.path.parent for each in self.standings if each.state in ("queued", "running")}

        def rank(standing: Standing) -> tuple[bool, bool, bool]:
            folder = standing.job.path.parent
            return standing.state == "in use", last is None or folder != last.parent, folder in running

        ready = [
            each
            for each in self.standings
            if each.state == "waiting" or (each.state == "in use" and each.not_before <= now)
        ]
        return min(ready, key=rank, default=None)

    def of(self, job: Job) -> Standing:
        """The progress of a job."""
        return next(each for each in self.standings if each.job is job)


Watch = Callable[[Board], None]


def run_all(jobs: Sequence[Job], crew: Crew, watch: Watch = lambda board: None) -> Board:
    """Runs all jobs. Returns the board when each job is done or has failed.

    `watch` is called about twice a second. An exception (Ctrl-C, DiskFull) ends the crew. Every run can then be resumed
    from its last checkpoint.
    """
    board = Board([Standing(job) for job in jobs])
    try:
        while board.left():
            workers = crew.workers(board.left())
            for worker in workers:
                _assign(worker, board)
            crew.wait(0.5)
            for worker in workers:
                _follow(worker, board)
            watch(board)
    finally:
        crew.end()
    return board


def _assign(worker: Worker, board: Board) -> None:
    standing = board.next(worker.last) if worker.job is None else None
    if standing:
        worker.give(standing.begin())


def _follow(worker: Worker, board: Board) -> None:
    for event in worker.events():
        if worker.job:
            board.of(worker.job).take(event)
        if event.ends:
            worker.job = None
