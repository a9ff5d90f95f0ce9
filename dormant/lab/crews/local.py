"""Worker processes: each lives for many jobs, on a core of its own, and says down a pipe how its job goes."""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import jax

from dormant.lab.crews.jobs import Event, Job, last_line, log, outcome
from dormant.lab.machine import compile_quickly, keep_compiled_code, pin

# Spawned, since a forked process would inherit XLA's threads without their state.
PROCESSES = multiprocessing.get_context("spawn")


@dataclass
class Worker:
    """A process that runs jobs, one after the other, and the one it is at."""

    core: int | None
    checkpoint_seconds: float
    short: bool
    process: Any = field(init=False)
    pipe: Connection = field(init=False)
    job: Job | None = field(init=False, default=None)
    last: Path | None = field(init=False, default=None)  # the folder of the newest job

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.pipe, other = PROCESSES.Pipe()
        self.process = PROCESSES.Process(
            target=_work, args=(other, self.core, self.checkpoint_seconds, self.short), daemon=True
        )
        with interrupts_held():
            self.process.start()
        other.close()

    def give(self, job: Job) -> None:
        """Hands it a job, which it begins at once if it is still alive."""
        self.job, self.last = job, job.path
        with suppress(OSError):  # `events` says how it died
            self.pipe.send(job)

    def events(self) -> Iterator[Event]:
        """What it has said since; a crash, and a new process for the next job, if it is not alive any more."""
        try:
            while self.pipe.poll():
                yield self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            yield Event("crashed", message=self._last_words())
            self.end()
            self._start()

    def _last_words(self) -> str:
        code = self.process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with code {code}"
        said = last_line(log(self.job.path)) if self.job else ""
        return f"its process {how}" + (f"; the last line it wrote: {said}" if said else "")

    def end(self) -> None:
        """Kills it. Run folders outlive that."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


@dataclass
class Processes:
    """Worker processes on this machine: one for each core, of which None is one of no core.

    `short` is for runs of seconds, which take longer to compile than to compute.
    """

    cores: Sequence[int | None]
    checkpoint_seconds: float = 30.0
    short: bool = False
    started: list[Worker] = field(init=False, default_factory=list)

    def workers(self, wanted: int) -> list[Worker]:
        """As many workers as there are cores, or fewer if no more were ever wanted."""
        for core in self.cores[len(self.started) : wanted]:
            self.started.append(Worker(core, self.checkpoint_seconds, self.short))
        return self.started

    def wait(self, seconds: float) -> None:
        """Until one of them says something, or for some seconds."""
        wait([worker.pipe for worker in self.started if worker.job], timeout=seconds)

    def end(self) -> None:
        """Kills them all."""
        for worker in self.started:
            worker.end()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Puts Ctrl-C off until the end; a process that begins within never sees it, not even while it loads.

    It is blocked rather than ignored, since what is ignored is lost to this process too.
    """
    caught: list[tuple[Any, ...]] = []
    # Blocking holds for this thread only, and XLA's receive signals as well.
    handler = signal.signal(signal.SIGINT, lambda *signal_and_frame: caught.append(signal_and_frame))
    resource_tracker.ensure_running()  # which lifts the block where it begins
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, handler)
    if caught and callable(handler):
        handler(*caught[0])


def _work(pipe: Connection, core: int | None, checkpoint_seconds: float, short: bool) -> None:
    # Ctrl-C reaches every process of the terminal's group; the one that started the workers decides what becomes of it.
    # Until here it was blocked, which no thread to come need inherit.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if core is not None:
        pin(core)
    if short:
        compile_quickly()
    keep_compiled_code()
    last = None
    try:
        while True:
            job = pipe.recv()
            if last not in (None, job.path.parent):
                jax.clear_caches()  # after some dozens of trainings, LLVM finds no memory for their code any more
            last = job.path.parent
            ended = outcome(job, checkpoint_seconds, lambda agent_steps: pipe.send(Event("steps", agent_steps)))
            pipe.send(ended)
    except (EOFError, OSError):
        pass  # nobody listens any more
