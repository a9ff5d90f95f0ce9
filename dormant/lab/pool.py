"""Works off jobs in parallel: a worker for each core, a second try for what crashed, patience with folders in use."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Literal

from dormant.lab.jobs import Job
from dormant.lab.workers import Event, Worker

TRIES = 2
PATIENCE_SECONDS = 2.0  # between two looks at a folder that another process uses
State = Literal["waiting", "running", "in use", "done", "failed"]


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
            case "crashed":
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
        return self.count("waiting", "running", "in use")

    def next(self, last: Path | None = None) -> Standing | None:
        """The job to begin now, if there is one: those in use elsewhere come last, after some patience.

        A worker whose last job lay at `last` goes on with another seed of it, for which it need not compile, or else
        takes a job that no other worker compiles for.
        """
        now, running = time.monotonic(), {each.job.path.parent for each in self.standings if each.state == "running"}

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


def work_off(
    jobs: Sequence[Job],
    cores: Sequence[int | None],
    watch: Watch = lambda board: None,
    checkpoint_seconds: float = 30.0,
) -> Board:
    """The board once every job is done or has failed. There is a worker for each core; None is one of no core.

    `watch` is called about twice a second. Whatever ends this early (Ctrl-C, a full disk as DiskFull) ends the workers,
    and every run can be gone on with from its last checkpoint.
    """
    board = Board([Standing(job) for job in jobs])
    workers = [Worker(core, checkpoint_seconds) for core in cores[: len(jobs)]]
    try:
        while board.left():
            for worker in workers:
                _give(worker, board)
            wait([worker.pipe for worker in workers if worker.job], timeout=0.5)
            workers = [_heard(worker, board) for worker in workers]
            watch(board)
    finally:
        for worker in workers:
            worker.end()
    return board


def _give(worker: Worker, board: Board) -> None:
    standing = board.next(worker.last) if worker.job is None else None
    if standing:
        worker.give(standing.begin())


def _heard(worker: Worker, board: Board) -> Worker:
    """The worker, or the one that takes its place, once what it said is on the board."""
    for event in worker.events():
        if worker.job:
            board.of(worker.job).take(event)
        if event.kind != "steps":
            worker.job = None
    if worker.process.is_alive():
        return worker
    worker.end()
    return Worker(worker.core, worker.checkpoint_seconds)
