"""JAX and torch give equal scores and masks for equal weights, and equal new weights for equal donors."""

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
from dormant.torch.measuring import contributions, gradient_scores, utilities
from dormant.torch.recycling import Learner

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
    """Returns a JAX tree of parameters or moments as tensors with torch's names and axis order."""
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


@pytest.fixture(scope="module")
def case():
    """Returns parameters with silent neurons, a donor, and a score batch with channels last and with channels first."""
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


# These plans are valid in both frameworks. Layers have their names in Flax.
PLANS = [
    "ReDo(0.5, outgoing='fresh')",
    "ReDo(0.5, incoming='scaled', layers=('Conv_0', 'Dense_0'))",
    "ReDo(0.5, moments='keep')",
    "redo_as_published(0.5, xavier=False)",
    "redo_as_published(0.5, xavier=False, misaligned_flatten=False, keep_bias_moments=False)",
    "Recycle('activation', Dormant(0.5), 'highest')",
    "Recycle('gradient', Dormant(0.5))",
    "Recycle('utility', Share(0.3), at_most=2)",
    "Recycle('contribution', PooledShare(0.3))",
    "Recycle(number=Share(0.6, recyclings=3))",
    "Recycle(number=Gap(1.5, highest=0.9))",
    "Recycle(number=Dormant(0.5), order='random')",
    "ContinualBackprop(0.2, maturity=1, decay=0.5)",
    "ContinualBackprop(0.2, maturity=1, decay=0.5, utility='overall')",
    "Prune(0.3, period=2)",
    "Reset(('Dense_0', 'Dense_1'))",
    "Reset(moments='keep')",
    "ShrinkPerturb(0.7, moments='fresh')",
    "ResetOptimizer(step_count='keep')",
    "HareTortoise(0.6, period=2, moments='fresh')",
    "ClipWeights(0.5)",
    "ClipWeights(0.5, bound='fan_in')",
    "SWR(factor=0.5)",
    "SWR('magnitude', 'proportional', 0.3, moments='fresh')",
    "SNR(quantile=0.5, period=2, least=1, most=4)",
    "SoftShrinkPerturb(0.1, period=2)",
    "DrM(tau=0.3, step_count='keep')",
    "DrM(tau=0.3, convolutions='perturb', moments='keep', step_count='keep')",
    "FIRE(heads='keep')",
    "FIRE(heads='fresh', moments='fresh')",
    "NaP(everywhere=True)",
    "Chain(Every(2, WhenDormant(0.1, ShrinkPerturb(0.5))), Every(3, ReDo(0.2)))",
]


@pytest.fixture(scope="module")
def wirings(case):
    """Traces both networks. Returns the wirings."""
    params, _, x, images = case
    return dormant.trace(FlaxCNN().apply, params, x), dt.trace(torch_network(params), images)


GROWTH = 1.25  # the factor that multiplies all weights before each gradient step


def adam_state(params):
    """Returns first and second moments for Adam. They differ between weights, and some are small."""
    moments = jax.tree.map(
        lambda leaf: jnp.sin(9.0 * jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape), params
    )
    fed = moments["params"]["Dense_0"]
    fed["kernel"] = fed["kernel"].at[:, :3].multiply(0.1)
    return moments, jax.tree.map(jnp.square, moments)


