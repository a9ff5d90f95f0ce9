"""Networks of offline, multi-task and multi-agent RL, in JAX."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from .case import ACTIONS, FRACTIONS, ROWS, SEQUENCES, by_hand, linen


def hidden(x, width, name, activation=nn.relu):
    return activation(nn.Dense(width, name=name)(x))


def both(observation, action):
    return jnp.concatenate([observation, action], -1)


@linen("IQL, value, critics and policy", ROWS, ACTIONS, recycled="v1 v2 q1 q2 pi1 pi2", agent="Kostrikov et al. 2022")
def iql(x, action):
    value = nn.Dense(1, name="v3")(hidden(hidden(x, 8, "v1"), 8, "v2"))
    q = nn.Dense(1, name="q3")(hidden(hidden(both(x, action), 8, "q1"), 8, "q2"))
    return value, q, nn.tanh(nn.Dense(2, name="pi3")(hidden(hidden(x, 8, "pi1"), 8, "pi2")))


@linen(
    "ReBRAC, LayerNorm critic",
    ROWS,
    ACTIONS,
    recycled="dense3",
    measured={"not zero when silent": "dense1 dense2"},
    agent="Tarasov et al. 2023",
)
def rebrac(x, action):
    """Applies LayerNorm after each activation."""
    x = both(x, action)
    for layer in (1, 2):
        x = nn.LayerNorm(name=f"norm{layer}")(hidden(x, 8, f"dense{layer}"))
    return nn.Dense(1, name="value")(hidden(x, 8, "dense3"))


@linen(
    "BCQ, conditional VAE and perturbation",
    ROWS,
    ACTIONS,
    FRACTIONS,
    recycled="e1 e2 d1 d2 p1",
    measured={"also returns": "mean+log_std", "summed": "action change"},
    agent="Fujimoto et al. 2019",
)
def bcq(x, action, noise):
    y = hidden(hidden(both(x, action), 8, "e1"), 8, "e2")
    mean, deviation = nn.Dense(3, name="mean")(y), jnp.exp(jnp.clip(nn.Dense(3, name="log_std")(y), -4, 15))
    z = mean + deviation * noise
    guess = nn.tanh(nn.Dense(2, name="action")(hidden(hidden(both(x, z), 8, "d1"), 8, "d2")))
    change = 0.05 * nn.tanh(nn.Dense(2, name="change")(hidden(both(x, guess), 8, "p1")))
    return jnp.clip(guess + change, -1, 1), mean, deviation


@linen("Diffusion-QL, denoiser", ROWS, ACTIONS, recycled="time1 time2 dense1 dense2 dense3", agent="Wang et al. 2023")
def diffusion_ql(x, action):
    """Embeds the diffusion step with sines and cosines. All activations are Mish."""
    step = jnp.arange(6.0)[:, None] * jnp.exp(-jnp.arange(4.0))
    step = jnp.concatenate([jnp.sin(step), jnp.cos(step)], -1)
    step = nn.Dense(4, name="time2")(hidden(step, 8, "time1", jax.nn.mish))
    y = jnp.concatenate([action, step, x], -1)
    for layer in (1, 2, 3):
        y = hidden(y, 8, f"dense{layer}", jax.nn.mish)
    return nn.Dense(2, name="noise")(y)


@linen(
    "IDQL, residual denoiser",
    ROWS,
    ACTIONS,
    awake="frequencies",
    recycled="up1 up2",
    measured={"summed": "embed down1 down2"},
    agent="Hansen-Estruch et al. 2023",
)
def idql(x, action):
    step = 2 * jnp.pi * nn.Dense(4, use_bias=False, name="frequencies")(jnp.linspace(0, 1, 6)[:, None])
    step = jnp.concatenate([jnp.cos(step), jnp.sin(step)], -1)
    y = nn.Dense(8, name="embed")(jnp.concatenate([action, x, step], -1))
    for block in (1, 2):
        inner = nn.Dense(16, name=f"up{block}")(nn.LayerNorm()(y))
        y = y + nn.Dense(8, name=f"down{block}")(nn.relu(inner))
    return nn.Dense(2, name="noise")(nn.relu(y))


@linen(
    "FQL, flow policy",
    ROWS,
    ACTIONS,
    recycled="dense1 dense2",
    measured={"also returns": "field"},
    agent="Park et al. 2025",
)
def flow(x, action):
    """Takes three Euler steps. Each step applies the same layers."""
    layers = [nn.Dense(8, name="dense1"), nn.Dense(8, name="dense2"), nn.Dense(2, name="field")]
    for step in range(3):
        time = jnp.full((len(x), 1), step / 3)
        y = jnp.concatenate([x, action, time], -1)
        for layer in layers[:-1]:
            y = nn.gelu(layer(y))
        action = action + layers[-1](y) / 3
    return action


@linen("RvS, conditioned on a goal", ROWS, ROWS[::-1], recycled="dense1 dense2", agent="Emmons et al. 2022")
def rvs(x, goal):
    y = both(x, goal)
    for layer in (1, 2):
        y = nn.Dropout(0.1, deterministic=True)(hidden(y, 8, f"dense{layer}"))
    return nn.Dense(2, name="action")(y)


def one_hot_tasks(count, tasks=2):
    return jax.nn.one_hot(jnp.arange(count) % tasks, tasks)


@linen("MT-SAC, one head per task", ROWS, recycled="dense1 dense2", agent="Yu et al. 2020")
def multi_head(x):
    x = hidden(hidden(x, 8, "dense1"), 8, "dense2")
    heads = nn.Dense(2 * 4, name="heads")(x).reshape(-1, 2, 4)
    return (heads * one_hot_tasks(len(x))[..., None]).sum(1)


@by_hand(
    "a head chosen by the task's index",
    {"a": (5, 8), "heads": (3, 8, 6), "out": (3, 6, 2)},
    ROWS,
    recycled="a",
    measured={"an index chooses which part of heads/w feeds it": "heads"},
)
def chosen_head(params, x):
    task = (jnp.abs(x[0, 0]) * 10).astype(jnp.int32) % 3
    x = jax.nn.relu(x @ params["a"]["w"])
    return jax.nn.relu(x @ params["heads"]["w"][task]) @ params["out"]["w"][task]


@by_hand(
    "PaCo, compositional parameters",
    {"set1": (3, 5, 8), "set2": (3, 8, 6), "out": (6, 2), "tasks": (6, 3)},
    ROWS,
    recycled="set2",
    measured={"mixes positions": "tasks set1"},
    agent="Sun et al. 2022",
)
def paco(params, x):
    """The kernels of a task are weighted sums of shared kernels. The weights are parameters."""
    x = jax.nn.relu(jnp.einsum("bi,bk,kio->bo", x, params["tasks"]["w"], params["set1"]["w"]))
    x = jax.nn.relu(jnp.einsum("bi,bk,kio->bo", x, params["tasks"]["w"], params["set2"]["w"]))
    return x @ params["out"]["w"]


@linen(
    "soft modularization",
    ROWS,
    measured={"product of two activations": "a1 a2 routes", "without weights of its own": "b1 b2"},
    agent="Yang et al. 2020",
)
def soft_modules(x):
    """The inputs of the second layer are weighted sums of the first layer's modules. The task sets the weights."""
    first = jnp.stack([hidden(x, 6, f"a{k}") for k in (1, 2)], 1)
    shares = nn.softmax(nn.Dense(4, name="routes")(one_hot_tasks(len(x))).reshape(-1, 2, 2))
    mixed = jnp.einsum("bij,bjf->bif", shares, first)
    second = jnp.stack([hidden(mixed[:, k], 6, f"b{k + 1}") for k in (0, 1)], 1)
    return nn.Dense(2, name="head")(second.mean(1))


