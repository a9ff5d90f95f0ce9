"""How fast DQN's gradient step on Atari frames is, beside the reference's way and PyTorch.

    python benchmarks/atari_dqn.py [--repeats 9] [--steps 5]

All rows come from one run on the same network (Nature CNN with SAME padding) and the same kind of batch, 32
transitions, measured in turn `--repeats` times after a warm-up; each number is a median. `ROWS` names every row and
what makes it: a function of no arguments that returns one which takes `--steps` gradient steps. Operations are counted
by hand (see `step_operations`); element-wise work and Adam count nothing.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

BATCH, FRAMES, ACTIONS = 32, (84, 84, 4), 6
MATMUL = 1024  # side of the square matrices of the matmul row
PRODUCTS = 5
Step = Callable[[], Any]


def step_operations() -> int:
    """Floating-point operations of one update: two forward passes, and the gradients of one of them.

    A layer's gradient takes one product for its kernel and one for its input; the first layer needs no latter.
    """
    first, rest = 21 * 21 * 8 * 8 * 4 * 32, 11 * 11 * (4 * 4 * 32 * 64 + 3 * 3 * 64 * 64 + 64 * 512) + 512 * ACTIONS
    return 2 * BATCH * (3 * first + 4 * rest)


def transitions() -> tuple[np.ndarray, ...]:
    """Observations before, actions, rewards, discounts, observations after."""
    rng = np.random.default_rng(0)
    seen = rng.integers(0, 256, (2, BATCH, *FRAMES), np.uint8)
    actions = rng.integers(0, ACTIONS, BATCH).astype(np.int32)
    rewards = rng.choice(np.float32([-1, 0, 1]), BATCH)
    return seen[0], actions, rewards, np.full(BATCH, 0.99, np.float32), seen[1]


def ours() -> Step:
    """`DQN.update` with plain XLA convolutions, one compiled call a step, on a batch that was sampled before."""
    import jax
    import jax.numpy as jnp

    from dormant.rl.agents.dqn import DQN
    from dormant.rl.atari_networks import NatureCNN
    from dormant.rl.replay import Batch

    agent = DQN(network=NatureCNN())
    # A target of its own: a donated array cannot be passed twice.
    state = jax.tree.map(jnp.copy, agent.init(jax.random.key(0), FRAMES, ACTIONS))
    batch = Batch(*map(jnp.asarray, transitions()))
    update = jax.jit(lambda state, batch: agent.update(state, batch)[0], donate_argnums=0)
    state = update(state, batch)

    def step() -> Any:
        nonlocal state
        state = update(state, batch)
        return state

    return step


def reference() -> Step:
    """A stand-in for Dopamine's step: targets in a call of their own, one example at a time under vmap, host sampling.

    Source: dopamine/labs/redo/recycled_dqn_agents.py; its batch is gathered from a ring of single frames by NumPy.
    """
    import jax
    import optax

    from dormant.rl import atari_networks

    network, tx = atari_networks.NatureCNN(), optax.adam(6.25e-5, eps=1.5e-4)
    params = network.init(jax.random.key(0), FRAMES, ACTIONS)
    ring, state = np.random.default_rng(0).integers(0, 256, (2_000, 84, 84), np.uint8), (params, tx.init(params))
    _, actions, rewards, discounts, _ = transitions()

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

    def sample() -> tuple[np.ndarray, np.ndarray]:
        places = np.random.randint(4, len(ring) - 1, BATCH)
        return tuple(np.stack([np.moveaxis(ring[p + s - 3 : p + s + 1], 0, -1) for p in places]) for s in (0, 1))

    def step() -> Any:
        nonlocal state
        before, after = sample()
        state = train(*state, before, actions, targets(params, after, rewards, discounts))
        return state

    step()  # compiles both calls
    return step


def pytorch() -> Step:
    """CleanRL's dqn_atari.py step with the paper's network and settings, channels last and Adam fused."""
    import torch
    from torch import nn

    def network() -> Any:
        layers = [nn.ZeroPad2d(2), nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.ZeroPad2d((1, 2, 1, 2))]
        layers += [nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(), nn.Flatten()]
        layers += [nn.Linear(7_744, 512), nn.ReLU(), nn.Linear(512, ACTIONS)]
        return nn.Sequential(*layers).to(memory_format=torch.channels_last)

    online, target = network(), network()
    optimizer = torch.optim.Adam(online.parameters(), lr=6.25e-5, eps=1.5e-4, fused=True)
    before, actions, rewards, discounts, after = (torch.as_tensor(array) for array in transitions())
    # The memory of [batch, height, width, channels] is already what torch calls channels last.
    before, after, chosen = before.permute(0, 3, 1, 2), after.permute(0, 3, 1, 2), actions.long()[:, None]

    def step() -> None:
        with torch.no_grad():
            goals = rewards + discounts * target(after / 255.0).max(dim=1)[0]
        loss = nn.functional.huber_loss(online(before / 255.0).gather(1, chosen)[:, 0], goals)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def matmul() -> Step:
    """A few plain float32 products."""
    import jax
    import jax.numpy as jnp

    matrix, product = jnp.ones((MATMUL, MATMUL)), jax.jit(jnp.matmul)
    return lambda: [product(matrix, matrix) for _ in range(PRODUCTS)]


# The rows of the loop (agent steps/s at replay ratios 0.25 and 1, with and without ReDo) go here too.
ROWS: dict[str, Callable[[], Step]] = {
    "ours": ours,
    "reference's style": reference,
    "PyTorch, channels last": pytorch,
}


def seconds(steps: dict[str, Step], repeats: int, count: int) -> dict[str, float]:
    """Median wall time of one step of each, measured in turn so that what disturbs the machine disturbs all of them."""
    import jax

    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(count):
                result = step()
            jax.block_until_ready(result)
            if number:  # the first round warms up
                times[name].append((time.perf_counter() - start) / count)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5, help="gradient steps of each measurement")
    options = parser.parse_args()
    steps = {"matmul": matmul()} | {name: make() for name, make in ROWS.items()}
    taken = seconds(steps, options.repeats, options.steps)
    peak = PRODUCTS * 2.0 * MATMUL**3 / taken["matmul"]
    print(f"float32 matmul rate {peak / 1e9:.0f} GFLOP/s; one step counts {step_operations() / 1e9:.2f} GFLOP\n")
    print(f"{'gradient step':26s}{'ms':>8s}{'steps/s':>10s}{'of matmul':>11s}{'ours is':>10s}")
    for name in ROWS:
        share, ratio = step_operations() / taken[name] / peak, taken[name] / taken["ours"]
        print(f"{name:26s}{taken[name] * 1e3:8.1f}{1 / taken[name]:10.1f}{share:11.0%}{ratio:9.2f}x")


if __name__ == "__main__":
    main()
