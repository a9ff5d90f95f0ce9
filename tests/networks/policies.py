"""Networks of policy-gradient agents and of exploration, in JAX."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .case import IMAGES, ROWS, SEQUENCES, flat, linen

ACTIONS = 3


def hidden(x, width, name, activation=nn.relu):
    return activation(nn.Dense(width, name=name)(x))


def lstm(x, width=6):
    """Returns the states of an LSTM over the time axis of [batch, time, features]."""
    return nn.RNN(nn.LSTMCell(width, name="lstm"))(x)


def films(x):
    """Splits a batch of four encoded images into two films of two frames. Returns [film, frame, features]."""
    return x.reshape(2, 2, -1)


def residual_stacks(x, after=lambda y, name: y):
    """Returns the output of the convolutions in IMPALA's deep network. `after` changes each residual branch."""
    for stack in (1, 2):
        x = nn.max_pool(nn.Conv(4, (3, 3), name=f"conv{stack}")(x), (3, 3), (2, 2), "SAME")
        y = nn.Conv(4, (3, 3), name=f"first{stack}")(nn.relu(x))
        x = x + after(nn.Conv(4, (3, 3), name=f"second{stack}")(nn.relu(y)), f"gate{stack}")
    return nn.relu(x)


def shallow(x):
    for name, features, size, stride in (("conv1", 6, 4, 2), ("conv2", 6, 3, 2)):
        x = nn.relu(nn.Conv(features, (size, size), stride, name=name)(x))
    return flat(x)


@linen(
    "A3C-LSTM",
    IMAGES,
    recycled="conv1 conv2 dense",
    measured={"feeds and reads": "lstm/ii+..."},
    agent="Mnih et al. 2016",
)
def a3c(x):
    x = lstm(films(hidden(shallow(x), 16, "dense")))
    return nn.softmax(nn.Dense(ACTIONS, name="policy")(x)), nn.Dense(1, name="value")(x)


@linen(
    "IMPALA, shallow LSTM",
    IMAGES,
    recycled="conv1 conv2 dense",
    measured={"feeds and reads": "lstm/ii+..."},
    agent="Espeholt et al. 2018",
)
def impala_lstm(x):
    """The LSTM also reads the last action and reward."""
    x = films(hidden(shallow(x), 16, "dense"))
    last = jnp.broadcast_to(jnp.array([0.0, 1.0, 0.0, 0.5]), (2, 2, 4))
    x = lstm(jnp.concatenate([x, last], -1))
    return nn.Dense(ACTIONS, name="policy")(x), nn.Dense(1, name="value")(x)


@linen(
    "R2D2",
    IMAGES,
    recycled="conv1 conv2 dense value1 advantage1",
    measured={"feeds and reads": "lstm/ii+..."},
    agent="Kapturowski et al. 2019",
)
def r2d2(x):
    x = lstm(films(hidden(shallow(x), 16, "dense")))
    value = nn.Dense(1, name="value2")(hidden(x, 8, "value1"))
    advantage = nn.Dense(ACTIONS, name="advantage2")(hidden(x, 8, "advantage1"))
    return value + advantage - advantage.mean(-1, keepdims=True)


@linen(
    "DRQN",
    IMAGES,
    recycled="conv1 conv2",
    measured={"feeds and reads": "lstm/ii+..."},
    agent="Hausknecht and Stone 2015",
)
def drqn(x):
    return nn.Dense(ACTIONS, name="head")(lstm(films(shallow(x))))


@linen(
    "PPO, Procgen ResNet",
    IMAGES,
    recycled="first1 first2 dense",
    measured={"summed": "conv1 second1 conv2 second2"},
    agent="Cobbe et al. 2020",
)
def procgen(x):
    x = hidden(flat(residual_stacks(x)), 16, "dense")
    return nn.Dense(ACTIONS, name="policy")(x), nn.Dense(1, name="value")(x)


@linen(
    "PPG, auxiliary value head",
    IMAGES,
    recycled="value_conv value1 first1 first2 dense",
    measured={"summed": "conv1 second1 conv2 second2"},
    agent="Cobbe et al. 2021",
)
def ppg(x):
    first = nn.relu(nn.Conv(6, (4, 4), 2, name="value_conv")(x))
    value = nn.Dense(1, name="value2")(hidden(flat(first), 8, "value1"))
    x = hidden(flat(residual_stacks(x)), 16, "dense")
    return nn.Dense(ACTIONS, name="policy")(x), nn.Dense(1, name="auxiliary")(x), value