@linen(
    "CARE, mixture of encoders",
    ROWS,
    recycled="a b c dense",
    measured={"without weights of its own": "a2 b2 c2 shares"},
    agent="Sodhani et al. 2021",
)
def care(x):
    encoders = jnp.stack([nn.Dense(6, name=f"{name}2")(hidden(x, 8, name)) for name in "abc"], 1)
    shares = nn.softmax(hidden(one_hot_tasks(len(x)), 3, "shares", nn.tanh))
    return nn.Dense(2, name="head")(hidden((shares[..., None] * encoders).sum(1), 8, "dense"))


@linen(
    "hypernetwork critic",
    ROWS,
    ACTIONS,
    recycled="hyper1 hyper2",
    measured={"also returns": "kernel1", "product of two activations": "bias1 kernel2"},
    agent="Sarafian et al. 2021",
)
def hypernetwork(x, action):
    """Computes kernels from the state, and applies them to the action."""
    y = hidden(hidden(x, 8, "hyper1"), 8, "hyper2")
    first = nn.Dense(2 * 6, name="kernel1")(y).reshape(-1, 2, 6)
    inner = nn.relu(jnp.einsum("bi,bio->bo", action, first) + nn.Dense(6, name="bias1")(y))
    return jnp.einsum("bi,bio->bo", inner, nn.Dense(6, name="kernel2")(y).reshape(-1, 6, 1))


