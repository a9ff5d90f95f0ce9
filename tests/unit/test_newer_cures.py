"""Cures published in 2024 to 2026, compared with numbers computed by hand. `tests/golden` compares JAX and PyTorch."""

import itertools
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

import dormant.torch as dt
from dormant import FIRE, SNR, SWR, ClipWeights, DrM, Learner, NaP, Network, SoftShrinkPerturb, trace
from dormant.interventions.projecting import isometric
from dormant.interventions.silence import Silences
from dormant.lab.runs.description import describe, digest
from dormant.rl.device import DeviceTraining
from dormant.rl.networks.convolutional import MinAtarCNN
from dormant.settings import added, silence_lengths, soft_factors
from dormant.torch.projecting import isometric as torch_isometric

KEY = jax.random.key(1)
TX = optax.adam(0.1)
X = jnp.array([[1.0], [3.0]])
PARAMS = {"hidden": {"w": jnp.array([[1.0, 2.0, -0.5]])}, "head": {"w": jnp.array([[1.0], [-2.0], [4.0]])}}


def apply(params, x):
    return jax.nn.relu(x @ params["hidden"]["w"]) @ params["head"]["w"]


def network(init, params=PARAMS, function=apply, x=X):
    return Network(trace(function, params, x), init, TX)


def once(cure, net, params=PARAMS, opt_state=None, steps=1, x=X):
    learner = Learner(params, TX.init(params) if opt_state is None else opt_state)
    state = cure.init(learner, net)
    update = jax.jit(lambda key, learner, state: cure.update(key, learner, state, net, x))
    for key in jax.random.split(KEY, steps):
        learner, state = update(key, learner, state)
    return learner, state


# FIRE.


@pytest.mark.parametrize(("steps", "value"), [(1, 0.792), (2, 0.93960), (3, 0.99463), (10, 1.0)])
def test_fire_takes_newton_schulz_steps(steps, value):
    """The matrix diag(3, 4) / 5 has the singular values 0.6 and 0.8. Each step maps a value s to 1.5 s - 0.5 s^3."""
    assert_allclose(isometric(jnp.diag(jnp.array([3.0, 4.0])), steps)[0, 0], value, atol=2e-5)
    assert_allclose(torch_isometric(torch.diag(torch.tensor([3.0, 4.0])), steps)[0, 0], value, atol=2e-5)


def test_fire_scales_by_the_shape_and_the_window():
    wide = jnp.array([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]])  # a kernel with three inputs and two outputs
    expected = np.sqrt(2 / 3) * np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert_allclose(isometric(wide), expected, atol=1e-5)
    assert_allclose(torch_isometric(torch.tensor(np.asarray(wide).T.copy())).T, expected, atol=1e-5)
    window = jnp.broadcast_to(wide, (3, 3, 3, 2))
    assert_allclose(isometric(window), np.broadcast_to(expected / 9, window.shape), atol=1e-6)
    as_torch = torch.tensor(np.asarray(window).transpose(3, 2, 0, 1).copy())
    assert_allclose(torch_isometric(as_torch).permute(2, 3, 1, 0), isometric(window), atol=1e-6)


def test_fire_leaves_zero_at_zero_and_does_not_repair_a_collapsed_kernel():
    assert not isometric(jnp.zeros((3, 2))).any() and not torch_isometric(torch.zeros(2, 3)).any()
    assert_allclose(isometric(jnp.diag(jnp.array([1.0, 0.001])))[1, 1], 0.058, atol=1e-3)


def test_what_fire_does_with_heads_biases_and_moments():
    params = {"hidden": {"w": 3 * jnp.eye(2), "b": jnp.array([0.5, 1.0])}, "head": {"w": 5 * jnp.ones((2, 2))}}

    def with_bias(params, x):
        return jax.nn.relu(x @ params["hidden"]["w"] + params["hidden"]["b"][None]) @ params["head"]["w"]

    net = network(lambda key: jax.tree.map(lambda leaf: jnp.full_like(leaf, 7.0), params), params, with_bias, X @ X.T)
    ones = jax.tree.map(jnp.ones_like, TX.init(params))
    for heads, head in (("project", 0.5), ("keep", 5.0), ("fresh", 7.0)):
        learner, _ = once(FIRE(heads=heads, moments="fresh"), net, params, ones, x=X @ X.T)
        assert_allclose(learner.params["hidden"]["w"], np.eye(2), atol=1e-5)
        assert learner.params["hidden"]["b"].tolist() == [0.5, 1.0]
        assert_allclose(learner.params["head"]["w"], np.full((2, 2), head), atol=1e-4)
        mu = learner.opt_state[0].mu
        assert not mu["hidden"]["w"].any() and mu["hidden"]["b"].all() and mu["head"]["w"].any() == (heads == "keep")


# NaP.


