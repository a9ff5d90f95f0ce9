"""Starts real Ray nodes on this machine. Each node has its own address, and a test can kill the node."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SETTINGS = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
# Each pytest-xdist worker starts its own cluster, so each worker uses its own network. Ray refuses 127.0.0.1.
NETWORK = 1 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Node:
    """A running Ray node. Ray's workers are not in the process group of `process`. All other processes are."""

    process: subprocess.Popen

    def tasks(self) -> list[psutil.Process]:
        """Returns the node's worker processes. A worker runs a task or waits for one."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [each for each in below if _group(each.pid) not in (self.process.pid, None)]

    def holds(self, path: Path) -> bool:
        """Whether a worker process of the node has the folder `path` open."""
        return any(str(path) in _opened(each.pid) for each in self.tasks())

    def lose_power(self) -> None:
        tasks = self.tasks()
        os.killpg(self.process.pid, signal.SIGKILL)
        for each in tasks:
            each.kill()
        self.process.wait()
        psutil.wait_procs(tasks, timeout=PATIENCE_SECONDS)


@contextmanager
def node(host: int, *arguments: str) -> Iterator[Node]:
    """Starts a Ray node with one CPU core at `address(host)`. Yields the node, and kills it at the end."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={address(host)}"]
    resources = ["--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000", "--disable-usage-stats"]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [*command, *resources, *arguments],
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=os.environ | SETTINGS,
        )
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while "block forever" not in _text(output):
                assert process.poll() is None and time.monotonic() < deadline, _text(output)
                time.sleep(0.1)
            yield Node(process)
        finally:
            if process.poll() is None:
                Node(process).lose_power()


@contextmanager
def head() -> Iterator[str]:
    """Starts a Ray cluster with one node. Yields the address of the cluster."""
    with socket.create_server((address(2), 0)) as free:
        port = free.getsockname()[1]
    with socket.create_server((address(2), 0)) as free:
        client = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # a short path, because socket paths have a length limit
    arguments = (f"--port={port}", f"--ray-client-server-port={client}", f"--temp-dir={folder}")
    try:
        with node(2, "--head", "--include-dashboard=false", *arguments):
            yield f"{address(2)}:{port}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def address(host: int) -> str:
    return f"127.0.{NETWORK}.{host}"


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _opened(pid: int) -> set[str]:
    """Returns the paths that a process has open. Skips paths that the process closes during the call."""
    found = set()
    with suppress(OSError):
        for each in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                found.add(os.readlink(each.path))
    return found


def _text(file) -> str:
    file.seek(0)
    return file.read()
