"""What runs on other machines have in common: what each takes of a machine, and how its folder shows its progress."""

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jax

from dormant.lab.crews.jobs import Event, Job, outcome
from dormant.lab.machine import keep_compiled_code
from dormant.lab.runs.folder import RunFolder

LOOK_SECONDS = 2.0  # between two looks at one run's file, of which a shared disk may hold hundreds
TAIL_BYTES = 65_536  # more than the last row of metrics takes


class NoCluster(ValueError):
    """No cluster is there, or it refuses the runs; the message says why, and what to do."""


@dataclass(frozen=True)
class Resources:
    """What one run takes of a machine. Raises ValueError for less than one core or for a negative amount.

    >>> Resources(cpus=2).environment()["NPROC"]
    '2'
    """

    cpus: int = 1
    gpus: float = 0.0
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        if self.cpus < 1 or self.gpus < 0:
            raise ValueError(f"a run needs at least 1 core and 0 GPUs, got {self.cpus} and {self.gpus:g}.")
        if self.memory_gb is not None and self.memory_gb <= 0:
            raise ValueError(f"a run's memory must be above 0 GB, got {self.memory_gb:g}.")

    def environment(self) -> dict[str, str]:
        """Variables of a run's process: a thread for each core, no GPU that was not asked for, the code of this one."""
        # XLA takes its number of threads from NPROC (xla/pjrt/utils.cc), and a shared GPU by need.
        variables = {"NPROC": str(self.cpus), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        if not self.gpus:
            variables["JAX_PLATFORMS"] = "cpu"
        return variables | ({"PYTHONPATH": os.pathsep.join(own_paths())} if own_paths() else {})


def own_paths() -> list[str]:
    """Where this process finds code besides its installation, on disks that the other machines may share."""
    installed = (sys.prefix, sys.base_prefix)
    return [os.path.abspath(path) for path in sys.path if not os.path.abspath(path).startswith(installed)]


def sent(job: Job) -> Job:
    """The job as another machine has to know it, whose working directory is another."""
    return job._replace(path=job.path.absolute())


def outcome_here(job: Job, checkpoint_seconds: float, resources: Resources, token: Path) -> Event:
    """Runs a job that was sent here, and says how it ended; refused if this machine is not what was asked for."""
    if not token.exists():
        folder = token.parent
        return Event("refused", message=f"{socket.gethostname()} does not see {folder}; give a shared --run-dir.")
    keep_compiled_code()
    if resources.gpus and jax.default_backend() == "cpu":
        wish = "install JAX for its GPU there, or leave out --gpus"
        return Event("refused", message=f"JAX finds no GPU on {socket.gethostname()}; {wish}.")
    return outcome(job, checkpoint_seconds)


@dataclass
class Gauge:
    """How far a run that another machine is at has got, from the folder that both see."""

    path: Path
    seen: int = field(init=False, default=-1)
    not_before: float = field(init=False, default=0.0)

    def events(self, at_once: bool = False) -> Iterator[Event]:
        """Its agent steps, if they have changed and it is time for another look."""
        if time.monotonic() < self.not_before and not at_once:
            return
        self.not_before = time.monotonic() + LOOK_SECONDS
        agent_steps = agent_steps_in(self.path)
        if agent_steps != self.seen:
            self.seen = agent_steps
            yield Event("steps", agent_steps)


def agent_steps_in(path: Path) -> int:
    """The agent steps in the last complete row of a run's metrics; 0 where none can be read."""
    try:
        with RunFolder(path).metrics.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - TAIL_BYTES))
            *_, row, _ = stream.read().split(b"\n")
        return int(json.loads(row)["agent_steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
