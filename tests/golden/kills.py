"""Functions that start, kill and compare runs of `dormant`, for the tests of resuming."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from dormant.lab.machine import cores
from dormant.lab.runs.folder import RunFolder, rows


def start(arguments: tuple[str, ...], path: Path) -> subprocess.Popen:
    """Starts a run on one core, because results depend on the number of threads. Test workers use different cores."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    core = cores()[worker % len(cores())]
    command = [sys.executable, "-m", "dormant", *arguments, "--core", str(core), "--run-dir", str(path)]
    # Removes a variable that only the tests set. Uses a separate cache, because a killed run may damage cached files.
    shell = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    shell["JAX_COMPILATION_CACHE_DIR"] = str(path.parent / "compiled")
    # Writes stderr to a file, because a full pipe that nobody reads would block the run.
    with path.with_name(path.name + ".stderr").open("w") as said:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=shell)


def finish(arguments: tuple[str, ...], path: Path) -> None:
    """Runs to the end. Asserts that the run succeeds and prints no internal messages of XLA's compilation cache."""
    returncode = start(arguments, path).wait()
    said = path.with_name(path.name + ".stderr").read_text()
    assert returncode == 0, said
    assert "cpu_aot_loader" not in said


def kill_after(arguments: tuple[str, ...], path: Path, agent_steps: int, seconds: float) -> None:
    """Starts a run, and kills it `seconds` after it has logged `agent_steps`."""
    process = start(arguments, path)
    while process.poll() is None and reached(path) < agent_steps:
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def reached(path: Path) -> int:
    return max((row["agent_steps"] for row in rows(RunFolder(path).metrics)), default=-1)


def final_state(path: Path, agent_steps: int) -> dict[str, bytes]:
    """Returns the bytes of each array in the last checkpoint, by name. The checkpoint must be at `agent_steps`."""
    with ocp.CheckpointManager(RunFolder(path).checkpoint, item_names=("default", "seal")) as manager:
        assert manager.latest_step() == agent_steps
        state = manager.restore(agent_steps, args=ocp.args.Composite(default=ocp.args.StandardRestore()))["default"]
    return {jax.tree_util.keystr(key): np.asarray(leaf).tobytes() for key, leaf in jax.tree.leaves_with_path(state)}


def assert_same_run(whole: Path, killed: Path, agent_steps: int) -> set[str]:
    """Asserts that the rows and final states of two runs are equal, byte for byte. Returns the names of the arrays."""
    for file in ("metrics.jsonl", "scores.jsonl"):
        assert (killed / file).read_bytes() == (whole / file).read_bytes()
    one, other = final_state(whole, agent_steps), final_state(killed, agent_steps)
    assert {name for name in one if one[name] != other.get(name)} == set()
    assert one.keys() == other.keys()
    return set(one)
