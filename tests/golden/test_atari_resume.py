"""`dormant train --env ALE/Pong`, killed at random moments and started again: same bits, same returns, same replay."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dormant.lab.store import RunFolder, rows
from dormant.rl.frames import FrameReplay

STEPS, CAPACITY = 400, 200
TRAIN = (
    *("train", "--env", "ALE/Pong", "--intervention", "redo", "--period", "50", "--tau", "0.3", "--score-batch", "8"),
    *("--seeds", "1", "--steps", str(STEPS), "--log-period", "20", "--eval-period", "100", "--eval-agent-steps", "50"),
    *("--width", "0.05", "--time-limit", "70", "--min-replay", "60", "--replay-capacity", str(CAPACITY)),
    *("--target-period", "150", "--batch-size", "8", "--epsilon-steps", "200", "--core", "0"),
    # A checkpoint after each log point: kills then also hit while one is written.
    *("--checkpoint-seconds", "0"),
)


def start(path: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "dormant", *TRAIN, "--run-dir", str(path)]
    # Compiling is most of so short a run: what the first one compiled, the others load.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(path.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | cache
    )


def finish(path: Path) -> None:
    process = start(path)
    _, said = process.communicate()
    assert process.returncode == 0, said


def kill_after(path: Path, agent_steps: int, seconds: float) -> None:
    """Kills a run a moment after it has logged so many steps."""
    process = start(path)
    while process.poll() is None and reached(path) < agent_steps:
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def reached(path: Path) -> int:
    return max((row["agent_steps"] for row in rows(RunFolder(path).metrics)), default=-1)


def final_state(path: Path) -> dict[str, bytes]:
    """The bytes of every array of the last checkpoint."""
    import jax
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(RunFolder(path).checkpoint) as manager:
        assert manager.latest_step() == STEPS
        state = manager.restore(STEPS, args=ocp.args.StandardRestore())
    return {jax.tree_util.keystr(key): np.asarray(leaf).tobytes() for key, leaf in jax.tree.leaves_with_path(state)}


def remembered(path: Path) -> list[np.ndarray]:
    """Every transition that can be drawn from the ring in the run's files."""
    replay = FrameReplay(CAPACITY, slack=CAPACITY, time_limit=70)
    ring = replay.open(RunFolder(path).replay / "seed0", STEPS)
    batch = replay.sample(ring, STEPS, (np.arange(CAPACITY) + 0.5) / CAPACITY)
    return [np.asarray(leaf) for leaf in batch]


@pytest.fixture
def moments():
    """Five random moments, drawn anew each time: steps that were logged, and seconds after that."""
    draw = random.Random()
    return [(steps, draw.uniform(0, 0.1)) for steps in sorted(draw.sample(range(0, STEPS - 60, 20), 5))]


def test_five_kills_change_nothing(tmp_path, moments):
    print("killed after (agent steps, seconds):", moments)
    finish(tmp_path / "whole")
    for agent_steps, seconds in moments:
        kill_after(tmp_path / "killed", agent_steps, seconds)
    finish(tmp_path / "killed")
    for file in ("metrics.jsonl", "scores.jsonl"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    whole, killed = final_state(tmp_path / "whole"), final_state(tmp_path / "killed")
    assert any("params" in name for name in whole) and any("emulator" in name for name in whole)
    assert {name for name in whole if whole[name] != killed.get(name)} == set()
    assert whole.keys() == killed.keys()
    for mine, theirs in zip(remembered(tmp_path / "whole"), remembered(tmp_path / "killed"), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    table = list(rows(RunFolder(tmp_path / "whole").metrics))
    assert sum(row.get("train_episodes", 0) for row in table) == STEPS // 70
    assert table[-1]["recycled/dense"] > 0, "the run must recycle for this to say anything about recycling"
