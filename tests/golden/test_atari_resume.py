"""`dormant train --env ALE/Pong`, killed and resumed, ends with the same bits as an uninterrupted run."""

from pathlib import Path

import numpy as np
from golden.kills import assert_same_run, finish, kill_after

from dormant.lab.runs.folder import RunFolder, rows
from dormant.rl.replay.frames import FrameReplay

STEPS, CAPACITY = 400, 200
TRAIN = (
    *("train", "--env", "ALE/Pong", "--intervention", "redo", "--period", "50", "--tau", "0.3", "--score-batch", "8"),
    *("--seeds", "1", "--steps", str(STEPS), "--log-period", "20", "--eval-period", "100", "--eval-agent-steps", "50"),
    *("--width", "0.05", "--time-limit", "70", "--min-replay", "60", "--replay-capacity", str(CAPACITY)),
    *("--target-period", "150", "--batch-size", "8", "--epsilon-steps", "200"),
    # Writes a checkpoint after each log point, so that some kills interrupt the writing.
    *("--checkpoint-seconds", "0"),
)


def remembered(path: Path) -> list[np.ndarray]:
    """Returns all transitions that can be drawn from the ring in the run's files."""
    replay = FrameReplay(CAPACITY, slack=CAPACITY, time_limit=70)
    ring = replay.open(RunFolder(path).replay / "seed0", STEPS)
    batch = replay.sample(ring, STEPS, (np.arange(CAPACITY) + 0.5) / CAPACITY)
    return [np.asarray(leaf) for leaf in batch]


def test_a_kill_changes_nothing_even_if_the_frames_move_to_the_device(tmp_path):
    finish(TRAIN, tmp_path / "whole")
    kill_after((*TRAIN, "--replay-on", "device"), tmp_path / "killed", 260, 0.08)
    kill_after(TRAIN, tmp_path / "killed", 320, 0.02)
    finish((*TRAIN, "--replay-on", "device"), tmp_path / "killed")
    names = assert_same_run(tmp_path / "whole", tmp_path / "killed", STEPS)
    assert any("params" in name for name in names) and any("emulator" in name for name in names)
    for mine, theirs in zip(remembered(tmp_path / "whole"), remembered(tmp_path / "killed"), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    table = list(rows(RunFolder(tmp_path / "whole").metrics))
    assert sum(row.get("train_episodes", 0) for row in table) == STEPS // 70
    assert table[-1]["recycled/dense"] > 0, "the run must recycle for this to say anything about recycling"
