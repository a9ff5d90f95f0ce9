"""Measures what a gradient step with each method costs, relative to plain DQN, and writes benchmarks/methods.csv.

    python benchmarks/methods.py                     measures all methods
    python benchmarks/methods.py --methods redo snr  measures some, and keeps the other lines of the file
    python benchmarks/methods.py --table             prints the table of docs/cures.md from the file

The agent is that of the pilot scale on MinAtar/Asterix, with each method in the middle of its ranges. Each turn
measures 1,000 gradient steps of every method and of plain DQN, one after the other. The number is the median over turns
of the quotient of both times. Times are CPU seconds of one core, because other programs hardly affect them. A method
that acts every 10,000 gradient steps does not act in most turns, so the median does not include the cost of acting.
"""

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from dormant.experiments.benches import MINATAR
from dormant.experiments.methods import METHODS, PLAIN, title, typical
from dormant.lab.machine import cores, origin, pin
from dormant.lab.runs.costs import time_quotients
from dormant.rl.device import DeviceTraining
from dormant.rl.learning import LearningState, gradient_step
from dormant.rl.schedule import take_seed

STEPS = 1_000  # gradient steps of a turn
STATES = 4_096  # random states, from which batches are drawn
FILE = Path(__file__).with_suffix(".csv")
COLUMNS = ("method", "title", "time", "lower_quartile", "upper_quartile", "turns", "revision", "measured")


def stepping(training: DeviceTraining) -> Callable[[], None]:
    """Compiles the gradient steps of a training with one seed. Returns a function that takes `STEPS` of them."""
    agent, env, learning = training.agent, training.env, training.learning
    key = jax.random.key(0)
    ring = training.replay.init()
    seen = jax.random.bits(key, (STATES, *ring.observations.shape[1:]), jnp.uint8).astype(ring.observations.dtype)
    zeros = jnp.zeros(STATES)
    ring = type(ring)(seen, zeros.astype(jnp.uint8), zeros, zeros + agent.gamma, zeros.astype(bool))

    def start() -> list[LearningState]:
        state = agent.init(key, env.observation_shape, env.actions)
        scores = {layer.name: jnp.zeros(layer.width) for layer in learning.network.wiring.layers}
        started = LearningState(state, learning.intervention.init(state.learner, learning.network), scores)
        return [take_seed(jax.tree.map(lambda leaf: leaf[None], started), 0)]

    @partial(jax.jit, donate_argnums=0)
    def steps(states: list[LearningState], keys: jax.Array) -> list[LearningState]:
        def step(states: list[LearningState], key: jax.Array) -> tuple[list[LearningState], None]:
            batch, score, act = jax.random.split(key, 3)
            added = jnp.array(STATES)
            batch = training.replay.sample(ring, added, jax.random.uniform(batch, (agent.drawn_batch,)))
            inputs = training.replay.states(ring, added, jax.random.uniform(score, (training.score_batch,)))
            one = jax.tree.map(lambda leaf: leaf[None], (batch, inputs))
            return gradient_step(learning, states, (one, act[None], jnp.array(False)))[0], None

        return jax.lax.scan(step, states, keys)[0]

    states, keys = jax.jit(start)(), jax.random.split(key, STEPS)

    def take() -> None:
        nonlocal states
        states = jax.block_until_ready(steps(states, keys))

    take()
    return take


def measured(names: list[str], turns: int) -> list[tuple]:
    """Measures the methods. Returns a row per method."""
    made, taking = origin(), {}
    for name in (PLAIN, *names):
        print(f"compiling {name}", flush=True)
        training = typical(name, MINATAR)
        assert isinstance(training, DeviceTraining)
        taking[name] = stepping(training)
    quotients = time_quotients(taking, PLAIN, turns, time.process_time)
    rows = []
    for name in names:
        low, middle, high = (f"{value:.3f}" for value in statistics.quantiles(quotients[name], method="inclusive"))
        rows.append((name, title(name), middle, low, high, turns, made["revision"], made["time"]))
    return rows


def kept() -> list[tuple]:
    """The rows of the file."""
    if not FILE.exists():
        return []
    with FILE.open(newline="") as stream:
        return [tuple(row) for row in csv.reader(stream)][1:]


def table() -> list[str]:
    """The lines of the table in docs/cures.md, the cheapest method first."""
    rows = sorted(kept(), key=lambda row: float(row[2]))
    lines = [f"| {row[1]} | {float(row[2]):.2f} |" for row in rows]
    return ["| method | time / plain DQN |", "|---|---|", *lines]


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--core", type=int, default=cores()[-1])
    flags.add_argument("--turns", type=int, default=9)
    flags.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD")
    flags.add_argument("--table", action="store_true")
    given = flags.parse_args()
    if given.table:
        print("\n".join(table()))
        return
    pin(given.core)
    rows = measured(given.methods, given.turns)
    for row in rows:
        print(*row, flush=True)
    rows += [row for row in kept() if row[0] not in given.methods]
    rows.sort(key=lambda row: list(METHODS).index(row[0]))
    with FILE.open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
