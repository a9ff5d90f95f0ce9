"""Networks of value-based agents for Atari, in JAX."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .case import FRACTIONS, IMAGES, ROWS, flat, linen

ACTIONS, ATOMS = 3, 4
NOISE = np.random.default_rng(5).normal(size=(2, 64)).astype(np.float32)


def nature(x):
    """Returns the flattened output of the Nature CNN's convolutions."""
    for name, features, size, stride in (("conv1", 8, 4, 2), ("conv2", 6, 3, 1), ("conv3", 6, 3, 1)):
        x = nn.relu(nn.Conv(features, (size, size), stride, padding="VALID", name=name)(x))
    return flat(x)


def hidden(x, width, name):
    return nn.relu(nn.Dense(width, name=name)(x))


def dueling(value, advantage):
    return value + advantage - advantage.mean(1, keepdims=True)


@linen("DQN", IMAGES, recycled="conv1 conv2 conv3 dense", agent="Mnih et al. 2015")
def dqn(x):
    return nn.Dense(ACTIONS, name="head")(hidden(nature(x), 16, "dense"))


@linen("Dueling DQN", IMAGES, recycled="conv1 conv2 conv3 value1 advantage1", agent="Wang et al. 2016")
def dueling_dqn(x):
    x = nature(x)
    value = nn.Dense(1, name="value2")(hidden(x, 8, "value1"))
    return dueling(value, nn.Dense(ACTIONS, name="advantage2")(hidden(x, 8, "advantage1")))


@linen("C51", IMAGES, recycled="conv1 conv2 conv3 dense", agent="Bellemare et al. 2017")
def c51(x):
    logits = nn.Dense(ACTIONS * ATOMS, name="head")(hidden(nature(x), 16, "dense")).reshape(-1, ACTIONS, ATOMS)
    return (nn.softmax(logits) * jnp.linspace(-1, 1, ATOMS)).sum(-1)


@linen("QR-DQN", IMAGES, recycled="conv1 conv2 conv3 dense", agent="Dabney et al. 2018")
def qr_dqn(x):
    return nn.Dense(ACTIONS * ATOMS, name="head")(hidden(nature(x), 16, "dense")).reshape(-1, ACTIONS, ATOMS).mean(-1)


def cosines(fractions):
    return jnp.cos(jnp.pi * jnp.arange(1, 7) * fractions[..., None])


@linen("IQN", IMAGES, FRACTIONS[:4], recycled="conv1 conv2 conv3+embed dense", agent="Dabney et al. 2018")
def iqn(x, fractions):
    x = nature(x)
    x = x[:, None] * hidden(cosines(fractions), x.shape[-1], "embed")
    return nn.Dense(ACTIONS, name="head")(hidden(x, 16, "dense"))


@linen(
    "FQF",
    IMAGES,
    recycled="conv1 conv2 conv3+embed dense",
    measured={"mixes positions": "fractions", "multiplied with": "head"},
    agent="Yang et al. 2019",
)
def fqf(x):
    x = nature(x)
    probabilities = nn.softmax(nn.Dense(ATOMS, name="fractions")(x))
    ends = jnp.cumsum(probabilities, -1)
    middles = jax.lax.stop_gradient(ends - probabilities / 2)
    embedded = x[:, None] * hidden(cosines(middles), x.shape[-1], "embed")
    quantiles = nn.Dense(ACTIONS, name="head")(hidden(embedded, 16, "dense"))
    return (probabilities[..., None] * quantiles).sum(1)


class Noisy(nn.Module):
    """A dense layer with factorised Gaussian noise (Fortunato et al. 2018). `noise` has rows for input and output."""

    width: int

    @nn.compact
    def __call__(self, x, noise):
        rows, columns = noise[0, : x.shape[-1]], noise[1, : self.width]
        sizes = {"kernel": (x.shape[-1], self.width), "bias": (self.width,)}
        mean, sigma = (
            {name: self.param(f"{kind}{name}", nn.initializers.normal(), size) for name, size in sizes.items()}
            for kind in ("", "sigma_")
        )
        kernel = mean["kernel"] + sigma["kernel"] * (rows[:, None] * columns)
        return x @ kernel + mean["bias"] + sigma["bias"] * columns


@linen("NoisyNet-DQN", IMAGES, NOISE, recycled="conv1 conv2 conv3 dense", agent="Fortunato et al. 2018")
def noisy_net(x, noise):
    return Noisy(ACTIONS, name="head")(nn.relu(Noisy(16, name="dense")(nature(x), noise)), noise)