def normalised(params, x):
    h = x @ params["hidden"]["w"]
    h = (h - h.mean(-1, keepdims=True)) * jax.lax.rsqrt(h.var(-1, keepdims=True))
    return jax.nn.relu(h) @ params["head"]["w"]


def test_nap_brings_normalised_kernels_back_to_their_first_norm():
    params = {"hidden": {"w": jnp.array([[3.0, 4.0]])}, "head": {"w": jnp.array([[1.0], [1.0]])}}
    net = network(lambda key: params, params, normalised)
    nap = NaP()
    state = nap.init(Learner(params, TX.init(params)), net)
    grown = jax.tree.map(lambda leaf: 2.0 * leaf, params)
    learner, _ = nap.update(KEY, Learner(grown, TX.init(grown)), state, net, X)
    assert_allclose(learner.params["hidden"]["w"], [[3.0, 4.0]], rtol=1e-6)
    assert learner.params["head"]["w"].ravel().tolist() == [2.0, 2.0]  # NaP does not project output layers
    assert_allclose(normalised(learner.params, X), normalised(grown, X), rtol=1e-4)
    zero = jax.tree.map(jnp.zeros_like, params)
    assert not nap.update(KEY, Learner(zero, TX.init(zero)), state, net, X)[0].params["hidden"]["w"].any()


def test_nap_needs_a_normalisation_or_to_be_told_to_do_without():
    net = network(lambda key: PARAMS)
    with pytest.raises(ValueError, match="NaP needs a network that normalises its hidden layers"):
        NaP().init(Learner(PARAMS, TX.init(PARAMS)), net)
    assert list(NaP(everywhere=True).init(Learner(PARAMS, TX.init(PARAMS)), net).norms) == ["hidden/w"]
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="NaP needs a module that normalises its hidden layers"):
        dt.with_intervention(plain, (), dt.NaP()).step(torch.ones(5, 3))


def test_nap_in_torch_projects_the_normalised_layer_alone():
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    cure, first = dt.with_intervention(net, (), dt.NaP()), net[0].weight.detach().clone()
    with torch.no_grad():
        for leaf in net.parameters():
            leaf.mul_(2.0)
    other = net[3].weight.detach().clone()
    cure.step(torch.randn(5, 3))
    torch.testing.assert_close(net[0].weight.detach(), first)
    assert torch.equal(net[3].weight, other)


def test_nap_works_on_the_networks_of_our_agents():
    shape = (10, 10, 4)
    norm = MinAtarCNN(layer_norm=True)
    params = norm.init(KEY, shape, 3)
    net = network(lambda key: norm.init(key, shape, 3), params, norm.apply, jnp.zeros((2, *shape)))
    norms = NaP().init(Learner(params, TX.init(params)), net).norms
    assert list(norms) == ["conv/kernel", "dense/kernel"]


# Soft shrink and perturb.


def test_soft_shrink_and_perturb_of_one_step_is_the_plain_method():
    params = {"hidden": {"w": jnp.full((1, 3), 2.0)}, "head": {"w": jnp.full((3, 1), 2.0)}}
    draws = lambda key: jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape), params)  # noqa: E731
    fresh = draws(jax.random.split(jax.random.split(KEY, 1)[0])[0])
    learner, _ = once(SoftShrinkPerturb(0.1, period=1), network(draws), params)
    expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, params, fresh)
    jax.tree.map(lambda one, two: assert_allclose(one, two, rtol=1e-5), learner.params, expected)


def test_soft_shrink_and_perturb_draws_only_when_its_period_is_over():
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    soft = SoftShrinkPerturb(0.5, period=3)
    net = network(lambda key: ones)
    assert once(soft, net, steps=2)[0].params["hidden"]["w"].tolist() == [[1.0, 2.0, -0.5]]
    # Fresh weights are 1. After three steps with rate 0.5, a weight w is 0.5^3 * w + (1 - 0.5^3) * 1.
    assert_allclose(once(soft, net, steps=3)[0].params["hidden"]["w"], [[1.0, 1.125, 0.8125]], rtol=1e-6)


@pytest.mark.parametrize(("rate", "steps"), [(0.1, 1), (0.1, 7), (0.5, 3)])
def test_the_noise_of_many_steps_has_the_variance_of_single_steps(rate, steps):
    """The noise of several steps is the sum over i of rate (1 - rate)^i e_i. Each e_i has variance 1."""
    kept, noise = soft_factors(rate, steps)
    assert_allclose(noise**2, sum((rate * (1 - rate) ** i) ** 2 for i in range(steps)), rtol=1e-9)
    assert_allclose(kept, (1 - rate) ** steps)


# DrM.


