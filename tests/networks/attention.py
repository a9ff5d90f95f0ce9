"""Transformers and other attention in JAX."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from .case import IMAGES, SEQUENCES, linen

TOKENS = np.array([[0, 1, 2, 3], [4, 5, 6, 0], [1, 3, 5, 2]])


def hidden(x, width, name, activation=nn.relu):
    return activation(nn.Dense(width, name=name)(x))


def attend(x, name, mask=None, heads=2):
    """Returns the output of multi-head self-attention. Uses only dense layers, not Flax's attention."""
    shape = (*x.shape[:-1], heads, x.shape[-1] // heads)
    query, key, value = (nn.Dense(x.shape[-1], name=f"{name}_{part}")(x).reshape(shape) for part in "qkv")
    logits = jnp.einsum("...qhd,...khd->...hqk", query, key) / jnp.sqrt(shape[-1])
    weights = nn.softmax(logits if mask is None else jnp.where(mask, logits, -1e9))
    mixed = jnp.einsum("...hqk,...khd->...qhd", weights, value)
    return nn.Dense(x.shape[-1], name=f"{name}_out")(mixed.reshape(x.shape))


def causal(length):
    return jnp.tril(jnp.ones((length, length), bool))


def feed_forward(x, name, activation=nn.relu):
    return nn.Dense(x.shape[-1], name=f"{name}_down")(hidden(x, 16, f"{name}_up", activation))


class Gate(nn.Module):
    """A gate like that in a GRU. It replaces a residual sum."""

    @nn.compact
    def __call__(self, x, y):
        width = x.shape[-1]
        reset = nn.sigmoid(nn.Dense(width, name="wr")(y) + nn.Dense(width, use_bias=False, name="ur")(x))
        update = nn.sigmoid(nn.Dense(width, name="wz")(y) + nn.Dense(width, use_bias=False, name="uz")(x) - 2)
        candidate = nn.tanh(nn.Dense(width, name="wg")(y) + nn.Dense(width, use_bias=False, name="ug")(reset * x))
        return (1 - update) * x + update * candidate


@linen(
    "GTrXL, gated transformer",
    SEQUENCES,
    recycled="attention_v attention_out mlp_up mlp_down",
    measured={"feeds and reads": "embed+...", "product of two activations": "attention_q attention_k"},
    agent="Parisotto et al. 2020",
)
def gtrxl(x):
    x = nn.Dense(8, name="embed")(x)
    x = Gate(name="gate1")(x, nn.relu(attend(nn.LayerNorm()(x), "attention", causal(4))))
    x = Gate(name="gate2")(x, nn.relu(feed_forward(nn.LayerNorm()(x), "mlp")))
    return nn.Dense(3, name="policy")(x), nn.Dense(1, name="value")(x)


@linen(
    "Decision Transformer",
    SEQUENCES,
    recycled="attention_v mlp_up",
    measured={
        "summed": "return state act attention_out mlp_down",
        "product of two activations": "attention_q attention_k",
    },
    agent="Chen et al. 2021",
)
def decision_transformer(x):
    """The sequence has a return, a state and an action token per step. The head reads only the state tokens."""
    tokens = [
        nn.Dense(8, name=name)(part) for name, part in (("return", x[..., :1]), ("state", x), ("act", x[..., :2]))
    ]
    times = nn.Embed(4, 8, name="times")(jnp.arange(4))
    x = jnp.stack([token + times for token in tokens], 2).reshape(len(x), 12, 8)
    x = nn.LayerNorm()(x)
    x = x + attend(nn.LayerNorm()(x), "attention", causal(12))
    x = x + feed_forward(nn.LayerNorm()(x), "mlp", nn.gelu)
    return nn.tanh(nn.Dense(2, name="action")(nn.LayerNorm()(x)[:, 1::3]))


@linen(
    "Trajectory Transformer",
    TOKENS,
    recycled="attention_v mlp_up",
    measured={"product of two activations": "attention_q attention_k", "summed": "attention_out mlp_down"},
    agent="Janner et al. 2021",
)
def trajectory_transformer(tokens):
    """Embeds discrete tokens. Each of two dimensions has its own head."""
    x = nn.Embed(7, 8, name="tokens")(tokens) + nn.Embed(4, 8, name="places")(jnp.arange(4))
    x = x + attend(nn.LayerNorm()(x), "attention", causal(4))
    x = nn.LayerNorm()(x + feed_forward(nn.LayerNorm()(x), "mlp", nn.gelu)).reshape(-1, 2, 2, 8)
    return jnp.stack([nn.Dense(7, name=f"head{k}")(x[:, :, k]) for k in (0, 1)], 2)


@linen(
    "Gato-like, patches and tokens",
    IMAGES,
    recycled="patch_up attention_v geglu mlp_down",
    measured={"summed": "patches patch_down attention_out", "product of two activations": "attention_q attention_k"},
    agent="Reed et al. 2022",
)
def gato(x):
    patches = nn.Conv(8, (4, 4), 4, name="patches")(x).reshape(len(x), 9, 8)
    patches = patches + feed_forward(nn.GroupNorm(2)(patches), "patch", nn.gelu)
    tokens = nn.Embed(5, 8, name="tokens")(jnp.array([[0, 1], [2, 3], [4, 0], [1, 2]]))
    x = jnp.concatenate([patches, tokens], 1)
    gate, up = jnp.split(nn.Dense(32, name="geglu")(nn.LayerNorm()(x + attend(nn.LayerNorm()(x), "attention"))), 2, -1)
    return nn.Dense(5, name="head")(nn.Dense(8, name="mlp_down")(nn.gelu(gate) * up)[:, -1])


@linen(
    "Perceiver, latents that attend",
    SEQUENCES,
    recycled="v mlp_up",
    measured={
        "params/LayerNorm_0/bias (in 'dot_general') is in q's kernel in a way that is not followed": "k",
        "computes weights for sums of v": "q",
        "summed": "out mlp_down",
    },
)
def perceiver(x):
    latents = jnp.broadcast_to(nn.Embed(3, 8, name="latents")(jnp.arange(3)), (len(x), 3, 8))
    keys, values = nn.Dense(8, name="k")(x), nn.Dense(8, name="v")(x)
    query = nn.Dense(8, name="q")(nn.LayerNorm()(latents))
    weights = nn.softmax(jnp.einsum("bqd,bkd->bqk", query, keys))
    latents = latents + nn.Dense(8, name="out")(weights @ values)
    latents = latents + feed_forward(nn.LayerNorm()(latents), "mlp", nn.gelu)
    return nn.Dense(3, name="head")(latents.mean(1))


@linen(
    "soft mixture of experts in DQN",
    IMAGES,
    recycled="conv1",
    measured={"product of two activations": "conv2 slots expert0 expert1"},
    agent="Obando-Ceron et al. 2024",
)
def soft_experts(x):
    """Soft MoE. The tokens are the positions of the last convolution. Each expert reads a mixture of tokens."""
    x = nn.relu(nn.Conv(6, (4, 4), 2, name="conv1")(x))
    tokens = nn.relu(nn.Conv(6, (3, 3), 2, name="conv2")(x)).reshape(len(x), 9, 6)
    logits = nn.Dense(2, use_bias=False, name="slots")(tokens)
    mixed = jnp.einsum("bts,btd->bsd", nn.softmax(logits, 1), tokens)
    experts = jnp.stack([hidden(mixed[:, k], 8, f"expert{k}") for k in (0, 1)], 1)
    return nn.Dense(3, name="head")(jnp.einsum("bts,bsd->btd", nn.softmax(logits, 2), experts).mean(1))


@linen(
    "relational agent",
    IMAGES,
    recycled="conv1 attention_v dense",
    measured={"summed": "conv2 attention_out", "product of two activations": "attention_q attention_k"},
    agent="Zambaldi et al. 2019",
)
def relational(x):
    """Applies attention to the positions of an image with their coordinates, then takes the maximum over positions."""
    x = nn.relu(nn.Conv(4, (3, 3), 2, name="conv1")(x))
    x = nn.relu(nn.Conv(6, (3, 3), 2, name="conv2")(x)).reshape(len(x), 9, 6)
    places = jnp.stack(jnp.meshgrid(jnp.linspace(-1, 1, 3), jnp.linspace(-1, 1, 3)), -1).reshape(1, 9, 2)
    x = jnp.concatenate([x, jnp.broadcast_to(places, (len(x), 9, 2))], -1)
    x = nn.LayerNorm()(x + attend(x, "attention"))
    return nn.Dense(3, name="policy")(hidden(x.max(1), 8, "dense"))


@linen(
    "PaLM-like parallel blocks",
    SEQUENCES,
    recycled="gate1+up1 attention1_v gate2+up2 attention2_v",
    measured={
        "summed": "embed attention1_out+down1 attention2_out+down2",
        "product of two activations": "attention1_q attention1_k attention2_q attention2_k",
    },
)
def parallel_blocks(x):
    """Attention and feed-forward layers read the same normalised input. Their outputs are summed."""
    x = nn.Dense(8, name="embed")(x)
    for block in (1, 2):
        y = nn.RMSNorm()(x)
        inner = nn.silu(nn.Dense(16, name=f"gate{block}")(y)) * nn.Dense(16, name=f"up{block}")(y)
        x = x + attend(y, f"attention{block}", causal(4)) + nn.Dense(8, name=f"down{block}")(inner)
    return nn.Dense(2, name="head")(x)


@linen(
    "linear transformer",
    SEQUENCES,
    recycled="mlp_up",
    measured={"summed": "embed out mlp_down", "product of two activations": "q+k v"},
)
def linear_transformer(x):
    x = nn.Dense(8, name="embed")(x)
    query, key = (nn.elu(nn.Dense(8, name=name)(x)) + 1 for name in "qk")
    value = nn.Dense(8, name="v")(x)
    memory = jnp.cumsum(jnp.einsum("btd,bte->btde", key, value), 1)
    top, bottom = jnp.einsum("btd,btde->bte", query, memory), (query * key.cumsum(1)).sum(-1, keepdims=True)
    x = x + nn.Dense(8, name="out")(top / bottom)
    return nn.Dense(2, name="head")(x + feed_forward(nn.LayerNorm()(x), "mlp"))


@linen(
    "RetNet, retention with decay",
    SEQUENCES,
    recycled="mlp_up",
    coupled="v+gate",
    measured={"summed": "embed out mlp_down", "product of two activations": "q k"},
)
def retention(x):
    x = nn.Dense(8, name="embed")(x)
    distance = jnp.arange(4)[:, None] - jnp.arange(4)
    decay = jnp.where(distance >= 0, 0.9 ** jnp.maximum(distance, 0), 0.0)
    query, key, value = (nn.Dense(8, name=name)(x) for name in "qkv")
    kept = (jnp.einsum("bqd,bkd->bqk", query, key) * decay) @ value
    kept = nn.GroupNorm(2)(kept.reshape(-1, 8)).reshape(x.shape)
    x = x + nn.Dense(8, name="out")(nn.silu(nn.Dense(8, name="gate")(x)) * kept)
    return nn.Dense(2, name="head")(x + feed_forward(nn.LayerNorm()(x), "mlp", nn.gelu))


@linen(
    "transformer block",
    SEQUENCES,
    recycled="attention/value mlp",
    measured={"summed": "embed attention/out out", "product of two activations": "attention/query attention/key"},
)
def transformer(x):
    x = nn.Dense(8, name="embed")(x)
    x = x + nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(nn.LayerNorm()(x))
    x = x + nn.Dense(8, name="out")(nn.gelu(nn.Dense(16, name="mlp")(nn.LayerNorm()(x))))
    return nn.Dense(2, name="head")(x.mean(1))
