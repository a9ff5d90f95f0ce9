"""Measures the speed of DQN on MinAtar, and compares its operations per second with those of a large matrix product.

    python benchmarks/minatar_update.py [--repeats 9] [--steps 500] [--core 0]

After a warm-up, all rows are measured in turn, `--repeats` times; each number is a median. Four seeds are spread over
the cores as in `dormant train`, unless `--core` is given. Operations are counted by hand: two per multiply-add of the
update's matrix products (`PRODUCTS`), without element-wise operations, Adam and sampling. If rejax is installed (see
minatar_peers.py), its DQN is measured too, with the same network, batch size and replay ratio.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# Makes glibc keep large freed blocks. Otherwise glibc returns these blocks to the kernel, and every call has to wait
# for new memory pages.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_TOP_PAD_": "100000000"}


Line = tuple[str, str, str]
REJAX = "rejax"
OFTEN, NEVER = 10, 1_000_000_000  # gradient steps between two recyclings


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=500, help="gradient steps of each measurement")
    parser.add_argument("--core", type=int, help="use only this core")
    parser.add_argument(
        "--only-loop",
        type=int,
        metavar="SEEDS",
        help="print only the loop's gradient steps per second, summed over SEEDS seeds",
    )
    parser.add_argument(
        "--only", nargs="+", metavar="ROW", help="measure only these rows of `loops`, for example 'loop 1'"
    )
    parser.add_argument("--record", type=Path, metavar="TABLE", help="write the speeds into this table (CSV)")
    return parser.parse_args()


BATCH, CHANNELS, ACTIONS = 32, 4, 5
PLACES, PATCH, FILTERS, FLAT, WIDTH = 8 * 8 * BATCH, 9 * CHANNELS, 16, 8 * 8 * 16, 128
# The matrix products of one update, rows x inner x columns: two forward passes, then the gradients of one pass. A
# layer's gradient has one product for the kernel and one for the input. The first layer needs no gradient of its input.
PRODUCTS = [(PLACES, PATCH, FILTERS), (BATCH, FLAT, WIDTH), (BATCH, WIDTH, ACTIONS)] * 2 + [
    *[(PATCH, PLACES, FILTERS), (FLAT, BATCH, WIDTH), (BATCH, WIDTH, FLAT)],
    *[(WIDTH, BATCH, ACTIONS), (BATCH, ACTIONS, WIDTH)],
]
OPERATIONS = sum(2 * rows * inner * columns for rows, inner, columns in PRODUCTS)


def matmul(size: int, repeats: int) -> tuple[Callable[[], Any], float]:
    """A function that computes `repeats` float32 matrix products, and the number of their operations."""
    import jax
    import jax.numpy as jnp

    matrix, product = jnp.ones((size, size)), jax.jit(jnp.matmul)

    def run() -> None:
        jax.block_until_ready([product(matrix, matrix) for _ in range(repeats)])

    return run, 2.0 * size**3 * repeats


def calls(steps: int, change: Callable[[Any], Any], state: Any) -> Callable[[], Any]:
    """A function that calls the compiled `change` `steps` times, each time on the previous result."""
    import jax
    import jax.numpy as jnp

    compiled = jax.jit(change, donate_argnums=0)
    # Copies the arrays, because one call cannot donate an array twice.
    state = jax.tree.map(jnp.copy, state)

    def run() -> None:
        nonlocal state
        for _ in range(steps):
            state = compiled(state)
        jax.block_until_ready(state)

    return run


def bare_update(steps: int) -> dict[str, Callable[[], Any]]:
    """Three functions: updates on one fixed batch, only their matrix products, and only Adam."""
    import jax
    import jax.numpy as jnp

    from dormant.rl.agents import minatar_dqn
    from dormant.rl.replay.device import Batch

    agent = minatar_dqn(steps)
    state = agent.init(jax.random.key(0), (10, 10, CHANNELS), ACTIONS)
    seen = jax.random.bernoulli(jax.random.key(1), 0.05, (2, BATCH, 10, 10, CHANNELS)).astype(jnp.uint8)
    batch = Batch(seen[0], jnp.zeros(BATCH, jnp.int32), jnp.ones(BATCH), jnp.full(BATCH, 0.99), seen[1])
    pairs = [(jnp.ones((rows, inner)), jnp.ones((inner, columns))) for rows, inner, columns in PRODUCTS]

    def multiply(total: Any) -> Any:
        # The factor depends on the previous call, so that XLA cannot compute the products once and reuse them.
        return sum(((left * (1 + 0 * total)) @ right)[0, 0] for left, right in pairs)

    def adam(learner: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            _, opt_state = agent.optimizer().update(learner.params, learner.opt_state, learner.params)
        return learner._replace(opt_state=opt_state)

    return {
        "bare": calls(steps, lambda state: agent.update(state, batch)[0], state),
        "products": calls(steps, multiply, jnp.zeros(())),
        "Adam": calls(steps, adam, state.learner),
    }


def loop(steps: int, seeds: int, recycle: int = 0) -> Callable[[], Any]:
    """A function that runs one chunk of `dormant train`'s device loop. `recycle` is ReDo's period, 0 for no ReDo."""
    from dataclasses import replace

    from dormant import Chain, Every, ReDo
    from dormant.rl.agents import minatar_dqn
    from dormant.rl.device import DeviceTraining
    from dormant.rl.envs.minatar import MinAtar

    training = DeviceTraining(
        agent=replace(minatar_dqn(200_000), min_replay=steps),
        env=MinAtar("Asterix"),
        intervention=Every(recycle, ReDo(tau=0.1)) if recycle else Chain(),
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


def peers(steps: int) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Maps the names of rejax's rows to functions that prepare the measurements. Empty if rejax is not installed."""
    if importlib.util.find_spec("rejax") is None:
        return {}
    from minatar_peers import rejax_loop

    kinds = {f"{REJAX}, our network": True, f"{REJAX}, network in Flax": False}
    return {name: partial(rejax_loop, steps, ours) for name, ours in kinds.items()}


def seconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median wall time of each function. Calls the functions in turn, so that other programs slow all equally."""
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
    """Gradient steps per second of two processes, one per core with three seeds each, as in `dormant demo`."""
    command = [sys.executable, __file__, "--only-loop", "3", "--steps", str(options.steps)]
    command += ["--repeats", str(options.repeats)]
    both = [subprocess.Popen([*command, "--core", str(core)], stdout=subprocess.PIPE, text=True) for core in (0, 1)]
    return sum(float(process.communicate()[0]) for process in both)


def main() -> None:
    from dormant.lab.machine import pin, spread_seeds

    options = arguments()
    if any(os.environ.get(name) != value for name, value in MALLOC.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **MALLOC})
    if options.core is None:
        spread_seeds(4)
    else:
        pin(options.core)
    steps = options.steps
    if options.only_loop:
        taken = seconds({"loop": loop(steps, options.only_loop, recycle=1_000)}, options.repeats)
        print(options.only_loop * steps / taken["loop"])
        return
    if options.only:
        compare(options)
    else:
        report(options)


def loops(steps: int) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Maps the names of rows that `--only` accepts to functions that prepare the measurements."""
    made = {f"loop {seeds}": partial(loop, steps, seeds) for seeds in (1, 4)}
    return {"bare": lambda: bare_update(steps)["bare"], **made, **peers(steps)}


def compare(options: argparse.Namespace) -> None:
    """Measures the rows of `--only`. Prints gradient steps per second, and how many times as fast the first row is."""
    makers, steps = loops(options.steps), options.steps
    taken = seconds({name: makers[name]() for name in options.only}, options.repeats)
    first = taken[options.only[0]] / (4 if options.only[0] == "loop 4" else 1)
    for name, each in taken.items():
        each /= 4 if name == "loop 4" else 1
        print(f"{name:30s}{steps / each:14.0f} /s{each / first:9.2f} x")
    if options.record:
        keep(options.record, {name: steps / each for name, each in taken.items()})


