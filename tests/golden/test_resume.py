"""`dormant train`, killed at random moments and started again, ends with the bits of a run that was left alone."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dormant.lab.store import RunFolder, rows

STEPS = 3_000
TRAIN = (
    *("train", "--env", "MinAtar/Breakout", "--intervention", "redo", "--period", "50", "--tau", "0.3"),
    *("--seeds", "2", "--steps", str(STEPS), "--log-period", "100", "--eval-period", "500", "--eval-episodes", "2"),
    *("--filters", "4", "--width", "16", "--min-replay", "200", "--replay-capacity", "1000", "--target-period", "150"),
    # A checkpoint after each log point: kills then also hit while one is written.
    *("--checkpoint-seconds", "0", "--core", "0"),
)


def start(path: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "dormant", *TRAIN, "--run-dir", str(path)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(path: Path) -> None:
    process = start(path)
    _, said = process.communicate()
    assert process.returncode == 0, said


def kill_after(path: Path, agent_steps: int, seconds: float) -> None:
    """Kills a run a moment after it has logged so many steps."""
    process = start(path)
    while process.poll() is None and reached(path) < agent_steps:
        time.sleep(0.02)
    time.sleep(seconds)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def reached(path: Path) -> int:
    return max((row["agent_steps"] for row in rows(RunFolder(path).metrics)), default=-1)


def final_state(path: Path) -> dict[str, bytes]:
    """The bytes of every array of the last checkpoint."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(RunFolder(path).checkpoint) as manager:
        assert manager.latest_step() == STEPS
        state = manager.restore(STEPS, args=ocp.args.StandardRestore())
    return {jax.tree_util.keystr(key): np.asarray(leaf).tobytes() for key, leaf in jax.tree.leaves_with_path(state)}


@pytest.fixture
def moments():
    """Three random moments, drawn anew each time: steps that were logged, and seconds after that."""
    draw = random.Random()
    return [(steps, draw.uniform(0, 0.3)) for steps in sorted(draw.sample(range(0, STEPS - 500, 100), 3))]


def test_three_kills_change_nothing(tmp_path, moments):
    print("killed after (agent steps, seconds):", moments)
    finish(tmp_path / "whole")
    for agent_steps, seconds in moments:
        kill_after(tmp_path / "killed", agent_steps, seconds)
    finish(tmp_path / "killed")
    for file in ("metrics.jsonl", "scores.jsonl"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    whole, killed = final_state(tmp_path / "whole"), final_state(tmp_path / "killed")
    assert any("params" in name for name in whole)
    assert {name for name in whole if whole[name] != killed.get(name)} == set()
    assert whole.keys() == killed.keys()
    recycled = [row.get("recycled/dense", 0) for row in rows(RunFolder(tmp_path / "whole").metrics)]
    assert max(recycled) > 0, "the run must recycle for this to say anything about recycling"
