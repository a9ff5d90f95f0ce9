"""Small networks with parts of published agents, such as noisy layers, recurrence, attention and experts."""

import jax
import jax.numpy as jnp
import numpy as np
from networks.promise import SERIES, X, check

import dormant

relu = jax.nn.relu
TASKS = np.arange(len(X)) % 3


def test_noisy_layers_with_noise_per_sample():
    def noisy(p, layer, row, key):
        kernel, bias = p[layer], p[f"{layer}_bias"]
        left, right, own = (
            jax.random.normal(one, shape)
            for one, shape in zip(
                jax.random.split(key, 3), (kernel.shape[:1], kernel.shape[1:], bias.shape), strict=True
            )
        )
        kernel = kernel + p[f"{layer}_noise"] * left[:, None] * right[None, :]
        return row @ kernel + bias + p[f"{layer}_bias_noise"] * own

    def rainbow(p, x):
        def one(row, key):
            hidden = relu(noisy(p, "a", row, key))
            value, advantage = jnp.split(noisy(p, "b", hidden, key).reshape(3, 3), [1])
            return jax.nn.softmax(value + advantage - advantage.mean(0))

        return jax.vmap(one)(x, jax.random.split(jax.random.key(0), len(x)))

    shapes = {"a": (5, 8), "a_noise": (5, 8), "a_bias": (8,), "a_bias_noise": (8,)}
    shapes |= {"b": (8, 9), "b_noise": (8, 9), "b_bias": (9,), "b_bias_noise": (9,)}
    check(rainbow, shapes, {"a": 8})


def norm(h, eps=1e-6):
    return h / jnp.sqrt(jnp.square(h).mean(-1, keepdims=True) + eps)


def test_normalised_and_simplicial_features():
    shapes = {"a": (5, 8), "scale": (8,), "b": (8, 2)}
    check(lambda p, x: relu(norm(x @ p["a"]) * p["scale"]) @ p["b"], shapes, {"a": 8})
    check(lambda p, x: norm(relu(x @ p["a"]) + 1e-8) @ p["b"], shapes, {"a": "not zero when silent"})
    simplicial = lambda p, x: jax.nn.softmax((x @ p["a"]).reshape(-1, 2, 4)).reshape(-1, 8) @ p["b"]  # noqa: E731
    check(simplicial, shapes, {"a": 8})


def test_feature_wise_modulation():
    def apart(p, x):
        return relu((x @ p["a"]) * (1 + x[:, :3] @ p["gain"]) + x[:, :3] @ p["shift"]) @ p["b"]

    def fused(p, x):
        gain, shift = jnp.split(x[:, :3] @ p["film"], 2, -1)
        return relu((x @ p["a"]) * gain + shift) @ p["b"]

    check(apart, {"a": (5, 8), "gain": (3, 8), "shift": (3, 8), "b": (8, 2)}, {"a+gain+shift": 8})
    check(fused, {"a": (5, 8), "film": (3, 16), "b": (8, 2)}, {"film+a": 8})


def test_products_of_embeddings():
    def quantiles(p, x):
        fractions = relu(jnp.cos(x[:, None, :1] * jnp.arange(4.0)) @ p["tau"])
        return (relu(x @ p["a"])[:, None] * fractions) @ p["b"]

    check(quantiles, {"a": (5, 8), "tau": (4, 8), "b": (8, 2)}, {"tau+a": 8})
    check(
        lambda p, x: (jnp.tanh(x @ p["a"]) * (x @ p["c"])) @ p["b"], {"a": (5, 8), "c": (5, 8), "b": (8, 2)}, {"a+c": 8}
    )


