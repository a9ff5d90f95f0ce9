"""Two hundred agent steps of DQN with ReDo on Asterix: what they were when they were last looked at."""

from dataclasses import replace

import numpy as np
from numpy.testing import assert_allclose

from dormant import Every, ReDo
from dormant.rl.envs.minatar import MinAtar
from dormant.rl.loops import DeviceTraining
from dormant.rl.networks import MinAtarCNN
from dormant.rl.presets import minatar_dqn

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
GOLDEN: dict[str, list[float]] = {}


def test_two_hundred_steps_of_dqn():
    state, rows = TRAINING.init(), []
    for _ in range(4):
        state, row = TRAINING.advance(state)
        rows.append(row)
    for name, values in GOLDEN.items():
        # Sums may be taken in another order on another machine: the counters are exact, the rest is not.
        assert_allclose(np.stack([row[name] for row in rows])[:, 0], values, rtol=1e-3, err_msg=name)