def report(options: argparse.Namespace) -> None:
    steps, products = options.steps, {size: matmul(size, max(1, 4096 // size) ** 2) for size in (512, 1024, 2048)}
    runs = {f"matmul {size}": run for size, (run, _) in products.items()} | bare_update(steps)
    runs |= {name: make() for name, make in loops(steps).items() if name not in runs}
    runs |= {"never": loop(steps, 4, recycle=NEVER), "often": loop(steps, 4, recycle=OFTEN)}
    taken = seconds(runs, options.repeats)
    if options.record:
        keep(options.record, {name: steps / each for name, each in taken.items()})
    peak = max(operations / taken[f"matmul {size}"] for size, (_, operations) in products.items())
    lines = [("largest float32 matmul rate", f"{peak / 1e9:.1f} GFLOP/s", ""), *update_lines(taken, steps, peak)]
    lines += [*loop_lines(taken, steps), *peer_lines(taken, steps), *cost_lines(taken, steps)]
    if options.core is None and (os.cpu_count() or 1) > 1:
        lines.append(("2 processes x 3 seeds", f"{two_processes(options):.0f} /s", "one core each, with ReDo"))
    for name, value, remark in lines:
        print(f"{name:30s}{value:>16s}  {remark}".rstrip())


def keep(table: Path, rates: dict[str, float]) -> None:
    """Writes the agent steps per second of our loop and of rejax into the table that `--record` names."""
    from speed_page import OURS, PACKAGE, Speed, record

    from dormant.lab.machine import version

    loop = "DQN on MinAtar/Asterix, one seed, replay ratio 1"
    ours = Speed(loop, "ours", OURS, rates["loop 1"])
    found = {name: rate for name, rate in rates.items() if name.startswith(REJAX)}
    theirs = [Speed(loop, name, PACKAGE, rate, version("rejax") or "") for name, rate in found.items()]
    record([ours, *theirs], table)


def update_lines(taken: dict[str, float], steps: int, peak: float) -> list[Line]:
    rate = steps / taken["bare"]
    share = rate * OPERATIONS / peak
    parts = [(f"  of it, {name}", f"{1e3 * taken[name] / steps:.3f} ms", "") for name in ("products", "Adam")]
    return [
        ("operations of one update", f"{OPERATIONS / 1e6:.1f} MFLOP", "counted"),
        ("bare update", f"{rate:.0f} /s", f"{share:.0%} of the matmul rate (goal 60 %)"),
        ("  which takes", f"{1e3 / rate:.3f} ms", f"{1e3 * OPERATIONS / peak:.3f} ms at the matmul rate"),
        *parts,
    ]


def loop_lines(taken: dict[str, float], steps: int) -> list[Line]:
    one, four = steps / taken["loop 1"], 4 * steps / taken["loop 4"]
    return [
        ("device loop, 1 seed", f"{one:.0f} /s", f"{one * taken['bare'] / steps:.0%} of the bare update (goal 100 %)"),
        ("device loop, 4 seeds", f"{four:.0f} /s", f"{four / one:.2f} x one seed (goal 1.8)"),
    ]


def peer_lines(taken: dict[str, float], steps: int) -> list[Line]:
    """The lines on rejax. Our device loop with one seed is compared with each of them."""
    return [
        (
            name,
            f"{steps / taken[name]:.0f} /s",
            f"our loop is {taken[name] / taken['loop 1']:.2f} x as fast (goal 1.5)",
        )
        for name in taken
        if name.startswith(REJAX)
    ]


def cost_lines(taken: dict[str, float], steps: int) -> list[Line]:
    """The lines on ReDo's cost. ReDo acts a hundred times as often as usual, so that its cost exceeds the noise."""
    recycling = (taken["often"] - taken["never"]) / (steps / OFTEN)
    share, idle = recycling * steps / 1_000 / taken["loop 4"], taken["never"] / taken["loop 4"] - 1
    return [
        (
            "ReDo every 1,000, 4 seeds",
            f"{share:.2%}",
            f"of training time (goal below 1 %): {1e3 * recycling:.2f} ms each",
        ),
        ("  between, when not due", f"{idle:+.1%}", "of training time"),
    ]


if __name__ == "__main__":
    main()
