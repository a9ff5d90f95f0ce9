"""Traced wirings of small networks: names, widths and readers of layers, and reasons against recycling."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dormant import TraceError, trace
from dormant.rl.networks.convolutional import MinAtarCNN
from dormant.tracing.ledger import Ledger

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (6, 4))
relu = jax.nn.relu


def kernel(*shape):
    return {"w": jax.random.normal(jax.random.fold_in(KEY, sum(shape)), shape), "b": jnp.zeros(shape[-1])}


def dense(params, x):
    return x @ params["w"] + params["b"][None]


def table(apply, params, *inputs):
    """Returns a dict. It maps a recycled layer to its width, and any other layer to the first reason."""
    wiring = trace(apply, params, *inputs)
    return {layer.name: layer.width if layer.recyclable else layer.reasons[0] for layer in wiring.layers}


AB = {"a": kernel(4, 8), "b": kernel(8, 2)}


def two(f, params=AB, *inputs):
    """Returns the table of a network that applies `f` to the pre-activations of layer a. Layer b reads the result."""
    return table(lambda params, x: dense(params["b"], f(dense(params["a"], x))), params, *(inputs or (X,)))


def nature(padding):
    def apply(params, x):
        for name, stride in (("c1", 4), ("c2", 2), ("c3", 1)):
            numbers = ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(x, params[name]["w"], (stride,) * 2, padding, dimension_numbers=numbers)
            x = relu(x + params[name]["b"][None, None, None])
        return dense(params["q"], relu(dense(params["d"], x.reshape(len(x), -1))))

    flat = (11 if padding == "SAME" else 7) ** 2 * 64
    return apply, {
        "c1": kernel(8, 8, 4, 32),
        "c2": kernel(4, 4, 32, 64),
        "c3": kernel(3, 3, 64, 64),
        "d": kernel(flat, 512),
        "q": kernel(512, 6),
    }


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_nature_cnn(padding):
    apply, params = nature(padding)
    started = time.perf_counter()
    wiring = trace(apply, params, jnp.zeros((1, 84, 84, 4)))
    assert time.perf_counter() - started < 10  # seconds; a long limit, because the machine may be busy
    assert [(layer.name, layer.width) for layer in wiring.layers] == [("c1", 32), ("c2", 64), ("c3", 64), ("d", 512)]
    assert all(layer.recyclable and not layer.coupled_by for layer in wiring.layers)
    rows = len(params["d"]["w"])
    assert (wiring["c3"].outgoing["d/w"].ravel() == np.arange(rows) % 64).all()
    assert (wiring["c1"].outgoing["c2/w"].ravel() == np.arange(32)).all()
    assert wiring.outputs == ("q",)


def test_a_convolution_written_as_patches():
    network = MinAtarCNN(filters=3, width=5)
    params = network.init(KEY, (6, 6, 2), 4)
    wiring = trace(network.apply, params, jnp.zeros((1, 6, 6, 2)))
    assert [(layer.name, layer.width) for layer in wiring.layers] == [("conv", 3), ("dense", 5)]
    assert (np.broadcast_to(wiring["conv"].incoming["conv/kernel"], (3, 3, 2, 3)) == np.arange(3)).all()
    assert (wiring["conv"].outgoing["dense/kernel"].ravel() == np.arange(48) % 3).all()


@pytest.mark.parametrize(
    "activation",
    [
        relu,
        jnp.tanh,
        jax.nn.sigmoid,
        jax.nn.elu,
        jax.nn.gelu,
        jax.nn.silu,
        jax.nn.leaky_relu,
        jax.nn.softplus,
        jax.nn.relu6,
    ],
)
def test_activations(activation):
    assert two(activation) == {"a": 8}
    assert two(lambda h: jax.checkpoint(jax.jit(activation))(h)) == {"a": 8}


def test_dueling_heads_by_two_layers_and_by_split():
    params = {"t": kernel(4, 8), "v": kernel(8, 3), "a": kernel(8, 5), "v2": kernel(3, 1), "a2": kernel(5, 2)}

    def apply(params, x):
        h = relu(dense(params["t"], x))
        value, advantage = (dense(params[f"{n}2"], relu(dense(params[n], h))) for n in "va")
        return value + advantage - advantage.mean(-1, keepdims=True)

    assert table(apply, params, X) == {"t": 8, "v": 3, "a": 5}
    assert [*trace(apply, params, X)["t"].outgoing] == ["a/w", "v/w"]

    def by_split(params, x):
        parts = jnp.split(dense(params["a"], relu(dense(params["t"], x))), [1], axis=-1)
        return jnp.stack([parts[0], parts[1].mean(-1, keepdims=True)])

    assert table(by_split, {"t": kernel(4, 8), "a": kernel(8, 5)}, X) == {"t": 8}


def test_critic_reads_observation_and_action():
    params = {"a": kernel(7, 8), "b": kernel(11, 2)}

    def apply(params, x, action):
        h = relu(dense(params["a"], jnp.concatenate([x, action], -1)))
        return dense(params["b"], jnp.concatenate([action, h], -1))

    wiring = trace(apply, params, X, jnp.ones((6, 3)))
    assert wiring["a"].outgoing["b/w"].ravel().tolist() == [-1, -1, -1, *range(8)]


def test_residual_streams_are_measured_and_not_recycled():
    params = {"s": kernel(4, 5), "i": kernel(5, 6), "o": kernel(6, 5), "q": kernel(5, 2)}

    def apply(params, x):
        x = dense(params["s"], x)
        x = x + dense(params["o"], relu(dense(params["i"], relu(x))))
        return dense(params["q"], relu(x))

    assert table(apply, params, X) == {"s": "summed with o", "i": 6, "o": "summed with s"}
    assert set(trace(apply, params, X).scores(params, X)) == {"s", "i", "o"}


def layer_norm(params, h):
    centred = h - h.mean(-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
    return centred * scale * params["scale"][None] + params["offset"][None]


def test_normalisation_before_and_after_the_activation():
    params = AB | {"n": {"scale": jnp.ones(8), "offset": jnp.zeros(8)}}

    def before(params, x):
        return dense(params["b"], relu(layer_norm(params["n"], dense(params["a"], x))))

    def after(params, x):
        return dense(params["b"], layer_norm(params["n"], relu(dense(params["a"], x))))

    layer = trace(before, params, X)["a"]
    assert layer.recyclable and layer.coupled_by and {"n/scale", "n/offset"} <= set(layer.incoming)
    assert table(after, params, X)["a"].startswith("not zero when silent")


def test_gated_pairs_in_one_kernel_and_in_two():
    params = {"a": kernel(4, 8), "g": kernel(4, 8), "b": kernel(8, 2)}

    def apply(params, x):
        return dense(params["b"], dense(params["a"], x) * jax.nn.silu(dense(params["g"], x)))

    assert table(apply, params, X) == {"a+g": 8}
    assert two(jax.nn.glu, {"a": kernel(4, 8), "b": kernel(4, 2)}) == {"a": 4}


def test_crelu_two_summed_kernels_and_a_weight_used_twice():
    params = {"a": kernel(4, 8), "b": kernel(16, 2)}
    assert two(lambda h: jnp.concatenate([relu(h), relu(-h)], -1), params) == {"a": 8}
    params = {"a": kernel(4, 8), "g": kernel(4, 8), "b": kernel(8, 2)}
    summed = lambda p, x: dense(p["b"], relu(dense(p["a"], x) + dense(p["g"], x)))  # noqa: E731
    assert table(summed, params, X) == {"a+g": 8}
    twice = lambda p, x: dense(p["b"], relu(dense(p["a"], x)) + relu(dense(p["a"], 2 * x)))  # noqa: E731
    assert table(twice, AB, X) == {"a": 8}


def test_transforms_inside_the_function():
    one = lambda params, x: relu(x @ params["a"]["w"] + params["a"]["b"]) @ params["b"]["w"]  # noqa: E731
    for wrap in (jax.jit, jax.checkpoint, lambda f: jax.vmap(f, (None, 0)), lambda f: jax.jit(jax.vmap(f, (None, 0)))):
        inputs = X[0] if wrap in (jax.jit, jax.checkpoint) else X
        assert table(wrap(one), AB, inputs) == {"a": 8}


def test_transposed_kernels_move_their_entries():
    params = {"a": {"w": jnp.ones((8, 4))}, "b": {"w": jnp.ones((2, 8))}}
    wiring = trace(lambda p, x: relu(x @ p["a"]["w"].T) @ p["b"]["w"].T, params, X)
    assert wiring["a"].incoming["a/w"].shape == (8, 1) and wiring["a"].outgoing["b/w"].ravel().tolist() == [*range(8)]


def test_permutation_slice_and_reversal_move_entries():
    order = np.array([3, 1, 2, 0])
    wiring = trace(
        lambda p, x: relu(dense(p["a"], x))[:, ::-2][:, order] @ p["b"]["w"], {"a": AB["a"], "b": kernel(4, 2)}, X
    )
    assert wiring["a"].outgoing["b/w"].ravel().tolist() == np.arange(8)[::-2][order].tolist()


@pytest.mark.parametrize(
    ("f", "reason"),
    [
        (lambda h: relu(h) + 1.0, "not zero when silent"),
        (lambda h: jnp.sort(relu(h), axis=-1), "reaches b"),
        (lambda h: jnp.cumsum(relu(h), axis=-1), "reaches b"),
        (lambda h: jnp.pad(relu(h)[:, 1:], ((0, 0), (0, 1)), constant_values=1.0) + 0.5, "not zero when silent"),
        (lambda h: relu(h) + jnp.roll(relu(h), 1, -1), "summed"),
    ],
)
def test_unsafe_layers_say_why(f, reason):
    assert reason in two(f)["a"]


def test_features_that_are_returned_or_averaged_are_not_recycled():
    returned = lambda p, x: ((h := relu(dense(p["a"], x))), dense(p["b"], h))  # noqa: E731
    mean = lambda p, x: dense(p["b"], (h := relu(dense(p["a"], x)))) + h.mean(-1, keepdims=True)  # noqa: E731
    assert table(returned, AB, X)["a"] == "the function also returns it"
    assert not isinstance(table(mean, AB, X)["a"], int)


def test_tied_weights_are_not_recycled():
    tied = lambda p, x: relu(x @ p["a"]["w"]) @ p["a"]["w"].T  # noqa: E731
    assert "both feeds and reads" in table(tied, AB, X)["a/w"]


@pytest.mark.parametrize("head", [jax.nn.softmax, jax.nn.log_softmax, lambda q: q.argmax(-1), jax.lax.stop_gradient])
def test_policies(head):
    assert table(lambda p, x: head(dense(p["b"], relu(dense(p["a"], x)))), AB, X) == {"a": 8}


def test_bfloat16_and_dropout_with_a_key():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), AB)
    assert two(lambda h: relu(h) * 2, half, X.astype(jnp.bfloat16)) == {"a": 8}

    def dropout(params, x, key):
        h = relu(dense(params["a"], x))
        return dense(params["b"], jnp.where(jax.random.bernoulli(key, 0.5, h.shape), h / 0.5, 0.0))

    assert table(dropout, AB, X, KEY) == {"a": 8}


def test_a_network_without_layers_is_refused_and_told_why():
    with pytest.raises(TraceError, match="a/w: computed with in 'qr'"):
        table(lambda p, x: dense(p["b"], x @ jnp.linalg.qr(p["a"]["w"])[0]), {"a": kernel(4, 4), "b": kernel(4, 2)}, X)
    with pytest.raises(TraceError, match="found no neuron layer"):
        table(lambda p, x: dense(p["a"], x), AB, X)
    with pytest.raises(TraceError, match="Are the parameters the first argument"):
        table(lambda x, p: dense(p["b"], relu(dense(p["a"], x))), X, AB)
    with pytest.raises(TraceError, match=r"got no inputs: expected trace\(apply, params, \*inputs\)"):
        trace(lambda x: dense(AB["b"], relu(dense(AB["a"], x))), X)
    with pytest.raises(TraceError, match=r"arrays of shapes \[\(4, 8\).* are not in `params`"):
        trace(lambda p, x: dense(AB["b"], relu(dense(AB["a"], x))) + p["a"]["b"][:2][None], AB, X)


def test_a_module_in_place_of_a_function_is_told_how_to_split_itself():
    def module(x):  # takes one sample, as a module of Equinox does
        return AB["b"]["w"].T @ relu(AB["a"]["w"].T @ x)

    with pytest.raises(TypeError) as raised:
        trace(module, X)
    assert any("jax.vmap(eqx.combine(params, static))" in note for note in raised.value.__notes__)


def test_sequences_may_be_longer_when_measured_than_when_traced():
    def apply(params, x):
        start = jnp.zeros((len(x), 8))
        step = lambda h, u: (relu(u @ params["a"]["w"] + h), None)  # noqa: E731
        return jax.lax.scan(step, start, x.swapaxes(0, 1))[0] @ params["b"]["w"]

    wiring = trace(apply, AB, jnp.ones((2, 3, 4)))
    assert wiring["a"].recyclable and wiring.scores(AB, jnp.ones((2, 20, 4)))["a"].shape == (8,)
    with pytest.raises(
        TraceError, match=r"the 'scan' in the function now has 9999 iterations of .* pass shorter sequences"
    ):
        wiring.scores(AB, jnp.ones((2, 9_999, 4)))
    with pytest.raises(TraceError, match=r"a/w: computed with in 'scan'"):
        trace(apply, AB, jnp.ones((2, 9_999, 4)))


@pytest.mark.parametrize(
    "other",
    [lambda a, c, x: a[:, ::-1], lambda a, c, x: c, lambda a, c, x: jnp.tile(x, 2)],
    ids=["in another order", "another layer", "the inputs"],
)
def test_a_weight_that_reads_something_else_besides_keeps_its_layer(other):
    def apply(params, x):
        a, c = (relu(dense(params[name], x)) for name in ("a", "c"))
        return dense(params["b"], a), dense(params["b"], other(a, c, x))

    assert table(apply, AB | {"c": kernel(4, 8)}, X)["a"] == "b/w also has another use"


def test_a_bias_summed_along_the_batch_is_not_followed():
    def apply(params, x):
        bias = jnp.broadcast_to(params["a"]["b"][None], (len(x), 8))
        return dense(params["b"], relu(x @ params["a"]["w"] + jnp.cumsum(bias, axis=0)))

    assert table(apply, AB, X) == {"a": "a/b (in 'cumsum') feeds it in a way that is not followed"}


def test_pairs_that_share_a_neuron_become_one_neuron():
    notes = Ledger([(3, 4)], ["kernel"])
    notes.new_producer(0, 4)
    notes.merge(np.array([[0, 1], [1, 2]]))
    assert notes.canonical.tolist() == [2, 2, 2, 3]
