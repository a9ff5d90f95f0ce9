"""Our cures give the numbers of the authors' code on small inputs. `authors.py` wrote these numbers to a file."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from golden import authors
from numpy.testing import assert_allclose
from torch import nn

import dormant
import dormant.torch as dt
from dormant.interventions.projecting import isometric
from dormant.interventions.silence import Silences

NUMBERS = json.loads(authors.FILE.read_text())["numbers"]
NAMES = ("conv/kernel", "conv/bias", "dense/kernel", "dense/bias", "head/kernel", "head/bias")

ONES = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}


def in_jax(leaves):
    """Returns PyTorch's arrays as a JAX tree of layers. The last two axes of kernels are inputs and outputs."""
    tree = {}
    for name, leaf in zip(NAMES, leaves, strict=True):
        layer, _, kind = name.partition("/")
        tree.setdefault(layer, {})[kind] = jnp.asarray(leaf.transpose(2, 3, 1, 0) if leaf.ndim == 4 else leaf.T)
    return tree


def theirs(name):
    """Returns the parameters that the authors' code computed, in PyTorch's axis order."""
    return [np.array(leaf).reshape(shape) for leaf, shape in zip(NUMBERS[name], authors.SHAPES, strict=True)]


def compare(tree, leaves):
    jax.tree.map(lambda one, two: assert_allclose(one, two, rtol=1e-4, atol=1e-5), tree, in_jax(leaves))


def after(cure):
    """Returns the parameters of the PyTorch network after an intervention."""
    net = authors.network()
    dt.with_intervention(net, (), cure).step(torch.ones(3, 2, 3, 3))
    return [leaf.detach().numpy() for leaf in net.parameters()]


def test_the_numbers_are_of_the_revisions_that_our_docstrings_name():
    assert json.loads(authors.FILE.read_text())["revisions"] == authors.REVISIONS
    cures = (dormant.FIRE, dormant.upgd, dormant.ClipWeights, dormant.SWR, dormant.SNR, dormant.regularisers.CChain)
    for cure, revision in zip(cures, authors.REVISIONS.values(), strict=True):
        assert revision in cure.__doc__


def test_fire():
    for one, two in zip(after(dt.FIRE()), theirs("fire"), strict=True):
        assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    projected = jax.tree.map(lambda leaf: isometric(leaf) if leaf.ndim > 1 else leaf, in_jax(authors.weights()))
    compare(projected, theirs("fire"))


def test_upgd_without_a_running_average():
    """Uses decay 0, because with a running average the authors' first steps are biased. See `upgd`."""
    tx = dormant.upgd(0.1, settings=dormant.UPGD(decay=0.0, noise=0.0, weight_decay=0.01, factor=1.0))
    params, gradients = in_jax(authors.weights()), in_jax(authors.gradients())
    state = tx.init(params)
    for _ in range(3):
        change, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, change)
    compare(params, theirs("upgd"))


def test_weight_clipping():
    for one, two in zip(after(dt.ClipWeights(authors.FACTOR, "fan_in")), theirs("weight clipping"), strict=True):
        assert_allclose(one, two, rtol=1e-6)
    params, tx = in_jax(authors.weights()), optax.sgd(0.1)
    cure, learner = dormant.ClipWeights(authors.FACTOR, "fan_in"), dormant.Learner(params, tx.init(params))
    wiring = dormant.trace(lambda params, x: jax.nn.relu(x @ params["a"]) @ params["b"], ONES, jnp.ones((1, 2)))
    network = dormant.Network(wiring, lambda key: params, tx)  # this cure needs only the optimizer
    compare(
        cure.update(jax.random.key(0), learner, cure.init(learner, network), network)[0].params,
        theirs("weight clipping"),
    )


@pytest.mark.parametrize(("choice", "factor"), [("threshold", authors.FACTOR), ("proportional", 0.5)])
def test_which_weights_swr_chooses(choice, factor):
    pairs = zip(authors.weights(), authors.gradients(), NUMBERS["swr"][choice], strict=True)
    for weight, gradient, places in pairs:
        if choice == "proportional" and weight.size % 2:  # SWR may choose one more weight at random
            continue
        utility = np.abs(gradient * weight)
        ours = dormant.SWR(choice=choice, factor=factor).chosen(jax.random.key(0), jnp.asarray(utility))
        assert np.flatnonzero(ours).tolist() == places
        again = dt.SWR(choice=choice, factor=factor).chosen(torch.tensor(utility))
        assert np.flatnonzero(again).tolist() == places


def test_the_limits_of_snr():
    snr = dormant.SNR(authors.QUANTILE, growth=authors.GROWTH, least=100, most=authors.MOST)
    past = np.zeros((len(authors.SILENCES), len(snr.lengths)), np.int32)
    for neuron, lengths in enumerate(authors.SILENCES):
        np.add.at(past[neuron], np.searchsorted(snr.lengths, lengths), 1)
    ages = np.zeros(len(past), np.int32)
    layer = snr.adapted(Silences(jnp.asarray(ages), jnp.asarray(past), jnp.array(authors.LIMITS)))
    assert layer.limit.tolist() == NUMBERS["snr"]
    one = {"past": torch.tensor(past), "limit": torch.tensor(authors.LIMITS, dtype=torch.int32)}
    dt.SNR(authors.QUANTILE, growth=authors.GROWTH, least=100, most=authors.MOST).adapt_(one)
    assert one["limit"].tolist() == NUMBERS["snr"]


def test_a_few_steps_of_c_chain():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 2)
    )
    target = copy.deepcopy(net)
    optimizer, total = torch.optim.Adam(net.parameters(), lr=3e-4), dt.with_churn_term(dt.CChain(**authors.CCHAIN), net)
    for number in range(authors.STEPS):
        drawn = {name: torch.tensor(value) for name, value in authors.batch(number).items()}
        states, following, other = (drawn[name].permute(0, 3, 1, 2) for name in ("states", "next", "other"))
        with torch.no_grad():
            best = net(following).argmax(1, keepdim=True)
            goal = drawn["rewards"] + 0.99 * target(following).gather(1, best)[:, 0]
        loss = (net(states).gather(1, drawn["actions"][:, None])[:, 0] - goal).square().mean()
        optimizer.zero_grad()
        total(loss, other).backward()
        optimizer.step()
    values = net(torch.tensor(authors.batch(authors.STEPS)["states"]).permute(0, 3, 1, 2))
    assert_allclose(values.detach().flatten(), NUMBERS["cchain"]["values"], rtol=1e-4, atol=1e-5)
    assert_allclose(total.strength, NUMBERS["cchain"]["strength"], rtol=1e-3)
