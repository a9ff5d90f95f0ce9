"""DrQ learns known values from images, with augmentation, 10-step returns and a dueling head."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learning.probes import PROBES, Pictured, Probe
from numpy.testing import assert_allclose

from dormant import Chain, Every, ReDo
from dormant.rl.agents import minatar_drq
from dormant.rl.agents.dqn import Augmentation
from dormant.rl.device import DeviceTraining
from dormant.rl.networks.convolutional import MinAtarCNN

GAMMA = 0.9
# The first ten discounted rewards sum to 6.5. The rest of the value must come from bootstrapping.
LONG = Probe("twenty steps of reward", 20, False, "constant", (0.0,), (((1 - GAMMA**20) / (1 - GAMMA),) * 2,))
AGENT = replace(
    minatar_drq(1),
    network=MinAtarCNN(4, 32, dueling=True),
    gamma=GAMMA,
    learning_rate=3e-3,
    replay_capacity=1_000,
    min_replay=100,
    epsilon_end=1.0,  # explores until the end, so that the agent learns the values of both actions
    augmentation=Augmentation(pad=1, intensity=0.05),
)


@pytest.mark.parametrize("intervention", [Chain(), Every(50, ReDo(tau=0.1), stop=1_000)], ids=["alone", "with ReDo"])
@pytest.mark.parametrize("probe", [PROBES[4], LONG], ids=lambda probe: probe.name)
def test_drq_reaches_the_known_values(probe, intervention):
    training = DeviceTraining(
        AGENT,
        Pictured(probe),
        intervention,
        agent_steps=1_500,
        log_period=1_500,  # one chunk, so that only one program is compiled
        seeds=(0, 1),
        eval_period=3_000,
    )
    state, _ = training.advance(training.init())
    places = jnp.broadcast_to(jnp.array(probe.places)[:, None, None, None], (len(probe.places), 4, 4, 1))
    q = jax.vmap(AGENT.network.apply, in_axes=(0, None))(state.agent.learner.params, places)
    assert_allclose(q, np.broadcast_to(probe.values, q.shape), atol=0.1, rtol=0.03)
