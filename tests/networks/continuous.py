"""Networks of agents for continuous control, in JAX."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .case import ACTIONS, IMAGES, ROWS, Case, by_hand, flat, flax, linen, promises
from .dense import members, stacked

KEPT = np.random.default_rng(0).uniform(size=(6, 8)) < 0.9  # mask of the units that dropout keeps


def hidden(x, width, name, activation=nn.relu):
    return activation(nn.Dense(width, name=name)(x))


def critic(x, name="", activation=nn.relu):
    x = hidden(hidden(x, 8, f"{name}dense1", activation), 8, f"{name}dense2", activation)
    return nn.Dense(1, name=f"{name}value")(x)


def both(observation, action):
    return jnp.concatenate([observation, action], -1)


@linen(
    "TD3, actor and twin critics",
    ROWS,
    recycled="dense1 dense2 q1_dense1 q1_dense2 q2_dense1 q2_dense2",
    measured={"also returns": "mean"},
    agent="Fujimoto et al. 2018",
)
def td3(x):
    action = nn.tanh(nn.Dense(2, name="mean")(hidden(hidden(x, 8, "dense1"), 8, "dense2")))
    return action, [critic(both(x, action), name) for name in ("q1_", "q2_")]


@linen("DDPG, critic with a late action", ROWS, ACTIONS, recycled="dense1 dense2", agent="Lillicrap et al. 2016")
def ddpg(x, action):
    x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Dense(8, name="dense1")(x)))
    return nn.Dense(1, name="value")(hidden(both(x, action), 8, "dense2"))


@linen("D4PG, categorical critic", ROWS, ACTIONS, coupled="dense1", recycled="dense2", agent="Barth-Maron et al. 2018")
def d4pg(x, action):
    x = nn.tanh(nn.LayerNorm()(nn.Dense(8, name="dense1")(both(x, action))))
    return nn.softmax(nn.Dense(5, name="atoms")(hidden(x, 8, "dense2", nn.elu)))


@linen("MPO, Gaussian policy", ROWS, recycled="dense2", coupled="dense1", agent="Abdolmaleki et al. 2018")
def mpo(x):
    """Outputs the mean and the Cholesky factor of the covariance, a lower triangular matrix."""
    x = nn.tanh(nn.LayerNorm()(nn.Dense(8, name="dense1")(x)))
    x = hidden(x, 8, "dense2", nn.elu)
    factor = nn.Dense(3, name="factor")(x)
    lower = jnp.zeros((len(x), 2, 2)).at[:, [0, 1, 1], [0, 0, 1]].set(factor)
    return nn.Dense(2, name="mean")(x), lower


class QCritic(nn.Module):
    @nn.compact
    def __call__(self, x):
        return critic(x)


redq = Case(
    "REDQ, ensemble of critics",
    flax(stacked(QCritic, 4), ROWS),
    (ROWS,),
    promises(recycled=members("dense1 dense2", 4)),
    agent="Chen et al. 2021",
)


@linen("DroQ, dropout and LayerNorm", ROWS, ACTIONS, KEPT, coupled="dense1 dense2", agent="Hiraoka et al. 2022")
def droq(x, action, kept):
    x = both(x, action)
    for layer in (1, 2):
        x = jnp.where(kept, nn.Dense(8, name=f"dense{layer}")(x) / 0.9, 0)
        x = nn.relu(nn.LayerNorm(name=f"norm{layer}")(x))
    return nn.Dense(1, name="value")(x)


@linen(
    "TQC, truncated quantiles",
    ROWS,
    ACTIONS,
    recycled="a_dense1 a_dense2 b_dense1 b_dense2 c_dense1 c_dense2",
    agent="Kuznetsov et al. 2020",
)
def tqc(x, action):
    heads = []
    for name in "abc":
        y = hidden(hidden(both(x, action), 8, f"{name}_dense1"), 8, f"{name}_dense2")
        heads.append(nn.Dense(5, name=f"{name}_quantiles")(y))
    return jnp.sort(jnp.concatenate(heads, -1), -1)[:, :-2].mean(-1)


def average_l1(x):
    return x / jnp.maximum(jnp.abs(x).mean(-1, keepdims=True), 1e-8)


@linen(
    "TD7, SALE embeddings",
    ROWS,
    ACTIONS,
    recycled="zs1 zsa1 q_dense1 q_dense2",
    coupled="q0",
    measured={"summed": "zs2 zsa2"},
    agent="Fujimoto et al. 2023",
)
def td7(x, action):
    """The critic reads the embedding of the state, the embedding of state and action, and the projected input."""
    zs = average_l1(nn.Dense(6, name="zs2")(hidden(x, 8, "zs1", nn.elu)))
    zsa = nn.Dense(6, name="zsa2")(hidden(both(zs, action), 8, "zsa1", nn.elu))
    projected = average_l1(nn.Dense(8, name="q0")(both(x, action)))
    return critic(jnp.concatenate([projected, zs, zsa], -1), "q_", nn.elu), jnp.square(zsa - jnp.roll(zs, -1, 0))


@linen(
    "CrossQ, BatchNorm before each layer",
    ROWS,
    ACTIONS,
    measured={"not zero when silent": "dense1 dense2"},
    agent="Bhatt et al. 2024",
)
def crossq(x, action):
    x = nn.BatchNorm(use_running_average=True, name="norm0")(both(x, action))
    for layer in (1, 2):
        x = nn.relu(nn.Dense(8, name=f"dense{layer}")(x))
        x = nn.BatchNorm(use_running_average=True, name=f"norm{layer}")(x)
    return nn.Dense(1, name="value")(x)


@linen(
    "BRO, BroNet",
    ROWS,
    ACTIONS,
    coupled="first1 first2",
    measured={"summed": "embed second1 second2"},
    agent="Nauman et al. 2024",
)
def bro(x, action):
    x = nn.relu(nn.LayerNorm()(nn.Dense(8, name="embed")(both(x, action))))
    for block in (1, 2):
        y = nn.relu(nn.LayerNorm()(nn.Dense(8, name=f"first{block}")(x)))
        x = x + nn.LayerNorm()(nn.Dense(8, name=f"second{block}")(y))
    return nn.Dense(5, name="quantiles")(x)


def unit(x):
    return x / jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-8)


class Scaler(nn.Module):
    """A learned scale for each feature."""

    @nn.compact
    def __call__(self, x):
        return x * self.param("scaler", nn.initializers.ones, (x.shape[-1],))


class Lerp(nn.Module):
    """A learned interpolation between two vectors. Scales the result to length one."""

    @nn.compact
    def __call__(self, x, y):
        return unit(x + self.param("alpha", nn.initializers.ones, (x.shape[-1],)) * (y - x))


@linen(
    "SimBaV2, hyperspherical",
    ROWS,
    ACTIONS,
    recycled="dense",
    measured={"summed": "embed down1 down2", "not zero when silent": "up1 up2"},
    agent="Lee et al. 2025",
)
def simba_v2(x, action):
    x = both(x, action)
    x = unit(jnp.concatenate([x, jnp.full((len(x), 1), 3.0)], -1))
    x = unit(Scaler()(nn.Dense(8, use_bias=False, name="embed")(x)))
    for block in (1, 2):
        y = nn.relu(Scaler()(nn.Dense(16, use_bias=False, name=f"up{block}")(x))) + 1e-8
        x = Lerp()(x, unit(nn.Dense(8, use_bias=False, name=f"down{block}")(y)))
    return nn.softmax(nn.Dense(5, name="atoms")(Scaler()(nn.Dense(8, use_bias=False, name="dense")(x))))


def pixels(x):
    """Returns the features of the image encoder of DrQ-v2."""
    for layer, stride in ((1, 2), (2, 1), (3, 1)):
        x = nn.relu(nn.Conv(4, (3, 3), stride, padding="VALID", name=f"conv{layer}")(x))
    return flat(x)


@linen(
    "DrQ-v2, critic from pixels",
    IMAGES,
    ACTIONS[:4],
    recycled="conv1 conv2 conv3 q1_dense1 q1_dense2 q2_dense1 q2_dense2",
    coupled="trunk",
    agent="Yarats et al. 2022",
)
def drq_v2(x, action):
    x = nn.tanh(nn.LayerNorm()(nn.Dense(6, name="trunk")(pixels(x))))
    return critic(both(x, action), "q1_"), critic(both(x, action), "q2_")


@linen(
    "CURL, bilinear similarity",
    IMAGES,
    recycled="conv1 conv2 conv3 actor1",
    measured={"product of two activations": "trunk similarity"},
    agent="Laskin et al. 2020",
)
def curl(x):
    """Outputs a similarity for each pair of images, for a contrastive loss. The actor shares the encoder."""
    z = nn.tanh(nn.LayerNorm()(nn.Dense(6, name="trunk")(pixels(x))))
    logits = nn.Dense(6, use_bias=False, name="similarity")(z) @ jax.lax.stop_gradient(z).T
    return logits - logits.max(1, keepdims=True), nn.Dense(2, name="actor2")(hidden(z, 8, "actor1"))


@linen(
    "SAC+AE, encoder and decoder",
    IMAGES,
    recycled="conv1 conv2 conv3 up1",
    coupled="trunk",
    measured={"mixes positions": "decode"},
    agent="Yarats et al. 2021",
)
def sac_ae(x):
    z = nn.tanh(nn.LayerNorm()(nn.Dense(6, name="trunk")(pixels(x))))
    y = hidden(z, 6 * 6 * 4, "decode").reshape(-1, 6, 6, 4)
    y = nn.relu(nn.ConvTranspose(4, (3, 3), name="up1")(y))
    return nn.ConvTranspose(3, (3, 3), (2, 2), name="up2")(y)


@linen(
    "QT-Opt, action added over space",
    IMAGES,
    ACTIONS[:4],
    recycled="conv1+action2 action1 conv2 dense",
    agent="Kalashnikov et al. 2018",
)
def qt_opt(x, action):
    x = nn.relu(nn.Conv(6, (3, 3), 2, name="conv1")(x))
    action = hidden(hidden(action, 8, "action1"), 6, "action2")
    x = nn.relu(nn.Conv(6, (3, 3), name="conv2")(x + action[:, None, None]))
    return nn.sigmoid(nn.Dense(1, name="value")(hidden(flat(x), 8, "dense")))


@linen(
    "NAF, quadratic advantage",
    ROWS,
    ACTIONS,
    recycled="dense1 dense2",
    measured={"product of two activations": "lower mean"},
    agent="Gu et al. 2016",
)
def naf(x, action):
    x = hidden(hidden(x, 8, "dense1"), 8, "dense2")
    lower = jnp.tril(nn.Dense(4, name="lower")(x).reshape(-1, 2, 2))
    distance = action - nn.tanh(nn.Dense(2, name="mean")(x))
    scaled = jnp.einsum("bij,bi->bj", lower, distance)
    return nn.Dense(1, name="value")(x)[:, 0] - 0.5 * jnp.square(scaled).sum(-1)


@linen("D2RL, inputs to every layer", ROWS, ACTIONS, recycled="dense1 dense2 dense3", agent="Sinha et al. 2020")
def d2rl(x, action):
    x = y = both(x, action)
    for layer in (1, 2, 3):
        y = hidden(y if layer == 1 else both(y, x), 8, f"dense{layer}")
    return nn.Dense(1, name="value")(y)


@linen("OFENet, dense connections", ROWS, ACTIONS, recycled="dense1 dense2 dense3", agent="Ota et al. 2020")
def ofenet(x, action):
    x = both(x, action)
    for layer in (1, 2, 3):
        y = nn.BatchNorm(use_running_average=True)(nn.Dense(4, name=f"dense{layer}")(x))
        x = both(x, nn.swish(y))
    return nn.Dense(5, name="following")(x)


@linen(
    "learned Fourier features, critic",
    ROWS,
    ACTIONS,
    awake="frequencies",
    recycled="dense1 dense2",
    agent="Li and Pathak 2021",
)
def fourier(x, action):
    x = jnp.pi * nn.Dense(8, name="frequencies")(both(x, action))
    return critic(jnp.concatenate([jnp.sin(x), jnp.cos(x)], -1))


@linen(
    "MR.Q, encoders and linear value",
    ROWS,
    ACTIONS,
    recycled="za zsa1 zsa2",
    awake="zs1 zs2",
    agent="Fujimoto et al. 2025",
)
def mr_q(x, action):
    for layer in (1, 2):
        x = nn.elu(nn.LayerNorm(use_bias=False, use_scale=False)(nn.Dense(8, name=f"zs{layer}")(x)))
    zsa = hidden(both(x, hidden(action, 4, "za", nn.elu)), 8, "zsa1", nn.elu)
    zsa = nn.Dense(8, name="zsa2")(zsa)
    return nn.Dense(1, name="value")(zsa), nn.Dense(8, name="model")(zsa)


@linen(
    "HIRO, subgoals",
    ROWS,
    recycled="high1 high2 low1 low2",
    measured={"also returns": "goal"},
    agent="Nachum et al. 2018",
)
def hiro(x):
    """The high-level policy outputs a goal. The low-level policy reads the observation and the goal."""
    goal = 2.0 * nn.tanh(nn.Dense(5, name="goal")(hidden(hidden(x, 8, "high1"), 8, "high2")))
    y = hidden(hidden(both(x, goal), 8, "low1"), 8, "low2")
    return nn.tanh(nn.Dense(2, name="mean")(y)), jnp.sqrt(jnp.square(x + goal - jnp.roll(x, -1, 0)).sum(-1))


@linen("HER, critic with a goal", ROWS, ROWS[::-1], ACTIONS, recycled="dense1 dense2", agent="Andrychowicz et al. 2017")
def her(x, goal, action):
    """Normalises the observation and the goal with running statistics, and clips them."""
    normal = [jnp.clip((one - 0.1) / 1.3, -5, 5) for one in (x, goal)]
    return critic(jnp.concatenate([*normal, action], -1))


def ensemble(params, x):
    """Returns the outputs of an ensemble. Kernels are [member, input, output], and biases are [member, 1, output]."""
    x = jnp.broadcast_to(x, (4, *x.shape))
    for layer in (1, 2):
        x = jax.nn.relu(jnp.einsum("nbi,nio->nbo", x, params[f"w{layer}"]["w"]) + params[f"b{layer}"]["w"])
    return jnp.einsum("nbi,nio->nbo", x, params["w3"]["w"]) + params["b3"]["w"]


edac = by_hand(
    "EDAC, batched ensemble",
    {"w1": (4, 5, 8), "b1": (4, 1, 8), "w2": (4, 8, 8), "b2": (4, 1, 8), "w3": (4, 8, 1), "b3": (4, 1, 1)},
    ROWS,
    recycled=members("w1 w2", 4),
    agent="An et al. 2021",
)(ensemble)
