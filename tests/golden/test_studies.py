"""A study of the paper on a real run of ours: DQN plays, its replay is written to a file, and that is learnt from."""

from dataclasses import replace

import numpy as np

from dormant.experiments.fig04_offline import EXPERIMENT
from dormant.lab.runner import last_state, run
from dormant.lab.spec import beside, place
from dormant.lab.store import RunFolder, rows
from dormant.rl import transitions
from dormant.rl.offline_data import OwnReplay


def test_offline_training_goes_on_from_what_a_run_remembers(tmp_path):
    cell = next(iter(EXPERIMENT.designs["smoke"].cells()))
    unseen = OwnReplay(replace(cell.training.data.training, eval_period=8_000))  # evaluations take long to compile
    training = replace(cell.training, data=unseen, seeds=(0,), eval_period=0)
    path = place(tmp_path, "smoke", training, (0,))
    folder = run(training, path)

    (played,) = training.needs
    first = RunFolder(beside(path, played))
    assert first.done.exists() and first.path.parent.name.startswith("dqn-rr0.25-")
    ring = last_state(played, first).replay
    logged = transitions.read(folder.replay / "seed0.npz")
    # The ring holds the last 400 of 800 steps, and has come round to its first slot.
    assert len(logged.action) == 400 and logged.observation.shape[1:] == (10, 10, 4)
    np.testing.assert_array_equal(logged.action, ring.action[0])
    np.testing.assert_array_equal(logged.terminal, np.asarray(ring.discount[0]) == 0)
    within = ~logged.last[:-1]
    np.testing.assert_array_equal(logged.next_observation[:-1][within], logged.observation[1:][within])

    table = list(rows(folder.metrics))
    assert [row["gradient_steps"] for row in table] == list(range(0, 700, 100))
    assert all(np.isfinite(row["loss"]) for row in table[1:]) and all("dormant/0.1/all" in row for row in table)
