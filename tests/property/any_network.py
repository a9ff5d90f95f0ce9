"""The architectures that people use, and what dormant promises for each; docs/networks.md is made from them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

IMAGES = np.random.default_rng(0).normal(size=(4, 12, 12, 3)).astype(np.float32)
ROWS = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
SEQUENCES = np.random.default_rng(2).normal(size=(3, 4, 5)).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """A network, and for each hidden layer "recycled", "coupled" or a part of the reason why it is only measured.

    `refused` is a part of the error, for a network that the tracer does not understand.
    """

    name: str
    build: Callable[[], tuple[Callable[..., Any], Callable[..., Any]]]  # gives apply(params, *inputs) and init(key)
    inputs: tuple[np.ndarray, ...]
    layers: dict[str, str] = field(default_factory=dict)
    refused: str = ""


def linen(module: nn.Module, *inputs: np.ndarray) -> Callable[[], tuple[Any, Any]]:
    return lambda: (module.apply, lambda key: module.init(key, *inputs))


def body(function: Callable[..., Any]) -> Callable[..., nn.Module]:
    """A Flax module from the body of its call."""
    return type(function.__name__, (nn.Module,), {"__call__": nn.compact(lambda self, *inputs: function(*inputs))})


def flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


def nature(padding: str, order: tuple[int, ...]) -> nn.Module:
    @body
    def network(x):
        for name, features, size, stride in (("conv1", 8, 4, 2), ("conv2", 6, 3, 1)):
            x = nn.relu(nn.Conv(features, (size, size), stride, padding=padding, name=name)(x))
        x = nn.relu(nn.Dense(16, name="dense")(flat(x.transpose(order))))
        return nn.Dense(4, name="head")(x)

    return network()


NATURE = {"conv1": "recycled", "conv2": "recycled", "dense": "recycled"}


@body
def impala(x):
    for stack in (1, 2):
        x = nn.Conv(4, (3, 3), name=f"conv{stack}")(x)
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        y = nn.Conv(4, (3, 3), name=f"first{stack}")(nn.relu(x))
        x = x + nn.Conv(4, (3, 3), name=f"second{stack}")(nn.relu(y))
    return nn.Dense(3, name="head")(nn.relu(nn.Dense(8, name="dense")(flat(nn.relu(x)))))


@body
def dueling(x):
    x = nn.relu(nn.Dense(8, name="trunk")(x))
    value = nn.Dense(1, name="value")(nn.relu(nn.Dense(6, name="value_hidden")(x)))
    advantage = nn.Dense(4, name="advantage")(nn.relu(nn.Dense(6, name="advantage_hidden")(x)))
    return value + advantage - advantage.mean(-1, keepdims=True)


@body
def sac_actor(x):
    x = nn.relu(nn.Dense(8, name="dense1")(x))
    x = nn.relu(nn.Dense(8, name="dense2")(x))
    mean, log_std = nn.Dense(2, name="mean")(x), nn.Dense(2, name="log_std")(x)
    return jnp.tanh(mean), jnp.exp(jnp.clip(log_std, -20, 2))


@body
def sac_critic(observation, action):
    x = jnp.concatenate([observation, action], -1)
    x = nn.relu(nn.Dense(8, name="dense1")(x))
    return nn.Dense(1, name="value")(nn.relu(nn.Dense(8, name="dense2")(x)))


@body
def twin_heads(x):
    x = nn.relu(nn.Dense(8, name="trunk")(x))
    heads = [nn.Dense(1, name=f"value{k}")(nn.relu(nn.Dense(6, name=f"hidden{k}")(x))) for k in (1, 2)]
    return jnp.concatenate(heads, -1)


@body
def shared_encoder(x):
    x = nn.relu(nn.Conv(4, (3, 3), name="encoder")(x))
    actor = nn.Dense(2, name="actor")(nn.relu(nn.Dense(6, name="actor_hidden")(flat(x))))
    return actor, nn.Dense(1, name="critic")(nn.relu(nn.Dense(6, name="critic_hidden")(flat(x))))


@body
def crelu(x):
    x = nn.Dense(8, name="dense")(x)
    return nn.Dense(2, name="head")(jnp.concatenate([nn.relu(x), nn.relu(-x)], -1))


@body
def gated(x):
    x = nn.silu(nn.Dense(8, name="gate")(x)) * nn.Dense(8, name="up")(x)
    return nn.Dense(2, name="head")(nn.relu(nn.Dense(6, name="down")(x)))


def normed(norm: Callable[[], nn.Module], after: bool) -> nn.Module:
    @body
    def network(x):
        x = nn.Dense(8, name="dense1")(x)
        x = norm()(nn.relu(x)) if after else nn.relu(norm()(x))
        return nn.Dense(2, name="head")(nn.relu(nn.Dense(6, name="dense2")(x)))

    return network()


@body
def batch_norm(x):
    x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3), name="conv")(x)))
    return nn.Dense(2, name="head")(nn.relu(nn.Dense(6, name="dense")(flat(x))))


@body
def dense_net(x):
    for name in ("conv1", "conv2", "conv3"):
        x = jnp.concatenate([x, nn.relu(nn.Conv(4, (3, 3), name=name)(x))], -1)
    return nn.Dense(2, name="head")(flat(x))


@body
def groups(x):
    x = nn.relu(nn.Conv(6, (3, 3), name="conv")(x))
    x = nn.relu(nn.Conv(6, (3, 3), feature_group_count=6, name="depthwise")(x))
    x = nn.relu(nn.Conv(4, (3, 3), feature_group_count=2, name="grouped")(x))
    return nn.Dense(2, name="head")(flat(x))


@body
def one_dimension(x):
    x = nn.relu(nn.Conv(6, (3,), name="conv1")(x))
    return nn.Dense(2, name="head")(flat(nn.relu(nn.Conv(4, (2,), name="conv2")(x))))


@body
def three_dimensions(x):
    x = nn.relu(nn.Conv(4, (2, 3, 3), name="conv1")(x[:, None]))
    return nn.Dense(2, name="head")(flat(nn.relu(nn.Conv(4, (1, 2, 2), name="conv2")(x))))


@body
def transposed_convolution(x):
    x = nn.relu(nn.Conv(4, (3, 3), (2, 2), name="conv")(x))
    return nn.Dense(2, name="head")(flat(nn.relu(nn.ConvTranspose(3, (2, 2), (2, 2), name="up")(x))))


@body
def simba(x):
    x = nn.Dense(8, name="embed")(x)
    for block in (1, 2):
        y = nn.relu(nn.Dense(16, name=f"hidden{block}")(nn.LayerNorm()(x)))
        x = x + nn.Dense(8, name=f"out{block}")(y)
    return nn.Dense(2, name="head")(nn.LayerNorm()(x))


@body
def transformer(x):
    x = nn.Dense(8, name="embed")(x)
    x = x + nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(nn.LayerNorm()(x))
    x = x + nn.Dense(8, name="out")(nn.gelu(nn.Dense(16, name="mlp")(nn.LayerNorm()(x))))
    return nn.Dense(2, name="head")(x.mean(1))


@body
def gru(x):
    x = nn.RNN(nn.GRUCell(6, name="gru"))(nn.relu(nn.Dense(8, name="dense1")(x)))
    return nn.Dense(2, name="head")(nn.relu(nn.Dense(6, name="dense2")(x)))


@body
def lstm(x):
    x = nn.RNN(nn.LSTMCell(6, name="lstm"))(nn.relu(nn.Dense(8, name="dense1")(x)))
    return nn.Dense(2, name="head")(nn.relu(nn.Dense(6, name="dense2")(x)))


GRU = "gru/ir+gru/hr+gru/iz+gru/hz+gru/hn"
LSTM = "lstm/ii+lstm/hi+lstm/if+lstm/hf+lstm/ig+lstm/hg+lstm/io+lstm/ho"


@body
def used_twice(x, y):
    encoder = nn.Dense(8, name="encoder")
    x = jnp.concatenate([nn.relu(encoder(x)), nn.relu(encoder(y))], -1)
    return nn.Dense(2, name="head")(nn.relu(nn.Dense(6, name="dense")(x)))


@body
def weight_norm(x):
    x = nn.relu(nn.Dense(8, name="dense1")(x))
    x = nn.relu(nn.WeightNorm(nn.Dense(6, name="dense2"))(x))
    return nn.Dense(2, name="head")(nn.relu(nn.Dense(6, name="dense3")(x)))


class Critic(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(8, name="dense1")(x))
        return nn.Dense(1, name="value")(nn.relu(nn.Dense(8, name="dense2")(x)))


class ConvolutionalCritic(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), name="conv1")(x))
        return nn.Dense(1, name="value")(flat(nn.relu(nn.Conv(4, (3, 3), name="conv2")(x))))


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(nn.Dense(6, name="dense")(x)), None


@body
def scanned_layers(x):
    x = nn.relu(nn.Dense(6, name="embed")(x))
    layers = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    return nn.Dense(2, name="head")(layers(name="layers")(x, None)[0])


def twins(module: type[nn.Module]) -> nn.Module:
    mapped = nn.vmap(module, in_axes=None, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=2)
    return mapped()


def members(*names: str) -> dict[str, str]:
    return {f"{name}[{member}]": "recycled" for name in names for member in (0, 1)}


def hand_written(shapes: dict[str, tuple[int, ...]], apply: Callable[..., Any]) -> Callable[[], tuple[Any, Any]]:
    def init(key):
        keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
        return {name: {"w": jax.random.normal(keys[name], shape)} for name, shape in shapes.items()}

    return lambda: (apply, init)


def einsums(params, x):
    x = jax.nn.relu(jnp.einsum("bi,ihd->bhd", x, params["a"]["w"]))
    x = jax.nn.relu(jnp.einsum("bhd,hdo->bo", x, params["b"]["w"]))
    return jnp.einsum("bo,qo->bq", x, params["c"]["w"])


def moved(params, x):
    x = jax.nn.relu(x @ params["a"]["w"].T)
    x = jax.nn.relu(x @ params["b"]["w"].reshape(6, 4)[::-1])
    return x @ params["c"]["w"]


def low_rank_noise(params, x):
    x = jax.nn.relu(x @ params["a"]["w"])
    noise = jax.random.normal(jax.random.key(0), params["sigma"]["w"].shape)
    return jax.nn.relu(x @ (params["mu"]["w"] + params["sigma"]["w"] * noise)) @ params["c"]["w"]


def tied(params, x):
    x = jax.nn.relu(x @ params["a"]["w"])
    return jax.nn.relu(x @ params["a"]["w"].T) @ params["b"]["w"]


def stack_by_index(params, x):
    x = jax.nn.relu(x @ params["embed"]["w"])
    for w in params["layers"]["w"]:
        x = jax.nn.relu(x @ w)
    return x @ params["head"]["w"]


def stack_by_scan(params, x):
    def block(x, layer):
        up, down = layer
        return x + jax.nn.relu(x @ up) @ down, None

    x = x @ params["embed"]["w"]
    return jax.lax.scan(block, x, (params["up"]["w"], params["down"]["w"]))[0] @ params["head"]["w"]


def one_vector(params, x):
    first, second, head = jnp.split(params["all"]["w"], [30, 54])
    return jax.nn.relu(jax.nn.relu(x @ first.reshape(5, 6)) @ second.reshape(6, 4)) @ head.reshape(4, 2)


def fused_gate(params, x):
    gate, up = jnp.split(x @ params["gate_up"]["w"], 2, -1)
    return jax.nn.relu((jax.nn.silu(gate) * up) @ params["down"]["w"]) @ params["head"]["w"]


def stack_also_summed(params, x):
    x = jax.nn.relu(x @ params["embed"]["w"])
    for w in params["layers"]["w"]:
        x = jax.nn.relu(x @ w)
    return x @ params["head"]["w"], jnp.square(params["layers"]["w"][1]).sum()


def solved(params, x):
    x = jax.nn.relu(x @ params["a"]["w"])
    return jnp.linalg.qr(x)[0] @ params["b"]["w"]


def looped(params, x):
    return jax.lax.while_loop(lambda y: y.sum() < 1e3, lambda y: jax.nn.relu(y @ params["a"]["w"]) + 1, x)


class Nnx(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.dense = nnx.Linear(4 * 144, 8, rngs=rngs)
        self.head = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.dense(flat(nnx.relu(self.conv(x))))))


def nnx_network() -> tuple[Any, Any]:
    graph, _ = nnx.split(Nnx(nnx.Rngs(0)))
    return lambda params, x: nnx.merge(graph, params)(x), lambda key: nnx.split(Nnx(nnx.Rngs(key)))[1]


def equinox_network() -> tuple[Any, Any]:
    def make(key):
        one, two, three = jax.random.split(key, 3)
        layers = [eqx.nn.Conv2d(3, 4, 3, key=one), eqx.nn.Lambda(jax.nn.relu), eqx.nn.Lambda(jnp.ravel)]
        layers += [eqx.nn.Linear(400, 8, key=two), eqx.nn.Lambda(jax.nn.relu), eqx.nn.Linear(8, 2, key=three)]
        return eqx.partition(eqx.nn.Sequential(layers), eqx.is_array)

    static = make(jax.random.key(0))[1]

    def apply(params, x):
        return jax.vmap(eqx.combine(params, static))(x.transpose(0, 3, 1, 2))

    return apply, lambda key: make(key)[0]


def haiku_network() -> tuple[Any, Any]:
    network = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([8, 6, 2])(x)))
    return network.apply, lambda key: network.init(key, ROWS)


GATED = "enters a product of two activations"
CASES = [
    Case("Nature CNN, SAME", linen(nature("SAME", (0, 1, 2, 3)), IMAGES), (IMAGES,), NATURE),
    Case("Nature CNN, VALID", linen(nature("VALID", (0, 1, 2, 3)), IMAGES), (IMAGES,), NATURE),
    Case("Nature CNN, flattened channels first", linen(nature("SAME", (0, 3, 1, 2)), IMAGES), (IMAGES,), NATURE),
    Case("Nature CNN, flattened width first", linen(nature("VALID", (0, 2, 3, 1)), IMAGES), (IMAGES,), NATURE),
    Case(
        "IMPALA ResNet",
        linen(impala(), IMAGES),
        (IMAGES,),
        {
            **{f"conv{stack}": f"summed with second{stack}" for stack in (1, 2)},
            **{f"first{stack}": "recycled" for stack in (1, 2)},
            **{f"second{stack}": f"summed with conv{stack}" for stack in (1, 2)},
            "dense": "recycled",
        },
    ),
    Case(
        "dueling heads",
        linen(dueling(), ROWS),
        (ROWS,),
        dict.fromkeys(("trunk", "value_hidden", "advantage_hidden"), "recycled"),
    ),
    Case(
        "twin heads on one trunk",
        linen(twin_heads(), ROWS),
        (ROWS,),
        dict.fromkeys(("trunk", "hidden1", "hidden2"), "recycled"),
    ),
    Case("SAC actor", linen(sac_actor(), ROWS), (ROWS,), {"dense1": "recycled", "dense2": "recycled"}),
    Case(
        "SAC critic, observation + action",
        linen(sac_critic(), ROWS, ROWS),
        (ROWS, ROWS),
        {"dense1": "recycled", "dense2": "recycled"},
    ),
    Case("twin critics, one stack", linen(twins(Critic), ROWS), (ROWS,), members("dense1", "dense2")),
    Case(
        "twin convolutional critics",
        linen(twins(ConvolutionalCritic), IMAGES),
        (IMAGES,),
        members("conv1", "conv2"),
    ),
    Case(
        "shared encoder, actor and critic",
        linen(shared_encoder(), IMAGES),
        (IMAGES,),
        dict.fromkeys(("encoder", "actor_hidden", "critic_hidden"), "recycled"),
    ),
    Case("CReLU", linen(crelu(), ROWS), (ROWS,), {"dense": "recycled"}),
    Case("gated unit (SwiGLU)", linen(gated(), ROWS), (ROWS,), {"gate+up": "recycled", "down": "recycled"}),
    Case(
        "LayerNorm before the activation",
        linen(normed(nn.LayerNorm, after=False), ROWS),
        (ROWS,),
        {"dense1": "coupled", "dense2": "recycled"},
    ),
    Case(
        "RMSNorm before the activation",
        linen(normed(nn.RMSNorm, after=False), ROWS),
        (ROWS,),
        {"dense1": "coupled", "dense2": "recycled"},
    ),
    Case(
        "GroupNorm before the activation",
        linen(normed(lambda: nn.GroupNorm(2), after=False), ROWS),
        (ROWS,),
        {"dense1": "coupled", "dense2": "recycled"},
    ),
    Case(
        "LayerNorm after the activation",
        linen(normed(nn.LayerNorm, after=True), ROWS),
        (ROWS,),
        {"dense1": "not zero when silent", "dense2": "recycled"},
    ),
    Case(
        "RMSNorm after the activation",
        linen(normed(nn.RMSNorm, after=True), ROWS),
        (ROWS,),
        {"dense1": "coupled", "dense2": "recycled"},
    ),
    Case(
        "BatchNorm with running averages",
        linen(batch_norm(), IMAGES),
        (IMAGES,),
        {"conv": "recycled", "dense": "recycled"},
    ),
    Case(
        "DenseNet concatenation",
        linen(dense_net(), IMAGES),
        (IMAGES,),
        dict.fromkeys(("conv1", "conv2", "conv3"), "recycled"),
    ),
    Case(
        "grouped and depthwise convolution",
        linen(groups(), IMAGES),
        (IMAGES,),
        dict.fromkeys(("conv", "depthwise", "grouped"), "recycled"),
    ),
    Case(
        "1-D convolution",
        linen(one_dimension(), SEQUENCES),
        (SEQUENCES,),
        {"conv1": "recycled", "conv2": "recycled"},
    ),
    Case(
        "3-D convolution",
        linen(three_dimensions(), IMAGES),
        (IMAGES,),
        {"conv1": "recycled", "conv2": "recycled"},
    ),
    Case(
        "transposed convolution",
        linen(transposed_convolution(), IMAGES),
        (IMAGES,),
        {"conv": "recycled", "up": "recycled"},
    ),
    Case(
        "pre-norm residual MLP (SimBa)",
        linen(simba(), ROWS),
        (ROWS,),
        {
            "embed": "summed with out1",
            "hidden1": "recycled",
            "out1": "summed with embed",
            "hidden2": "recycled",
            "out2": "summed with out1",
        },
    ),
    Case(
        "transformer block",
        linen(transformer(), SEQUENCES),
        (SEQUENCES,),
        {
            "embed": "summed with attention/out",
            "attention/query": GATED,
            "attention/key": GATED,
            "attention/value": "reaches attention/out without weights of its own",
            "attention/out": "summed with embed",
            "mlp": "recycled",
            "out": "summed with attention/out",
        },
    ),
    Case(
        "GRU inside a scan",
        linen(gru(), SEQUENCES),
        (SEQUENCES,),
        {"dense1": "recycled", GRU: "both feeds and reads it", "gru/in": "summed with", "dense2": "recycled"},
    ),
    Case(
        "LSTM inside a scan",
        linen(lstm(), SEQUENCES),
        (SEQUENCES,),
        {"dense1": "recycled", LSTM: "both feeds and reads it", "dense2": "recycled"},
    ),
    Case(
        "a layer used twice",
        linen(used_twice(), ROWS, ROWS[::-1]),
        (ROWS, ROWS[::-1]),
        {"encoder": "recycled", "dense": "recycled"},
    ),
    Case(
        "weight normalisation",
        linen(weight_norm(), ROWS),
        (ROWS,),
        {"dense1": "computed with in", "dense2": "computed with in", "dense3": "recycled"},
    ),
    Case(
        "einsum kernels",
        hand_written({"a": (5, 2, 4), "b": (2, 4, 6), "c": (3, 6)}, einsums),
        (ROWS,),
        {"a": "recycled", "b": "recycled"},
    ),
    Case(
        "kernels transposed, reshaped and reversed before use",
        hand_written({"a": (6, 5), "b": (3, 8), "c": (4, 2)}, moved),
        (ROWS,),
        {"a": "recycled", "b": "recycled"},
    ),
    Case(
        "noisy kernels (mean + deviation x noise)",
        hand_written({"a": (5, 6), "mu": (6, 4), "sigma": (6, 4), "c": (4, 2)}, low_rank_noise),
        (ROWS,),
        {"a": "recycled", "mu": "recycled"},
    ),
    Case(
        "tied encoder and decoder",
        hand_written({"a": (5, 6), "b": (5, 2)}, tied),
        (ROWS,),
        {"a/w": "both feeds and reads it", "a/w#2": "has another use besides"},
    ),
    Case(
        "kernels in one stack, used by index",
        hand_written({"embed": (5, 6), "layers": (3, 6, 6), "head": (6, 2)}, stack_by_index),
        (ROWS,),
        {"embed": "recycled", **{f"layers[{layer}]": "recycled" for layer in range(3)}},
    ),
    Case(
        "residual blocks in one stack, used by scan",
        hand_written({"embed": (5, 6), "up": (2, 6, 8), "down": (2, 8, 6), "head": (6, 2)}, stack_by_scan),
        (ROWS,),
        {
            "embed": "summed with down[0]",
            "up[0]": "recycled",
            "down[0]": "summed with embed",
            "up[1]": "recycled",
            "down[1]": "summed with down[0]",
        },
    ),
    Case(
        "a stack one kernel of which is also computed with",
        hand_written({"embed": (5, 6), "layers": (3, 6, 6), "head": (6, 2)}, stack_also_summed),
        (ROWS,),
        {
            "embed": "recycled",
            "layers[0]": "layers/w is also",
            "layers[1]": "layers/w is also",
            "layers[2]": "recycled",
        },
    ),
    Case(
        "Flax layers in one stack (nn.scan)",
        linen(scanned_layers(), ROWS),
        (ROWS,),
        {"embed": "recycled", **{f"layers/dense[{layer}]": "recycled" for layer in range(3)}},
    ),
    Case(
        "all parameters in one vector",
        hand_written({"all": (62,)}, one_vector),
        (ROWS,),
        {"all/w": "recycled", "all/w#2": "recycled"},
    ),
    Case(
        "gate and value from one kernel",
        hand_written({"gate_up": (5, 16), "down": (8, 6), "head": (6, 2)}, fused_gate),
        (ROWS,),
        {"gate_up": "recycled", "down": "recycled"},
    ),
    Case("Flax NNX", nnx_network, (IMAGES,), {"conv": "recycled", "dense": "recycled"}),
    Case("Equinox", equinox_network, (IMAGES,), {"layers/0": "recycled", "layers/3": "recycled"}),
    Case("Haiku", haiku_network, (ROWS,), {"mlp/~/linear_0": "recycled", "mlp/~/linear_1": "recycled"}),
    Case(
        "a matrix factorisation of activations",
        hand_written({"a": (5, 4), "b": (4, 2)}, solved),
        (ROWS,),
        refused="primitive 'qr'",
    ),
    Case("an open-ended loop", hand_written({"a": (5, 5)}, looped), (ROWS,), refused="primitive 'while'"),
]
