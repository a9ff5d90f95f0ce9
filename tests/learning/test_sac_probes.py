"""SAC learns the known values of five small problems in the usual host loop, with and without ReDo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learning.control_probes import ACTIONS, GAMMA, PROBES, ControlProbes, observation
from numpy.testing import assert_allclose

from dormant import Chain, Every, ReDo
from dormant.interventions import recycled_counts
from dormant.rl.agents.sac import SAC
from dormant.rl.control import ControlTraining

AGENT = SAC(
    hidden=(64, 64),
    gamma=GAMMA,
    batch_size=64,
    actor_learning_rate=2e-3,
    critic_learning_rate=3e-3,
    temperature_learning_rate=3e-3,
    initial_temperature=0.1,
    target_entropy=-1.0,
    polyak=0.05,
    reward_scale=1.0,
    replay_capacity=2_000,
    min_replay=300,
)
INTERVENTIONS = {"alone": Chain(), "with ReDo": Every(100, ReDo(tau=0.1), stop=1_000)}


@pytest.fixture(scope="module", params=INTERVENTIONS.values(), ids=INTERVENTIONS.keys())
def learned(request, tmp_path_factory):
    """Trains an agent. Returns its state at the end of the run."""
    training = ControlTraining(
        AGENT, ControlProbes(), request.param, agent_steps=2_000, log_period=1_000, score_batch=64, eval_period=7_000
    )
    state = training.init()
    loop = training.open(tmp_path_factory.mktemp("run"), state)
    for _ in range(2):
        state, _ = loop.advance(state)
    agent, inner = jax.tree.map(lambda leaf: leaf[0], (state.agent, state.intervention))
    assert all(recycled_counts(inner).values()), "ReDo did not recycle neurons in every layer"
    return agent


@pytest.mark.parametrize("number", range(len(PROBES)), ids=[probe.name for probe in PROBES])
def test_sac_reaches_the_known_values(learned, number):
    probe, params = PROBES[number], learned.learner.params
    seen = np.stack([observation(number, *place) for place in probe.places])
    for action, *values in zip(ACTIONS, *probe.values, strict=True):
        actions = jnp.full((len(seen), 1), action)
        _, *critics = AGENT.apply(params, jnp.asarray(seen), actions)
        for critic in critics:
            assert_allclose(critic[:, 0] if critic.ndim > 1 else critic, values, atol=0.1)
    if probe.best:
        best = AGENT.act(params, jnp.asarray(seen), jnp.zeros((len(seen), 1)))
        assert_allclose(best[:, 0], probe.best, atol=0.1)
