"""Where runs are made: the flags for local processes, a Ray cluster or SLURM, and the crew that they describe."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from dormant.lab import Scale
from dormant.lab.crews import Crew
from dormant.lab.crews.cluster import Resources
from dormant.lab.crews.local import Processes
from dormant.lab.machine import accelerated, cores

OF_A_RUN = ("cpus", "gpus", "memory_gb")
OF_SLURM = ("hours", "partition", "account", "qos", "constraint")


@dataclass(frozen=True)
class ClusterFlags:
    """Where runs are made: by processes on this machine, or on a cluster that shares the folder of the runs."""

    workers: int | None = None
    """Number of runs at the same time. Default: one per CPU core here, one on a GPU, no limit on a cluster."""
    ray: str | None = None
    """Make the runs on the Ray cluster with its head at HOST:PORT, or on the cluster of this machine (auto)."""
    slurm: bool = False
    """Make the runs as an array of SLURM jobs. They continue if this command ends, and the same command finds them."""
    cpus: int | None = None
    """CPU cores per run on a cluster (default 1). The number of cores can change the last bits of a result."""
    gpus: float | None = None
    """GPUs per run on a cluster (default 0). With a GPU, a run has all seeds of an arm. With Ray, 0.5 shares a GPU."""
    memory_gb: float | None = None
    """Memory per run on a cluster, in GB. Default: SLURM's default; not declared to Ray."""
    hours: float | None = None
    """Time limit of a SLURM job in hours (default 24). A run that takes longer is queued again and resumes."""
    partition: str | None = None
    """SLURM partition."""
    account: str | None = None
    """SLURM account."""
    qos: str | None = None
    """SLURM quality of service."""
    constraint: str | None = None
    """SLURM constraint on the nodes."""


class Site(NamedTuple):
    """Properties of the place where runs are made."""

    backend: str
    together: bool  # whether all seeds of an arm are one run
    stopped: str  # the message when the command is interrupted


def site(flags: ClusterFlags) -> Site:
    """The place that the flags describe. Raises ValueError for flags that contradict each other.

    On a cluster, this machine's JAX does not matter.
    """
    if flags.ray is not None and not flags.ray.strip():
        raise ValueError("--ray expects HOST:PORT or auto, got an empty text; is a variable of the shell unset?")
    if flags.ray and flags.slurm:
        raise ValueError("--ray and --slurm exclude each other; choose one.")
    unused = [*([] if flags.ray or flags.slurm else OF_A_RUN), *([] if flags.slurm else OF_SLURM)]
    given = [each.name for each in fields(flags) if each.name in unused and getattr(flags, each.name) is not None]
    if given:
        flag, needed = given[0].replace("_", "-"), "--slurm" if given[0] in OF_SLURM else "--ray or --slurm"
        raise ValueError(f"--{flag} needs {needed}; add {needed}, or leave out --{flag}.")
    if flags.slurm:
        stopped = (
            "Stopped; the SLURM jobs continue (scancel --name=dormant ends them), and the same command follows the runs"
        )
    else:
        stopped = "Stopped; the same command resumes the runs"
    gpu = bool(flags.gpus) if flags.ray or flags.slurm else accelerated()
    return Site("gpu" if gpu else "cpu", gpu, stopped)


def runs_at_once(flags: ClusterFlags, wanted: int) -> int:
    """The number of runs at the same time, as far as it is known before a cluster is asked.

    Raises ValueError for an impossible number.
    """
    if not flags.ray and not flags.slurm:
        return len(cores_of(flags.workers))
    if flags.workers is not None and flags.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {flags.workers}.")
    return max(1, min(flags.workers or wanted, wanted))


def crew(flags: ClusterFlags, root: Path, checkpoint_seconds: float, wanted: int, scale: Scale) -> Crew:
    """The crew that makes the runs. Raises ValueError for impossible resources, NoCluster if no cluster answers."""
    if not wanted or not (flags.ray or flags.slurm):  # without missing runs there is no need for a cluster
        return Processes(cores_of(flags.workers) if wanted else (), checkpoint_seconds, scale == "smoke")
    chosen = {name: getattr(flags, name) for name in OF_A_RUN if getattr(flags, name) is not None}
    resources = Resources(**chosen)
    if flags.ray:
        from dormant.lab.crews.on_ray import RayCluster

        return RayCluster(flags.ray, root, resources, flags.workers, checkpoint_seconds)
    from dormant.lab.crews.on_slurm import SlurmArray, Terms

    terms = Terms(**{name: getattr(flags, name) for name in OF_SLURM if getattr(flags, name) is not None})
    return SlurmArray(root, resources, terms, flags.workers, checkpoint_seconds)


def cores_of(number: int | None) -> tuple[int | None, ...]:
    """A core per worker, None for any core. Raises ValueError for an impossible number of workers."""
    usable: tuple[int | None, ...] = (None,) if accelerated() else cores()
    if number is not None and not 1 <= number <= len(usable):
        raise ValueError(f"--workers must be between 1 and {len(usable)} here, got {number}.")
    return usable[:number]