def test_recurrences_with_complex_states():
    shapes = {"nu": (6,), "theta": (6,), "re": (5, 6), "im": (5, 6), "c": (6, 2)}

    def states(p, x, step):
        decay = jnp.exp(jax.lax.complex(-jnp.exp(p["nu"]), p["theta"]))
        return step(decay, jax.lax.complex(x @ p["re"], x @ p["im"]))

    def by_scan(decay, inputs):
        first = jnp.zeros_like(inputs[:, 0])
        return jax.lax.scan(lambda h, u: (decay * h + u, h), first, inputs.swapaxes(0, 1))[1].swapaxes(0, 1)

    def by_halves(decay, inputs):
        pairs = (jnp.broadcast_to(decay, inputs.shape), inputs)
        return jax.lax.associative_scan(lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), pairs, axis=1)[1]

    for step in (by_scan, by_halves):
        check(lambda p, x, step=step: (states(p, x, step) @ (p["c"] + 0j)).real, shapes, {"re+im": 6}, x=SERIES)
    plain = lambda p, x: jax.lax.associative_scan(jnp.add, x @ p["a"], axis=1) @ p["b"]  # noqa: E731
    check(plain, {"a": (5, 6), "b": (6, 2)}, {"a": 6}, x=SERIES)


def attention(q, k, v):
    return jax.nn.softmax(jnp.einsum("btd,bsd->bts", q, k)) @ v


def test_attention_recycles_value_neurons():
    def apply(p, x):
        return attention(x @ p["q"], x @ p["k"], x @ p["v"]) @ p["o"]

    def with_positions(p, x):
        weights = jnp.einsum("btd,bsd->bts", x @ p["q"], x @ p["k"]) + p["place"]
        return jax.nn.softmax(weights) @ relu(x @ p["v"]) @ p["o"]

    def tied(p, x):
        return attention(x @ p["q"], v := x @ p["v"], v) @ p["o"]

    shapes = {"q": (5, 6), "k": (5, 6), "v": (5, 6), "o": (6, 2), "place": (6, 6)}
    two = "enters a product of two activations"
    check(apply, shapes, {"q": two, "k": two, "v": 6}, x=SERIES)
    check(with_positions, shapes, {"q": two, "k": two, "v": 6}, x=SERIES)
    check(tied, shapes, {"q": two, "v": "computes weights for sums of its own neurons"}, x=SERIES)


def test_experts():
    shapes = {"gate": (5, 3), "a": (3, 5, 8), "b": (3, 8, 2)}

    def dense(p, x):
        hidden = relu(jnp.einsum("bi,eih->beh", x, p["a"]))
        return jnp.einsum("be,beh,eho->bo", jax.nn.softmax(x @ p["gate"]), hidden, p["b"])

    def routed(p, x):
        best = (x @ p["gate"]).argmax(-1)
        return jnp.einsum("bh,bho->bo", relu(jnp.einsum("bi,bih->bh", x, p["a"][best])), p["b"][best])

    two = "enters a product of two activations"
    members = {f"a[{expert}]": 8 for expert in range(3)}
    check(dense, shapes, members | {"gate": two} | {f"b[{expert}]": two for expert in range(3)})
    check(routed, shapes, {"a": "an index chooses which part of a feeds it", "gate": "reaches a's kernel"})


def test_graphs():
    nodes = np.arange(len(X)) % 4
    shapes = {"a": (5, 8), "b": (8, 2)}
    check(lambda p, x: jax.ops.segment_sum(relu(x @ p["a"]), nodes[: len(x)], 4) @ p["b"], shapes, {"a": 8})
    edges = lambda p, x, senders: relu(x @ p["a"])[senders] @ p["b"]  # noqa: E731
    check(edges, shapes, {"a": 8}, inputs=(nodes,))
    into = lambda p, x, senders: jnp.zeros((4, 8)).at[senders].add(relu(x @ p["a"])) @ p["b"]  # noqa: E731
    check(into, shapes, {"a": 8}, inputs=(nodes,))
    over = lambda p, x: jax.ops.segment_sum(relu(x @ p["a"]).T, np.arange(8) % 4, 4).T @ p["b"]  # noqa: E731
    check(over, {"a": (5, 8), "b": (4, 2)}, {"a": "reaches b"})


def test_heads_chosen_by_a_task():
    shapes = {"a": (5, 8), "heads": (3, 8, 2), "bias": (3, 2)}
    each = lambda p, x, t: jnp.einsum("bh,bho->bo", relu(x @ p["a"]), p["heads"][t]) + p["bias"][t]  # noqa: E731
    check(each, shapes, {"a": 8}, inputs=(TASKS,))
    one = lambda p, x, t: relu(x @ p["a"]) @ p["heads"][t[0]] + p["bias"][t[0]]  # noqa: E731
    check(one, shapes, {"a": 8}, inputs=(TASKS,))

    def branches(p, x, t):
        hidden = relu(x @ p["a"])
        return jax.lax.switch(t[0], [lambda h, k=k: h @ p["heads"][k] for k in range(3)], hidden)

    check(branches, shapes, {"a": 8}, inputs=(TASKS,))