@linen(
    "IMPALA ResNet with squeeze-excitation",
    IMAGES,
    recycled="first1 gate1_down first2 gate2_down dense",
    measured={"summed": "conv1 second1+gate1_up conv2 second2+gate2_up"},
)
def squeeze_excitation(x):
    def gate(y, name):
        inner = hidden(y.mean((1, 2)), 6, f"{name}_down")
        return y * nn.sigmoid(nn.Dense(4, name=f"{name}_up")(inner))[:, None, None]

    return nn.Dense(ACTIONS, name="policy")(hidden(flat(residual_stacks(x, gate)), 8, "dense"))


@linen("PPO, Atari", IMAGES, recycled="conv1 conv2 dense", agent="Schulman et al. 2017")
def ppo_atari(x):
    x = hidden(shallow(x / 255.0), 16, "dense")
    return nn.Dense(ACTIONS, name="policy")(x), nn.Dense(1, name="value")(x)


class LogDeviation(nn.Module):
    """One log standard deviation per action, independent of the observation."""

    @nn.compact
    def __call__(self, mean):
        return jnp.broadcast_to(jnp.exp(self.param("log_std", nn.initializers.zeros, (mean.shape[-1],))), mean.shape)


@linen("PPO, MuJoCo", ROWS, recycled="policy1 policy2 value1 value2", agent="Schulman et al. 2017")
def ppo_mujoco(x):
    mean = nn.Dense(2, name="mean")(hidden(hidden(x, 8, "policy1", nn.tanh), 8, "policy2", nn.tanh))
    value = nn.Dense(1, name="value3")(hidden(hidden(x, 8, "value1", nn.tanh), 8, "value2", nn.tanh))
    return mean, LogDeviation()(mean), value


@linen(
    "DAAC, advantages of the taken action",
    IMAGES,
    recycled="first1 first2 dense",
    measured={"summed": "conv1 second1 conv2 second2"},
    agent="Raileanu and Fergus 2021",
)
def daac(x):
    x = hidden(flat(residual_stacks(x)), 8, "dense")
    taken = jnp.eye(4, ACTIONS)
    return nn.Dense(ACTIONS, name="policy")(x), nn.Dense(1, name="advantage")(jnp.concatenate([x, taken], -1))


@linen(
    "UNREAL, pixel control",
    IMAGES,
    recycled="conv1 conv2 dense",
    measured={"mixes positions": "planes"},
    agent="Jaderberg et al. 2017",
)
def unreal(x):
    """Outputs a policy, and Q values for pixel control from a dueling deconvolution."""
    x = hidden(shallow(x), 16, "dense")
    planes = hidden(x, 32, "planes").reshape(-1, 4, 4, 2)
    value = nn.ConvTranspose(1, (3, 3), (2, 2), name="pixel_value")(planes)
    advantage = nn.ConvTranspose(ACTIONS, (3, 3), (2, 2), name="pixel_advantage")(planes)
    return nn.Dense(ACTIONS, name="policy")(x), value + advantage - advantage.mean(-1, keepdims=True)


@linen(
    "ICM, forward and inverse model",
    IMAGES,
    recycled="conv1 conv2 inverse1 forward1",
    measured={"summed": "features forward2"},
    agent="Pathak et al. 2017",
)
def icm(x):
    features = nn.Dense(6, name="features")(shallow(x))
    following = jnp.roll(features, -1, 0)
    inverse = nn.Dense(ACTIONS, name="inverse2")(hidden(jnp.concatenate([features, following], -1), 8, "inverse1"))
    guess = jnp.concatenate([features, jnp.eye(4, ACTIONS)], -1)
    guess = nn.Dense(6, name="forward2")(hidden(guess, 8, "forward1"))
    return nn.softmax(inverse), jnp.square(guess - following).mean(-1)


@linen("PopArt-IMPALA, one value per task", ROWS, recycled="dense1 dense2", agent="Hessel et al. 2019")
def pop_art(x):
    """Outputs a policy, and values that are scaled and shifted by the statistics of each task."""
    x = hidden(hidden(x, 8, "dense1"), 8, "dense2")
    values = nn.Dense(4, name="values")(x)
    return nn.Dense(ACTIONS, name="policy")(x), values * jnp.array([1.0, 2.0, 5.0, 0.1]) + jnp.arange(4.0)


