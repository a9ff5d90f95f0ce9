"""Jobs as tasks of a Ray cluster: Ray puts each on a node that has its resources free, and tells of lost nodes."""

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

from dormant.lab.crews.cluster import Gauge, NoCluster, Resources, outcome_here, sent
from dormant.lab.crews.jobs import Event, Job, last_line, log

ANSWER_SECONDS = 5.0
CENSUS_SECONDS = 2.0


@dataclass
class Slot:
    """Room for one run somewhere on the cluster, and the run that has it."""

    send: Callable[[Job], Any]  # which gives Ray's stream of events
    job: Job | None = field(init=False, default=None)
    last: Path | None = field(init=False, default=None)
    said: Any = field(init=False, default=None)
    gauge: Gauge | None = field(init=False, default=None)
    news: list[Event] = field(init=False, default_factory=list)

    def give(self, job: Job) -> None:
        """Hands the job to Ray, which begins it once a node has room."""
        self.said, self.news = self.send(sent(job)), [Event("queued")]
        self.job, self.last, self.gauge = job, job.path, None

    def events(self) -> Iterator[Event]:
        """What became of the job since."""
        news, self.news = self.news, []
        yield from news
        for event in self._heard() if self.job else ():
            if event.kind == "begun" and self.job:
                self.gauge = Gauge(self.job.path)
            yield event
        if self.gauge and self.job:
            yield from self.gauge.events()

    def _heard(self) -> Iterator[Event]:
        ready, _ = ray.wait([self.said], timeout=0)
        if not ready:
            return
        try:
            event: Any = ray.get(next(self.said))
            yield event
        except RayTaskError as error:
            yield Event("crashed", message=_short(error.cause))
        except RayError as error:  # its process or its node is gone, or cannot be reached
            if self.gauge:
                yield from self.gauge.events(at_once=True)
            yield Event("lost", message=_short(error) + self._last_words())

    def _last_words(self) -> str:
        said = last_line(log(self.job.path)) if self.job else ""
        return f"; the last line it wrote: {said}" if said else ""


@dataclass
class RayCluster:
    """A crew of as many runs as the nodes have room for, which is counted anew all the time.

    Raises NoCluster if none answers or none of its nodes has what a run needs, ValueError for another kind of address,
    such as one of Ray's client, whose machine need not see the folder of the runs.
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
        """The busy slots, and free ones as far as there is room, which a lost node takes with it."""
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
        # Trying again is up to us, who know what a run has got to.
        arguments = (self.checkpoint_seconds, self.resources, self.token)
        env = {"env_vars": self.resources.environment()}
        options = {"num_returns": "streaming", "max_retries": 0, "runtime_env": env, **declared(self.resources)}
        serve: Any = ray.remote(_serve)
        return lambda job: serve.options(**options).remote(job, *arguments)

    def wait(self, seconds: float) -> None:
        """Until one of the runs says something, or for some seconds."""
        said = [slot.said for slot in self.slots if slot.job]
        if said:
            ray.wait(said, timeout=seconds)
        else:
            time.sleep(seconds)

    def end(self) -> None:
        """Ends the runs that are at work, and leaves the cluster."""
        self.token.unlink(missing_ok=True)
        try:
            for slot in self.slots:
                if slot.job:
                    ray.cancel(slot.said, force=True)
        finally:
            ray.shutdown()  # which ends them too


@no_type_check  # what checks types would hide from Ray that this yields
def _serve(job: Job, checkpoint_seconds: float, resources: Resources, token: Path) -> Iterator[Event]:
    yield Event("begun")
    yield outcome_here(job, checkpoint_seconds, resources, token)


def connect(address: str) -> None:
    """Joins a cluster. Raises NoCluster if none answers there within seconds, ValueError for no such address."""
    host, _, port = address.rpartition(":")
    if "/" in address or (address != "auto" and not (host and port.isdigit())):
        raise ValueError(
            f"--ray must be HOST:PORT of a cluster's head, or auto for the one of this machine, got {address!r}; "
            "the command itself must run on one of its machines."
        )
    try:
        if host:
            _ask(address)
        # What else Ray would print is about its own processes, and is in its logs.
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except grpc.RpcError as error:
        raise _nobody(address, str(error.details())) from None
    except (OSError, RuntimeError, RayError) as error:
        raise _nobody(address, str(error)) from error


def _ask(address: str) -> None:
    """Raises RpcError if nobody there speaks as a cluster does, which Ray itself would try to find out for minutes."""
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return  # with certificates that Ray knows of
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
    """The resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def declared(resources: Resources) -> dict[str, float]:
    """The resources of a run, as Ray's options.

    >>> declared(Resources(memory_gb=2.0))
    {'num_cpus': 1.0, 'num_gpus': 0.0, 'memory': 2000000000.0}
    """
    memory = {"memory": float(int(resources.memory_gb * 1e9))} if resources.memory_gb else {}
    return {"num_cpus": float(resources.cpus), "num_gpus": resources.gpus, **memory}


def needs(resources: Resources) -> dict[str, float]:
    """The resources of a run, by the names that Ray's nodes have for them.

    >>> needs(Resources(cpus=2, gpus=0.5))
    {'CPU': 2.0, 'GPU': 0.5}
    """
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    return {names[option]: amount for option, amount in declared(resources).items() if amount}


def fits(node: dict[str, float], needed: dict[str, float]) -> int:
    """How many runs a node has room for.

    >>> fits({"CPU": 8.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 0.5})
    2
    """
    return int(min(node.get(name, 0.0) // amount for name, amount in needed.items()))


def _too_small(needed: dict[str, float]) -> str:
    wish = ", ".join(f"{name} {amount:g}" for name, amount in needed.items())
    there = [", ".join(f"{name} {node.get(name, 0.0):g}" for name in needed) for node in nodes()]
    return f"no node of the Ray cluster has {wish} for a run; they have {'; '.join(sorted(set(there)))}."


def _short(error: BaseException) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")
