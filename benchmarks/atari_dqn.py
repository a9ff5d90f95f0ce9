"""Compares the speed of our DQN on Atari with stand-ins for Dopamine (the reference implementation) and CleanRL.

    python benchmarks/atari_dqn.py [--repeats 5] [--steps 5] [--agent-steps 200] [--core 0]

Measures single gradient steps, and loops that act greedily, play, store, sample and learn. All rows share one game, one
network (Nature CNN with SAME padding) and a batch size of 32. After a warm-up they are measured in turn, `--repeats`
times; each number is a median. Our gradient step uses a fixed batch; the gradient steps of the stand-ins
(atari_peers.py) include sampling a batch. Operations are counted by hand, without element-wise operations and Adam.
ReDo acts once per measurement. Its cost is spread over the 1,000 gradient steps of its usual period. Networks use a GPU
if there is one.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

GAME, ACTIONS, BATCH = "Breakout", 4, 32
MATMUL, PRODUCTS = 1024, 5  # side of the square matrices in the matmul row, and number of products
REDO_PERIOD = 1_000
ALONE, WITH_REDO, ON_DEVICE = "our gradient steps alone", " with ReDo", "ours, frames on the device"
RATIOS = (0.25, 1.0, 2.0, 4.0)
PEERS = {"reference's way": "dopamine", "CleanRL's way (PyTorch)": "cleanrl"}
Step = Callable[[], Any]


def step_operations() -> int:
    """The number of floating-point operations of one update: two forward passes, and the gradients of one pass.

    A layer's gradient has one product for the kernel and one for the input. The first layer needs no gradient of its
    input.
    """
    first, rest = 21 * 21 * 8 * 8 * 4 * 32, 11 * 11 * (4 * 4 * 32 * 64 + 3 * 3 * 64 * 64 + 64 * 512) + 512 * ACTIONS
    return 2 * BATCH * (3 * first + 4 * rest)


def our_step() -> Step:
    """A function that calls the compiled `DQN.update` once. Every call gets the same batch."""
    import jax
    import jax.numpy as jnp

    from dormant.rl.agents import atari_dqn
    from dormant.rl.replay.device import Batch

    agent, rng = atari_dqn(), np.random.default_rng(0)
    before, after = rng.integers(0, 256, (2, BATCH, 84, 84, 4), np.uint8)
    rewards, discounts = rng.choice(np.array([-1, 0, 1], np.float32), BATCH), np.full(BATCH, 0.99, np.float32)
    batch = Batch(*map(jnp.asarray, (before, np.zeros(BATCH, np.int32), rewards, discounts, after)))
    # Copies the target network's arrays, because an array cannot be donated twice in one call.
    state = jax.tree.map(jnp.copy, agent.init(jax.random.key(0), (84, 84, 4), ACTIONS))
    update = jax.jit(lambda state, batch: agent.update(state, batch)[0], donate_argnums=0)

    def step() -> Any:
        nonlocal state
        state = update(state, batch)
        return state

    return step


def our_loop(ratio: float, agent_steps: int, redo: bool, folder: Path, replay_on: str = "auto") -> Step:
    """A function that runs one chunk of `AtariTraining`, as in `dormant train`, with a full ring of 1,000 steps."""
    from dormant import Chain, Every, ReDo
    from dormant.rl.agents import atari_dqn
    from dormant.rl.atari import AtariTraining
    from dormant.rl.envs.atari import Atari

    agent = replace(atari_dqn(ratio), replay_capacity=1_000, min_replay=agent_steps, epsilon_steps=1)
    what = Every(max(1, round(agent_steps * ratio)), ReDo()) if redo else Chain()
    length: dict[str, Any] = {"agent_steps": 10**6 * agent_steps, "log_period": agent_steps}
    length["eval_period"] = length["agent_steps"]
    training = AtariTraining(
        agent=agent, env=Atari(GAME), intervention=what, replay_ratio=ratio, replay_on=replay_on, **length
    )
    state = training.init()
    loop = training.open(folder, state)
    for _ in range(max(3, 1_000 // agent_steps)):  # fills the ring, and compiles
        state, _ = loop.advance(state)

    def chunk() -> Any:
        nonlocal state
        state, _ = loop.advance(state)
        return state.agent

    return chunk


def peer_step(name: str) -> Step:
    """A function that samples a batch and takes one gradient step with the code of a stand-in."""
    import atari_peers

    return getattr(atari_peers, name)(ACTIONS).learn


def peer_loop(name: str, ratio: float, agent_steps: int, redo: bool) -> Step:
    """A function that takes `agent_steps` agent steps and their gradient steps. With `redo`, it then recycles once."""
    import atari_peers

    from dormant.rl.envs.atari import Atari, AtariGames

    peer, games = getattr(atari_peers, name)(ACTIONS), AtariGames(Atari(GAME), (0,))

    def chunk() -> Any:
        learned = None
        for step in range(agent_steps):
            seen = games.observations[0]
            action = peer.act(seen)
            outcome = games.step(np.array([action]))
            peer.remember(seen, action, float(np.sign(outcome.reward[0])), bool(outcome.terminal[0]))
            for _ in range(round((step + 1) * ratio) - round(step * ratio)):
                learned = peer.learn()
        return peer.recycle() if redo else learned

    return chunk


def matmul() -> Step:
    """A function that computes PRODUCTS float32 matrix products, to measure the machine's rate."""
    import jax
    import jax.numpy as jnp

    matrix, product = jnp.ones((MATMUL, MATMUL)), jax.jit(jnp.matmul)
    return lambda: [product(matrix, matrix) for _ in range(PRODUCTS)]