@pytest.mark.parametrize("plan", PLANS)
def test_every_cure_does_the_same_with_the_same_donors(case, wirings, plan, monkeypatch):
    params, donor, x, images = case
    # Gives both frameworks the same random draws: the donors, and the order of neurons.
    order = lambda count: np.random.default_rng(count).random(count, np.float32)  # noqa: E731
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.asarray(order(*shape)))
    monkeypatch.setattr(torch, "rand", lambda count: torch.tensor(order(count)))

    tx = optax.adam(1e-3)
    adam, *rest = tx.init(params)
    mu, nu = adam_state(params)
    learner = dormant.Learner(params, (adam._replace(mu=mu, nu=nu), *rest))
    network = dormant.Network(wirings[0], lambda _: donor, tx)
    names = {name: getattr(dormant, name) for name in dormant.__all__}
    one = eval(plan, names | vars(dormant.how_many))
    state = one.init(learner, network)
    update = jax.jit(lambda learner, state: one.update(jax.random.key(1), learner, state, network, x))

    net = torch_network(params)
    optimizer = torch.optim.Adam(net.parameters())
    first, second = as_torch(mu), as_torch(nu)
    for name, leaf in net.named_parameters():
        optimizer.state[leaf] = {"step": torch.tensor(3.0), "exp_avg": first[name], "exp_avg_sq": second[name]}
    for theirs, ours in LAYERS.items():
        plan = plan.replace(theirs, ours)
    other = eval(plan, {**vars(dt), **vars(dt.how_many)})
    cure = dt.with_intervention(net, optimizer, other, lambda: torch_network(donor))
    cure.learner = Learner(net, [optimizer], wirings[1], cure.init)

    for _ in range(4):
        learner = learner._replace(params=jax.tree.map(lambda leaf: GROWTH * leaf, learner.params))
        learner, state = update(learner, state)
        with torch.no_grad():
            for leaf in net.parameters():
                leaf.mul_(GROWTH)
        cure.step(images)
    counts = {LAYERS[name]: int(count) for name, count in dormant.recycled_counts(state).items()}
    assert cure.recycled == counts
    assert sum(counts.values()) > 0 or not counts
    adam = learner.opt_state[0]
    weights, mu, nu = map(as_torch, (learner.params, adam.mu, adam.nu))
    grown = {name: leaf * GROWTH**4 for name, leaf in as_torch(params).items()}
    for name, leaf in net.named_parameters():
        torch.testing.assert_close(leaf.detach(), weights[name], rtol=1e-5, atol=1e-6)
        assert torch.equal(optimizer.state[leaf]["exp_avg"], mu[name]), name
        assert torch.equal(optimizer.state[leaf]["exp_avg_sq"], nu[name]), name
    acted = any(not torch.allclose(weights[name], grown[name]) for name in grown)
    assert acted or not any(each.any() for each in mu.values())


@pytest.mark.parametrize("name", ["L2Init", "Parseval", "Spectral"])
def test_penalties_have_the_same_values_and_gradients(case, name):
    params, donor, *_ = case
    options = {"free": ("Dense_1",)} if name == "Parseval" else {}
    theirs = getattr(dormant.regularisers, name)(0.3, **options)
    value, gradient = jax.value_and_grad(theirs)(params, donor)
    leaves = {key: leaf.requires_grad_() for key, leaf in as_torch(params).items()}
    options = {"free": ("dense_1",)} if name == "Parseval" else {}
    ours = getattr(dt, name)(0.3, **options)(leaves, as_torch(donor))
    ours.backward()
    # In the two frameworks, the power iteration of Spectral starts from different vectors, so results are only close.
    near = {"rtol": 0.03, "atol": 0.1} if name == "Spectral" else {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(ours.item(), value, **near)
    for key, expected in as_torch(gradient).items():
        if name != "Spectral" or key.endswith("bias"):
            torch.testing.assert_close(
                leaves[key].grad if leaves[key].grad is not None else 0 * expected, expected, **near
            )


def test_measures_agree(case, wirings):
    params, _, x, images = case
    net, (wiring, ours) = torch_network(params), wirings
    mu, _ = adam_state(params)
    pairs = [
        (dormant.metrics.contributions(wiring, params, x), contributions(net, ours, images)),
        (dormant.metrics.utilities(wiring, params, x), utilities(net, ours, images)),
        (dormant.metrics.gradient_scores(wiring, mu), gradient_scores(ours, as_torch(mu))),
    ]
    for theirs, here in pairs:
        for layer in HIDDEN:
            np.testing.assert_allclose(here[LAYERS[layer]], theirs[layer], rtol=1e-5, atol=1e-6)
    share = dormant.metrics.gradient_dormancy(wiring, mu, tau=0.9)
    assert dt.gradient_dormancy(ours, as_torch(mu), tau=0.9) == pytest.approx(float(share)) and share > 0


def test_reports_agree(case):
    params, _, x, images = case
    theirs = dormant.report(FlaxCNN().apply, params, x, tau=0.3)
    ours = dt.report(torch_network(params), images, tau=0.3)
    assert [layer.name for layer in ours.layers] == [LAYERS[layer.name] for layer in theirs.layers]
    assert (ours.samples, ours.tau) == (theirs.samples, theirs.tau) and "95 % interval" in str(ours)
    for one, other in zip((*ours.layers, ours.all), (*theirs.layers, theirs.all), strict=True):
        assert (one.neurons, one.dormant) == (other.neurons, other.dormant)
        np.testing.assert_allclose(one.interval, other.interval, rtol=1e-5)
        np.testing.assert_allclose(
            [one.effective_rank, one.weight_norm], [other.effective_rank, other.weight_norm], rtol=1e-3
        )
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5, atol=1e-6)
    assert ours.all.interval.low < ours.all.interval.high
