"""Stand-ins for Dopamine's and CleanRL's DQN on Atari, for `benchmarks/atari_dqn.py`.

Both stand-ins have a small ring on the host, and the paper's settings and network (Nature CNN with SAME padding). They
use a GPU if there is one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

BATCH, STACK, SIDE, RING = 32, 4, 84, 2_000
TAU = 0.1


class Peer(NamedTuple):
    """The functions of a stand-in. `act` returns the greedy action for frames [84, 84, 4].

    `remember` stores a transition. `learn` samples a batch and takes a gradient step. `recycle` runs ReDo once.
    """

    act: Callable[[np.ndarray], int]
    remember: Callable[[np.ndarray, int, float, bool], None]
    learn: Callable[[], Any]
    recycle: Callable[[], Any]


class Ring:
    """A ring buffer of transitions. Each has one frame, as in Dopamine, or a stack of frames, as in CleanRL."""

    def __init__(self, *frame: int) -> None:
        rng = np.random.default_rng(0)
        self.frames = rng.integers(0, 256, (RING, *frame), np.uint8)
        self.actions, self.rewards = np.zeros(RING, np.int64), rng.choice(np.array([-1, 0, 1], np.float32), RING)
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
    """A stand-in for Dopamine, the reference. It uses `vmap` over examples, and NumPy to stack frames.

    A separate compiled function computes the targets.
    It recycles with our `ReDo`, which is compiled again each time. In this way it imitates Dopamine, which compiles the
    computation of its masks each time.

    Source: dopamine/labs/redo/recycled_dqn_agents.py and weight_recyclers.py.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from dormant import Learner, Network, ReDo, trace
    from dormant.rl.networks.convolutional import NatureCNN

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

    def init(key: Any) -> Any:
        return network.init(key, (SIDE, SIDE, STACK), actions)

    wiring = trace(network.apply, params, jnp.zeros((BATCH, SIDE, SIDE, STACK), jnp.uint8))
    wired, redo = Network(wiring, init, tx), ReDo(TAU)

    def recycle() -> Any:
        nonlocal state

        @jax.jit
        def recycled(params: Any, moments: Any, frames: Any) -> Any:
            learner = Learner(params, moments)
            return redo.update(jax.random.key(0), learner, redo.init(learner, wired), wired, frames)[0]

        state = tuple(recycled(*state, stacks(ring.places())))
        return state

    def remember(frames: np.ndarray, action: int, reward: float, end: bool) -> None:
        ring.add(frames[..., -1], action, reward, end)

    return Peer(lambda frames: int(greedy(state[0], frames)), remember, learn, recycle)


def cleanrl(actions: int) -> Peer:
    """A stand-in for CleanRL's dqn_atari.py. It uses PyTorch, and its replay holds whole stacks of frames.

    In addition, it uses the memory format channels last and fused Adam.
    ReDo is written as in the PyTorch port (timoklein/redo): it scores in one forward pass, then changes weights in
    place.
    """
    import torch
    from torch import nn

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def network() -> Any:
        layers = [nn.ZeroPad2d(2), nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.ZeroPad2d((1, 2, 1, 2))]
        layers += [nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(), nn.Flatten()]
        layers += [nn.Linear(7_744, 512), nn.ReLU(), nn.Linear(512, actions)]
        return nn.Sequential(*layers).to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    online, target, ring = network(), network(), Ring(SIDE, SIDE, STACK)
    optimizer = torch.optim.Adam(online.parameters(), lr=6.25e-5, eps=1.5e-4, fused=True)

    def tensor(frames: np.ndarray) -> Any:
        # Permutes without a copy, because an array [batch, height, width, channels] already has the memory layout that
        # torch calls channels last.
        return torch.as_tensor(frames).to(device).permute(0, 3, 1, 2) / 255.0

    def act(frames: np.ndarray) -> int:
        with torch.no_grad():
            return int(online(tensor(frames[None])).argmax())

    def learn() -> Any:
        places = ring.places()
        columns = (ring.rewards[places], ring.discounts(places))
        rewards, discounts = (torch.as_tensor(column).to(device) for column in columns)
        with torch.no_grad():
            goals = rewards + discounts * target(tensor(ring.frames[places + 1])).max(dim=1)[0]
        chosen = torch.as_tensor(ring.actions[places]).to(device)[:, None]
        loss = nn.functional.huber_loss(online(tensor(ring.frames[places])).gather(1, chosen)[:, 0], goals)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    def recycle() -> Any:
        hidden, masks, values = [], [], tensor(ring.frames[ring.places()])
        with torch.no_grad():
            for layer in online:
                values = layer(values)
                if isinstance(layer, nn.ReLU):
                    score = values.abs().mean([axis for axis in range(values.ndim) if axis != 1])
                    masks.append(score / score.mean() <= TAU)
                elif isinstance(layer, nn.Conv2d | nn.Linear):
                    hidden.append(layer)
            for layer, after, mask in zip(hidden, hidden[1:], masks, strict=False):
                renew(layer, after, mask)
        return values

    def renew(layer: Any, after: Any, mask: Any) -> None:
        fresh = torch.empty_like(layer.weight)
        nn.init.kaiming_uniform_(fresh, a=5**0.5)
        into = mask.view(-1, *[1] * (fresh.ndim - 1))
        outgoing = mask.repeat_interleave(after.weight.shape[1] // len(mask))  # a flattened channel has many columns
        out = outgoing.view(1, -1, *[1] * (after.weight.ndim - 2))
        layer.weight.copy_(torch.where(into, fresh, layer.weight))
        layer.bias.masked_fill_(mask, 0.0)
        after.weight.masked_fill_(out, 0.0)
        for weight, chosen in ((layer.weight, into), (after.weight, out)):
            for moment in ("exp_avg", "exp_avg_sq"):
                optimizer.state[weight][moment].masked_fill_(chosen, 0.0)

    return Peer(act, ring.add, learn, recycle)
