"""DQN learns the known values of six small problems in the usual device loop, with and without ReDo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learning.probes import GAMMA, PROBES
from numpy.testing import assert_allclose

from dormant import Chain, Every, ReDo
from dormant.rl.agents.dqn import DQN
from dormant.rl.device import DeviceTraining
from dormant.rl.networks import MLP

AGENT = DQN(
    network=MLP((32,)),
    gamma=GAMMA,
    learning_rate=3e-3,
    replay_capacity=1_000,
    min_replay=100,
    target_period=20,
    epsilon_steps=1,
    epsilon_end=1.0,  # explores until the end, so that the agent learns the values of both actions
)


@pytest.mark.parametrize("intervention", [Chain(), Every(50, ReDo(tau=0.1), stop=1_000)], ids=["alone", "with ReDo"])
@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_dqn_reaches_the_known_values(probe, intervention):
    training = DeviceTraining(
        agent=AGENT,
        env=probe,
        intervention=intervention,
        agent_steps=1_500,
        log_period=1_500,  # one chunk, so that only one program is compiled
        seeds=(0, 1),
        eval_period=3_000,
    )
    state, _ = training.advance(training.init())
    places = jnp.array(probe.places)[:, None]
    q = jax.vmap(AGENT.network.apply, in_axes=(0, None))(state.agent.learner.params, places)
    assert_allclose(q, np.broadcast_to(probe.values, q.shape), atol=0.1)
