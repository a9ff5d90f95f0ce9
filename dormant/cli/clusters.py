"""Where runs are made: flags of `dormant figure` for processes here, a Ray cluster, or SLURM."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from dormant.lab.crews.cluster import Resources
from dormant.lab.crews.local import Processes
from dormant.lab.crews.scheduler import Crew
from dormant.lab.design import Scale
from dormant.lab.machine import accelerated, cores

OF_A_RUN = ("cpus", "gpus", "memory_gb")
OF_SLURM = ("hours", "partition", "account", "qos", "constraint")


@dataclass(frozen=True)
class Places:
    """Runs are made by processes on this machine, or on a cluster that shares the folder of the runs with it."""

    workers: int | None = None
    """Runs at a time: here a core each, as many as there are if not set, and one on a GPU; on a cluster at most."""
    ray: str | None = None
    """Make the runs on the Ray cluster whose head is at HOST:PORT, or on this machine's: auto."""
    slurm: bool = False
    """Make the runs as an array of SLURM jobs, which go on in the queue if this command ends, and are found again."""
    cpus: int | None = None
    """Cores of a run on a cluster: 1 if not set. Two and one can differ in the last bits of a result."""
    gpus: float | None = None
    """GPUs of a run on a cluster, which then has all seeds of an arm: none if not set; Ray shares one at 0.5."""
    memory_gb: float | None = None
    """Memory of a run on a cluster, in GB: not declared if not set, and SLURM's own default."""
    hours: float | None = None
    """Hours that SLURM gives a job before it has to queue again and goes on: 24 if not set."""
    partition: str | None = None
    """Partition of SLURM; account, qos and constraint are likewise SLURM's own words."""
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None


class Site(NamedTuple):
    """What a plan has to know of the place of the runs."""

    backend: str
    together: bool  # whether all seeds of an arm are one run
    stopped: str  # what is said when the command is


def site(places: Places) -> Site:
    """Raises ValueError for flags that do not go together. A cluster's own JAX is not this machine's business."""
    if places.ray and places.slurm:
        raise ValueError("--ray and --slurm exclude each other; choose one.")
    unused = [*([] if places.ray or places.slurm else OF_A_RUN), *([] if places.slurm else OF_SLURM)]
    given = [each.name for each in fields(places) if each.name in unused and getattr(places, each.name) is not None]
    if given:
        flag, needed = given[0].replace("_", "-"), "--slurm" if given[0] in OF_SLURM else "--ray or --slurm"
        raise ValueError(f"--{flag} is for {needed}; give that too, or leave it out.")
    if places.slurm:
        stopped = "Stopped following; SLURM goes on (scancel --name=dormant ends it), and the same command follows it"
    else:
        stopped = "Stopped; the same command goes on"
    gpu = bool(places.gpus) if places.ray or places.slurm else accelerated()
    return Site("gpu" if gpu else "cpu", gpu, stopped)


def number_of(places: Places, wanted: int) -> int:
    """How many runs are made at a time, as far as that is known before a cluster is asked.

    Raises ValueError for a number that can't be had.
    """
    if not places.ray and not places.slurm:
        return len(cores_of(places.workers))
    if places.workers is not None and places.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {places.workers}.")
    return max(1, min(places.workers or wanted, wanted))


def crew(places: Places, root: Path, checkpoint_seconds: float, wanted: int, scale: Scale) -> Crew:
    """Those who will make the runs. Raises ValueError for an amount that can't be had, NoCluster if that is so."""
    if not wanted or not (places.ray or places.slurm):  # nothing missing needs no cluster
        return Processes(cores_of(places.workers) if wanted else (), checkpoint_seconds, scale == "smoke")
    chosen = {name: getattr(places, name) for name in OF_A_RUN if getattr(places, name) is not None}
    resources = Resources(**chosen)
    if places.ray:
        from dormant.lab.crews.on_ray import RayCluster

        return RayCluster(places.ray, root, resources, places.workers, checkpoint_seconds)
    from dormant.lab.crews.on_slurm import SlurmArray, Terms

    terms = Terms(**{name: getattr(places, name) for name in OF_SLURM if getattr(places, name) is not None})
    return SlurmArray(root, resources, terms, places.workers, checkpoint_seconds)


def cores_of(number: int | None) -> tuple[int | None, ...]:
    """A core for each worker, which is None where none is its own. Raises ValueError for a number that can't be had."""
    there: tuple[int | None, ...] = (None,) if accelerated() else cores()
    if number is not None and not 1 <= number <= len(there):
        raise ValueError(f"--workers must be between 1 and {len(there)} here, got {number}.")
    return there[:number]
