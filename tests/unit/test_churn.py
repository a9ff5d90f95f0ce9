"""C-CHAIN, compared with numbers computed by hand, in JAX, in the DQN agent, and in PyTorch."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
import pytest
import torch
from learning.probes import PROBES
from numpy.testing import assert_allclose
from runs_of_loops import trees_equal
from torch import nn

import dormant.torch as dt
from dormant.regularisers import CChain, output_churn
from dormant.rl.agents.dqn import DQN
from dormant.rl.device import DeviceTraining
from dormant.rl.networks import MLP
from dormant.rl.replay.device import Batch

WEIGHTS, LOSSES = (1.0, 1.2, 0.9, 0.9), (0.5, -0.8, 0.3, 0.1)
SETTINGS = {"share": 0.1, "strength": 3.0, "fixed": 2, "window": 3}


def test_the_gradient_of_one_weight():
    """Q(s) = w s at s = 2, and w changes from 1 to 1.2. The churn is (2.4 - 2)^2. Its gradient is 2 * 0.4 * 2."""
    churn, gradient = jax.value_and_grad(lambda w: output_churn(w * jnp.full((1, 1), 2.0), jnp.full((1, 1), 2.0)))(1.2)
    assert_allclose([churn, gradient], [0.16, 1.6], rtol=1e-5)


def by_hand():
    """Yields the strength and the churn at each step, for Q(s) = w s at s = 2."""
    # The churns (2 (w_t - w_{t-1}))^2 are 0, 0.16, 0.36 and 0. The running mean of the loss has the rates 1, 1/2, 1/2
    # and 1/2. The running mean of the churn starts at the second step, with the rates 1, 1/2 and 1/2.
    yield 3.0, 0.0
    yield 3.0, 0.16
    yield 0.1 * (0.5 + 0.5 * (0.8 - 0.5)) / (0.16 + 1e-8), 0.36
    yield 0.1 * (0.65 + 0.5 * (0.3 - 0.65)) / (0.16 + 0.5 * (0.36 - 0.16) + 1e-8), 0.0


def test_strength_and_averages_in_jax():
    cchain = CChain(**SETTINGS)
    state = cchain.init({"w": jnp.array(WEIGHTS[0])})
    for weight, loss, (strength, churn) in zip(WEIGHTS, LOSSES, by_hand(), strict=True):
        outputs = [jnp.full((1, 1), 2.0) * w for w in (weight, state.previous["w"])]
        found = output_churn(*outputs)
        assert_allclose([cchain.strength_at(state), found], [strength, churn], rtol=1e-4, atol=1e-6)
        state = cchain.after(state, {"w": jnp.array(weight)}, jnp.array(loss), found)
    assert int(state.gradient_steps) == 4


def test_strength_and_totals_in_torch():
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(WEIGHTS[0])
    term, resumed, states = dt.with_churn_term(dt.CChain(**SETTINGS), net), None, torch.full((1, 1), 2.0)
    for step, (weight, loss, (strength, churn)) in enumerate(zip(WEIGHTS, LOSSES, by_hand(), strict=True)):
        with torch.no_grad():
            net.weight.fill_(weight)
        if step == 2:  # `resumed` loads the state of `term`; both must give equal values from here on
            resumed = dt.with_churn_term(dt.CChain(**SETTINGS), net)
            resumed.load_state_dict(term.state_dict())
        assert_allclose(term.strength, strength, rtol=1e-4)
        total = term(torch.tensor(loss), states)
        assert_allclose(total.item(), loss + strength * churn, rtol=1e-4)
        assert resumed is None or resumed(torch.tensor(loss), states).item() == total.item()
    assert term.gradient_steps == 4


def test_the_gradient_of_the_term_flows_through_the_present_outputs_only():
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
    term = dt.with_churn_term(dt.CChain(strength=1.0), net)
    with torch.no_grad():
        net.weight.fill_(1.2)
    term(torch.tensor(0.0), torch.full((1, 1), 2.0)).backward()
    assert_allclose(net.weight.grad.item(), 1.6, rtol=1e-5)


def test_the_agent_holds_all_values_on_the_second_half_of_its_batch():
    agent = DQN(network=MLP(()), learning_rate=0.1, regulariser=CChain(share=None, strength=2.0), min_replay=1)
    assert agent.drawn_batch == 64
    state = agent.init(jax.random.key(0), (1,), actions=2)
    old = {"head": {"kernel": jnp.array([[1.0, 0.0]]), "bias": jnp.zeros(2)}}
    new = {"head": {"kernel": jnp.array([[1.5, 2.0]]), "bias": jnp.zeros(2)}}
    state = state._replace(learner=state.learner._replace(params=new), churn=state.churn._replace(previous=old))
    # The agent trains on the first state, with a TD error of 0. The values of the second state change by 3 * (0.5, 2).
    seen, none = jnp.array([[1.0], [3.0]]), jnp.zeros(2, jnp.int32)
    batch = Batch(seen, none, jnp.array([1.5, 9.0]), jnp.zeros(2), seen)
    after, losses = agent.update(state, batch)
    assert float(losses.loss) == 0.0
    assert_allclose(after.churn.churn, (1.5**2 + 6.0**2) / 2, rtol=1e-6)
    trees_equal(after.churn.previous, new)
    # Gradient of the kernel: 2.0 * d/dw mean (3 (w - w_old))^2 = 2.0 * 3 * (1.5, 6). Of the biases: 2.0 * (1.5, 6).
    gradient = {"head": {"kernel": jnp.array([[9.0, 36.0]]), "bias": jnp.array([3.0, 12.0])}}
    tx = agent.optimizer()
    with jax.numpy_dtype_promotion("standard"):
        change, _ = tx.update(gradient, tx.init(new), new)
    expected = optax.apply_updates(new, change)
    jax.tree.map(lambda one, two: assert_allclose(one, two, rtol=1e-5), after.learner.params, expected)


def test_a_loop_with_the_term_learns_otherwise_and_its_first_step_is_plain():
    agent = DQN(MLP((4,)), replay_capacity=64, min_replay=16, batch_size=4, regulariser=CChain(fixed=2))
    training = DeviceTraining(agent, PROBES[4], agent_steps=32, log_period=32, eval_period=64, seeds=(0, 1))
    state, _ = training.advance(training.init())
    assert state.agent.churn.gradient_steps.tolist() == [16, 16] and (state.agent.churn.churn > 0).all()
    fixed = replace(training, agent=replace(agent, regulariser=CChain(share=None)))
    other, _ = fixed.advance(fixed.init())
    kernels = [each.agent.learner.params["head"]["kernel"] for each in (state, other)]
    assert (kernels[0] != kernels[1]).any()


def test_arguments_in_the_wrong_order_are_refused():
    with pytest.raises(TypeError):
        dt.with_churn_term(nn.Linear(1, 1), dt.CChain())
