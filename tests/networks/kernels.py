"""JAX networks with unusual kernels (computed, tied, stacked), and networks of Flax NNX, Equinox and Haiku."""

from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from .case import IMAGES, ROWS, Apply, Case, Init, by_hand, flat, promises


@by_hand("einsum kernels", {"a": (5, 2, 4), "b": (2, 4, 6), "c": (3, 6)}, ROWS, recycled="a b")
def einsums(params, x):
    x = jax.nn.relu(jnp.einsum("bi,ihd->bhd", x, params["a"]["w"]))
    x = jax.nn.relu(jnp.einsum("bhd,hdo->bo", x, params["b"]["w"]))
    return jnp.einsum("bo,qo->bq", x, params["c"]["w"])


@by_hand(
    "kernels transposed, reshaped and reversed before use",
    {"a": (6, 5), "b": (3, 8), "c": (4, 2)},
    ROWS,
    recycled="a b",
)
def moved(params, x):
    x = jax.nn.relu(x @ params["a"]["w"].T)
    x = jax.nn.relu(x @ params["b"]["w"].reshape(6, 4)[::-1])
    return x @ params["c"]["w"]


@by_hand(
    "noisy kernels (mean + deviation x noise)",
    {"a": (5, 6), "mu": (6, 4), "sigma": (6, 4), "c": (4, 2)},
    ROWS,
    recycled="a mu",
)
def noisy_kernels(params, x):
    x = jax.nn.relu(x @ params["a"]["w"])
    noise = jax.random.normal(jax.random.key(0), params["sigma"]["w"].shape)
    return jax.nn.relu(x @ (params["mu"]["w"] + params["sigma"]["w"] * noise)) @ params["c"]["w"]


@by_hand(
    "tied encoder and decoder",
    {"a": (5, 6), "b": (5, 2)},
    ROWS,
    measured={"both feeds and reads it": "a/w", "has another use": "a/w#2"},
)
def tied(params, x):
    x = jax.nn.relu(x @ params["a"]["w"])
    return jax.nn.relu(x @ params["a"]["w"].T) @ params["b"]["w"]


@by_hand(
    "kernels in one stack, used by index",
    {"embed": (5, 6), "layers": (3, 6, 6), "head": (6, 2)},
    ROWS,
    recycled="embed layers[0] layers[1] layers[2]",
)
def stack_by_index(params, x):
    x = jax.nn.relu(x @ params["embed"]["w"])
    for w in params["layers"]["w"]:
        x = jax.nn.relu(x @ w)
    return x @ params["head"]["w"]


@by_hand(
    "residual blocks in one stack, used by scan",
    {"embed": (5, 6), "up": (2, 6, 8), "down": (2, 8, 6), "head": (6, 2)},
    ROWS,
    recycled="up[0] up[1]",
    measured={"summed with down[0]": "embed down[1]", "summed with embed": "down[0]"},
)
def stack_by_scan(params, x):
    def block(x, layer):
        up, down = layer
        return x + jax.nn.relu(x @ up) @ down, None

    x = x @ params["embed"]["w"]
    return jax.lax.scan(block, x, (params["up"]["w"], params["down"]["w"]))[0] @ params["head"]["w"]


@by_hand("all parameters in one vector", {"all": (62,)}, ROWS, recycled="all/w all/w#2")
def one_vector(params, x):
    first, second, head = jnp.split(params["all"]["w"], [30, 54])
    return jax.nn.relu(jax.nn.relu(x @ first.reshape(5, 6)) @ second.reshape(6, 4)) @ head.reshape(4, 2)


@by_hand(
    "gate and value from one kernel",
    {"gate_up": (5, 16), "down": (8, 6), "head": (6, 2)},
    ROWS,
    recycled="gate_up down",
)
def fused_gate(params, x):
    gate, up = jnp.split(x @ params["gate_up"]["w"], 2, -1)
    return jax.nn.relu((jax.nn.silu(gate) * up) @ params["down"]["w"]) @ params["head"]["w"]


@by_hand(
    "a stack one kernel of which is also computed with",
    {"embed": (5, 6), "layers": (3, 6, 6), "head": (6, 2)},
    ROWS,
    recycled="embed layers[2]",
    measured={"layers/w is also": "layers[0] layers[1]"},
)
def stack_also_summed(params, x):
    x = jax.nn.relu(x @ params["embed"]["w"])
    for w in params["layers"]["w"]:
        x = jax.nn.relu(x @ w)
    return x @ params["head"]["w"], jnp.square(params["layers"]["w"][1]).sum()


class Nnx(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.dense = nnx.Linear(4 * 144, 8, rngs=rngs)
        self.head = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.dense(flat(nnx.relu(self.conv(x))))))


def nnx_network() -> tuple[Apply, Init]:
    graph, _ = nnx.split(nnx.eval_shape(lambda: Nnx(nnx.Rngs(0))))
    return lambda params, x: nnx.merge(graph, params)(x), lambda key: nnx.split(Nnx(nnx.Rngs(key)))[1]


def equinox_network() -> tuple[Apply, Init]:
    def make(key: jax.Array) -> Any:
        one, two, three = jax.random.split(key, 3)
        layers = [eqx.nn.Conv2d(3, 4, 3, key=one), eqx.nn.Lambda(jax.nn.relu), eqx.nn.Lambda(jnp.ravel)]
        layers += [eqx.nn.Linear(400, 8, key=two), eqx.nn.Lambda(jax.nn.relu), eqx.nn.Linear(8, 2, key=three)]
        return eqx.partition(eqx.nn.Sequential(layers), eqx.is_array)

    static = eqx.filter_eval_shape(make, jax.random.key(0))[1]

    def apply(params, x):
        return jax.vmap(eqx.combine(params, static))(x.transpose(0, 3, 1, 2))

    return apply, lambda key: make(key)[0]


def haiku_network() -> tuple[Apply, Init]:
    network = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([8, 6, 2])(x)))
    return network.apply, lambda key: network.init(key, ROWS)


in_nnx = Case("Flax NNX", nnx_network, (IMAGES,), promises("conv dense"))
in_equinox = Case("Equinox", equinox_network, (IMAGES,), promises("layers/0 layers/3"))
in_haiku = Case("Haiku", haiku_network, (ROWS,), promises("mlp/~/linear_0 mlp/~/linear_1"))


@by_hand(
    "a matrix factorisation of activations",
    {"a": (5, 4), "b": (4, 2)},
    ROWS,
    measured={"reaches b without weights of its own": "a"},
)
def solved(params, x):
    x = jax.nn.relu(x @ params["a"]["w"])
    return jnp.linalg.qr(x)[0] @ params["b"]["w"]


@by_hand("an open-ended loop", {"a": (5, 5)}, ROWS, refused="computed with in 'while'")
def looped(params, x):
    return jax.lax.while_loop(lambda y: y.sum() < 1e3, lambda y: jax.nn.relu(y @ params["a"]["w"]) + 1, x)
