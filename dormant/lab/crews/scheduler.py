"""Works off jobs in parallel: one for each worker, a second try for what crashed, patience with folders in use."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from dormant.lab.crews.jobs import Event, Job

TRIES = 2
PATIENCE_SECONDS = 2.0  # between two looks at a folder that another process uses
State = Literal["waiting", "queued", "running", "in use", "done", "failed"]


@runtime_checkable
class Worker(Protocol):
    """What runs one job after the other, here or elsewhere, and says how each goes; `last` is the newest's folder."""

    job: Job | None
    last: Path | None

    def give(self, job: Job) -> None: ...
    def events(self) -> Iterable[Event]: ...


@runtime_checkable
class Crew(Protocol):
    """All workers. There may be more of them later, and those that are free may be withheld."""

    def workers(self, wanted: int) -> Sequence[Worker]: ...
    def wait(self, seconds: float) -> None: ...  # until one of them says something, at most so long
    def end(self) -> None: ...


class DiskFull(Exception):
    """A job found no room to write in; the message says where."""


@dataclass
class Standing:
    """How far a job has got. `begun_at` are the agent steps that it had when this process began with it."""

    job: Job
    state: State = "waiting"
    agent_steps: int = 0
    begun_at: int | None = None
    tries: int = 0
    furthest: int = 0  # the agent steps it had when its machine was lost
    message: str = ""
    not_before: float = 0.0
    since: float = 0.0

    def begin(self) -> Job:
        """The job, now running."""
        self.state, self.since = "running", time.monotonic()
        return self.job

    def take(self, event: Event) -> None:
        """Follows what a worker says. Raises DiskFull if that is why it stopped."""
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
                self.not_before = time.monotonic() + PATIENCE_SECONDS
            case "full":
                raise DiskFull(event.message)
            case "refused":
                self.state, self.message = "failed", event.message
            case "lost" if self.agent_steps > self.furthest:
                # No fault of its own, and whatever takes a machine down got on all the same.
                self.state, self.furthest, self.message = "waiting", self.agent_steps, event.message
            case "crashed" | "lost":
                self.tries += 1
                self.state = "waiting" if self.tries < TRIES else "failed"
                self.message = event.message


@dataclass
class Board:
    """All jobs with their standings, in the order in which they are begun."""

    standings: list[Standing]
    started: float = field(default_factory=time.monotonic)

    def count(self, *states: State) -> int:
        """How many jobs are in one of these states."""
        return sum(each.state in states for each in self.standings)

    def left(self) -> int:
        """How many jobs have not ended."""
        return self.count("waiting", "queued", "running", "in use")

    def next(self, last: Path | None = None) -> Standing | None:
        """The job to begin now, if there is one: those in use elsewhere come last, after some patience.

        A worker whose last job lay at `last` goes on with another seed of it, for which it need not compile, or else
        takes a job that no other worker compiles for.
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
        """The standing of a job."""
        return next(each for each in self.standings if each.job is job)


Watch = Callable[[Board], None]


def work_off(jobs: Sequence[Job], crew: Crew, watch: Watch = lambda board: None) -> Board:
    """The board once every job is done or has failed.

    `watch` is called about twice a second. Whatever ends this early (Ctrl-C, a full disk as DiskFull) ends the crew,
    and every run can be gone on with from its last checkpoint.
    """
    board = Board([Standing(job) for job in jobs])
    try:
        while board.left():
            workers = crew.workers(board.left())
            for worker in workers:
                _give(worker, board)
            crew.wait(0.5)
            for worker in workers:
                _hear(worker, board)
            watch(board)
    finally:
        crew.end()
    return board


def _give(worker: Worker, board: Board) -> None:
    standing = board.next(worker.last) if worker.job is None else None
    if standing:
        worker.give(standing.begin())


def _hear(worker: Worker, board: Board) -> None:
    for event in worker.events():
        if worker.job:
            board.of(worker.job).take(event)
        if event.ends:
            worker.job = None
