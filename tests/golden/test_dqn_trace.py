"""Trains DQN with ReDo on Asterix for 200 agent steps, and compares the metrics with recorded metrics."""

from dataclasses import replace

import numpy as np
from numpy.testing import assert_allclose

from dormant import Every, ReDo
from dormant.rl.agents import minatar_dqn
from dormant.rl.device import DeviceTraining
from dormant.rl.envs.minatar import MinAtar
from dormant.rl.networks.convolutional import MinAtarCNN

TRAINING = DeviceTraining(
    agent=replace(minatar_dqn(200), network=MinAtarCNN(4, 16), min_replay=50, target_period=50, replay_capacity=500),
    env=MinAtar("Asterix"),
    intervention=Every(50, ReDo(tau=0.5)),
    agent_steps=200,
    log_period=50,
    seeds=(0,),
    eval_period=200,
    eval_episodes=1,
)
NAN = float("nan")
GOLDEN = {
    "agent_steps": [50, 100, 150, 200],
    "gradient_steps": [0, 50, 100, 150],
    "loss": [NAN, 0.012164, 0.00863997, 0.0066781],
    "q_mean": [NAN, 0.0837125, 0.173605, 0.215798],
    "train_return": [NAN, NAN, 1, 0],
    "train_episodes": [0, 0, 1, 2],
    "dormant/0.1/all": [0, 0.05, 0, 0],
    "recycled/dense": [0, 4, 7, 10],
    "recycled/conv": [0, 0, 0, 0],
    "eval_return": [NAN, NAN, NAN, 0],
}


def test_two_hundred_steps_of_dqn():
    state, rows = TRAINING.init(), []
    for _ in range(4):
        state, row = TRAINING.advance(state)
        rows.append(row)
    for name, values in GOLDEN.items():
        measured = np.ma.stack([np.ma.asarray(row[name], float) for row in rows])[:, 0].filled(NAN)
        # Counters must be equal. Other metrics may differ slightly, because the order of sums depends on the machine.
        assert_allclose(measured, values, rtol=1e-3, err_msg=name)