def test_drm_keeps_less_if_more_neurons_are_dormant():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    net = network(lambda key: zeros)
    # One neuron of three is dormant, so DrM keeps a fraction of 1 - 2 / 3 = 1 / 3 of each weight.
    learner, _ = once(DrM(), net, opt_state=jax.tree.map(jnp.ones_like, TX.init(PARAMS)))
    assert_allclose(learner.params["hidden"]["w"], np.array([[1.0, 2.0, -0.5]]) / 3, rtol=1e-5)
    assert int(learner.opt_state[0].count) == 0 and not learner.opt_state[0].mu["head"]["w"].any()
    assert_allclose(once(DrM(least=0.6), net)[0].params["hidden"]["w"], [[0.6, 1.2, -0.3]], rtol=1e-5)
    assert_allclose(once(DrM(slope=0.0), net)[0].params["hidden"]["w"], [[0.9, 1.8, -0.45]], rtol=1e-5)


def test_drm_keeps_everything_where_activations_are_not_finite():
    net = network(lambda key: jax.tree.map(jnp.zeros_like, PARAMS))
    learner, _ = once(DrM(), net, x=jnp.array([[jnp.nan], [1.0]]))
    assert learner.params["hidden"]["w"].tolist() == [[1.0, 2.0, -0.5]]


def test_drm_leaves_convolutions_unless_it_is_told_to_perturb_them():
    cnn, shape = MinAtarCNN(2, 3), (4, 4, 1)
    params = cnn.init(KEY, shape, 2)
    net = network(lambda key: cnn.init(key, shape, 2), params, cnn.apply, jnp.zeros((2, *shape)))
    for convolutions, changed in (("keep", False), ("perturb", True)):
        learner, _ = once(DrM(convolutions=convolutions), net, params, x=jnp.ones((2, *shape)))
        assert (learner.params["conv"]["kernel"] != params["conv"]["kernel"]).any() == changed
        assert (learner.params["dense"]["kernel"] != params["dense"]["kernel"]).any()


# SWR.


@pytest.mark.parametrize("make", [SWR, dt.SWR], ids=["jax", "torch"])
@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ({"factor": 0.3}, [False, True, True, False]),
        ({"choice": "proportional", "factor": 0.25}, [False, False, True, False]),
        ({"choice": "proportional", "factor": 0.75}, [True, True, True, False]),
    ],
)
def test_which_weights_swr_draws_anew(make, settings, chosen):
    """The weights (0.5, -0.1, 0.2, 1) have the gradients (0.1, 0.2, 0, 0.3), so the mean utility is 0.0925."""
    utility = [0.05, 0.02, 0.0, 0.3]
    if make is SWR:
        assert SWR(**settings).chosen(KEY, jnp.array(utility)).tolist() == chosen
        assert not SWR(**settings).chosen(KEY, jnp.zeros(4)).any()
    else:
        assert dt.SWR(**settings).chosen(torch.tensor(utility)).tolist() == chosen
        assert not dt.SWR(**settings).chosen(torch.zeros(4)).any()


def test_swr_draws_the_least_useful_weights_anew_in_every_order_of_the_weights():
    swr, theirs = (make(choice="proportional", factor=0.5) for make in (SWR, dt.SWR))
    for utility in itertools.permutations([0.0, 0.1, 0.2, 0.3]):
        expected = [value < 0.15 for value in utility]
        assert swr.chosen(KEY, jnp.array(utility)).tolist() == expected
        assert theirs.chosen(torch.tensor(utility)).tolist() == expected


def test_a_fraction_of_a_weight_is_drawn_sometimes():
    swr = SWR(choice="proportional", factor=0.125)
    drawn = jax.vmap(lambda key: swr.chosen(key, jnp.arange(1.0, 5.0)))(jax.random.split(KEY, 400))
    assert_allclose(drawn.mean(axis=0), [0.5, 0.0, 0.0, 0.0], atol=0.08)


def test_swr_uses_the_running_gradient_and_resets_moments_if_asked():
    adam, *rest = TX.init(PARAMS)
    mu = {"hidden": {"w": jnp.array([[0.0, 1.0, 1.0]])}, "head": {"w": jnp.zeros((3, 1))}}
    trained = (adam._replace(mu=mu, nu=jax.tree.map(jnp.ones_like, mu)), *rest)
    net = network(lambda key: jax.tree.map(lambda leaf: jnp.full_like(leaf, 7.0), PARAMS))
    for moments, second in (("keep", [1, 1, 1]), ("fresh", [0, 1, 1])):
        learner, _ = once(SWR(moments=moments), net, opt_state=trained)
        assert learner.params["hidden"]["w"].tolist() == [[7.0, 2.0, -0.5]]
        assert learner.params["head"]["w"].ravel().tolist() == [1.0, -2.0, 4.0]  # no gradient, so SWR replaces nothing
        assert learner.opt_state[0].nu["hidden"]["w"].tolist() == [second]


# SNR.


