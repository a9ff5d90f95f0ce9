"""How fast DQN learns on MinAtar, beside what the same arithmetic would take as one large matrix product.

    python benchmarks/minatar_update.py [--repeats 9] [--steps 500] [--core 0]

All rows come from one run, measured in turn `--repeats` times after a warm-up; each number is a median. `--core` keeps
the process on one core, the matrix product too. Operations are counted by hand (two for each multiply-add of the
products of the update, see `update_operations`); element-wise work, Adam and sampling count nothing.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

# glibc hands large freed blocks back to the kernel, and a call outside a loop then pays for fresh pages every time.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_TOP_PAD_": "100000000"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=500, help="gradient steps of each measurement")
    parser.add_argument("--core", type=int, help="keep to this core")
    parser.add_argument("--only-loop", type=int, metavar="SEEDS", help="print the loop's rate for so many seeds")
    return parser.parse_args()


def update_operations(channels: int, actions: int, batch: int) -> int:
    """Floating-point operations of one update: two forward passes, and the gradients of one of them.

    A layer's gradient takes one product for its kernel and one for its input; the first layer needs no latter.
    """
    conv, dense, head = 8 * 8 * 9 * channels * 16, 8 * 8 * 16 * 128, 128 * actions
    forward = conv + dense + head
    return 2 * batch * (2 * forward + conv + 2 * dense + 2 * head)


def matmul(size: int, repeats: int) -> tuple[Callable[[], Any], float]:
    """A plain float32 product, and its operations."""
    import jax
    import jax.numpy as jnp

    matrix, product = jnp.ones((size, size)), jax.jit(jnp.matmul)

    def run() -> None:
        for _ in range(repeats):
            result = product(matrix, matrix)
        result.block_until_ready()

    return run, 2.0 * size**3 * repeats


def bare_update(steps: int) -> Callable[[], Any]:
    """Updates on one fixed batch, each its own call of one compiled function."""
    import jax
    import jax.numpy as jnp

    from dormant.rl.presets import minatar_dqn
    from dormant.rl.replay import Batch

    agent = minatar_dqn(steps)
    # A target of its own: a donated array cannot be passed twice.
    state = jax.tree.map(jnp.copy, agent.init(jax.random.key(0), (10, 10, 4), 5))
    seen = jax.random.bernoulli(jax.random.key(1), 0.05, (2, 32, 10, 10, 4)).astype(jnp.uint8)
    batch = Batch(seen[0], jnp.zeros(32, jnp.int32), jnp.ones(32), jnp.full(32, 0.99), seen[1])
    update = jax.jit(lambda state: agent.update(state, batch)[0], donate_argnums=0)

    def run() -> None:
        nonlocal state
        for _ in range(steps):
            state = update(state)
        jax.block_until_ready(state)

    return run


def loop(steps: int, seeds: int, recycle: bool) -> Callable[[], Any]:
    """The device loop of `dormant train`: environment, replay, updates, measurements, log."""
    from dataclasses import replace

    from dormant import Chain, Every, ReDo
    from dormant.rl.envs.minatar import MinAtar
    from dormant.rl.loops import DeviceTraining
    from dormant.rl.presets import minatar_dqn

    training = DeviceTraining(
        agent=replace(minatar_dqn(200_000), min_replay=steps),
        env=MinAtar("Asterix"),
        intervention=Every(1_000, ReDo(tau=0.1)) if recycle else Chain(),
        agent_steps=10_000 * steps,
        log_period=steps,
        eval_period=10_000 * steps,
        seeds=tuple(range(seeds)),
    )
    state, _ = training.advance(training.init())

    def run() -> None:
        nonlocal state
        state, _ = training.advance(state)

    return run


def seconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median wall time of each, measured in turn so that what disturbs the machine disturbs all of them."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def two_processes(options: argparse.Namespace) -> float:
    """Gradient steps a second of two processes, one to a core, three seeds each: how `dormant demo` runs."""
    command = [sys.executable, __file__, "--only-loop", "3", "--steps", str(options.steps)]
    command += ["--repeats", str(options.repeats)]
    both = [subprocess.Popen([*command, "--core", str(core)], stdout=subprocess.PIPE, text=True) for core in (0, 1)]
    return sum(float(process.communicate()[0]) for process in both)


def main() -> None:
    options = arguments()
    if any(os.environ.get(name) != value for name, value in MALLOC.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **MALLOC})
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    steps = options.steps
    if options.only_loop:
        taken = seconds({"loop": loop(steps, options.only_loop, recycle=True)}, options.repeats)
        print(options.only_loop * steps / taken["loop"])
        return
    report(options)


def report(options: argparse.Namespace) -> None:
    steps, products = options.steps, {size: matmul(size, max(1, 4096 // size) ** 2) for size in (512, 1024, 2048)}
    runs = {f"matmul {size}": run for size, (run, _) in products.items()}
    runs |= {"bare": bare_update(steps)}
    runs |= {f"loop {seeds}": loop(steps, seeds, recycle=False) for seeds in (1, 4)}
    # Two chunks of training with recycling hold one recycling for every 1,000 gradient steps.
    runs |= {"recycled": loop(steps, 1, recycle=True)}
    taken = seconds(runs, options.repeats)

    peak = max(operations / taken[f"matmul {size}"] for size, (_, operations) in products.items())
    operations = update_operations(channels=4, actions=5, batch=32)
    rates = {"bare": steps / taken["bare"], "one": steps / taken["loop 1"], "four": 4 * steps / taken["loop 4"]}
    cost = taken["recycled"] / taken["loop 1"] - 1
    lines = [
        ("largest float32 matmul rate", f"{peak / 1e9:.1f} GFLOP/s", ""),
        ("operations of one update", f"{operations / 1e6:.1f} MFLOP", "counted"),
        (
            "bare update",
            f"{rates['bare']:.0f} /s",
            f"{rates['bare'] * operations / peak:.0%} of the matmul rate (goal 60 %)",
        ),
        (
            "device loop, 1 seed",
            f"{rates['one']:.0f} /s",
            f"{rates['one'] / rates['bare']:.0%} of the bare update (goal 80 %)",
        ),
        (
            "device loop, 4 seeds",
            f"{rates['four']:.0f} /s",
            f"{rates['four'] / rates['one']:.2f} x one seed (goal 1.5)",
        ),
        ("ReDo every 1,000 steps", f"{cost:+.1%}", "of training time (goal below 1 %)"),
    ]
    if options.core is None and (os.cpu_count() or 1) > 1:
        lines.append(("2 processes x 3 seeds", f"{two_processes(options):.0f} /s", "one core each, with ReDo"))
    for name, value, remark in lines:
        print(f"{name:28s}{value:>16s}  {remark}".rstrip())


if __name__ == "__main__":
    main()