@linen("Rainbow", IMAGES, NOISE, recycled="conv1 conv2 conv3 value1 advantage1", agent="Hessel et al. 2018")
def rainbow(x, noise):
    x = nature(x)
    value = Noisy(ATOMS, name="value2")(nn.relu(Noisy(8, name="value1")(x, noise)), noise)[:, None]
    advantage = nn.relu(Noisy(8, name="advantage1")(x, noise))
    advantage = Noisy(ACTIONS * ATOMS, name="advantage2")(advantage, noise)
    logits = dueling(value, advantage.reshape(-1, ACTIONS, ATOMS))
    return (nn.softmax(logits) * jnp.linspace(-1, 1, ATOMS)).sum(-1)


@linen("Data-efficient Rainbow", IMAGES, recycled="conv1 conv2 value1 advantage1", agent="van Hasselt et al. 2019")
def data_efficient_rainbow(x):
    for name, features, stride in (("conv1", 8, 5), ("conv2", 6, 2)):
        x = nn.relu(nn.Conv(features, (5, 5), stride, name=name)(x))
    x = flat(x)
    value = nn.Dense(ATOMS, name="value2")(hidden(x, 8, "value1"))[:, None]
    advantage = nn.Dense(ACTIONS * ATOMS, name="advantage2")(hidden(x, 8, "advantage1"))
    return nn.softmax(dueling(value, advantage.reshape(-1, ACTIONS, ATOMS)))


@linen(
    "Bootstrapped DQN with a random prior",
    IMAGES,
    recycled="conv1 conv2 conv3 hidden0 hidden1",
    agent="Osband et al. 2018",
)
def random_prior(x):
    """Adds a random prior to the heads of a shared trunk. The weights of the prior are constants, not parameters."""
    shapes = (432, 8), (8, 2 * ACTIONS)
    constants = [0.1 * np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in shapes]
    prior = nn.relu(flat(x) @ constants[0]) @ constants[1]
    x = nature(x)
    heads = [nn.Dense(ACTIONS, name=f"head{k}")(hidden(x, 6, f"hidden{k}")) for k in range(2)]
    return jnp.concatenate(heads, -1) + 3.0 * prior


@linen(
    "REM, convex combinations of heads", IMAGES, NOISE, recycled="conv1 conv2 conv3 dense", agent="Agarwal et al. 2020"
)
def random_ensemble_mixture(x, noise):
    heads = nn.Dense(ACTIONS * ATOMS, name="heads")(hidden(nature(x), 16, "dense")).reshape(-1, ACTIONS, ATOMS)
    shares = jnp.abs(noise[0, :ATOMS])
    return heads @ (shares / shares.sum())


@linen("DQN with CReLU", IMAGES, recycled="conv1 conv2 dense", agent="Abbas et al. 2023")
def concatenated_relu(x):
    crelu = lambda x: jnp.concatenate([nn.relu(x), nn.relu(-x)], -1)  # noqa: E731
    x = crelu(nn.Conv(4, (4, 4), 2, name="conv1")(x))
    x = flat(crelu(nn.Conv(4, (3, 3), 2, name="conv2")(x)))
    return nn.Dense(ACTIONS, name="head")(crelu(nn.Dense(6, name="dense")(x)))


@linen("PQN, LayerNorm", IMAGES, coupled="conv1 conv2 dense", agent="Gallici et al. 2024")
def pqn(x):
    for name, features, size, stride in (("conv1", 8, 4, 2), ("conv2", 6, 3, 1)):
        x = nn.relu(nn.LayerNorm()(nn.Conv(features, (size, size), stride, padding="VALID", name=name)(x)))
    return nn.Dense(ACTIONS, name="head")(nn.relu(nn.LayerNorm()(nn.Dense(16, name="dense")(flat(x)))))


@linen("Stream Q(lambda)", IMAGES, awake="conv1 conv2 dense", agent="Elsayed et al. 2024")
def stream_q(x):
    """Uses leaky ReLU and LayerNorm. LayerNorm has no parameters and normalises a whole image."""
    norm = nn.LayerNorm(use_bias=False, use_scale=False, reduction_axes=(1, 2, 3))
    x = nn.leaky_relu(norm(nn.Conv(6, (5, 5), 3, name="conv1")(x)))
    x = nn.leaky_relu(norm(nn.Conv(6, (3, 3), 2, name="conv2")(x)))
    x = nn.Dense(16, name="dense")(flat(x))
    return nn.Dense(ACTIONS, name="head")(nn.leaky_relu(nn.LayerNorm(use_bias=False, use_scale=False)(x)))


@linen(
    "Spectrally normalised DQN",
    IMAGES,
    recycled="conv1 conv2",
    measured={"computed with": "conv3 dense"},
    agent="Gogianu et al. 2021",
)
def spectral_norm(x):
    x = nature(x)
    x = nn.SpectralNorm(nn.Dense(16, name="dense"))(x, update_stats=False)
    return nn.Dense(ACTIONS, name="head")(nn.relu(x))


