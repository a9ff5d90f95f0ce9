"""Jobs as a SLURM array, submitted with submitit. The jobs continue after this command ends."""

import getpass
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dormant.lab.crews import Event, Job, last_line, last_log_line
from dormant.lab.crews.cluster import NoCluster, RemoteProgress, Resources, run_job_here, with_absolute_path

# submitit would configure logging for the whole process and close the handlers of other packages. This variable
# prevents that. It must be set before submitit is imported. In SLURM jobs, `parameters` gives it another value.
os.environ["SUBMITIT_LOG_LEVEL"] = "NOCONFIG"
import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

ARRAY_SIZE = 1_000  # SLURM's default MaxArraySize is 1,001
CENSUS_SECONDS = 15.0  # time between two queries of the controller, which all users share
GRACE_SECONDS = 30.0  # longest wait for a new job to appear in the queue, or for a result on the shared disk
TIMEOUTS = 1_000  # how many times a job may be queued again after its time limit
WAITS = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "CONFIGURING"}
RUNS = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"}
FAULTS = {"FAILED", "OUT_OF_MEMORY", "COMPLETED"}  # without a result, these count as a failed try; NODE_FAIL does not


@dataclass(frozen=True)
class Terms:
    """SLURM settings other than the resources of a run. Raises ValueError if the time limit is below one minute."""

    hours: float = 24.0
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None

    def __post_init__(self) -> None:
        if self.hours * 60 < 1:
            raise ValueError(f"a run's time limit must be at least one minute, got {self.hours:g} hours.")


@dataclass(frozen=True)
class Errand:
    """The function that a node runs for a job.

    When the time limit is near, submitit queues the function again. The next call then resumes the job.
    """

    checkpoint_seconds: float
    resources: Resources
    root: Path

    def __call__(self, job: Job) -> Event:
        return run_job_here(job, self.checkpoint_seconds, self.resources, self.root)

    def checkpoint(self, job: Job) -> submitit.helpers.DelayedSubmission:
        return submitit.helpers.DelayedSubmission(self, job)


@dataclass
class Entry:
    """A job in SLURM's queue, or an empty entry."""

    state_of: Callable[[str], str | None]
    job: Job | None = field(init=False, default=None)
    last: Path | None = field(init=False, default=None)
    queued: Any = field(init=False, default=None)  # submitit's job, once it is submitted
    progress: RemoteProgress | None = field(init=False, default=None)
    ended_at: float | None = field(init=False, default=None)
    news: list[Event] = field(init=False, default_factory=list)

    def give(self, job: Job) -> None:
        """Sets the job. The next array submits it."""
        self.job, self.last, self.queued, self.progress, self.ended_at = job, job.path, None, None, None
        self.news = [Event("queued")]

    def events(self) -> Iterator[Event]:
        """Yields the new events of the job."""
        news, self.news = self.news, []
        yield from news
        if self.job and self.queued:
            if self.queued.paths.result_pickle.exists():
                yield self._result()
            else:
                yield from self._followed(self.job, self.state_of(self.queued.job_id))

    def _followed(self, job: Job, state: str | None) -> Iterator[Event]:
        if state in WAITS and self.progress:
            self.progress = None
            yield Event("queued")
        elif state in RUNS and not self.progress:
            self.progress = RemoteProgress(job.path)
            yield Event("begun")
        if state is not None and state not in WAITS | RUNS:
            self.ended_at = self.ended_at or time.monotonic()
            if time.monotonic() - self.ended_at > GRACE_SECONDS:
                yield from (self.progress or RemoteProgress(job.path)).events(at_once=True)
                yield self._end(job, state)
        elif self.progress:
            yield from self.progress.events()

    def _result(self) -> Event:
        try:
            return self.queued.result()
        except FailedJobError as error:
            lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("-")]
            cause = next((line for line in reversed(lines) if "Error" in line), lines[-1])
            return Event("crashed", message=f"{cause.strip()} ({self.queued.paths.stderr})")

    def _end(self, job: Job, state: str) -> Event:
        message = f"SLURM's job {self.queued.job_id} ended: {state or 'it is no longer in the queue'}"
        line = last_line(self.queued.paths.stderr)
        message += last_log_line(job) or (f"; last line of its log: {line}" if line else "")
        if state == "CANCELLED":
            return Event("refused", message=message)
        return Event("crashed" if state in FAULTS else "lost", message=message)


