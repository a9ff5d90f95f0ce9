"""What peers do at an agent step and at a gradient step of DQN on Atari, for `benchmarks/atari_dqn.py`.

Both keep a small ring on the host, on the paper's network (Nature CNN with SAME padding) and settings.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

BATCH, STACK, SIDE, RING = 32, 4, 84, 2_000


class Peer(NamedTuple):
    """`act` chooses greedily from frames [84, 84, 4], `remember` keeps a transition, `learn` samples and learns."""

    act: Callable[[np.ndarray], int]
    remember: Callable[[np.ndarray, int, float, bool], None]
    learn: Callable[[], Any]


class Ring:
    """The newest transitions, one frame each, as Dopamine keeps them, or a whole stack each, as CleanRL does."""

    def __init__(self, *frame: int) -> None:
        rng = np.random.default_rng(0)
        self.frames = rng.integers(0, 256, (RING, *frame), np.uint8)
        self.actions, self.rewards = np.zeros(RING, np.int64), rng.choice(np.float32([-1, 0, 1]), RING)
        self.ends, self.added, self.rng = np.zeros(RING, bool), 0, rng

    def add(self, frame: np.ndarray, action: int, reward: float, end: bool) -> None:
        place = self.added % RING
        self.frames[place], self.actions[place], self.rewards[place], self.ends[place] = frame, action, reward, end
        self.added += 1

    def places(self) -> np.ndarray:
        return self.rng.integers(STACK, RING - 1, BATCH)

    def discounts(self, places: np.ndarray) -> np.ndarray:
        return np.float32(0.99) * ~self.ends[places]


def dopamine(actions: int) -> Peer:
    """The reference: targets in a call of their own, one example at a time under vmap, stacks gathered by NumPy.

    Source: dopamine/labs/redo/recycled_dqn_agents.py, without its recycler, which recompiles at every call.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from dormant.rl.atari_networks import NatureCNN

    network, tx, ring = NatureCNN(), optax.adam(6.25e-5, eps=1.5e-4), Ring(SIDE, SIDE)
    params = network.init(jax.random.key(0), (SIDE, SIDE, STACK), actions)
    target, state = params, (params, tx.init(params))

    def one(params: Any, frames: Any) -> Any:
        return network.apply(params, frames[None])[0]

    @jax.jit
    def targets(params: Any, frames: Any, rewards: Any, discounts: Any) -> Any:
        return rewards + discounts * jax.vmap(partial(one, params))(frames).max(1)

    @jax.jit
    def train(params: Any, moments: Any, frames: Any, actions: Any, goals: Any) -> Any:
        def loss(params: Any) -> Any:
            q = jax.vmap(partial(one, params))(frames)
            return jax.vmap(lambda q, a, goal: optax.losses.huber_loss(q[a], goal))(q, actions, goals).mean()

        change, moments = tx.update(jax.grad(loss)(params), moments, params)
        return optax.apply_updates(params, change), moments

    greedy = jax.jit(lambda params, frames: jnp.argmax(one(params, frames)))

    def stacks(places: np.ndarray) -> np.ndarray:
        return np.stack([np.moveaxis(ring.frames[place - STACK + 1 : place + 1], 0, -1) for place in places])

    def learn() -> Any:
        nonlocal state
        places = ring.places()
        goals = targets(target, stacks(places + 1), ring.rewards[places], ring.discounts(places))
        state = train(*state, stacks(places), ring.actions[places], goals)
        return state

    return Peer(
        lambda frames: int(greedy(state[0], frames)), lambda frames, *rest: ring.add(frames[..., -1], *rest), learn
    )


def cleanrl(actions: int) -> Peer:
    """CleanRL's dqn_atari.py: PyTorch, here with channels last and fused Adam; whole stacks in its replay."""
    import torch
    from torch import nn

    def network() -> Any:
        layers = [nn.ZeroPad2d(2), nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.ZeroPad2d((1, 2, 1, 2))]
        layers += [nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(), nn.Flatten()]
        layers += [nn.Linear(7_744, 512), nn.ReLU(), nn.Linear(512, actions)]
        return nn.Sequential(*layers).to(memory_format=torch.channels_last)

    online, target, ring = network(), network(), Ring(SIDE, SIDE, STACK)
    optimizer = torch.optim.Adam(online.parameters(), lr=6.25e-5, eps=1.5e-4, fused=True)

    def tensor(frames: np.ndarray) -> Any:
        # The memory of [batch, height, width, channels] is already what torch calls channels last.
        return torch.as_tensor(frames).permute(0, 3, 1, 2) / 255.0

    def act(frames: np.ndarray) -> int:
        with torch.no_grad():
            return int(online(tensor(frames[None])).argmax())

    def learn() -> Any:
        places = ring.places()
        rewards, discounts = (torch.as_tensor(column) for column in (ring.rewards[places], ring.discounts(places)))
        with torch.no_grad():
            goals = rewards + discounts * target(tensor(ring.frames[places + 1])).max(dim=1)[0]
        chosen = torch.as_tensor(ring.actions[places])[:, None]
        loss = nn.functional.huber_loss(online(tensor(ring.frames[places])).gather(1, chosen)[:, 0], goals)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Peer(act, ring.add, learn)
