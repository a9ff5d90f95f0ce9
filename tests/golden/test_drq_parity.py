"""DrQ's updates equal those of an independent PyTorch implementation that has equal weights, batches and noise."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from golden.test_atari_networks import ACTIONS, FRAMES, as_torch, convolved, with_biases
from numpy.testing import assert_allclose

from dormant.rl.agents import atari_drq
from dormant.rl.networks.convolutional import NatureCNN
from dormant.rl.replay.device import Batch

BATCH, UPDATES = 16, 2
AGENT = replace(atari_drq(NatureCNN(width=0.25)), batch_size=BATCH)


def q_values(weights, images):
    """Returns Q values of the Nature network with a dueling head. Images have channels last and values in [0, 1]."""
    maps = images.permute(0, 3, 1, 2)
    for name, stride in (("conv1", 4), ("conv2", 2), ("conv3", 1)):
        maps = F.relu(convolved(maps, weights[name], stride, "SAME"))
    flat = maps.permute(0, 2, 3, 1).flatten(1)
    hidden = F.relu(F.linear(flat, weights["dense"]["kernel"], weights["dense"]["bias"]))
    value, advantage = (
        F.linear(hidden, weights[name]["kernel"], weights[name]["bias"]) for name in ("value", "advantage")
    )
    return value + advantage - advantage.mean(1, keepdim=True)


def augmented(images, offsets, factors):
    """Scales the images to [0, 1], pads by replication, crops each image, and multiplies it by its factor."""
    images = torch.tensor(np.asarray(images)).permute(0, 3, 1, 2).float() / 255
    padded = F.pad(images, (4, 4, 4, 4), mode="replicate")
    crops = [image[:, y : y + 84, x : x + 84] for image, (y, x) in zip(padded, np.asarray(offsets), strict=True)]
    return torch.stack(crops).permute(0, 2, 3, 1) * torch.tensor(np.asarray(factors))[:, None, None, None]


class Theirs:
    """The PyTorch agent: online network, target network and optimizer."""

    def __init__(self, state):
        self.online, self.target = as_torch(state.learner.params), as_torch(state.target)
        self.leaves = [leaf.requires_grad_() for layer in self.online.values() for leaf in layer.values()]
        self.optimizer = torch.optim.Adam(self.leaves, lr=1e-4, eps=1.5e-4)

    def update(self, batch):
        before = augmented(batch.observation_tm1, batch.noise.offset_tm1, batch.noise.factor_tm1)
        after = augmented(batch.observation_t, batch.noise.offset_t, batch.noise.factor_t)
        reward, discount = (torch.tensor(np.asarray(x)) for x in (batch.return_t, batch.discount_t))
        with torch.no_grad():
            chosen = q_values(self.online, after).argmax(1, keepdim=True)
            goal = reward + discount * q_values(self.target, after).gather(1, chosen)[:, 0]
        taken = q_values(self.online, before).gather(1, torch.tensor(np.asarray(batch.action_tm1)).long()[:, None])[
            :, 0
        ]
        loss = F.huber_loss(taken, goal)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def synchronise(self):
        self.target = {
            name: {key: leaf.detach().clone() for key, leaf in layer.items()} for name, layer in self.online.items()
        }


def batches():
    rng, key = np.random.default_rng(0), jax.random.key(3)
    noise = AGENT.augmentation.draw(key, UPDATES, BATCH)
    for number in range(UPDATES):
        seen = rng.integers(0, 256, (2, BATCH, *FRAMES), np.uint8)
        action, reward = rng.integers(0, ACTIONS, BATCH).astype(np.int32), 2 * rng.standard_normal(BATCH)
        discount = np.where(rng.random(BATCH) < 0.2, 0, 0.99**10)
        arrays = (seen[0], action, reward.astype(np.float32), discount.astype(np.float32), seen[1])
        yield Batch(*map(jnp.asarray, arrays), jax.tree.map(lambda x, n=number: x[n], noise))


def assert_same_trees(ours, theirs, **tolerance):
    for name, layer in theirs.items():
        for key, leaf in layer.items():
            assert_allclose(ours[name][key], leaf.detach().numpy(), **tolerance, err_msg=f"{name}/{key}")


def test_updates_agree_with_pytorch():
    """At first, the target network differs from the online network. After each update, the test synchronises them."""
    state = AGENT.init(jax.random.key(0), FRAMES, ACTIONS)
    state = state._replace(target=with_biases(AGENT.network.init(jax.random.key(1), FRAMES, ACTIONS)))
    theirs, update = Theirs(state), jax.jit(AGENT.update)
    for number, batch in enumerate(batches()):
        before = state.learner.opt_state[0].mu
        state, losses = update(state, batch)
        gradient = jax.tree.map(lambda new, old: (new - 0.9 * old) / 0.1, state.learner.opt_state[0].mu, before)
        assert_allclose(losses.loss, theirs.update(batch), rtol=1e-5)
        for name, layer in as_torch(gradient).items():
            for key, leaf in layer.items():
                expected = theirs.online[name][key].grad.numpy()
                assert_allclose(leaf, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max(), err_msg=f"{name}/{key}")
        assert_same_trees(as_torch(state.learner.params), theirs.online, rtol=1e-6, atol=1e-3 * AGENT.learning_rate)
        state = AGENT.synchronise(state, jnp.int32(number), jnp.int32(number + 1))
        theirs.synchronise()
        assert_same_trees(as_torch(state.target), theirs.target, rtol=1e-6, atol=1e-3 * AGENT.learning_rate)