def seconds(rows: dict[str, Step], repeats: int, count: int = 1) -> dict[str, float]:
    """Median wall time per call of each function. Times them in turn, so that other programs slow all equally."""
    import jax

    times: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(repeats + 1):
        for name, step in rows.items():
            result: Any = None
            start = time.perf_counter()
            for _ in range(count):
                result = step()
            jax.block_until_ready(result.cpu() if hasattr(result, "cpu") else result)  # `cpu` waits for PyTorch
            if number:  # the first round warms up
                times[name].append((time.perf_counter() - start) / count)
    return {name: statistics.median(values) for name, values in times.items()}


def gradient_steps(options: argparse.Namespace) -> None:
    """Prints the time of one gradient step for our code and each stand-in."""
    steps = {"matmul": matmul(), "ours": our_step()} | {name: peer_step(peer) for name, peer in PEERS.items()}
    taken = seconds(steps, options.repeats, options.steps)
    peak = PRODUCTS * 2.0 * MATMUL**3 / taken.pop("matmul")
    print(f"float32 matmul rate {peak / 1e9:.0f} GFLOP/s; one step counts {step_operations() / 1e9:.2f} GFLOP\n")
    print(f"{'gradient step':36s}{'ms':>8s}{'steps/s':>10s}{'of matmul':>11s}{'ours is':>10s}")
    for name, each in taken.items():
        share, ratio = step_operations() / each / peak, each / taken["ours"]
        print(f"{name:36s}{each * 1e3:8.1f}{1 / each:10.1f}{share:11.0%}{ratio:9.2f}x")


def loops(options: argparse.Namespace, ratio: float, folder: Path) -> None:
    """Prints the speeds of the loops at one replay ratio, and of our gradient steps without a loop."""
    agent_steps, rows = options.agent_steps, {}
    for end, redo in (("", False), (WITH_REDO, True)):
        rows["ours" + end] = our_loop(ratio, agent_steps, redo, folder / f"ours{redo}")
        rows |= {name + end: peer_loop(peer, ratio, agent_steps, redo) for name, peer in PEERS.items()}
    rows[ON_DEVICE] = our_loop(ratio, agent_steps, False, folder / "device", "device")
    rows[ALONE] = repeated(our_step(), round(agent_steps * ratio))
    taken = seconds(rows, options.repeats)
    events = {name: taken[name + WITH_REDO] - taken[name] for name in ("ours", *PEERS)}
    for name, event in events.items():
        taken[name + WITH_REDO] = taken[name] + event * agent_steps * ratio / REDO_PERIOD
    print(f"{f'loop at replay ratio {ratio:g}':36s}{'agent steps/s':>15s}{'gradient steps/s':>18s}{'ours is':>10s}")
    for name, each in taken.items():
        rate, ours = agent_steps / each, taken["ours" + WITH_REDO * name.endswith(WITH_REDO)]
        print(f"{name:36s}{rate:15.1f}{rate * ratio:18.1f}{each / ours:9.2f}x")
    if options.record:
        keep(options.record, ratio, {name: agent_steps / each for name, each in taken.items()})
    share = events["ours"] * agent_steps * ratio / REDO_PERIOD / taken[ALONE]
    print(f"{ALONE} are {taken[ALONE] / taken['ours']:.0%} of our loop's time; ReDo costs {share:.2%} of them")


def keep(table: Path, ratio: float, rates: dict[str, float]) -> None:
    """Writes the agent steps per second at one replay ratio into the table that `--record` names."""
    from speed_page import OURS, STAND_IN, Speed, record

    loop = f"DQN on Atari/{GAME}, one seed, replay ratio {ratio:g}"
    rows = {"ours": OURS, ON_DEVICE: OURS} | dict.fromkeys(PEERS, STAND_IN)
    record((Speed(loop, name, kind, rates[name]) for name, kind in rows.items()), table)


def transfers(ratio: float) -> None:
    """Prints how many bytes one agent step sends to the device if the replay's frames are on the device.

    Uses the paper's settings.
    """
    from dormant.rl.agents import atari_dqn
    from dormant.rl.atari import AtariTraining
    from dormant.rl.replay.packets import Packets

    training = AtariTraining(agent=atari_dqn(ratio), replay_ratio=ratio)
    updates, batch = training.schedule.gradient_steps_per_round, training.agent.batch_size
    packets = Packets(training.replay, updates, batch, training.score_batch)
    inputs = updates * (2 * batch + training.score_batch) * np.prod(training.replay.frame_shape) * training.replay.stack
    print(
        f"frames on the device: an agent step sends one packet of {packets.bytes:,} bytes and fetches one action; "
        f"batches from the host are up to {inputs:,} bytes for each round"
    )


def repeated(step: Step, count: int) -> Step:
    """A function that calls `step` `count` times."""
    return lambda: [step() for _ in range(count)][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="gradient steps of each measurement")
    parser.add_argument("--agent-steps", type=int, default=200, help="agent steps of each measurement of a loop")
    parser.add_argument("--core", type=int, default=None, help="use only this core; default: all")
    parser.add_argument("--record", type=Path, metavar="TABLE", help="write the speeds into this table (CSV)")
    options = parser.parse_args()
    rounds = math.ceil(1 / min(RATIOS))
    if options.agent_steps < rounds or options.agent_steps % rounds:
        parser.error(f"--agent-steps must be a multiple of {rounds}, got {options.agent_steps}")
    if options.core is not None:
        import torch

        from dormant.lab.machine import pin

        pin(options.core)
        torch.set_num_threads(1)
    gradient_steps(options)
    for ratio in RATIOS:
        print()
        transfers(ratio)
        with tempfile.TemporaryDirectory() as folder:
            loops(options, ratio, Path(folder))


if __name__ == "__main__":
    main()