@dataclass
class SlurmArray:
    """A crew with one entry per job. SLURM decides how many jobs run at once. `at_once` is an upper limit.

    If the queue still has a job that an earlier command submitted, this crew follows that job.
    Raises NoCluster if there is no SLURM, or if SLURM refuses the jobs. Raises ValueError for a fraction of a GPU.
    """

    root: Path
    resources: Resources = field(default_factory=Resources)
    terms: Terms = field(default_factory=Terms)
    at_once: int | None = None
    checkpoint_seconds: float = 30.0
    entries: list[Entry] = field(init=False, default_factory=list)
    states: dict[str, str] | None = field(init=False, default=None)
    asked_at: float = field(init=False, default=-CENSUS_SECONDS)

    def __post_init__(self) -> None:
        self.root = self.root.absolute()
        try:
            self.executor = submitit.SlurmExecutor(self.root / "slurm", max_num_timeout=TIMEOUTS)
            self.executor.update_parameters(**parameters(self.resources, self.terms, self.at_once))
        except RuntimeError as error:
            raise NoCluster(f"there is no SLURM here ({error}); run the command on a machine with sbatch.") from error

    def workers(self, wanted: int) -> list[Entry]:
        """Returns one entry per job."""
        self.entries += [Entry(self.state_of) for _ in range(wanted - len(self.entries))]
        return self.entries

    def wait(self, seconds: float) -> None:
        """Submits the jobs that are not submitted yet, then sleeps."""
        new = [entry for entry in self.entries if entry.job and not entry.queued]
        for entry in new:
            entry.queued = self._earlier(entry.job)
        new = [entry for entry in new if not entry.queued]
        for first in range(0, len(new), ARRAY_SIZE):
            self._send(new[first : first + ARRAY_SIZE])
        time.sleep(seconds)

    def end(self) -> None:
        """Does nothing: the jobs stay in the queue."""

    def state_of(self, number: str) -> str | None:
        """Returns a job's state in the queue. Returns "" if it is not in the queue, None if SLURM does not answer."""
        if time.monotonic() >= self.asked_at + CENSUS_SECONDS:
            self.asked_at = time.monotonic()
            self.states = queue()
        return None if self.states is None else self.states.get(number, "")

    def _earlier(self, job: Job | None) -> Any:
        """Returns the submission of `job` by an earlier command if it is still in the queue, otherwise None."""
        if job and record(job).exists():
            number = record(job).read_text().strip()
            queued = submitit.SlurmJob(self.executor.folder, number)
            # Also checks for a result, because a job stays in the queue for a moment after its result is written.
            if self.state_of(number) in WAITS | RUNS and not queued.paths.result_pickle.exists():
                return queued
        return None

    def _send(self, entries: Sequence[Entry]) -> None:
        jobs = [with_absolute_path(entry.job) for entry in entries if entry.job]
        errand = Errand(self.checkpoint_seconds, self.resources, self.root)
        try:
            queued = self.executor.map_array(errand, jobs)
        except (FailedJobError, FailedSubmissionError) as error:
            *_, reason = str(error).split("sbatch: error: ")
            raise NoCluster(f"SLURM refuses the runs: {' '.join(reason.split())[:300]}") from error
        for entry, job, each in zip(entries, jobs, queued, strict=True):
            entry.queued = each
            job.path.parent.mkdir(parents=True, exist_ok=True)
            record(job).write_text(f"{each.job_id}\n")


def record(job: Job) -> Path:
    """The file next to a run folder that holds the number of the run's last SLURM job."""
    return job.path.with_name(job.path.name + ".slurm")


def parameters(resources: Resources, terms: Terms, at_once: int | None) -> dict[str, object]:
    """submitit's parameters for the array script. Raises ValueError for a fraction of a GPU.

    >>> parameters(Resources(cpus=2, memory_gb=1.5), Terms(hours=2.0), None)["mem"]
    '1536M'
    """
    if resources.gpus != int(resources.gpus):
        raise ValueError(f"SLURM allocates whole GPUs, got {resources.gpus:g}; set --gpus to a whole number.")
    exported = {**resources.environment(), "SUBMITIT_LOG_LEVEL": "INFO"}
    chosen = {
        "partition": terms.partition,
        "account": terms.account,
        "qos": terms.qos,
        "constraint": terms.constraint,
        "mem": f"{int(resources.memory_gb * 1024)}M" if resources.memory_gb else None,
        "gpus_per_node": int(resources.gpus) or None,
        "array_parallelism": at_once or ARRAY_SIZE,
        "time": int(terms.hours * 60),
        "cpus_per_task": resources.cpus,
        "job_name": "dormant",
        "setup": [f"export {name}={shlex.quote(value)}" for name, value in exported.items()],
        "additional_parameters": {"requeue": True},  # SLURM requeues the jobs of a lost node
    }
    return {name: value for name, value in chosen.items() if value is not None}


def queue() -> dict[str, str] | None:
    """Maps the number of each job of this user to its state. Each job of an array has an entry.

    Returns None if SLURM's controller does not answer.
    """
    options = ["--array", "--states=all", "--noheader", "--format=%i|%T", f"--user={getpass.getuser()}"]
    try:
        listed = subprocess.run(["squeue", *options], capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.strip().split("|", 1) for line in listed.splitlines() if "|" in line)
