"""Convolutional networks in JAX."""

import flax.linen as nn
import jax.numpy as jnp

from .case import IMAGES, SEQUENCES, Case, flat, linen


def nature(name: str, padding: str, order: tuple[int, ...]) -> Case:
    @linen(name, IMAGES, recycled="conv1 conv2 dense")
    def network(x):
        for name, features, size, stride in (("conv1", 8, 4, 2), ("conv2", 6, 3, 1)):
            x = nn.relu(nn.Conv(features, (size, size), stride, padding=padding, name=name)(x))
        x = nn.relu(nn.Dense(16, name="dense")(flat(x.transpose(order))))
        return nn.Dense(4, name="head")(x)

    return network


same = nature("Nature CNN, SAME", "SAME", (0, 1, 2, 3))
valid = nature("Nature CNN, VALID", "VALID", (0, 1, 2, 3))
channels_first = nature("Nature CNN, flattened channels first", "SAME", (0, 3, 1, 2))
width_first = nature("Nature CNN, flattened width first", "VALID", (0, 2, 3, 1))


@linen(
    "IMPALA ResNet",
    IMAGES,
    recycled="first1 first2 dense",
    measured={
        "summed with second1": "conv1",
        "summed with conv1": "second1",
        "summed with second2": "conv2",
        "summed with conv2": "second2",
    },
    agent="Espeholt et al. 2018",
)
def impala(x):
    for stack in (1, 2):
        x = nn.Conv(4, (3, 3), name=f"conv{stack}")(x)
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        y = nn.Conv(4, (3, 3), name=f"first{stack}")(nn.relu(x))
        x = x + nn.Conv(4, (3, 3), name=f"second{stack}")(nn.relu(y))
    return nn.Dense(3, name="head")(nn.relu(nn.Dense(8, name="dense")(flat(nn.relu(x)))))


@linen("shared encoder, actor and critic", IMAGES, recycled="encoder actor_hidden critic_hidden")
def shared_encoder(x):
    x = nn.relu(nn.Conv(4, (3, 3), name="encoder")(x))
    actor = nn.Dense(2, name="actor")(nn.relu(nn.Dense(6, name="actor_hidden")(flat(x))))
    return actor, nn.Dense(1, name="critic")(nn.relu(nn.Dense(6, name="critic_hidden")(flat(x))))


@linen("BatchNorm with running averages", IMAGES, recycled="conv dense")
def batch_norm(x):
    x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3), name="conv")(x)))
    return nn.Dense(2, name="head")(nn.relu(nn.Dense(6, name="dense")(flat(x))))


@linen("DenseNet concatenation", IMAGES, recycled="conv1 conv2 conv3")
def dense_net(x):
    for name in ("conv1", "conv2", "conv3"):
        x = jnp.concatenate([x, nn.relu(nn.Conv(4, (3, 3), name=name)(x))], -1)
    return nn.Dense(2, name="head")(flat(x))


@linen("grouped and depthwise convolution", IMAGES, recycled="conv depthwise grouped")
def groups(x):
    x = nn.relu(nn.Conv(6, (3, 3), name="conv")(x))
    x = nn.relu(nn.Conv(6, (3, 3), feature_group_count=6, name="depthwise")(x))
    x = nn.relu(nn.Conv(4, (3, 3), feature_group_count=2, name="grouped")(x))
    return nn.Dense(2, name="head")(flat(x))


@linen("1-D convolution", SEQUENCES, recycled="conv1 conv2")
def one_dimension(x):
    x = nn.relu(nn.Conv(6, (3,), name="conv1")(x))
    return nn.Dense(2, name="head")(flat(nn.relu(nn.Conv(4, (2,), name="conv2")(x))))


@linen("3-D convolution", IMAGES, recycled="conv1 conv2")
def three_dimensions(x):
    x = nn.relu(nn.Conv(4, (2, 3, 3), name="conv1")(x[:, None]))
    return nn.Dense(2, name="head")(flat(nn.relu(nn.Conv(4, (1, 2, 2), name="conv2")(x))))


@linen("transposed convolution", IMAGES, recycled="conv up")
def transposed_convolution(x):
    x = nn.relu(nn.Conv(4, (3, 3), (2, 2), name="conv")(x))
    return nn.Dense(2, name="head")(flat(nn.relu(nn.ConvTranspose(3, (2, 2), (2, 2), name="up")(x))))
