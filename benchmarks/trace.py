"""Measures the time of a network's first `trace`, and the time that `Every` adds to a step in which ReDo is not due.

    python benchmarks/trace.py [--repeats 21]
    python benchmarks/trace.py --against 0ae57e9      compares traces with another revision

The time of a trace is the CPU time of the first call in a fresh process, without the imports. It is the median over
three processes; with `--against`, over seven processes per revision. Steps with and without the schedule are measured
in turn, `--repeats` times each. The added time is smaller than the noise of a busy machine. Therefore the median of
the relative differences of pairs is printed, with quartiles.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

TRACES = {"nature": 1.0, "impala": 3.0, "torch": 1.0}  # goals, in seconds
TITLES = {"nature": "Nature CNN, Flax", "impala": "IMPALA ResNet, Flax", "torch": "Nature CNN, dormant.torch"}


def linen(name: str) -> tuple[Any, Any, Any]:
    """A Flax network for images of 84 x 84 x 4, its parameters, and an image."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    def nature(x: Any) -> Any:
        for features, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            x = nn.relu(nn.Conv(features, (size, size), stride)(x))
        return nn.Dense(6)(nn.relu(nn.Dense(512)(x.reshape(len(x), -1))))

    def impala(x: Any) -> Any:
        for features in (16, 32, 32):
            x = nn.max_pool(nn.Conv(features, (3, 3))(x), (3, 3), (2, 2), padding="SAME")
            for _ in range(2):
                inner = nn.relu(nn.Conv(features, (3, 3))(nn.relu(x)))
                x = x + nn.Conv(features, (3, 3))(inner)
        return nn.Dense(6)(nn.relu(nn.Dense(256)(nn.relu(x).reshape(len(x), -1))))

    body = {"nature": nature, "impala": impala}[name]
    module = type(name, (nn.Module,), {"__call__": nn.compact(lambda self, x: body(x))})()
    images = jnp.zeros((1, 84, 84, 4))
    return module, jax.jit(module.init)(jax.random.key(0), images), images


def first_trace(name: str) -> float:
    """CPU seconds of one trace. Call it only once per process."""
    if name != "torch":
        import dormant

        module, params, images = linen(name)
        start = time.process_time()
        dormant.trace(module.apply, params, images)
        return time.process_time() - start
    import torch
    from torch import nn

    import dormant.torch

    convolutions = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3)]
    module = nn.Sequential(*convolutions, nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 6))
    start = time.process_time()
    dormant.torch.trace(module, torch.zeros(1, 4, 84, 84))
    return time.process_time() - start


def steps(apply: Callable[..., Any], init: Callable[..., Any], x: Any, count: int) -> tuple[Any, Any]:
    """Two functions that take `count` gradient steps in a compiled loop: without ReDo, and with an idle ReDo."""
    import jax
    import jax.numpy as jnp
    import optax

    import dormant

    tx = optax.adam(1e-4)
    params = jax.jit(init)(jax.random.key(0))
    learner = dormant.Learner(params, tx.init(params))
    network = dormant.Network(dormant.trace(apply, params, x), init, tx)
    redo = dormant.Every(1_000_000, dormant.ReDo(0.1))

    def train(learner: Any) -> Any:
        gradient = jax.grad(lambda params: jnp.square(apply(params, x)).mean())(learner.params)
        change, opt_state = tx.update(gradient, learner.opt_state, learner.params)
        return dormant.Learner(optax.apply_updates(learner.params, change), opt_state)

    def recycle(carry: Any) -> Any:
        learner, state = carry
        key = jax.random.fold_in(jax.random.key(1), state.gradient_steps)
        return redo.update(key, train(learner), state, network, x)

    def looped(step: Any, carry: Any) -> Callable[[], Any]:
        run = jax.jit(lambda carry: jax.lax.fori_loop(0, count, lambda _, now: step(now), carry))
        return lambda: jax.block_until_ready(run(carry))

    return looped(train, learner), looped(recycle, (learner, redo.init(learner, network)))


def added(plain: Callable[[], Any], scheduled: Callable[[], Any], repeats: int, count: int) -> str:
    """The time that the schedule adds to a step, relative to the step's time, as text."""
    seconds: list[list[float]] = [[], []]
    for warm_up in (plain, scheduled):
        warm_up()
    for turn in range(repeats):
        for which in (0, 1) if turn % 2 else (1, 0):
            start = time.perf_counter()
            (plain, scheduled)[which]()
            seconds[which].append(time.perf_counter() - start)
    shares = [after / before - 1 for before, after in zip(*seconds, strict=True)]
    low, middle, high = statistics.quantiles(shares, n=4)
    step = 1e3 * statistics.median(seconds[0]) / count
    return f"{middle:+.2%}  [{low:+.2%}, {high:+.2%}] of a step of {step:.3f} ms (goal below 0.5 %)"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--against", metavar="REVISION", help="compare with the package at that revision")
    parser.add_argument("--only", choices=TRACES, help="print only the CPU seconds of this trace")
    options = parser.parse_args()
    if options.only:
        print(first_trace(options.only))
        return
    if options.against:
        print(*compared(options.against), sep="\n")
        return
    for name, goal in TRACES.items():
        taken = statistics.median(process(name, ROOT) for _ in range(3))
        print(f"trace {TITLES[name]:30s}{taken:8.2f} s  (goal below {goal:g} s)")
    step_costs(options.repeats)


def process(name: str, tree: Path) -> float:
    """CPU seconds of one trace in a new process, with the `dormant` package of the source tree `tree`."""
    command = [sys.executable, __file__, "--only", name]
    return float(subprocess.check_output(command, env={**os.environ, "PYTHONPATH": str(tree)}))


def compared(revision: str) -> Iterator[str]:
    """Yields a line per network: the trace's time at a revision and today, measured in turn."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.check_output(["git", "archive", revision, "dormant"], cwd=ROOT)
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        for name in TRACES:
            pairs = [(process(name, Path(folder)), process(name, ROOT)) for _ in range(7)]
            before, after = (statistics.median(times) for times in zip(*pairs, strict=True))
            times = f"{before:8.3f} s at {revision}, {after:.3f} s today: {after / before:.2f} times"
            yield f"trace {TITLES[name]:26s}{times}"


def step_costs(repeats: int) -> None:
    import jax
    import jax.numpy as jnp

    def mlp(params: Any, x: Any) -> Any:
        return jax.nn.relu(jax.nn.relu(x @ params["a"]) @ params["b"]) @ params["c"]

    def init(key: Any) -> Any:
        shapes = {"a": (8, 64), "b": (64, 64), "c": (64, 4)}
        return {name: 0.1 * jax.random.normal(key, shape) for name, shape in shapes.items()}

    print("ReDo when nothing is due, 8-64-64-4 MLP, batch 32: ", end="", flush=True)
    print(added(*steps(mlp, init, jnp.ones((32, 8)), 2_000), repeats, 2_000))
    module, _, _ = linen("nature")
    images = jnp.zeros((32, 84, 84, 4))
    print("ReDo when nothing is due, Nature CNN, batch 32:    ", end="", flush=True)
    print(added(*steps(module.apply, lambda key: module.init(key, images[:1]), images, 3), max(5, repeats // 3), 3))


if __name__ == "__main__":
    main()
