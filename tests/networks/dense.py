"""Networks of dense layers in JAX: heads, gates, normalisations, stacks."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax.numpy as jnp

from .case import ACTIONS, IMAGES, ROWS, Case, flat, flax, linen, promises


@linen("dueling heads", ROWS, recycled="trunk value_hidden advantage_hidden")
def dueling(x):
    x = nn.relu(nn.Dense(8, name="trunk")(x))
    value = nn.Dense(1, name="value")(nn.relu(nn.Dense(6, name="value_hidden")(x)))
    advantage = nn.Dense(4, name="advantage")(nn.relu(nn.Dense(6, name="advantage_hidden")(x)))
    return value + advantage - advantage.mean(-1, keepdims=True)


@linen("twin heads on one trunk", ROWS, recycled="trunk hidden1 hidden2")
def twin_heads(x):
    x = nn.relu(nn.Dense(8, name="trunk")(x))
    heads = [nn.Dense(1, name=f"value{k}")(nn.relu(nn.Dense(6, name=f"hidden{k}")(x))) for k in (1, 2)]
    return jnp.concatenate(heads, -1)


@linen("SAC, actor", ROWS, recycled="dense1 dense2", agent="Haarnoja et al. 2018")
def sac_actor(x):
    x = nn.relu(nn.Dense(8, name="dense1")(x))
    x = nn.relu(nn.Dense(8, name="dense2")(x))
    mean, log_std = nn.Dense(2, name="mean")(x), nn.Dense(2, name="log_std")(x)
    return jnp.tanh(mean), jnp.exp(jnp.clip(log_std, -20, 2))


@linen("SAC, critic", ROWS, ACTIONS, recycled="dense1 dense2", agent="Haarnoja et al. 2018")
def sac_critic(observation, action):
    x = jnp.concatenate([observation, action], -1)
    x = nn.relu(nn.Dense(8, name="dense1")(x))
    return nn.Dense(1, name="value")(nn.relu(nn.Dense(8, name="dense2")(x)))


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


def stacked(module: type[nn.Module], count: int = 2) -> nn.Module:
    """Returns `count` vmapped copies of a module. They have separate parameters and read the same inputs."""
    mapped = nn.vmap(module, in_axes=None, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=count)
    return mapped()


def members(names: str, count: int = 2) -> str:
    """Returns the layer names of `count` stacked modules, such as "dense[0] dense[1]" for "dense"."""
    return " ".join(f"{name}[{member}]" for name in names.split() for member in range(count))


twin_critics = Case(
    "twin critics, one stack",
    flax(stacked(Critic), ROWS),
    (ROWS,),
    promises(recycled=members("dense1 dense2")),
)
twin_convolutional_critics = Case(
    "twin convolutional critics",
    flax(stacked(ConvolutionalCritic), IMAGES),
    (IMAGES,),
    promises(recycled=members("conv1 conv2")),
)


@linen("CReLU", ROWS, recycled="dense")
def crelu(x):
    x = nn.Dense(8, name="dense")(x)
    return nn.Dense(2, name="head")(jnp.concatenate([nn.relu(x), nn.relu(-x)], -1))


@linen("gated unit (SwiGLU)", ROWS, recycled="gate+up down")
def gated(x):
    x = nn.silu(nn.Dense(8, name="gate")(x)) * nn.Dense(8, name="up")(x)
    return nn.Dense(2, name="head")(nn.relu(nn.Dense(6, name="down")(x)))


def normed(
    name: str,
    norm: Callable[[], nn.Module],
    *,
    after: bool,
    coupled: str = "dense1",
    measured: Mapping[str, str] | None = None,
) -> Case:
    @linen(name, ROWS, recycled="dense2", coupled=coupled, measured=measured)
    def network(x):
        x = nn.Dense(8, name="dense1")(x)
        x = norm()(nn.relu(x)) if after else nn.relu(norm()(x))
        return nn.Dense(2, name="head")(nn.relu(nn.Dense(6, name="dense2")(x)))

    return network


layer_norm_before = normed("LayerNorm before the activation", nn.LayerNorm, after=False)
rms_norm_before = normed("RMSNorm before the activation", nn.RMSNorm, after=False)
group_norm_before = normed("GroupNorm before the activation", lambda: nn.GroupNorm(2), after=False)
layer_norm_after = normed(
    "LayerNorm after the activation",
    nn.LayerNorm,
    after=True,
    coupled="",
    measured={"not zero when silent": "dense1"},
)
rms_norm_after = normed("RMSNorm after the activation", nn.RMSNorm, after=True)


@linen("a layer used twice", ROWS, ROWS[::-1], recycled="encoder dense")
def used_twice(x, y):
    encoder = nn.Dense(8, name="encoder")
    x = jnp.concatenate([nn.relu(encoder(x)), nn.relu(encoder(y))], -1)
    return nn.Dense(2, name="head")(nn.relu(nn.Dense(6, name="dense")(x)))


@linen("weight normalisation", ROWS, recycled="dense3", measured={"computed with in": "dense1 dense2"})
def weight_norm(x):
    x = nn.relu(nn.Dense(8, name="dense1")(x))
    x = nn.relu(nn.WeightNorm(nn.Dense(6, name="dense2"))(x))
    return nn.Dense(2, name="head")(nn.relu(nn.Dense(6, name="dense3")(x)))


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(nn.Dense(6, name="dense")(x)), None


@linen("Flax layers in one stack (nn.scan)", ROWS, recycled=f"embed {members('layers/dense', 3)}")
def scanned_layers(x):
    x = nn.relu(nn.Dense(6, name="embed")(x))
    layers = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    return nn.Dense(2, name="head")(layers(name="layers")(x, None)[0])


@linen(
    "SimBa, pre-norm residual MLP",
    ROWS,
    recycled="hidden1 hidden2",
    measured={"summed with out1": "embed out2", "summed with embed": "out1"},
    agent="Lee et al. 2024",
)
def simba(x):
    x = nn.Dense(8, name="embed")(x)
    for block in (1, 2):
        y = nn.relu(nn.Dense(16, name=f"hidden{block}")(nn.LayerNorm()(x)))
        x = x + nn.Dense(8, name=f"out{block}")(y)
    return nn.Dense(2, name="head")(nn.LayerNorm()(x))
