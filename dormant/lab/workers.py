"""Worker processes: each lives for many jobs, on a core of its own, and says down a pipe how its job goes."""

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dormant.lab.jobs import Job
from dormant.lab.runner import FULL, run
from dormant.lab.startup import keep_compiled_code, pin
from dormant.lab.store import RunInUse, RunRefused

# Spawned, since a forked process would inherit XLA's threads without their state.
PROCESSES = multiprocessing.get_context("spawn")


class Event(NamedTuple):
    """What a worker says of its job: the agent steps done so far, or how it ended."""

    kind: Literal["steps", "done", "in use", "refused", "full", "crashed"]
    agent_steps: int = 0
    message: str = ""


@dataclass
class Worker:
    """A process that runs jobs, one after the other, and the one it is at."""

    core: int | None
    checkpoint_seconds: float
    process: Any = field(init=False)
    pipe: Connection = field(init=False)
    job: Job | None = field(init=False, default=None)
    last: Path | None = field(init=False, default=None)  # the folder of the newest job

    def __post_init__(self) -> None:
        self.pipe, other = PROCESSES.Pipe()
        self.process = PROCESSES.Process(target=_work, args=(other, self.core, self.checkpoint_seconds), daemon=True)
        with interrupts_held():
            self.process.start()
        other.close()

    def give(self, job: Job) -> None:
        """Hands it a job, which it begins at once if it is still alive."""
        self.job, self.last = job, job.path
        with suppress(OSError):  # `events` says how it died
            self.pipe.send(job)

    def events(self) -> Iterator[Event]:
        """What it has said since; a crash if it is not alive any more."""
        try:
            while self.pipe.poll():
                yield self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            yield Event("crashed", message=self._last_words())

    def _last_words(self) -> str:
        code = self.process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with code {code}"
        said = _last_line(log(self.job.path)) if self.job else ""
        return f"its process {how}" + (f"; the last line it wrote: {said}" if said else "")

    def end(self) -> None:
        """Kills it. Run folders outlive that."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


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


def log(path: Path) -> Path:
    """Where a job's output goes, which is kept if it fails."""
    return path.with_name(path.name + ".log")


def _last_line(file: Path) -> str:
    lines = file.read_text(errors="replace").split("\n") if file.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _work(pipe: Connection, core: int | None, checkpoint_seconds: float) -> None:
    # Ctrl-C reaches every process of the terminal's group; the one that started the workers decides what becomes of it.
    # Until here it was blocked, which no thread to come need inherit.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if core is not None:
        pin(core)
    keep_compiled_code()
    try:
        while True:
            job = pipe.recv()
            pipe.send(_outcome(pipe, job, checkpoint_seconds))
    except (EOFError, OSError):
        pass  # nobody listens any more


def _outcome(pipe: Connection, job: Job, checkpoint_seconds: float) -> Event:
    def progress(agent_steps: int) -> None:
        pipe.send(Event("steps", agent_steps))

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
