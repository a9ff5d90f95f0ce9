"""Offline training. A DQN agent plays, its replay is written to files, and a new agent learns from these files."""

from dataclasses import astuple, dataclass

import numpy as np
from learning.probes import GAMMA, PROBES, Probe

from dormant.lab.runs.description import run_path, sibling_path
from dormant.lab.runs.folder import RunFolder, rows
from dormant.lab.runs.runner import last_state, run
from dormant.rl.agents.dqn import DQN
from dormant.rl.data import transitions
from dormant.rl.data.sources import OwnReplay
from dormant.rl.device import DeviceTraining
from dormant.rl.networks import MLP
from dormant.rl.offline import OfflineTraining


@dataclass(frozen=True)
class TwoSteps(Probe):
    """A test problem with a name for run folders."""

    game = "steps"


ENV = TwoSteps(*astuple(PROBES[2]))
AGENT = DQN(MLP((16,)), gamma=GAMMA, learning_rate=3e-3, replay_capacity=100, min_replay=20, target_period=50)
# These runs have no evaluations, because evaluations take long to compile.
PLAYED = DeviceTraining(AGENT, replay_ratio=0.5, agent_steps=240, log_period=80, eval_period=8_000)
TRAINING = OfflineTraining(
    AGENT, ENV, OwnReplay(PLAYED), gradient_steps=1_200, log_period=400, seeds=(5,), score_batch=8, eval_period=0
)


def test_offline_training_goes_on_from_what_a_run_remembers(tmp_path):
    path = run_path(tmp_path, "smoke", TRAINING)
    folder = run(TRAINING, path)

    (played,) = TRAINING.needs
    first = RunFolder(sibling_path(path, played))
    assert first.done.exists() and first.path.parent.name.startswith("dqn-rr0.5-")
    ring = last_state(played, first).replay
    logged = transitions.read(folder.replay / "seed5.npz")
    # The ring holds the last 100 of 240 steps. The oldest is in slot 40.
    order = (40 + np.arange(100)) % 100
    np.testing.assert_array_equal(logged.action, ring.action[0, order])
    np.testing.assert_array_equal(logged.observation[:, 0], np.arange(100) % 2)
    np.testing.assert_array_equal(logged.next_observation[:, 0], np.arange(100) % 2 + 1)
    np.testing.assert_array_equal(logged.reward, np.arange(100) % 2)
    assert (logged.terminal == logged.last).all() and logged.terminal.sum() == 50

    table = list(rows(folder.metrics))
    assert [row["gradient_steps"] for row in table] == [0, 400, 800, 1200]
    assert all("dormant/0.1/all" in row for row in table)
    # The Q values of the two states are 1/2 and 1 for both actions.
    assert abs(table[-1]["q_mean"] - 0.75) < 0.05 and table[-1]["loss"] < 0.01
