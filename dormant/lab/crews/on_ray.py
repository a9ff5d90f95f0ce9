"""Jobs as tasks of a Ray cluster. Ray runs each task on a node with free resources and reports lost nodes."""

import logging
import os
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, no_type_check

import grpc
import ray
from ray.exceptions import RayError, RayTaskError

from dormant.lab.crews import Event, Job, last_log_line
from dormant.lab.crews.cluster import NoCluster, RemoteProgress, Resources, run_job_here, with_absolute_path

ANSWER_SECONDS = 5.0
CENSUS_SECONDS = 2.0


@dataclass
class Slot:
    """A slot for one run on the cluster, and its current job."""

    send: Callable[[Job], Any]  # returns Ray's stream of events
    job: Job | None = field(init=False, default=None)
    last: Path | None = field(init=False, default=None)
    stream: Any = field(init=False, default=None)
    progress: RemoteProgress | None = field(init=False, default=None)
    news: list[Event] = field(init=False, default_factory=list)

    def give(self, job: Job) -> None:
        """Sends the job to Ray. Ray starts the job when a node has room."""
        self.stream, self.news = self.send(with_absolute_path(job)), [Event("queued")]
        self.job, self.last, self.progress = job, job.path, None

    def events(self) -> Iterator[Event]:
        """Yields the new events of the job."""
        news, self.news = self.news, []
        yield from news
        for event in self._received() if self.job else ():
            if event.kind == "begun" and self.job:
                self.progress = RemoteProgress(self.job.path)
            yield event
        if self.progress and self.job:
            yield from self.progress.events()

    def _received(self) -> Iterator[Event]:
        ready, _ = ray.wait([self.stream], timeout=0)
        if not ready:
            return
        try:
            event: Any = ray.get(next(self.stream))
            yield event
        except RayTaskError as error:
            yield Event("crashed", message=_short(error.cause))
        except RayError as error:  # the process or the node is gone or unreachable
            if self.progress:
                yield from self.progress.events(at_once=True)
            yield Event("lost", message=_short(error) + last_log_line(self.job))


@dataclass
class RayCluster:
    """A crew on a Ray cluster. It runs as many jobs at once as fit on the nodes, counted every CENSUS_SECONDS.

    Raises NoCluster if no cluster answers, or if no node has the resources of a run. Raises ValueError for an invalid
    address. The address of a Ray client (ray://) is invalid, because a client's machine may not see the run folders.
    """

    address: str
    root: Path
    resources: Resources = field(default_factory=Resources)
    at_once: int | None = None
    checkpoint_seconds: float = 30.0
    token: Path = field(init=False)
    slots: list[Slot] = field(init=False, default_factory=list)
    room: int = field(init=False, default=0)
    counted_at: float = field(init=False, default=-CENSUS_SECONDS)

    def __post_init__(self) -> None:
        connect(self.address)
        try:
            self._count()
            if not self.room:
                raise NoCluster(_too_small(needs(self.resources)))
            self.root.mkdir(parents=True, exist_ok=True)
            self.token = self.root.absolute() / f".shared-{uuid.uuid4().hex}"
            self.token.touch()
        except BaseException:
            ray.shutdown()
            raise

    def workers(self, wanted: int) -> list[Slot]:
        """Returns the busy slots, and as many free slots as the cluster has room for."""
        self._count()
        busy = [slot for slot in self.slots if slot.job]
        free = [slot for slot in self.slots if not slot.job]
        short = min(self.room, wanted) - len(busy)
        self.slots = busy + free + [Slot(self._sender()) for _ in range(short - len(free))]
        return self.slots[: len(busy) + max(0, short)]

    def _count(self) -> None:
        if time.monotonic() >= self.counted_at + CENSUS_SECONDS:
            self.counted_at = time.monotonic()
            room = sum(fits(node, needs(self.resources)) for node in nodes())
            self.room = min(room, self.at_once or room)

    def _sender(self) -> Callable[[Job], Any]:
        # Ray must not retry jobs. The scheduler retries them, because it knows their progress.
        arguments = (self.checkpoint_seconds, self.resources, self.token)
        env = {"env_vars": self.resources.environment()}
        options = {"num_returns": "streaming", "max_retries": 0, "runtime_env": env, **declared(self.resources)}
        serve: Any = ray.remote(_serve)
        return lambda job: serve.options(**options).remote(job, *arguments)

    def wait(self, seconds: float) -> None:
        """Waits until a run has an event, but not longer than `seconds`."""
        streams = [slot.stream for slot in self.slots if slot.job]
        if streams:
            ray.wait(streams, timeout=seconds)
        else:
            time.sleep(seconds)

    def end(self) -> None:
        """Ends the running tasks and disconnects from the cluster."""
        self.token.unlink(missing_ok=True)
        try:
            for slot in self.slots:
                if slot.job:
                    ray.cancel(slot.stream, force=True)
        finally:
            ray.shutdown()  # also ends the tasks


