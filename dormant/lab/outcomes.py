"""How a job goes and ends, in the same words from a process here and from another machine, and its log."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from dormant.lab.jobs import Job
from dormant.lab.runner import FULL, Progress, run
from dormant.lab.store import RunInUse, RunRefused

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
