"""Networks of agents that plan or learn a model, in JAX."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .case import ACTIONS, IMAGES, ROWS, SEQUENCES, flat, linen

UNIFORM = np.random.default_rng(6).gumbel(size=(6, 3, 4)).astype(np.float32)
MOVES = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]


def hidden(x, width, name, activation=nn.relu):
    return activation(nn.Dense(width, name=name)(x))


def planes(x, moves):
    """Returns a hidden state with one more plane per entry of `moves`. Every plane is constant."""
    moves = jnp.broadcast_to(moves[:, None, None], (*x.shape[:3], moves.shape[-1]))
    return jnp.concatenate([x, moves], -1)


def tower(x, name, blocks=2):
    """Returns the output of residual blocks with BatchNorm, as in AlphaZero."""
    for block in range(blocks):
        y = nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3), name=f"{name}{block}_a")(x))
        y = nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3), name=f"{name}{block}_b")(nn.relu(y)))
        x = nn.relu(x + y)
    return x


@linen(
    "AlphaZero, residual tower",
    IMAGES,
    recycled="tower0_a tower1_a policy1 value1 value2",
    measured={"summed": "stem tower0_b tower1_b"},
    agent="Silver et al. 2018",
)
def alpha_zero(x):
    def head(x, name):
        x = nn.BatchNorm(use_running_average=True)(nn.Conv(4, (1, 1), name=name)(x))
        return flat(nn.relu(x))

    x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3), name="stem")(x)))
    x = tower(x, "tower")
    policy = nn.Dense(5, name="policy2")(head(x, "policy1"))
    return policy, nn.tanh(nn.Dense(1, name="value3")(hidden(head(x, "value1"), 8, "value2")))


@linen(
    "MuZero, representation, dynamics and prediction",
    IMAGES,
    MOVES,
    recycled="r0_a d0_a reward1 value1",
    measured={"summed": "stem r0_b d_in d0_b"},
    agent="Schrittwieser et al. 2020",
)
def mu_zero(x, moves):
    """Scales the hidden states to [0, 1], per sample."""

    def scaled(x):
        low, high = x.min((1, 2, 3), keepdims=True), x.max((1, 2, 3), keepdims=True)
        return (x - low) / jnp.maximum(high - low, 1e-5)

    state = scaled(tower(nn.Conv(4, (3, 3), 2, name="stem")(x), "r", 1))
    following = tower(nn.relu(nn.Conv(4, (3, 3), name="d_in")(planes(state, moves))), "d", 1)
    reward = nn.Dense(5, name="reward2")(hidden(flat(following), 8, "reward1"))
    value = nn.Dense(5, name="value2")(hidden(flat(state), 8, "value1"))
    return value, reward, scaled(following)


@linen(
    "EfficientZero, value prefix and projection",
    IMAGES,
    recycled="r0_a reduce p1 p2 q1",
    measured={"summed": "stem r0_b", "feeds and reads": "lstm/ii+..."},
    agent="Ye et al. 2021",
)
def efficient_zero(x):
    state = tower(nn.relu(nn.Conv(4, (3, 3), 2, name="stem")(x)), "r", 1)
    steps = flat(nn.relu(nn.Conv(2, (1, 1), name="reduce")(state))).reshape(2, 2, -1)
    prefix = nn.Dense(5, name="prefix")(nn.RNN(nn.LSTMCell(6, name="lstm"))(steps))
    y = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Dense(8, name="p1")(flat(state))))
    projected = nn.BatchNorm(use_running_average=True)(nn.Dense(8, name="p2")(y))
    return prefix, nn.Dense(8, name="q2")(hidden(projected, 8, "q1"))


@linen(
    "Stochastic MuZero, afterstates and chance codes",
    ROWS,
    ACTIONS,
    recycled="after1 after2 encode1 state1",
    awake="encode2",
    agent="Antonoglou et al. 2022",
)
def stochastic_mu_zero(x, action):
    """Encodes the chance outcome as a one-hot code with straight-through gradients."""
    after = nn.Dense(6, name="after2")(hidden(jnp.concatenate([x, action], -1), 8, "after1"))
    logits = nn.Dense(4, name="encode2")(hidden(x, 8, "encode1"))
    soft = nn.softmax(logits)
    code = jax.nn.one_hot(logits.argmax(-1), 4)
    code = soft + jax.lax.stop_gradient(code - soft)
    return nn.Dense(6, name="state2")(hidden(jnp.concatenate([after, code], -1), 8, "state1"))


@linen(
    "World Models, VAE and mixture-density RNN",
    IMAGES,
    recycled="conv1 conv2 mean up1",
    measured={"mixes positions": "decode", "feeds and reads": "lstm/ii+..."},
    agent="Ha and Schmidhuber 2018",
)
def world_models(x):
    for layer in (1, 2):
        x = nn.relu(nn.Conv(4, (4, 4), 2, name=f"conv{layer}")(x))
    z = nn.Dense(4, name="mean")(flat(x))
    y = hidden(z, 9 * 4, "decode").reshape(-1, 3, 3, 4)
    y = nn.relu(nn.ConvTranspose(4, (4, 4), (2, 2), name="up1")(y))
    steps = nn.RNN(nn.LSTMCell(6, name="lstm"))(z.reshape(2, 2, 4))
    mixture = nn.Dense(2 * 4 * 3, name="mixture")(steps).reshape(2, 2, 4, 2, 3)
    return nn.sigmoid(nn.ConvTranspose(3, (4, 4), (2, 2), name="up2")(y)), nn.log_softmax(mixture[..., 0, :])


class Rssm(nn.Module):
    """One step of a recurrent state-space model with Gaussian latents (PlaNet, Dreamer)."""

    @nn.compact
    def __call__(self, state, x):
        state, _ = nn.GRUCell(6, name="gru")(state, hidden(x, 8, "in", nn.elu))
        prior = nn.Dense(2 * 3, name="prior2")(hidden(state, 8, "prior1", nn.elu))
        post = nn.Dense(2 * 3, name="post2")(hidden(jnp.concatenate([state, x], -1), 8, "post1", nn.elu))
        mean, deviation = jnp.split(post, 2, -1)
        latent = jnp.concatenate([state, mean, nn.softplus(deviation) + 0.1], -1)
        return state, (latent, prior)


@linen(
    "PlaNet and Dreamer, RSSM",
    SEQUENCES,
    recycled="rssm/in rssm/prior1 rssm/post1 reward1",
    measured={"feeds and reads": "rssm/gru/ir+...", "not zero when silent": "rssm/post2"},
    agent="Hafner et al. 2019",
)
def rssm(x):
    step = nn.scan(Rssm, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)
    _, (latent, prior) = step(name="rssm")(jnp.zeros((len(x), 6)), x)
    return nn.Dense(1, name="reward2")(hidden(latent, 8, "reward1", nn.elu)), prior


@linen(
    "DreamerV2, discrete latents",
    ROWS,
    UNIFORM,
    recycled="encode post1 dense1",
    awake="post2",
    measured={"feeds and reads": "start+gru"},
    agent="Hafner et al. 2021",
)
def dreamer_v2(x, gumbel):
    """Latents are one-hot samples with straight-through gradients. A GRU with LayerNorm reads them."""
    y = hidden(hidden(x, 8, "encode", nn.elu), 8, "post1", nn.elu)
    logits = nn.Dense(3 * 4, name="post2")(y).reshape(-1, 3, 4)
    soft = nn.softmax(logits)
    sample = jax.nn.one_hot((logits + gumbel).argmax(-1), 4)
    sample = flat(soft + jax.lax.stop_gradient(sample - soft))
    state = nn.tanh(nn.Dense(6, name="start")(x))
    parts = nn.LayerNorm()(nn.Dense(18, use_bias=False, name="gru")(jnp.concatenate([sample, state], -1)))
    reset, candidate, update = jnp.split(parts, 3, -1)
    update = nn.sigmoid(update - 1)
    state = update * nn.tanh(nn.sigmoid(reset) * candidate) + (1 - update) * state
    return nn.Dense(1, name="reward")(hidden(jnp.concatenate([state, sample], -1), 8, "dense1", nn.elu))


def symlog(x):
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


@linen(
    "DreamerV3, encoder, two-hot heads",
    ROWS,
    coupled="encode1 encode2 reward1",
    measured={"not zero when silent": "logits"},
    agent="Hafner et al. 2023",
)
def dreamer_v3(x):
    """Uses RMSNorm, SiLU and symlog inputs. The value is an expectation over symexp bins."""

    def layer(x, width, name):
        return nn.silu(nn.RMSNorm(name=f"{name}_norm")(nn.Dense(width, name=name)(x)))

    x = layer(layer(symlog(x), 8, "encode1"), 8, "encode2")
    logits = nn.Dense(3 * 4, name="logits")(x).reshape(-1, 3, 4)
    probabilities = flat(0.99 * nn.softmax(logits) + 0.01 / 4)
    bins = jnp.sinh(jnp.linspace(-2, 2, 5))
    return nn.softmax(nn.Dense(5, name="reward2")(layer(probabilities, 8, "reward1"))) @ bins


@linen(
    "DreamerV3, convolutional encoder and decoder",
    IMAGES,
    coupled="conv1 conv2 up1",
    measured={"mixes positions": "decode"},
    agent="Hafner et al. 2023",
)
def dreamer_v3_images(x):
    for layer in (1, 2):
        x = nn.silu(nn.RMSNorm(name=f"norm{layer}")(nn.Conv(4, (4, 4), 2, name=f"conv{layer}")(x)))
    y = nn.Dense(9 * 4, name="decode")(flat(x)).reshape(-1, 3, 3, 4)
    y = nn.silu(nn.RMSNorm(name="norm3")(y))
    y = nn.silu(nn.RMSNorm(name="norm4")(nn.ConvTranspose(4, (4, 4), (2, 2), name="up1")(y)))
    return nn.sigmoid(nn.ConvTranspose(3, (4, 4), (2, 2), name="up2")(y))


@linen("TD-MPC", ROWS, ACTIONS, recycled="encode1 encode2 dynamics1 q2", coupled="q1", agent="Hansen et al. 2022")
def td_mpc(x, action):
    z = nn.Dense(6, name="encode2")(hidden(x, 8, "encode1", nn.elu))
    za = jnp.concatenate([z, action], -1)
    following = nn.Dense(6, name="dynamics2")(hidden(za, 8, "dynamics1", nn.elu))
    q = nn.tanh(nn.LayerNorm()(nn.Dense(8, name="q1")(za)))
    return following, nn.Dense(1, name="q3")(hidden(q, 8, "q2", nn.elu))


@linen(
    "TD-MPC2, SimNorm and Mish",
    ROWS,
    ACTIONS,
    awake="encode2",
    coupled="encode1 dynamics1 q1 q2",
    agent="Hansen et al. 2024",
)
def td_mpc2(x, action):
    """A softmax over groups of four normalises the latent state."""

    def layer(x, width, name):
        return jax.nn.mish(nn.LayerNorm(name=f"{name}_norm")(nn.Dense(width, name=name)(x)))

    def latent(x, name):
        x = nn.LayerNorm(name=f"{name}_norm")(nn.Dense(8, name=name)(x))
        return nn.softmax(x.reshape(-1, 2, 4)).reshape(-1, 8)

    z = latent(layer(x, 8, "encode1"), "encode2")
    za = jnp.concatenate([z, action], -1)
    following = latent(layer(za, 8, "dynamics1"), "dynamics2")
    return following, nn.Dense(5, name="q3")(layer(layer(za, 8, "q1"), 8, "q2"))


@linen(
    "PETS and MBPO, probabilistic dynamics", ROWS, ACTIONS, recycled="dense1 dense2 dense3", agent="Chua et al. 2018"
)
def probabilistic_dynamics(x, action):
    y = jnp.concatenate([x, action], -1)
    for layer in (1, 2, 3):
        y = hidden(y, 8, f"dense{layer}", nn.swish)
    mean, log_var = jnp.split(nn.Dense(10, name="moments")(y), 2, -1)
    log_var = 0.5 - nn.softplus(0.5 - log_var)
    return x + mean, jnp.exp(-10 + nn.softplus(log_var + 10))


@linen(
    "Value iteration network",
    IMAGES,
    recycled="conv",
    measured={"has another use": "reward", "without weights of its own": "plan"},
    agent="Tamar et al. 2016",
)
def value_iteration(x):
    """Applies one convolution several times. After each time, takes the maximum over channels."""
    reward = nn.Conv(1, (1, 1), use_bias=False, name="reward")(nn.relu(nn.Conv(6, (3, 3), name="conv")(x)))
    plan = nn.Conv(4, (3, 3), use_bias=False, name="plan")
    value = jnp.zeros_like(reward)
    for _ in range(3):
        value = plan(jnp.concatenate([reward, value], -1)).max(-1, keepdims=True)
    return nn.Dense(3, name="head")(plan(jnp.concatenate([reward, value], -1))[:, 6, 6])


@linen(
    "SimPLe, U-Net of the next frame",
    IMAGES,
    MOVES,
    recycled="down1+action1 down2+action2 up1",
    agent="Kaiser et al. 2020",
)
def simple(x, moves):
    """A function of the action multiplies the channels of two layers."""

    def conditioned(x, name):
        return x * nn.sigmoid(nn.Dense(x.shape[-1], name=name)(moves))[:, None, None]

    first = nn.relu(nn.Conv(4, (3, 3), 2, name="down1")(x))
    second = nn.relu(nn.Conv(4, (3, 3), 2, name="down2")(conditioned(first, "action1")))
    y = nn.relu(nn.ConvTranspose(4, (3, 3), (2, 2), name="up1")(conditioned(second, "action2")))
    y = jnp.concatenate([y, first], -1)
    return nn.ConvTranspose(3, (3, 3), (2, 2), name="up2")(y)


@linen(
    "DIAMOND, diffusion U-Net with adaptive norms",
    IMAGES,
    MOVES,
    recycled="condition1 up",
    measured={"summed": "stem+down_adapt down+..."},
    agent="Alonso et al. 2024",
)
def diamond(x, moves):
    condition = hidden(moves, 6, "condition1", nn.silu)

    def block(x, width, name):
        scale, shift = jnp.split(nn.Dense(2 * x.shape[-1], name=f"{name}_adapt")(condition)[:, None, None], 2, -1)
        y = nn.GroupNorm(2, use_bias=False, use_scale=False, name=f"{name}_norm")(x) * (1 + scale) + shift
        return nn.Conv(width, (3, 3), name=name)(nn.silu(y))

    x = nn.Conv(4, (3, 3), name="stem")(x)
    inner = block(x, 4, "down") + x
    low = nn.avg_pool(inner, (2, 2), (2, 2))
    low = block(low, 4, "middle") + low
    high = jnp.repeat(jnp.repeat(low, 2, 1), 2, 2)
    return nn.Conv(3, (3, 3), name="out")(nn.silu(block(jnp.concatenate([high, inner], -1), 4, "up")))


@linen(
    "IRIS, VQ-VAE of frames",
    IMAGES,
    recycled="conv1 up1",
    measured={"an index chooses which part of params/codes/embedding feeds it": "conv2"},
    agent="Micheli et al. 2023",
)
def vq_vae(x):
    """Replaces each position's vector by the nearest code, with straight-through gradients."""
    z = nn.Conv(4, (3, 3), 2, name="conv2")(nn.relu(nn.Conv(6, (3, 3), 2, name="conv1")(x)))
    codes = nn.Embed(5, 4, name="codes")
    distances = jnp.square(z[..., None, :] - codes.embedding).sum(-1)
    chosen = codes(distances.argmin(-1))
    z = z + jax.lax.stop_gradient(chosen - z)
    y = nn.relu(nn.ConvTranspose(6, (3, 3), (2, 2), name="up1")(z))
    return nn.ConvTranspose(3, (3, 3), (2, 2), name="up2")(y)
