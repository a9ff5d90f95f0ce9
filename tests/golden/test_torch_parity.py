"""With the same weights, JAX and torch give the same scores and masks, and with the same donor the same new weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen
from torch import nn

import dormant
import dormant.torch as dt

LAYERS = {"Conv_0": "conv_0", "Conv_1": "conv_1", "Dense_0": "dense_0", "Dense_1": "dense_1"}
HIDDEN = ["Conv_0", "Conv_1", "Dense_0"]
PLACES, CHANNELS = 16, 6  # the last feature map has 4 x 4 positions


class FlaxCNN(linen.Module):
    """Two convolutions, channels last, flattened in the order H, W, C."""

    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Conv(5, (3, 3), strides=2, padding="VALID")(x))
        x = linen.relu(linen.Conv(CHANNELS, (2, 2), padding="VALID")(x))
        x = linen.relu(linen.Dense(12)(x.reshape(len(x), -1)))
        return linen.Dense(3)(x)


class TorchCNN(nn.Module):
    """The network of FlaxCNN with channels first, flattened in the order C, H, W."""

    def __init__(self):
        super().__init__()
        self.conv_0, self.conv_1 = nn.Conv2d(2, 5, 3, 2), nn.Conv2d(5, CHANNELS, 2)
        self.dense_0, self.dense_1 = nn.Linear(CHANNELS * PLACES, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = torch.relu(self.conv_1(torch.relu(self.conv_0(x))))
        return self.dense_1(torch.relu(self.dense_0(x.flatten(1))))


def as_torch(params):
    """A JAX tree of parameters or moments with torch's names and axis order."""
    arrays = {}
    for theirs, ours in LAYERS.items():
        kernel = np.asarray(params["params"][theirs]["kernel"])
        if theirs == "Dense_0":
            kernel = kernel.reshape(PLACES, CHANNELS, -1).swapaxes(0, 1).reshape(CHANNELS * PLACES, -1)
        axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
        arrays[f"{ours}.weight"] = torch.tensor(kernel.transpose(axes).copy())
        arrays[f"{ours}.bias"] = torch.tensor(np.asarray(params["params"][theirs]["bias"]))
    return arrays


def torch_network(params):
    net = TorchCNN()
    net.load_state_dict(as_torch(params))
    return net


@pytest.fixture
def case():
    """Parameters with some silent neurons, a donor, and score batches in both layouts."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = np.asarray(jax.random.normal(keys[0], (7, 11, 11, 2)))
    params, donor = (FlaxCNN().init(key, x) for key in keys[1:])
    for layer, neurons in zip(HIDDEN, ([1], [0, 4], [3, 7, 8]), strict=True):
        bias = params["params"][layer]["bias"]
        params["params"][layer]["bias"] = bias.at[jnp.array(neurons)].set(-100.0)
    return params, donor, x, torch.tensor(x.transpose(0, 3, 1, 2).copy())


def test_scores_and_masks_agree(case):
    params, _, x, images = case
    net = torch_network(params)
    np.testing.assert_allclose(net(images).detach(), FlaxCNN().apply(params, x), rtol=1e-5, atol=1e-5)
    wiring, ours = dormant.trace(FlaxCNN().apply, params, x), dt.trace(net, images)
    scores, theirs = wiring.scores(params, x), ours.scores(net, images)
    assert list(scores) == HIDDEN and list(theirs) == [LAYERS[name] for name in HIDDEN]
    for tau in (0.0, 0.1, 0.5):
        report = dt.measure(net, ours, images, tau=tau)
        for name in HIDDEN:
            np.testing.assert_allclose(theirs[LAYERS[name]], scores[name], rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(report.masks[LAYERS[name]], dormant.dormant_mask(scores[name], tau))


@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_recycled_weights_and_moments_agree(case, tau):
    params, donor, x, images = case
    tx = optax.adam(1e-3)
    ones = jax.tree.map(jnp.ones_like, params)
    adam, *rest = tx.init(params)
    learner = dormant.Learner(params, (adam._replace(mu=ones, nu=ones), *rest))
    network = dormant.Network(dormant.trace(FlaxCNN().apply, params, x), lambda _: donor, tx)
    redo = dormant.ReDo(tau=tau)
    learner, state = redo.update(jax.random.key(1), learner, redo.init(learner, network), network, x)

    net = torch_network(params)
    optimizer = torch.optim.Adam(net.parameters())
    for leaf in net.parameters():
        optimizer.state[leaf] = {
            "step": torch.tensor(3.0),
            **{k: torch.ones_like(leaf) for k in ("exp_avg", "exp_avg_sq")},
        }
    counts = dt.recycle_(
        net, dt.trace(net, images), images, tau=tau, optimizer=optimizer, init=lambda: torch_network(donor)
    )

    assert counts == {LAYERS[name]: int(count) for name, count in dormant.recycled_counts(state).items()}
    assert sum(counts.values()) >= 6
    weights, moments = as_torch(learner.params), as_torch(learner.opt_state[0].mu)
    for name, leaf in net.named_parameters():
        assert torch.equal(leaf, weights[name]), name
        assert torch.equal(optimizer.state[leaf]["exp_avg"], moments[name]), name
