"""Our SAC and an independent PyTorch implementation give equal losses, gradients, weights and targets."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from dormant.rl.agents.sac import CRITICS, NETWORKS, SAC, Steps

OBSERVATIONS, ACTIONS, BATCH, UPDATES = 5, 2, 32, 3
AGENTS = [
    SAC(hidden=(16, 12)),
    SAC(
        hidden=(24,),
        width=0.5,
        gamma=0.9,
        actor_learning_rate=1e-3,
        critic_learning_rate=3e-3,
        temperature_learning_rate=5e-3,
        actor_weight_decay=1e-2,
        critic_weight_decay=3e-2,
        polyak=0.1,
        reward_scale=2.0,
        target_entropy=-1.0,
        initial_temperature=0.2,
    ),
]


class Theirs:
    """SAC in PyTorch, with torch's distributions and optimizers."""

    def __init__(self, agent, state):
        self.agent = agent
        self.nets = {name: network(state.learner.params[name]) for name in NETWORKS}
        self.target = {name: network(state.target[name]) for name in CRITICS}
        self.log_alpha = torch.tensor(float(state.temperature.params), requires_grad=True)
        actor, critic = (agent.actor_learning_rate, agent.critic_learning_rate)
        self.actor_optimizer = adam(agent, [self.nets["actor"]], actor, agent.actor_weight_decay)
        self.critic_optimizer = adam(agent, [self.nets[name] for name in CRITICS], critic, agent.critic_weight_decay)
        self.alpha_optimizer = torch.optim.Adam(
            [self.log_alpha], lr=agent.temperature_learning_rate, eps=agent.adam_epsilon
        )

    def draw(self, observation, noise):
        mean, log_std = self.nets["actor"](observation).chunk(2, dim=1)
        std = log_std.clamp(-20, 2).exp()
        policy = TransformedDistribution(Independent(Normal(mean, std), 1), [TanhTransform(cache_size=1)])
        action = torch.tanh(mean + std * noise)
        # Computes the value before tanh from the noise, because inverting tanh is not exact.
        before = mean + std * noise
        slope = TanhTransform().log_abs_det_jacobian(before, action).sum(1)
        return action, policy.base_dist.log_prob(before) - slope

    def update(self, batch):
        agent, alpha = self.agent, self.log_alpha.exp().detach()
        both = torch.cat([batch.observation_tm1, batch.action_tm1], 1)
        with torch.no_grad():
            action_t, density_t = self.draw(batch.observation_t, batch.noise_t)
            then = torch.cat([batch.observation_t, action_t], 1)
            least = torch.minimum(*(self.target[name](then)[:, 0] for name in CRITICS))
            goal = agent.reward_scale * batch.reward_t + batch.discount_t * (least - alpha * density_t)
        loss = sum(0.5 * nn.functional.mse_loss(self.nets[name](both)[:, 0], goal) for name in CRITICS)
        step(self.critic_optimizer, loss)
        critic_gradients = {name: gradients(self.nets[name]) for name in CRITICS}

        action, density = self.draw(batch.observation_tm1, batch.noise_tm1)
        now = torch.cat([batch.observation_tm1, action], 1)
        value = torch.minimum(*(self.nets[name](now)[:, 0] for name in CRITICS))
        actor_loss = (alpha * density - value).mean()
        step(self.actor_optimizer, actor_loss)
        actor_gradients = {"actor": gradients(self.nets["actor"])}

        surplus = -density.detach().mean() - agent.target_entropy * ACTIONS
        step(self.alpha_optimizer, self.log_alpha * surplus)
        with torch.no_grad():
            for name in CRITICS:
                for old, new in zip(self.target[name].parameters(), self.nets[name].parameters(), strict=True):
                    old.lerp_(new, agent.polyak)
        return loss.item(), actor_loss.item(), critic_gradients | actor_gradients


def step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def adam(agent, networks, learning_rate, weight_decay):
    parameters = list(itertools.chain(*(net.parameters() for net in networks)))
    kernels, biases = ([leaf for leaf in parameters if (leaf.ndim > 1) == wide] for wide in (True, False))
    groups = [{"params": kernels, "weight_decay": weight_decay}, {"params": biases}]
    return torch.optim.Adam(groups, lr=learning_rate, eps=agent.adam_epsilon)


def network(params):
    layers = []
    for layer in params.values():
        dense = nn.Linear(*layer["kernel"].shape)
        with torch.no_grad():
            dense.weight.copy_(torch.tensor(np.asarray(layer["kernel"]).T.copy()))
            dense.bias.copy_(torch.tensor(np.asarray(layer["bias"])))
        layers += [dense, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def in_their_order(params):
    """Returns a network's arrays in the order of PyTorch's parameters, with PyTorch's axis order."""
    return [array for layer in params.values() for array in (np.asarray(layer["kernel"]).T, np.asarray(layer["bias"]))]


def gradients(net):
    return [leaf.grad.numpy().copy() for leaf in net.parameters()]


def batches():
    draw = np.random.default_rng(0)

    def normal(*shape):
        return draw.standard_normal(shape).astype(np.float32)

    for _ in range(UPDATES):
        discount = np.where(draw.random(BATCH) < 0.2, 0.0, 0.97).astype(np.float32)
        seen, taken, reward = normal(BATCH, OBSERVATIONS), np.tanh(normal(BATCH, ACTIONS)), normal(BATCH)
        yield Steps(
            seen, taken, reward, discount, normal(BATCH, OBSERVATIONS), normal(BATCH, ACTIONS), normal(BATCH, ACTIONS)
        )


def our_gradients(agent, state, after, batch):
    """Returns the gradients of the critics at the old weights, and of the actor against the updated critics."""
    alpha = jnp.exp(state.temperature.params)
    critics = {name: state.learner.params[name] for name in CRITICS}
    found, _ = jax.grad(agent.critic_loss, has_aux=True)(critics, state, batch, alpha)
    against = {**after.learner.params, "actor": state.learner.params["actor"]}
    actor, _ = jax.grad(agent.actor_loss, has_aux=True)(against["actor"], against, batch, alpha)
    return found | {"actor": actor}


def assert_close(ours, theirs, rtol=2e-4, atol=2e-6):
    for mine, other in zip(ours, theirs, strict=True):
        assert_allclose(mine, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("agent", AGENTS, ids=["paper", "everything set"])
def test_updates_agree_with_pytorch(agent):
    state = jax.jit(agent.init, static_argnums=(1, 2))(jax.random.key(1), OBSERVATIONS, ACTIONS)
    theirs, update, gradients_of = Theirs(agent, state), jax.jit(agent.update), jax.jit(partial(our_gradients, agent))
    for batch in batches():
        after, losses = update(state, batch)
        loss, actor_loss, found = theirs.update(Steps(*map(torch.tensor, batch)))
        assert_allclose([losses.loss, losses.actor_loss], [loss, actor_loss], rtol=1e-5, atol=1e-6)
        ours = gradients_of(state, after, batch)
        for name in NETWORKS:
            assert_close(in_their_order(ours[name]), found[name])
            assert_close(
                in_their_order(after.learner.params[name]), [p.detach().numpy() for p in theirs.nets[name].parameters()]
            )
        for name in CRITICS:
            assert_close(
                in_their_order(after.target[name]), [p.detach().numpy() for p in theirs.target[name].parameters()]
            )
        assert_allclose(after.temperature.params, theirs.log_alpha.item(), rtol=1e-5, atol=1e-7)
        state = after