def agents(x, width=6):
    """Returns action values. `x` is [batch, agents, features], and all agents share one network."""
    return nn.Dense(3, name="values")(hidden(hidden(x, 8, "agent1"), width, "agent2"))


@linen("VDN, sum of values", SEQUENCES, recycled="agent1 agent2", agent="Sunehag et al. 2018")
def vdn(x):
    return agents(x).max(-1).sum(-1)


@linen("QMIX, monotone mixing by hypernetworks", SEQUENCES, recycled="agent1 agent2 bias1", agent="Rashid et al. 2018")
def qmix(x):
    chosen, state = agents(x).max(-1), x.reshape(len(x), -1)
    first = jnp.abs(nn.Dense(4 * 5, name="mix1")(state)).reshape(-1, 4, 5)
    inner = nn.elu(jnp.einsum("ba,bae->be", chosen, first) + nn.Dense(5, name="shift1")(state))
    second = jnp.abs(nn.Dense(5, name="mix2")(state))
    return (inner * second).sum(-1, keepdims=True) + nn.Dense(1, name="shift2")(hidden(state, 5, "bias1"))


@linen("COMA, counterfactual critic", SEQUENCES, recycled="dense1 dense2", agent="Foerster et al. 2018")
def coma(x):
    """Each agent's critic reads the state and the other agents' actions."""
    actions = jax.nn.one_hot(jnp.arange(12).reshape(3, 4) % 3, 3)
    others = actions.reshape(3, 1, 12) * (1 - jnp.repeat(jnp.eye(4), 3, -1))
    state = jnp.broadcast_to(x.reshape(3, 1, -1), (3, 4, 20))
    values = nn.Dense(3, name="values")(hidden(hidden(jnp.concatenate([state, others], -1), 8, "dense1"), 8, "dense2"))
    policy = nn.softmax(jnp.ones_like(values) + actions)
    return values, (values * actions).sum(-1) - (values * policy).sum(-1)


@linen(
    "MADDPG, actors and central critic",
    SEQUENCES,
    recycled="actor0 actor1 critic1 critic2",
    measured={"also returns": "mean0 mean1"},
    agent="Lowe et al. 2017",
)
def maddpg(x):
    """Two agents with separate networks. The critic reads all observations and actions."""
    actions = [nn.tanh(nn.Dense(2, name=f"mean{k}")(hidden(x[:, k], 8, f"actor{k}"))) for k in (0, 1)]
    everything = jnp.concatenate([x[:, 0], x[:, 1], *actions], -1)
    return actions, nn.Dense(1, name="value")(hidden(hidden(everything, 8, "critic1"), 8, "critic2"))


@linen(
    "CommNet, means of the other agents",
    SEQUENCES,
    recycled="embed own1+others1 own2+others2",
    agent="Sukhbaatar et al. 2016",
)
def comm_net(x):
    x = hidden(x, 6, "embed", nn.tanh)
    for step in (1, 2):
        others = (x.sum(1, keepdims=True) - x) / 3
        x = nn.tanh(nn.Dense(6, name=f"own{step}")(x) + nn.Dense(6, use_bias=False, name=f"others{step}")(others))
    return nn.Dense(2, name="policy")(x)


@linen("FiLM by the task, Meta-World", ROWS, FRACTIONS, recycled="task1 dense1 dense2+...")
def film(x, task):
    task = hidden(task, 6, "task1")
    x = hidden(x, 8, "dense1")
    x = nn.Dense(6, name="dense2")(x)
    return nn.Dense(2, name="head")(
        nn.relu((1 + nn.Dense(6, name="scale")(task)) * x + nn.Dense(6, name="shift")(task))
    )
