"""DrQ with ReDo in the host loop: interrupted and uninterrupted runs end with the same bits."""

from dataclasses import replace

import numpy as np
import pytest
from golden.kills import assert_same_run

from dormant import Every, ReDo
from dormant.lab.runs import runner
from dormant.lab.runs.folder import rows
from dormant.rl.agents import atari_drq
from dormant.rl.atari import AtariTraining
from dormant.rl.envs.atari import Atari
from dormant.rl.networks.convolutional import NatureCNN

TRAINING = AtariTraining(
    agent=replace(atari_drq(NatureCNN(0.05)), replay_capacity=48, min_replay=16, batch_size=4, epsilon_steps=16),
    env=Atari("Breakout", sticky=0.0, noops=29, life_loss=True, time_limit=30),
    intervention=Every(1, ReDo(tau=0.3)),  # acts at every gradient step; steps without ReDo would need another program
    replay_ratio=2.0,
    agent_steps=60,
    log_period=20,
    score_batch=4,
    eval_agent_steps=1,
    eval_episodes=2,
    eval_period=60,
)


def stop_after(agent_steps):
    def progress(done):
        if done == agent_steps:
            raise KeyboardInterrupt

    return progress


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(tmp_path):
    whole = runner.run(TRAINING, tmp_path / "whole")
    for done in (20, 40):
        with pytest.raises(KeyboardInterrupt):
            runner.run(TRAINING, tmp_path / "parts", stop_after(done), checkpoint_seconds=0.0)
    runner.run(TRAINING, tmp_path / "parts", checkpoint_seconds=0.0)
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 60)
    table = list(rows(whole.metrics))
    assert [row["gradient_steps"] for row in table] == [0, 8, 48, 88]
    assert table[-1]["recycled/dense"] > 0 and np.isfinite(table[-1]["eval_return"])
    assert {"dormant/0.1/conv1", "dormant/0.1/conv2", "dormant/0.1/conv3", "dormant/0.1/dense"} <= table[-1].keys()
    assert not {"dormant/0.1/value", "dormant/0.1/advantage"} & table[-1].keys()
