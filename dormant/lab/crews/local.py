"""Worker processes on this machine. A worker runs one job after another on one core, and sends events to the crew."""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

import jax

from dormant.lab.crews import Event, Job, last_log_line, run_job
from dormant.lab.machine import compile_quickly, keep_compiled_code, pin

# Processes are spawned, because a forked process would have broken copies of XLA's threads.
PROCESSES = multiprocessing.get_context("spawn")


@dataclass
class Worker:
    """A process that runs one job after another, and its current job."""

    core: int | None
    checkpoint_seconds: float
    short: bool
    process: BaseProcess = field(init=False)
    pipe: Connection = field(init=False)
    job: Job | None = field(init=False, default=None)
    last: Path | None = field(init=False, default=None)  # the run folder of the newest job

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
        """Sends a job to the process. If the process is dead, `events` reports that."""
        self.job, self.last = job, job.path
        with suppress(OSError):
            self.pipe.send(job)

    def events(self) -> Iterator[Event]:
        """Yields the new events. If the process died, the last event is a crash, and a new process starts."""
        try:
            while self.pipe.poll():
                yield self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            yield Event("crashed", message=self._cause_of_death())
            self.end()
            self._start()

    def _cause_of_death(self) -> str:
        code = self.process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with code {code}"
        return f"its process {how}{last_log_line(self.job)}"

    def end(self) -> None:
        """Kills the process. Its run can be resumed."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


@dataclass
class Processes:
    """A crew of worker processes on this machine, one per entry of `cores`. The entry None allows any core.

    If `short` is true, code compiles faster but runs more slowly. Use it for runs that last seconds.
    """

    cores: Sequence[int | None]
    checkpoint_seconds: float = 30.0
    short: bool = False
    started: list[Worker] = field(init=False, default_factory=list)

    def workers(self, wanted: int) -> list[Worker]:
        """Starts workers until there are `wanted`, but at most one per core. Returns all workers."""
        for core in self.cores[len(self.started) : wanted]:
            self.started.append(Worker(core, self.checkpoint_seconds, self.short))
        return self.started

    def wait(self, seconds: float) -> None:
        """Waits until a worker has an event, but not longer than `seconds`."""
        wait([worker.pipe for worker in self.started if worker.job], timeout=seconds)

    def end(self) -> None:
        """Kills all worker processes."""
        for worker in self.started:
            worker.end()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Delays Ctrl-C until the end of the block. A process that is started inside the block does not receive Ctrl-C.

    The signal is blocked and not ignored, because an ignored signal would not reach this process after the block.
    """
    caught: list[tuple[int, FrameType | None]] = []
    # Blocking affects only this thread, so this handler catches the signals that XLA's threads receive.
    handler = signal.signal(signal.SIGINT, lambda *signal_and_frame: caught.append(signal_and_frame))
    resource_tracker.ensure_running()  # starts the tracker now, because starting it later would unblock the signal
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, handler)
    if caught and callable(handler):
        handler(*caught[0])


def _work(pipe: Connection, core: int | None, checkpoint_seconds: float, short: bool) -> None:
    # Ctrl-C reaches every process of the terminal, but only the process that started the workers may handle it.
    # Therefore a worker ignores the signal. It also unblocks the signal, so that its new threads do not inherit the
    # block of `interrupts_held`.
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
                jax.clear_caches()  # otherwise LLVM runs out of memory for code after a few dozen trainings
            last = job.path.parent
            ended = run_job(job, checkpoint_seconds, lambda agent_steps: pipe.send(Event("steps", agent_steps)))
            pipe.send(ended)
    except (EOFError, OSError):
        pass  # the parent process is gone
