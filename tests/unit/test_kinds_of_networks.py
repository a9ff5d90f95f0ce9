"""Small networks whose wiring is difficult to trace. Checks the recycled layers, and the reasons for other layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.promise import SERIES, X, check, initialiser

import dormant
from dormant.wiring import entry_mask

relu = jax.nn.relu
AB = {"a": (5, 8), "b": (8, 2)}
ABC = AB | {"c": (5, 8)}


def between(f):
    """Returns a network that applies `f` to the pre-activations of layer a. Layer b reads the result."""
    return lambda p, x: f(x @ p["a"]) @ p["b"]


MERGED = {
    "shifted by two": (between(lambda h: relu(h[:, 2:] - h[:, :-2])), {"a": (5, 8), "b": (6, 2)}, "summed with a"),
    "rolled": (between(lambda h: relu(h) * jnp.roll(h, 3, -1)), AB, "multiplied with a"),
    "permuted in pairs": (between(lambda h: relu(h + h[:, np.array([1, 0, 3, 2, 5, 4, 7, 6])])), AB, "summed with a"),
    "differences of differences": (
        between(lambda h: relu(jnp.diff(jnp.diff(h.reshape(-1, 4, 2), axis=1), axis=1).reshape(len(h), -1))),
        {"a": (5, 8), "b": (4, 2)},
        "summed with a",
    ),
    "largest of neighbours": (between(lambda h: jnp.maximum(h[:, ::2], h[:, 1::2])), {"a": (5, 8), "b": (4, 2)}, "max"),
    "a window over neurons": (between(lambda h: jnp.cumsum(relu(h), -1)), AB, "reaches b"),
    "halves summed": (between(lambda h: relu(h[:, :4] + h[:, 4:])), {"a": (5, 8), "b": (4, 2)}, "summed with a"),
    "a spectrum": (between(lambda h: jnp.fft.rfft(relu(h)).real), {"a": (5, 8), "b": (5, 2)}, "reaches b"),
}


@pytest.mark.parametrize("name", MERGED)
def test_a_layer_that_meets_itself_is_measured(name):
    apply, shapes, reason = MERGED[name]
    check(apply, shapes, {"a": reason})


def test_gated_halves_and_reversed_layers_are_pairs():
    check(between(jax.nn.glu), {"a": (5, 8), "b": (4, 2)}, {"a": 4})
    check(lambda p, x: relu(x @ p["a"] + (x @ p["c"])[:, ::-1]) @ p["b"], ABC, {"a+c": 8})
    check(lambda p, x: (relu(x @ p["a"]) + jnp.tanh(x @ p["c"])) @ p["b"], ABC, {"a+c": 8})


TOGETHER = {
    "stacked, then a bias": (
        lambda p, x: (jnp.stack([x @ p["a"], x @ p["c"]], 1) + p["s"]).reshape(len(x), -1) @ p["b"],
        ABC | {"s": (2, 8), "b": (16, 2)},
    ),
    "concatenated, then a scale and tanh": (
        lambda p, x: jnp.tanh(jnp.concatenate([x @ p["a"], x @ p["c"]], -1) * p["s"]) @ p["b"],
        ABC | {"s": (16,), "b": (16, 2)},
    ),
    "split, joined, then a bias": (
        lambda p, x: relu(jnp.concatenate([*jnp.split(x @ p["a"], 2, -1), x @ p["c"]], -1) + p["s"]) @ p["b"],
        ABC | {"s": (16,), "b": (16, 2)},
    ),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_producers_side_by_side_are_measured_after_what_follows(name):
    apply, shapes = TOGETHER[name]
    check(apply, shapes, {"a": 8, "c": 8})


def test_an_activation_joined_before_a_bias_is_not_zero_when_silent():
    both = lambda p, x: (jnp.concatenate([relu(x @ p["a"]), x @ p["c"]], -1) + p["s"]) @ p["b"]  # noqa: E731
    check(both, ABC | {"s": (16,), "b": (16, 2)}, {"a": "s follows its activation", "c": 8})


def noise(x, shape):
    return jax.vmap(lambda row: jax.random.normal(jax.random.key(3), shape) * row.sum())(x)


SAMPLES = {
    "noise on kernels": (
        lambda p, x: jnp.einsum("bi,bio->bo", x, p["a"] + p["sigma"] * noise(x, (5, 8))),
        {"sigma": (5, 8)},
    ),
    "noise on biases": (lambda p, x: x @ p["a"] + p["sigma"] * noise(x, (8,)), {"sigma": (8,)}),
    "dropped kernel entries": (lambda p, x: jnp.einsum("bi,bio->bo", x, p["a"] * (noise(x, (5, 8)) > 0)), {}),
    "dropped neurons": (lambda p, x: (x @ p["a"]) * (noise(x, (8,)) > 0), {}),
    "a repeated kernel": (
        lambda p, x: jax.vmap(jnp.matmul)(x, jnp.broadcast_to(p["a"], (len(x), 5, 8))),
        {},
    ),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_drawn_per_sample_adds_no_neurons(name):
    first, more = SAMPLES[name]
    check(lambda p, x: relu(first(p, x)) @ p["b"], AB | more, {"a": 8})


def test_a_convolution_with_a_kernel_per_sample():
    numbers = ("NHWC", "HWIO", "NHWC")

    def one(image, kernel):
        return jax.lax.conv_general_dilated(image[None], kernel, (1, 1), "SAME", dimension_numbers=numbers)[0]

    def apply(p, x):
        images = x.reshape(len(x), 6, 5, 1)
        kernels = p["k"] * (1 + jnp.abs(images.mean((1, 2, 3)))[:, None, None, None, None])
        return relu(jax.vmap(one)(images, kernels)).reshape(len(x), -1) @ p["b"]

    check(apply, {"k": (3, 3, 1, 3), "b": (90, 2)}, {"k": 3}, x=SERIES)


COMPUTED = {
    "a factor": (lambda p, x: relu(x @ (p["a"] + p["u"] @ p["v"])), {"u": (5, 2), "v": (2, 8)}, "feeds it in a way"),
    "a product alone": (lambda p, x: relu(x @ p["a"] + p["u"] @ p["v"]), {"u": (3,), "v": (3, 8)}, "feeds it in a way"),
    "a sum of a vector": (lambda p, x: relu(x @ p["a"] + p["s"].sum()), {"s": (4,)}, "feeds it in a way"),
    "one scalar": (lambda p, x: relu(x @ p["a"] * p["s"]), {"s": ()}, "several neurons share s"),
    "a kernel's length": (
        lambda p, x: relu(x @ (p["a"] / jnp.linalg.norm(p["a"]))),
        {},
        "a (in 'reduce_sum') feeds it in a way",
    ),
    "a sorted bias": (lambda p, x: relu(x @ p["a"] + jnp.sort(p["s"])), {"s": (8,)}, "s (in 'sort') feeds it"),
    "a bias by an index": (
        lambda p, x: relu(x @ p["a"] + p["s"][x.argmax(-1)]),
        {"s": (5, 8)},
        "an index chooses which part of s feeds it",
    ),
    "a large table": (lambda p, x: relu(x @ p["a"] + p["s"][x.argmax(-1)]), {"s": (99, 8)}, "s (in 'gather') feeds it"),
    "a kernel by an index": (
        lambda p, x: relu(jnp.einsum("bi,bio->bo", x, p["a"][x.argmax(-1)])),
        {"a": (5, 5, 8)},
        "an index chooses which part of a feeds it",
    ),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_parameters_that_feed_by_a_way_that_is_not_followed_are_named(name):
    first, more, reason = COMPUTED[name]
    check(lambda p, x: first(p, x) @ p["b"], AB | more, {"a": reason})


FED = {
    "twice a bias": (lambda p, x: relu(x @ p["a"] + 2 * p["s"]), {"s": (8,)}),
    "a sum of biases": (lambda p, x: relu(x @ p["a"] + (p["s"] - p["t"])), {"s": (8,), "t": (8,)}),
    "a squashed bias": (lambda p, x: relu(x @ p["a"] + jnp.tanh(p["s"])), {"s": (8,)}),
    "an exponential scale": (lambda p, x: relu(x @ p["a"] * jnp.exp(p["s"])), {"s": (8,)}),
    "a sum of kernels": (lambda p, x: relu(x @ (p["a"] + p["s"])), {"s": (5, 8)}),
    "a slope": (lambda p, x: jnp.where(x @ p["a"] > 0, x @ p["a"], p["s"] * (x @ p["a"])), {"s": ()}),
    "a row of the kernel": (lambda p, x: relu(x @ p["a"][:5] + p["a"][5]), {"a": (6, 8)}),
}


@pytest.mark.parametrize("name", FED)
def test_parameters_of_one_neuron_are_redrawn_with_it(name):
    first, more = FED[name]
    check(lambda p, x: first(p, x) @ p["b"], AB | more, {"a": 8})


C = np.random.default_rng(4).normal(size=(8, 8)).astype(np.float32)
READ = {
    "a constant kernel": (lambda p, h: (h @ C) @ p["b"], {}, "reaches b"),
    "an adapted kernel": (lambda p, h: h @ (p["b"] + p["u"] @ p["v"]), {"u": (8, 1), "v": (1, 2)}, "is in b's kernel"),
    "a kernel of unit length": (lambda p, h: h @ (p["b"] / jnp.linalg.norm(p["b"])), {}, "is in b's kernel"),
    "a squashed kernel that is not zero": (lambda p, h: h @ jax.nn.sigmoid(p["b"]), {}, "is not zero where"),
    "a product of parameters": (
        lambda p, h: h @ (p["u"] @ p["b"]),
        {"u": (8, 8)},
        "u reads it in 'dot_general', which is not followed",
    ),
    "a kernel times itself": (lambda p, h: h @ (p["b"] * p["b"]), {}, "is not zero where"),
    "a kernel with ones below it": (
        lambda p, h: h @ p["b"][:6].at[np.array([0, 1, 2, 3, 4, 5, 9, 9])].get(mode="fill", fill_value=1.0),
        {},
        "is not zero where",
    ),
    "its own mean": (lambda p, h: h @ p["b"] + h.mean(), {}, "the function also returns it"),
}


@pytest.mark.parametrize("name", READ)
def test_neurons_read_by_a_way_that_is_not_followed_are_measured(name):
    second, more, reason = READ[name]
    check(lambda p, x: second(p, relu(x @ p["a"])), AB | more, {"a": reason})


def rounded(w):
    return w + jax.lax.stop_gradient(jnp.round(w) - w)


COMPUTED_READERS = {
    "one scale": (lambda p: p["s"] * p["b"], {"s": ()}),
    "a scale for each input": (lambda p: p["b"] / jnp.exp(p["s"]), {"s": (8, 1)}),
    "a product of two kernels": (lambda p: p["b"] * p["s"], {"s": (8, 2)}),
    "a squashed kernel": (lambda p: jnp.tanh(p["b"]), {}),
    "a clipped kernel": (lambda p: jnp.clip(p["b"], -1.0, 1.0), {}),
    "signs with a straight-through gradient": (
        lambda p: p["b"] + jax.lax.stop_gradient(jnp.sign(p["b"]) - p["b"]),
        {},
    ),
    "learned step sizes": (lambda p: p["s"] * rounded(p["b"] / p["s"]), {"s": (2,)}),
}


@pytest.mark.parametrize("name", COMPUTED_READERS)
def test_a_computed_kernel_reads_and_its_zeros_get_gradients(name):
    kernel, more = COMPUTED_READERS[name]
    shapes = AB | more
    apply = lambda p, x: jnp.tanh(x @ p["a"]) @ kernel(p)  # noqa: E731
    with jax.numpy_rank_promotion("allow"):
        check(apply, shapes, {"a": 8})
        params = initialiser(shapes)(jax.random.key(0))
        cut = entry_mask(params, {"a": dormant.trace(apply, params, X)["a"].outgoing}, {"a": jnp.arange(8) == 0})
        params = jax.tree.map(lambda hit, leaf: jnp.where(hit, 0.0, leaf), cut, params)
        gradients = jax.grad(lambda p: apply(p, X).sum())(params)
    assert np.asarray(cut["b"]).any()
    assert np.asarray(gradients["b"])[0].all()


def test_a_scale_that_several_neurons_share_feeds_them():
    check(lambda p, x: relu(x @ (p["s"] * p["a"])) @ p["b"], AB | {"s": ()}, {"a": "several neurons share s"})


def test_a_product_written_as_a_sum_is_a_product():
    def apply(p, x):
        first = relu((x[:, :, None] * p["a"]).sum(1))
        return (relu((first[:, :, None] * p["s"]).sum(1) + first @ p["k"]) * p["c"]).sum(-1)

    check(apply, {"a": (5, 8), "s": (8, 6), "k": (8, 6), "c": (6,)}, {"a": 8, "s+k": 6})


GATES = {
    "one gate": (lambda p, x, h: jax.nn.sigmoid(x @ p["g"]) * h, {"g": (5, 1)}, "is combined with a"),
    "a gate for each half": (
        lambda p, x, h: (h.reshape(-1, 2, 4) * jnp.tanh(x @ p["g"])[..., None]).reshape(-1, 8),
        {"g": (5, 2)},
        "is combined with a",
    ),
}


@pytest.mark.parametrize("name", GATES)
def test_a_gate_that_neurons_share_is_measured_and_they_are_recycled(name):
    gated, more, reason = GATES[name]
    check(lambda p, x: gated(p, x, relu(x @ p["a"])) @ p["b"], AB | more, {"a": 8, "g": reason})
    before = lambda p, x: relu(gated(p, x, x @ p["a"])) @ p["b"]  # noqa: E731
    check(before, AB | more, {"a": "g feed it without weights of their own", "g": reason})


def test_attention_over_positions_pools_neurons():
    def one(p, x):
        return jnp.einsum("bt,bth->bh", jax.nn.softmax(x @ p["g"]), relu(x @ p["a"])) @ p["b"]

    def heads(p, x):
        kept = relu(x @ p["a"]).reshape(*x.shape[:2], 2, 4)
        return jnp.einsum("btn,btnd->bnd", jax.nn.softmax(x @ p["g"], axis=1), kept).reshape(len(x), 8) @ p["b"]

    reason = "computes weights for sums of a"
    check(one, AB | {"g": (5,)}, {"a": 8, "g": reason}, x=SERIES)
    check(heads, AB | {"g": (5, 2)}, {"a": 8, "g": reason}, x=SERIES)


def test_steps_that_no_output_depends_on_are_ignored():
    def both(p, x):
        hidden = relu(x @ p["a"])
        jax.debug.callback(lambda norm: None, jnp.linalg.norm(p["b"]))
        return hidden @ p["b"], {"norm": jnp.linalg.norm(p["a"]), "largest": hidden.max()}

    check(lambda p, x: both(p, x)[0], AB, {"a": 8})
    check(both, AB, {"a": "the function also returns it"})


def test_a_number_behind_the_end_is_not_silent():
    def apply(p, x, time):
        chosen = jax.vmap(lambda h, t: h.at[t].get(mode="fill", fill_value=1.0))(relu(x @ p["a"]), time)
        return chosen @ p["b"]

    check(apply, AB, {"a": "padding follows its activation"}, x=SERIES, inputs=(np.array([0, 5, 6, 9]),))


def test_a_scan_of_no_iterations():
    def apply(p, x):
        hidden, every = jax.lax.scan(lambda h, w: (relu(h @ w), h), relu(x @ p["a"]), p["stack"])
        return hidden @ p["b"], every.sum(0)

    check(apply, AB | {"stack": (0, 8, 8)}, {"a": 8})


def test_a_masked_kernel_and_noise_on_it_read_as_any_other():
    mask = np.arange(16).reshape(8, 2) % 3 > 0
    check(lambda p, x: relu(x @ p["a"]) @ jnp.where(mask, p["b"], 0.0), AB, {"a": 8})
    check(lambda p, x: relu(x @ p["a"]) @ (p["b"] + p["s"] * C[:, :2]), AB | {"s": (8, 2)}, {"a": 8})
