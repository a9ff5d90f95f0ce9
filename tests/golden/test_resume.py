"""`dormant train`, killed and resumed, ends with the same bits as an uninterrupted run."""

from golden.kills import assert_same_run, finish, kill_after

from dormant.lab.runs.folder import RunFolder, rows

STEPS = 1_500
TRAIN = (
    *("train", "--env", "MinAtar/Breakout", "--intervention", "redo", "--period", "50", "--tau", "0.3"),
    *("--seeds", "2", "--steps", str(STEPS), "--log-period", "100", "--eval-period", "500", "--eval-episodes", "2"),
    *("--filters", "4", "--width", "16", "--min-replay", "200", "--replay-capacity", "1000", "--target-period", "150"),
    # Writes a checkpoint after each log point, so that some kills interrupt the writing.
    *("--checkpoint-seconds", "0"),
)


def test_a_kill_changes_nothing(tmp_path):
    finish(TRAIN, tmp_path / "whole")
    kill_after(TRAIN, tmp_path / "killed", 800, 0.25)
    finish(TRAIN, tmp_path / "killed")
    names = assert_same_run(tmp_path / "whole", tmp_path / "killed", STEPS)
    assert any("params" in name for name in names)
    recycled = [row.get("recycled/dense", 0) for row in rows(RunFolder(tmp_path / "whole").metrics)]
    assert max(recycled) > 0, "the run must recycle for this to say anything about recycling"
