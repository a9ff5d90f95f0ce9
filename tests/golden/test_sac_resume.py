"""`dormant train --agent sac`, killed and resumed, ends with the same bits as an uninterrupted run."""

from pathlib import Path

import numpy as np
from golden.kills import assert_same_run, finish, kill_after

from dormant.lab.runs.folder import RunFolder, rows
from dormant.rl.replay.steps import StepReplay

STEPS, CAPACITY = 240, 100
TRAIN = (
    *("train", "--agent", "sac", "--env", "Ant-v5", "--intervention", "redo", "--period", "50", "--tau", "0.3"),
    *("--score-batch", "8", "--seeds", "1", "--steps", str(STEPS), "--log-period", "20", "--eval-period", "120"),
    *("--eval-episodes", "2", "--width", "0.05", "--time-limit", "30", "--min-replay", "40", "--batch-size", "8"),
    *("--replay-capacity", str(CAPACITY)),
    # Writes a checkpoint after each log point, so that some kills interrupt the writing.
    *("--checkpoint-seconds", "0"),
)


def remembered(path: Path) -> np.ndarray:
    """Returns all steps that can be drawn from the ring in the run's file."""
    ring = StepReplay(CAPACITY, 105, 8, slack=CAPACITY).open(RunFolder(path).replay / "seed0", STEPS)
    return ring.steps[np.arange(STEPS - CAPACITY, STEPS) % len(ring.steps)]


def test_a_kill_changes_nothing(tmp_path):
    finish(TRAIN, tmp_path / "whole")
    kill_after(TRAIN, tmp_path / "killed", 140, 0.08)
    finish(TRAIN, tmp_path / "killed")
    names = assert_same_run(tmp_path / "whole", tmp_path / "killed", STEPS)
    assert any("temperature" in name for name in names) and any("physics" in name for name in names)
    np.testing.assert_array_equal(*(remembered(tmp_path / run) for run in ("whole", "killed")))
    table = list(rows(RunFolder(tmp_path / "whole").metrics))
    assert sum(row.get("train_episodes", 0) for row in table) >= STEPS // 30
    assert table[-1]["recycled/critic1/dense_1"] > 0, "the run must recycle for this to say anything about recycling"
