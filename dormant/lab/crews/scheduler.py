"""Runs jobs in parallel, one per worker. Crashed jobs get a second try, and folders in use are tried again later."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from dormant.lab.crews.jobs import Event, Job

TRIES = 2
RETRY_SECONDS = 2.0  # until a folder that another process uses is tried again
State = Literal["waiting", "queued", "running", "in use", "done", "failed"]


@runtime_checkable
class Worker(Protocol):
    """Runs one job after another and reports events. `last` is the folder of the newest job."""

    job: Job | None
    last: Path | None

    def give(self, job: Job) -> None: ...
    def events(self) -> Iterable[Event]: ...


@runtime_checkable
class Crew(Protocol):
    """A set of workers whose number can change. `workers` returns those that may be used now."""

    def workers(self, wanted: int) -> Sequence[Worker]: ...
    def wait(self, seconds: float) -> None: ...  # until a worker has an event, but no longer than this
    def end(self) -> None: ...


class DiskFull(Exception):
    """A job could not write because a disk is full. The message names the place."""


@dataclass
class Standing:
    """The progress of a job. `begun_at` is the number of agent steps at which this process started or resumed it."""

    job: Job
    state: State = "waiting"
    agent_steps: int = 0
    begun_at: int | None = None
    tries: int = 0
    furthest: int = 0  # agent steps when its machine was last lost
    message: str = ""
    not_before: float = 0.0
    since: float = 0.0

    def begin(self) -> Job:
        """Marks the job as running and returns it."""
        self.state, self.since = "running", time.monotonic()
        return self.job

    def take(self, event: Event) -> None:
        """Updates the state with a worker's event. Raises DiskFull for a full disk."""
        match event.kind:
            case "queued":
                self.state = "queued"
            case "begun":
                self.state, self.since = "running", time.monotonic()
            case "steps":
                self.begun_at = event.agent_steps if self.begun_at is None else self.begun_at
                self.agent_steps = event.agent_steps
            case "done":
                self.state, self.agent_steps, self.message = "done", event.agent_steps, ""
            case "in use":
                self.state, self.message = "in use", event.message
                self.not_before = time.monotonic() + RETRY_SECONDS
            case "full":
                raise DiskFull(event.message)
            case "refused":
                self.state, self.message = "failed", event.message
            case "lost" if self.agent_steps > self.furthest:
                # A lost machine does not count as a try as long as the job makes progress.
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
        """How many jobs are in one of these states."""
        return sum(each.state in states for each in self.standings)

    def left(self) -> int:
        """How many jobs have not ended."""
        return self.count("waiting", "queued", "running", "in use")

    def next(self, last: Path | None = None) -> Standing | None:
        """The job to start now, or None. Jobs whose folders are in use come last, once they may be tried again.

        A worker whose last job was in the folder `last` preferably gets another seed of the same training, whose
        compiled code it has, and otherwise a training that no other worker is running.
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
    """Runs all jobs and returns the board when each is done or has failed.

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
