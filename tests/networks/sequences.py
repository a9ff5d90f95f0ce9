"""Recurrent networks and convolutions over time, in JAX."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from .case import IMAGES, SEQUENCES, by_hand, flat, linen

GRU = "gru/ir+gru/hr+gru/iz+gru/hz+gru/hn"
LSTM = "lstm/ii+lstm/hi+lstm/if+lstm/hf+lstm/ig+lstm/hg+lstm/io+lstm/ho"


@linen("GRU inside a scan", SEQUENCES, recycled="dense1 dense2", measured={"feeds and reads": "gru/ir+..."})
def gru(x):
    x = nn.RNN(nn.GRUCell(6, name="gru"))(nn.relu(nn.Dense(8, name="dense1")(x)))
    return nn.Dense(2, name="head")(nn.relu(nn.Dense(6, name="dense2")(x)))


@linen("LSTM inside a scan", SEQUENCES, recycled="dense1 dense2", measured={"both feeds and reads it": LSTM})
def lstm(x):
    x = nn.RNN(nn.LSTMCell(6, name="lstm"))(nn.relu(nn.Dense(8, name="dense1")(x)))
    return nn.Dense(2, name="head")(nn.relu(nn.Dense(6, name="dense2")(x)))


@linen("bidirectional GRU", SEQUENCES, recycled="dense", measured={"feeds and reads": "forward/ir+... backward/ir+..."})
def bidirectional(x):
    forward, backward = nn.RNN(nn.GRUCell(4, name="forward")), nn.RNN(nn.GRUCell(4, name="backward"), reverse=True)
    x = jnp.concatenate([forward(x), backward(x)], -1)
    return nn.Dense(2, name="head")(nn.relu(nn.Dense(6, name="dense")(x)))


@linen("simple RNN", SEQUENCES, measured={"feeds and reads": "rnn/i+rnn/h"})
def elman(x):
    return nn.Dense(2, name="head")(nn.RNN(nn.SimpleCell(6, name="rnn"))(x))


@linen("convolutional LSTM", IMAGES, recycled="conv", measured={"summed": "lstm/ih+lstm/hh"}, agent="Guez et al. 2019")
def drc(x):
    """The core of DRC. A convolutional LSTM takes two steps per frame."""
    x = nn.relu(nn.Conv(4, (4, 4), 2, name="conv")(x))
    cell = nn.ConvLSTMCell(4, (3, 3), name="lstm")
    carry = (jnp.zeros((4, 6, 6, 4)), jnp.zeros((4, 6, 6, 4)))
    for _ in range(2):
        carry, y = cell(carry, x)
    return nn.Dense(3, name="policy")(flat(y))


@linen(
    "temporal convolutions, causal and dilated",
    SEQUENCES,
    recycled="first1 first2",
    measured={"summed": "embed second1 second2"},
)
def temporal_convolutions(x):
    x = nn.Conv(6, (1,), name="embed")(x)
    for block, dilation in ((1, 1), (2, 2)):
        y = nn.relu(nn.Conv(6, (2,), padding="CAUSAL", kernel_dilation=dilation, name=f"first{block}")(x))
        x = nn.relu(x + nn.Conv(6, (2,), padding="CAUSAL", kernel_dilation=dilation, name=f"second{block}")(y))
    return nn.Dense(2, name="head")(x[:, -1])


@linen(
    "WaveNet, gated and skipped",
    SEQUENCES,
    recycled="filter1+gate1 skip1+skip2 filter2+gate2",
    measured={"summed": "embed residual"},
)
def wave_net(x):
    x, skipped = nn.Conv(6, (1,), name="embed")(x), 0.0
    for block in (1, 2):
        settings = {"padding": "CAUSAL", "kernel_dilation": block}
        y = nn.tanh(nn.Conv(6, (2,), name=f"filter{block}", **settings)(x))
        y = y * nn.sigmoid(nn.Conv(6, (2,), name=f"gate{block}", **settings)(x))
        skipped = skipped + nn.Conv(4, (1,), name=f"skip{block}")(y)
        if block == 1:  # the residual sum of the last block is not used
            x = x + nn.Conv(6, (1,), name="residual")(y)
    return nn.Conv(2, (1,), name="head")(nn.relu(skipped))


@linen(
    "SNAIL, temporal convolutions and attention",
    SEQUENCES,
    recycled="filter1+gate1 filter2+gate2 v",
    measured={"product of two activations": "q k"},
    agent="Mishra et al. 2018",
)
def snail(x):
    for block in (1, 2):
        settings = {"padding": "CAUSAL", "kernel_dilation": block}
        y = nn.tanh(nn.Conv(4, (2,), name=f"filter{block}", **settings)(x))
        y = y * nn.sigmoid(nn.Conv(4, (2,), name=f"gate{block}", **settings)(x))
        x = jnp.concatenate([x, y], -1)
    query, key, value = (nn.Dense(4, name=name)(x) for name in "qkv")
    logits = jnp.where(jnp.tril(jnp.ones((4, 4), bool)), jnp.einsum("bqd,bkd->bqk", query, key), -1e9)
    return nn.Dense(3, name="policy")(jnp.concatenate([x, nn.softmax(logits) @ value], -1))


def affine(first, second):
    """Returns the composition of two steps of a linear recurrence. A step (a, b) maps h to a h + b."""
    return first[0] * second[0], second[0] * first[1] + second[1]


@by_hand(
    "LRU, complex diagonal recurrence",
    {"radius": (6,), "phase": (6,), "b": (2, 5, 6), "c": (2, 6, 4), "d": (5, 4), "head": (4, 2)},
    SEQUENCES,
    recycled="b[0] c[0]+d",
)
def lru(params, x):
    """A linear recurrence with complex eigenvalues inside the unit circle. The head reads the real part of states."""
    eigen = jnp.exp(-jnp.exp(params["radius"]["w"]) + 1j * params["phase"]["w"])
    b, c = (params[name]["w"][0] + 1j * params[name]["w"][1] for name in "bc")
    steps = jnp.broadcast_to(eigen, (*x.shape[:2], 6))
    _, states = jax.lax.associative_scan(affine, (steps, x.astype(jnp.complex64) @ b), axis=1)
    return jax.nn.gelu((states @ c).real + x @ params["d"]["w"]) @ params["head"]["w"]


@by_hand(
    "S5 with resets",
    {"encode": (5, 8), "a": (6,), "b": (8, 6), "c": (6, 8), "skip": (8,), "gate": (8, 8), "head": (8, 2)},
    SEQUENCES,
    recycled="b",
    measured={"summed": "encode c+gate"},
    agent="Lu et al. 2023",
)
def s5(params, x):
    """Resets the state when an episode begins. Multiplies the output by a gate."""
    w = {name: leaf["w"] for name, leaf in params.items()}
    x = jax.nn.leaky_relu(x @ w["encode"])
    begins = jnp.arange(x.shape[1])[None, :, None] == 2
    steps = jnp.where(begins, 0.0, jnp.broadcast_to(jnp.exp(-jnp.exp(w["a"])), (*x.shape[:2], 6)))
    _, states = jax.lax.associative_scan(affine, (steps, x @ w["b"]), axis=1)
    y = jax.nn.gelu(states @ w["c"] + w["skip"] * x)
    return (x + y * jax.nn.sigmoid(y @ w["gate"])) @ w["head"]


@by_hand(
    "minGRU, associative scan",
    {"update": (5, 6), "candidate": (5, 6), "dense": (6, 8), "head": (8, 2)},
    SEQUENCES,
    recycled="update+candidate dense",
)
def min_gru(params, x):
    update = jax.nn.sigmoid(x @ params["update"]["w"])
    _, x = jax.lax.associative_scan(affine, (1 - update, update * (x @ params["candidate"]["w"])), axis=1)
    return jax.nn.relu(x @ params["dense"]["w"]) @ params["head"]["w"]