@no_type_check  # a type checker's wrapper would hide the generator from Ray
def _serve(job: Job, checkpoint_seconds: float, resources: Resources, token: Path) -> Iterator[Event]:
    yield Event("begun")
    yield run_job_here(job, checkpoint_seconds, resources, token)


def connect(address: str) -> None:
    """Connects to a cluster. Raises NoCluster if no cluster answers, and ValueError for an invalid address."""
    host, _, port = address.rpartition(":")
    if "/" in address or (address != "auto" and not (host and port.isdigit())):
        raise ValueError(
            f"--ray must be HOST:PORT of a cluster's head, or auto for the cluster of this machine, got {address!r}; "
            "run this command on a machine of the cluster."
        )
    try:
        if host:
            _ask(address)
        # Hides Ray's warnings about its own processes, because Ray's logs have them, too.
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except grpc.RpcError as error:
        raise _nobody(address, str(error.details())) from None
    except (OSError, RuntimeError, RayError) as error:
        raise _nobody(address, str(error)) from error


def _ask(address: str) -> None:
    """Raises RpcError if no cluster answers at the address. Without this check Ray would try for minutes."""
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return  # a check with TLS would need Ray's certificates
    try:
        with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=ANSWER_SECONDS)
    except grpc.RpcError as error:
        if error.code() not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            raise


def _nobody(address: str, why: str) -> NoCluster:
    why = textwrap.shorten(why, 200, placeholder=" ...").rstrip(".")
    return NoCluster(f"no Ray cluster answers at {address} ({why}); start one with: ray start --head.")


def nodes() -> list[dict[str, float]]:
    """The resources of each live node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def declared(resources: Resources) -> dict[str, float]:
    """The resources of a run as options of a Ray task.

    >>> declared(Resources(memory_gb=2.0))
    {'num_cpus': 1.0, 'num_gpus': 0.0, 'memory': 2000000000.0}
    """
    memory = {"memory": float(int(resources.memory_gb * 1e9))} if resources.memory_gb else {}
    return {"num_cpus": float(resources.cpus), "num_gpus": resources.gpus, **memory}


def needs(resources: Resources) -> dict[str, float]:
    """The resources of a run, under the names that Ray's nodes use.

    >>> needs(Resources(cpus=2, gpus=0.5))
    {'CPU': 2.0, 'GPU': 0.5}
    """
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    return {names[option]: amount for option, amount in declared(resources).items() if amount}


def fits(node: dict[str, float], needed: dict[str, float]) -> int:
    """The number of runs that a node has room for.

    >>> fits({"CPU": 8.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 0.5})
    2
    """
    return int(min(node.get(name, 0.0) // amount for name, amount in needed.items()))


def _too_small(needed: dict[str, float]) -> str:
    wanted = ", ".join(f"{name} {amount:g}" for name, amount in needed.items())
    available = [", ".join(f"{name} {node.get(name, 0.0):g}" for name in needed) for node in nodes()]
    return f"no node of the Ray cluster has {wanted} for a run; the nodes have {'; '.join(sorted(set(available)))}."


def _short(error: BaseException) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")