def test_branches_and_loops():
    shapes = {"a": (5, 8), "c": (5, 8), "b": (8, 2)}

    def either(p, x):
        return jax.lax.cond(x.sum() > 0, lambda: relu(x @ p["a"]), lambda: jnp.tanh(x @ p["a"])) @ p["b"]

    def two(p, x):
        return jax.lax.cond(x.sum() > 0, lambda: relu(x @ p["a"]), lambda: relu(x @ p["c"])) @ p["b"]

    def loop(p, x):
        first = relu(x @ p["a"])
        return jax.lax.while_loop(lambda h: h.sum() < 9.0, lambda h: h + 1.0, first) @ p["b"]

    check(either, shapes, {"a": 8})
    check(two, shapes, {"a": "combined by 'select_n' with c", "c": "combined by 'select_n' with a"})
    check(loop, shapes, {"a": "reaches b"})


def test_buffers_and_time():
    shapes = {"a": (5, 6), "b": (6, 2)}
    shifted = lambda h: jnp.concatenate([jnp.zeros_like(h[:, :1]), h[:, :-1]], 1)  # noqa: E731
    ended = lambda h: h.at[:, 0].set(0.0)  # noqa: E731
    ring = lambda h: jax.lax.dynamic_update_slice(jnp.zeros_like(h), h[:, :2], (0, 3, 0))  # noqa: E731
    for over_time in (shifted, ended, ring):
        check(lambda p, x, f=over_time: f(relu(x @ p["a"])) @ p["b"], shapes, {"a": 6}, x=SERIES)


def test_an_overwritten_neuron_is_read_by_nobody():
    params = {"a": jnp.ones((5, 6)), "b": jnp.ones((6, 2))}
    wiring = dormant.trace(lambda p, x: relu((x @ p["a"]).at[:, 2].set(0.0)) @ p["b"], params, X)
    assert wiring["a"].outgoing["b"].ravel().tolist() == [0, 1, -1, 3, 4, 5]


def test_ensembles_and_generated_kernels():
    shapes = {"a": (3, 5, 8), "base": (5, 8), "b": (3, 8, 2)}
    own = lambda p, x: jax.vmap(lambda a, b: relu(x @ a) @ b)(p["a"], p["b"])  # noqa: E731
    shared = lambda p, x: jax.vmap(lambda a, b: relu(x @ (a + p["base"])) @ b)(p["a"], p["b"])  # noqa: E731
    check(own, shapes, {f"a[{member}]": 8 for member in range(3)})
    check(shared, shapes, {f"a[{member}]": "several neurons share" for member in range(3)})
    hyper = lambda p, x: relu(jnp.einsum("bi,bio->bo", x, (x @ p["h"]).reshape(-1, 5, 8))) @ p["b"]  # noqa: E731
    check(hyper, {"h": (5, 40), "b": (8, 2)}, {"h": "reaches b"})


def test_tied_and_branching_networks():
    check(lambda p, x: relu(x @ p["a"]) @ p["a"].T, {"a": (5, 8)}, {"a": "both feeds and reads it"})
    dueling = lambda p, x: (h := relu(x @ p["a"])) @ p["v"] + (q := h @ p["q"]) - q.mean(-1, keepdims=True)  # noqa: E731
    check(dueling, {"a": (5, 8), "v": (8, 1), "q": (8, 3)}, {"a": 8})

    def gtrxl(p, x):
        stream = x @ p["in"]
        y = relu(norm(stream) @ p["up"]) @ p["down"]
        gate = jax.nn.sigmoid(y @ p["wz"] + stream @ p["uz"])
        return ((1 - gate) * stream + gate * jnp.tanh(y @ p["wg"])) @ p["b"]

    shapes = {"in": (5, 6), "up": (6, 8), "down": (8, 6), "wz": (6, 6), "uz": (6, 6), "wg": (6, 6), "b": (6, 2)}
    check(gtrxl, shapes, {"up": 8, "down": 6, "in+wz+uz+wg": ""})