def heard(snr, silences, limit):
    """Passes silences of these lengths to a layer with one neuron. The neuron fires for one step after each silence.

    Returns the layer, and per step whether SNR recycles the neuron.
    """
    layer = Silences(jnp.zeros(1, jnp.int32), jnp.zeros((1, len(snr.lengths)), jnp.int32), jnp.array([limit]))
    masks = []
    for silence in silences:
        for silent in [True] * silence + [False]:
            layer, mask = snr.listen(layer, jnp.array([silent]))
            masks.append(bool(mask[0]))
    return layer, masks


def test_the_limit_is_a_quantile_of_past_silences():
    """Eight silences have length 1, one has length 2, and one has length 5. So 90 % have at most length 2."""
    snr = SNR(quantile=0.9, least=1, most=20)
    layer, masks = heard(snr, [1] * 8 + [2, 5], limit=10)
    assert not any(masks) and int(layer.past.sum()) == 10
    layer = snr.adapted(layer)
    assert layer.limit.tolist() == [2] and not layer.past.any()
    assert heard(snr, [1, 2], limit=2)[1] == [False, False, False, True, False]


def test_a_limit_grows_without_a_lower_quantile_and_stays_without_silences():
    snr = SNR(quantile=0.9, growth=3.0, least=2, most=20)
    assert snr.adapted(heard(snr, [5], limit=6)[0]).limit.tolist() == [5]
    assert snr.adapted(heard(snr, [4, 4], limit=4)[0]).limit.tolist() == [12]
    assert snr.adapted(heard(snr, [10], limit=10)[0]).limit.tolist() == [20]  # at most `most`
    assert snr.adapted(heard(snr, [1], limit=6)[0]).limit.tolist() == [2]  # at least `least`
    assert snr.adapted(heard(snr, [0, 0], limit=6)[0]).limit.tolist() == [6]


def test_snr_recycles_the_neuron_that_stays_silent():
    net = network(lambda key: jax.tree.map(lambda leaf: jnp.full_like(leaf, 7.0), PARAMS))
    snr = SNR(least=1, most=4)  # limits start at 2
    assert once(snr, net, steps=1)[0].params["hidden"]["w"].tolist() == [[1.0, 2.0, -0.5]]
    learner, state = once(snr, net, steps=2)
    assert learner.params["hidden"]["w"].tolist() == [[1.0, 2.0, 7.0]]
    assert learner.params["head"]["w"].ravel().tolist() == [1.0, -2.0, 0.0]
    assert int(state.recycled.counts["hidden"]) == 1 and state.layers["hidden"].age.tolist() == [0, 0, 0]


def test_bins_of_lengths_are_exact_where_they_are_short():
    lengths = silence_lengths(20_000)
    assert lengths[:8].tolist() == [1, 2, 3, 4, 5, 6, 7, 8] and lengths[-1] <= 20_000 and len(lengths) < 60


# Weight clipping with the authors' bound, and the descriptions of older runs.


def test_the_authors_bound_of_weight_clipping():
    """The bound is the factor divided by sqrt(fan in). A 3 x 3 window on 4 channels has fan in 36."""
    params = {
        "dense": {"kernel": jnp.full((4, 2), 0.1), "bias": jnp.zeros(2)},
        "conv": {"kernel": jnp.zeros((3, 3, 4, 2))},
    }
    cure, grown = ClipWeights(2.0, "fan_in"), jax.tree.map(lambda leaf: jnp.full_like(leaf, 9.0), params)
    net = network(lambda key: PARAMS)  # this cure needs only the optimizer
    state = cure.init(Learner(params, TX.init(params)), net)
    clipped = cure.update(KEY, Learner(grown, TX.init(grown)), state, net)[0].params
    assert (clipped["dense"]["kernel"] == 1).all() and (clipped["dense"]["bias"] == 1).all()
    assert_allclose(clipped["conv"]["kernel"], np.full((3, 3, 4, 2), 2 / 6), rtol=1e-6)
    net = nn.Sequential(nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(2, 1))
    bounds = dt.ClipWeights(1.0, "fan_in").init(net)["bounds"]
    expected = {"0.weight": 1 / 6, "0.bias": 1 / 6, "2.weight": 2**-0.5, "2.bias": 2**-0.5}
    assert bounds == pytest.approx(expected)


@dataclass(frozen=True)
class Old:
    size: int = 1


@dataclass(frozen=True)
class New:
    size: int = 1
    later: str = added("no")


def test_a_field_that_was_added_later_leaves_descriptions_of_older_runs_as_they_are():
    assert describe(New()) == describe(Old()) | {"is": "New"}
    assert describe(New(later="yes")) == {"is": "New", "size": 1, "later": "yes"}
    training = DeviceTraining(intervention=ClipWeights())
    assert digest(training) != digest(replace(training, intervention=ClipWeights(bound="fan_in")))
    assert "bound" not in describe(training)["intervention"]