@linen(
    "BBF, wide ResNet and SPR",
    IMAGES,
    recycled="first1 first2 dense",
    measured={"summed": "conv1 second1 conv2 second2"},
    agent="Schwarzer et al. 2023",
)
def bbf(x):
    for stack in (1, 2):
        x = nn.max_pool(nn.Conv(6, (3, 3), name=f"conv{stack}")(x), (3, 3), (2, 2), "SAME")
        y = nn.Conv(6, (3, 3), name=f"first{stack}")(nn.relu(x))
        x = x + nn.Conv(6, (3, 3), name=f"second{stack}")(nn.relu(y))
    x = nn.relu(x)
    hidden_ = hidden(flat(x), 16, "dense")
    predicted = nn.Dense(16, name="predictor")(hidden_)
    value = nn.Dense(ATOMS, name="value")(hidden_)[:, None]
    advantage = nn.Dense(ACTIONS * ATOMS, name="advantage")(hidden_).reshape(-1, ACTIONS, ATOMS)
    return nn.softmax(dueling(value, advantage)), predicted


@linen(
    "SPR, convolutional transition model",
    IMAGES,
    recycled="conv1 model1 project",
    measured={"not zero when silent": "conv2 model2"},
    agent="Schwarzer et al. 2021",
)
def spr(x):
    """Scales the latent state to [0, 1], per sample. The model reads the action as one plane per action."""

    def scaled(x):
        low, high = x.min((1, 2, 3), keepdims=True), x.max((1, 2, 3), keepdims=True)
        return (x - low) / (high - low + 1e-5)

    x = nn.relu(nn.Conv(8, (4, 4), 2, name="conv1")(x))
    latent = scaled(nn.relu(nn.Conv(6, (3, 3), name="conv2")(x)))
    planes = jnp.broadcast_to(jnp.eye(4, ACTIONS)[:, None, None], (*latent.shape[:3], ACTIONS))
    following = nn.relu(nn.Conv(8, (3, 3), name="model1")(jnp.concatenate([latent, planes], -1)))
    following = scaled(nn.relu(nn.Conv(6, (3, 3), name="model2")(following)))
    project = nn.Dense(16, name="project")
    predicted = nn.Dense(16, name="predictor")(project(flat(following)))
    return nn.Dense(ACTIONS, name="head")(nn.relu(project(flat(latent)))), predicted


@linen("RND, predictor", IMAGES, recycled="conv dense", agent="Burda et al. 2019")
def rnd(x):
    """The weights of the target network are constants, not parameters."""
    target = nn.leaky_relu(flat(x) @ np.random.default_rng(0).normal(size=(432, 8)).astype(np.float32))
    x = flat(nn.leaky_relu(nn.Conv(6, (4, 4), 2, name="conv")(x)))
    return jnp.square(nn.Dense(8, name="head")(hidden(x, 12, "dense")) - target).mean(-1)


@linen(
    "NGU, embedding of controllable states", IMAGES, recycled="conv1 conv2 conv3 embed joint", agent="Badia et al. 2020"
)
def never_give_up(x):
    """Predicts the action between two observations. One encoder embeds both observations."""
    embedded = hidden(nature(x), 8, "embed")
    pair = jnp.concatenate([embedded, jnp.roll(embedded, 1, 0)], -1)
    return nn.softmax(nn.Dense(ACTIONS, name="action")(hidden(pair, 12, "joint")))


@linen("UVFA, product of two embeddings", ROWS, ROWS[::-1], recycled="state1 goal1", agent="Schaul et al. 2015")
def uvfa(state, goal):
    state = nn.Dense(6, name="state2")(hidden(state, 8, "state1"))
    return (state * nn.Dense(6, name="goal2")(hidden(goal, 8, "goal1"))).sum(-1)


@linen("Successor features", ROWS, recycled="dense1 dense2", agent="Barreto et al. 2017")
def successor_features(x):
    """Multiplies successor features by task weights, and takes the maximum over policies (GPI)."""
    x = hidden(hidden(x, 8, "dense1"), 8, "dense2")
    psi = nn.Dense(2 * ACTIONS * 4, name="psi")(x).reshape(-1, 2, ACTIONS, 4)
    return (psi @ jnp.array([1.0, -1.0, 0.5, 2.0])).max(1)


@linen("Option-Critic", IMAGES, recycled="conv1 conv2 conv3 dense", agent="Bacon et al. 2017")
def option_critic(x):
    x = hidden(nature(x), 16, "dense")
    policies = nn.softmax(nn.Dense(2 * ACTIONS, name="options")(x).reshape(-1, 2, ACTIONS))
    return nn.Dense(2, name="values")(x), policies, nn.sigmoid(nn.Dense(2, name="terminations")(x))