@linen(
    "FuN, manager and worker",
    SEQUENCES,
    recycled="perceive state",
    measured={"feeds and reads": "manager/ii+... worker/ii+...", "product of two activations": "goal"},
    agent="Vezhnevets et al. 2017",
)
def feudal(x):
    """Multiplies the worker's action embeddings by the manager's goal."""
    x = hidden(x, 8, "perceive")
    goal = nn.RNN(nn.LSTMCell(6, name="manager"))(hidden(x, 6, "state"))
    goal = goal / jnp.sqrt(jnp.square(goal).sum(-1, keepdims=True) + 1e-6)
    worker = nn.RNN(nn.LSTMCell(ACTIONS * 4, name="worker"))(x).reshape(*x.shape[:2], ACTIONS, 4)
    pooled = nn.Dense(4, use_bias=False, name="goal")(goal.cumsum(1))
    return jnp.einsum("btak,btk->bta", worker, pooled)


@linen(
    "RL2, GRU over trials",
    SEQUENCES,
    recycled="embed",
    measured={"feeds and reads": "gru/ir+..."},
    agent="Duan et al. 2016",
)
def rl_squared(x):
    x = nn.RNN(nn.GRUCell(6, name="gru"))(hidden(x, 8, "embed", nn.elu))
    return nn.Dense(ACTIONS, name="policy")(x), nn.Dense(1, name="value")(x)


@linen("MAPPO, normalised MLP", ROWS, measured={"not zero when silent": "dense1 dense2"}, agent="Yu et al. 2022")
def mappo(x):
    """Applies LayerNorm to the observations and after each activation."""
    x = nn.LayerNorm(name="norm0")(x)
    for layer in (1, 2):
        x = nn.LayerNorm(name=f"norm{layer}")(hidden(x, 8, f"dense{layer}"))
    return nn.softmax(nn.Dense(ACTIONS, name="policy")(x))


@linen(
    "OpenAI Five, pooled units and LSTM",
    SEQUENCES,
    recycled="unit1 lstm/ii+...",
    measured={"product of two activations": "unit2 target"},
    agent="Berner et al. 2019",
)
def five(x):
    """Applies one network to every unit and takes the maximum over units. The target head scores each unit."""
    units = nn.Dense(6, name="unit2")(hidden(x, 8, "unit1"))
    pooled = units.max(1)
    x = nn.RNN(nn.LSTMCell(6, name="lstm"))(pooled[:, None])[:, 0]
    target = nn.Dense(6, name="target")(x)
    return nn.Dense(ACTIONS, name="policy")(x), jnp.einsum("bk,buk->bu", target, units)


@linen("BabyAI, FiLM by the instruction", IMAGES, recycled="conv1 scale+...", agent="Chevalier-Boisvert et al. 2019")
def film(x):
    instruction = nn.Embed(5, 6, name="words")(jnp.array([[0, 1], [2, 3], [4, 4], [1, 0]])).sum(1)
    x = nn.relu(nn.Conv(6, (3, 3), 2, name="conv1")(x))
    scale, shift = nn.Dense(6, name="scale")(instruction), nn.Dense(6, name="shift")(instruction)
    x = nn.Conv(6, (3, 3), name="conv2")(x)
    x = nn.relu(x * (1 + scale[:, None, None]) + shift[:, None, None])
    return nn.Dense(ACTIONS, name="policy")(x.max((1, 2)))


@linen(
    "plasticity injection",
    ROWS,
    recycled="head1 new1",
    measured={"also returns": "dense"},
    agent="Nikishin et al. 2023",
)
def plasticity_injection(x):
    """Outputs old head + new head - constant head. In an agent, the constant head has the new head's first weights."""
    x = hidden(x, 8, "dense")
    old = nn.Dense(ACTIONS, name="head2")(hidden(x, 8, "head1"))
    start = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    constant = nn.relu(x @ start) @ start[:, :ACTIONS]
    return old + nn.Dense(ACTIONS, name="new2")(hidden(x, 8, "new1")) - jax.lax.stop_gradient(constant)
