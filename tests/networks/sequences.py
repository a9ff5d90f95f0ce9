"""Recurrent and attention networks in JAX."""

import flax.linen as nn

from .case import SEQUENCES, linen

GRU = "gru/ir+gru/hr+gru/iz+gru/hz+gru/in+gru/hn"
LSTM = "lstm/ii+lstm/hi+lstm/if+lstm/hf+lstm/ig+lstm/hg+lstm/io+lstm/ho"


@linen(
    "GRU inside a scan",
    SEQUENCES,
    recycled="dense1 dense2",
    measured={"both feeds and reads it": GRU},
)
def gru(x):
    x = nn.RNN(nn.GRUCell(6, name="gru"))(nn.relu(nn.Dense(8, name="dense1")(x)))
    return nn.Dense(2, name="head")(nn.relu(nn.Dense(6, name="dense2")(x)))


@linen("LSTM inside a scan", SEQUENCES, recycled="dense1 dense2", measured={"both feeds and reads it": LSTM})
def lstm(x):
    x = nn.RNN(nn.LSTMCell(6, name="lstm"))(nn.relu(nn.Dense(8, name="dense1")(x)))
    return nn.Dense(2, name="head")(nn.relu(nn.Dense(6, name="dense2")(x)))


@linen(
    "transformer block",
    SEQUENCES,
    recycled="mlp attention/value",
    measured={
        "summed with attention/out": "embed out",
        "enters a product of two activations": "attention/query attention/key",
        "summed with embed": "attention/out",
    },
)
def transformer(x):
    x = nn.Dense(8, name="embed")(x)
    x = x + nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(nn.LayerNorm()(x))
    x = x + nn.Dense(8, name="out")(nn.gelu(nn.Dense(16, name="mlp")(nn.LayerNorm()(x))))
    return nn.Dense(2, name="head")(x.mean(1))
