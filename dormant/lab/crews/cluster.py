"""Runs on other machines: the resources that a run needs, and a reader of its progress in the shared run folder."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jax

from dormant.lab.crews import Event, Job, run_job
from dormant.lab.machine import keep_compiled_code
from dormant.lab.runs.folder import RunFolder, RunRefused
from dormant.lab.runs.rows import last_row

POLL_SECONDS = 2.0  # time between two reads of a run's metrics, so that hundreds of runs do not overload a shared disk


class NoCluster(ValueError):
    """There is no cluster, or it refuses the runs. The message gives the reason and the remedy."""


@dataclass(frozen=True)
class Resources:
    """The resources of one run. Raises ValueError for less than one core, or for a negative number of GPUs or GB.

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
        """The environment variables of a run: one thread per core, no GPU unless requested, and the import paths."""
        # XLA reads its number of threads from NPROC (xla/pjrt/utils.cc). Preallocation is off so that runs can share a
        # GPU. The log level hides an error that XLA wrongly reports whenever it loads code from the compilation cache.
        variables = {"NPROC": str(self.cpus), "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "3"}
        if not self.gpus:
            variables["JAX_PLATFORMS"] = "cpu"
        return variables | ({"PYTHONPATH": os.pathsep.join(own_paths())} if own_paths() else {})


def own_paths() -> list[str]:
    """The import paths of this process outside its Python installation. Other machines may share these folders."""
    installed = (sys.prefix, sys.base_prefix)
    return [os.path.abspath(path) for path in sys.path if not os.path.abspath(path).startswith(installed)]


def with_absolute_path(job: Job) -> Job:
    """Returns the job with an absolute path, so that machines with another working directory find its folder."""
    return job._replace(path=job.path.absolute())


def run_job_here(job: Job, checkpoint_seconds: float, resources: Resources, token: Path) -> Event:
    """Runs a job on this machine, which belongs to a cluster. Returns the job's last event.

    Refuses the job if this machine does not see the file `token` in the shared folder. Also refuses it if the run needs
    a GPU and this machine has none.
    """
    if not token.exists():
        folder = token.parent
        return Event(
            "refused",
            message=f"{socket.gethostname()} does not see {folder}; choose a --run-dir that all machines share.",
        )
    keep_compiled_code()
    if resources.gpus and jax.default_backend() == "cpu":
        remedy = "install JAX with GPU support there, or leave out --gpus"
        return Event("refused", message=f"JAX finds no GPU on {socket.gethostname()}; {remedy}.")
    return run_job(job, checkpoint_seconds)


@dataclass
class RemoteProgress:
    """The progress of a run on another machine, read from the shared run folder."""

    path: Path
    seen: int = field(init=False, default=-1)
    not_before: float = field(init=False, default=0.0)

    def events(self, at_once: bool = False) -> Iterator[Event]:
        """Yields an event if the agent steps have changed. Reads at most once per POLL_SECONDS, unless `at_once`."""
        if time.monotonic() < self.not_before and not at_once:
            return
        self.not_before = time.monotonic() + POLL_SECONDS
        agent_steps = agent_steps_in(self.path)
        if agent_steps != self.seen:
            self.seen = agent_steps
            yield Event("steps", agent_steps)


def agent_steps_in(path: Path) -> int:
    """Returns the agent steps in the last row of a run's metrics. Returns 0 if there is no row or it cannot be read."""
    try:
        return int(last_row(RunFolder(path).metrics)["agent_steps"])
    except (OSError, RunRefused, KeyError, TypeError, ValueError):
        return 0
