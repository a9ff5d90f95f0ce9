"""Neurons that are combined with a mix of neurons from their layer. A layer is not recycled if its mix has weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.promise import X, check, initialiser

import dormant

relu = jax.nn.relu
AB = {"a": (5, 4), "b": (4, 2)}

# Name -> a function `f(p, h)` that mixes the neurons h, and the shapes of its parameters.
LEARNED = {
    "a running sum with weights": (lambda p, h: jnp.cumsum(h * p["k"], -1), {"k": (4,)}),
    "sorted with weights": (lambda p, h: jnp.sort(h * p["k"], -1), {"k": (4,)}),
    "the largest with offsets": (lambda p, h: (h + p["k"]).max(-1, keepdims=True), {"k": (4,)}),
    "softmax with a temperature": (lambda p, h: jax.nn.softmax(h * p["k"]), {"k": ()}),
    "a sum of exponentials": (lambda p, h: jax.nn.logsumexp(h * p["k"], -1, keepdims=True), {"k": ()}),
    "a norm with a temperature": (lambda p, h: p["k"] / (1 + jnp.linalg.norm(h, axis=-1, keepdims=True)), {"k": ()}),
    "a norm with a learned floor": (
        lambda p, h: 1 / jnp.sqrt((h * h).mean(-1, keepdims=True) + jnp.exp(p["k"])),
        {"k": ()},
    ),
    "a gate of the mean": (
        lambda p, h: jax.nn.sigmoid(h.mean(-1, keepdims=True) * p["k"] + p["c"]),
        {"k": (), "c": ()},
    ),
    "a mean times a sum of parameters": (lambda p, h: h.mean(-1, keepdims=True) * p["k"].sum(), {"k": (3,)}),
    "a mean times computed parameters": (
        lambda p, h: h.mean(-1, keepdims=True) * (p["k"] @ p["c"]),
        {"k": (3,), "c": (3, 4)},
    ),
    "weighted groups": (
        lambda p, h: jnp.repeat((h * p["k"]).reshape(-1, 2, 2).sum(-1), 2, axis=-1),
        {"k": (4,)},
    ),
    "a weighted spectrum": (lambda p, h: jnp.fft.ifft(jnp.fft.fft(h) * p["k"]).real, {"k": (4,)}),
    "another layer": (lambda p, h: jnp.concatenate([h, X @ p["k"]], -1).mean(-1, keepdims=True), {"k": (5, 3)}),
}
# Mixes that are products with a kernel, and the reasons against recycling the two layers if they are gates.
PRODUCTS = {
    "a kernel written as a sum": (
        lambda p, h: (h[:, :, None] * p["k"]).sum(1),
        {"k": (4, 4)},
        {"a+k": "k both feeds and reads it"},
    ),
    "pooled with weights": (
        lambda p, h: (h * p["k"]).sum(-1, keepdims=True),
        {"k": (4,)},
        {"a": 4, "k": "is combined with a"},
    ),
    "a member of a stack of weights": (
        lambda p, h: (h * p["k"][1]).mean(-1, keepdims=True),
        {"k": (2, 4)},
        {"a": 4, "k": "is combined with a"},
    ),
    "weighted twice": (
        lambda p, h: (h * p["k"]).sum(-1, keepdims=True) * p["c"],
        {"k": (4,), "c": (4,)},
        {"a": 4, "k": "is combined with a"},
    ),
}
MEETING = {
    "before": lambda h, f: relu(h * f(h)),
    "before, summed": lambda h, f: relu(h + f(h)),
    "after": lambda h, f: relu(h) * f(relu(h)),
    "after, of what came before": lambda h, f: relu(h) * f(h),
}


def layer_a(f, meeting, shapes):
    """Traces a network that combines the neurons of layer a with the mix `f` of these neurons. Returns the layer."""
    params = initialiser({**AB, **shapes})(jax.random.key(0))

    def apply(p, x):
        return MEETING[meeting](x @ p["a"], lambda h: f(p, h)) @ p["b"]

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return next(layer for layer in dormant.trace(apply, params, X).layers if layer.name.startswith("a"))


@pytest.mark.parametrize("meeting", MEETING)
@pytest.mark.parametrize("name", LEARNED)
def test_a_mix_with_weights_inside_feeds_neurons_by_a_way_that_is_not_followed(name, meeting):
    layer = layer_a(*LEARNED[name][:1], meeting, LEARNED[name][1])
    assert not layer.recyclable, layer


@pytest.mark.parametrize("meeting", ["before", "before, summed"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_that_meets_its_own_neurons_before_their_activation_feeds_them(name, meeting):
    layer = layer_a(*PRODUCTS[name][:1], meeting, PRODUCTS[name][1])
    assert not layer.recyclable, layer


@pytest.mark.parametrize("meeting", ["after", "after, of what came before"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_that_scales_its_own_neurons_behind_their_activation_is_a_gate(name, meeting):
    f, shapes, expected = PRODUCTS[name]
    check(lambda p, x: MEETING[meeting](x @ p["a"], lambda h: f(p, h)) @ p["b"], AB | shapes, expected)


STATISTICS = {
    "mean": lambda p, h: h.mean(-1, keepdims=True),
    "norm": lambda p, h: jnp.linalg.norm(h, axis=-1, keepdims=True),
    "softmax": lambda p, h: jax.nn.softmax(h),
    "running sum, scaled for each neuron": lambda p, h: jnp.cumsum(h, -1) * p["k"],
}


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("meeting", ["before", "after"])
def test_a_statistic_couples_neurons(name, meeting):
    layer = layer_a(STATISTICS[name], meeting, {"k": (4,)})
    assert layer.recyclable and layer.coupled_by


def test_weights_that_the_neurons_have_met_too_are_their_own():
    def apply(p, x):
        h = (x @ p["a"]) * p["s"] + p["c"]
        return relu((h - h.mean(-1, keepdims=True)) * jax.lax.rsqrt(h.var(-1, keepdims=True) + 1e-3)) @ p["b"]

    check(apply, AB | {"s": (4,), "c": (4,)}, {"a": 4})


def test_weights_that_half_of_the_neurons_have_met_are_not_all_the_neurons_own():
    def apply(p, x):
        h = x @ p["a"]
        half = jnp.concatenate([h[:, :2] * p["s"][:2], h[:, 2:]], -1)
        return relu(half + (h * p["s"]).max(-1, keepdims=True)) @ p["b"]

    check(apply, AB | {"s": (4,)}, {"a": "s feeds it through a mix"})


def test_an_old_weight_of_a_mix_would_feed_a_recycled_neuron():
    """Shows why such layers are not recycled: weights of the mix feed each neuron from all other neurons."""
    params = initialiser(AB | {"k": (4, 4)})(jax.random.key(0))

    def neurons(k):
        h = X @ params["a"]
        return h + (h[:, :, None] * k[None]).sum(1)

    derivatives = np.abs(jax.jacobian(neurons)(params["k"])).max(0)
    assert (derivatives[0, 1:, 0] > 0).all()


@pytest.mark.parametrize(
    ("join", "recyclable"),
    [
        (lambda mix, hidden: jax.nn.relu(mix + hidden), False),
        (lambda mix, hidden: jnp.maximum(mix, hidden), False),
        (lambda mix, hidden: jax.nn.relu(mix * hidden), True),  # if the neuron is silent, the product is zero
    ],
    ids=["sum", "maximum", "product"],
)
def test_a_mix_that_meets_a_neuron_behind_its_activation_feeds_it_if_another_activation_follows(join, recyclable):
    def apply(params, x):
        first = x @ params["first"]
        mix = first[:, 1:] - first[:, :-1]  # the tracer cannot tell which neurons are in the mix
        hidden = jax.nn.relu(x @ params["second"])
        return join(mix, hidden) @ params["head"]

    params = {"first": jnp.ones((3, 6)), "second": jnp.ones((3, 5)), "head": jnp.ones((5, 2))}
    layers = {layer.name: layer for layer in dormant.trace(apply, params, jnp.ones((2, 3))).layers}
    assert layers["second"].recyclable is recyclable
    assert recyclable or "first feed it without weights of their own" in layers["second"].reasons
