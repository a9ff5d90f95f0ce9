"""Measures the ring of Atari frames: bytes per transition, transitions drawn per second, and whether memory grows.

    python benchmarks/replay.py [--capacity 200000] [--minutes 0.5] [--folder runs]

First fills a replay ring with random frames and draws from it. The ring's files are in a temporary folder inside
`--folder`. Then DQN plays Breakout at random until a second ring is full, and learns at replay ratio 1 for `--minutes`.
In the output, `own` is the memory of the process. `mapped` is the part of the ring's files that is in memory; the
kernel can free this part.
The allocator keeps freed blocks, as in minatar_update.py. With `--plain-malloc` it returns freed blocks to the kernel,
so every batch needs fresh pages.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from minatar_update import MALLOC

from dormant.rl.agents import atari_dqn
from dormant.rl.atari import AtariTraining
from dormant.rl.envs.atari import Atari
from dormant.rl.replay.files import flush, refuse_without_room
from dormant.rl.replay.frames import FrameReplay, FrameRing

EPISODE = 1_000
CHUNK = 200  # agent steps between two readings of the clock


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capacity", type=int, default=200_000)
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--plain-malloc", action="store_true", help="use the system's default allocator settings")
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    return parser.parse_args()


def add(replay: FrameReplay, ring: FrameRing, added: int, frames: np.ndarray) -> None:
    """Adds one agent step to the ring. Every thousandth step is the last of an episode."""
    last = added % EPISODE == EPISODE - 1
    before, after = frames[added % len(frames)], frames[(added + 1) % len(frames)]
    replay.add(ring, added, before, added % 6, 0.0, 0.0 if last else 0.99, last, after)


def memory() -> tuple[float, float]:
    """Resident memory of the process in megabytes: first without mapped files, then of mapped files."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, mapped = (int(rows[name].split()[0]) * 1024 / 1e6 for name in ("RssAnon", "RssFile"))
    return own, mapped


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Median wall time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def report(replay: FrameReplay, ring: FrameRing, batch: int) -> None:
    """Fills the ring and prints its size and rates."""
    rng, added = np.random.default_rng(0), replay.slots
    frames = rng.integers(0, 256, (997, *replay.frame_shape), np.uint8)
    start = time.perf_counter()
    for step in range(added):
        add(replay, ring, step, frames)
    filling = time.perf_counter() - start
    drawn = seconds(lambda: replay.sample(ring, added, rng.random(batch)), 500)
    written = seconds(lambda: flush(ring), 1)
    print(
        f"bytes per transition   {replay.bytes / replay.slots:12,.0f}   of {replay.slots:,} steps in {replay.bytes:,}"
    )
    print(f"adding                 {added / filling:12,.0f}   steps/s, while the files fill")
    print(f"drawing                {batch / drawn:12,.0f}   transitions/s, {drawn * 1e3:.2f} ms per batch")
    print(f"writing all to disk    {written:12,.1f}   s")


def train(folder: Path, capacity: int, minutes: float) -> None:
    """Trains with a full ring for `minutes`. Prints memory and speed ten times."""
    agent = replace(atari_dqn(1.0), replay_capacity=capacity, min_replay=capacity)
    length: dict[str, Any] = {"agent_steps": 10**6 * CHUNK, "log_period": CHUNK, "eval_period": 10**6 * CHUNK}
    training = AtariTraining(agent=agent, env=Atari("Breakout"), **length)
    state = training.init()
    loop = training.open(folder, state)
    # Fills the ring and runs one more chunk, which takes gradient steps. This compiles all code before the timing.
    while (done := training.agent_steps_done(state)) < capacity + CHUNK:
        state, _ = loop.advance(state)
    full, part = done, minutes * 60 / 10
    print(f"\n{'minutes':>8}{'agent steps':>13}{'steps/s':>10}{'own MB':>10}{'mapped MB':>11}")
    for line in range(11):
        before, start = done, time.perf_counter()
        while line and time.perf_counter() - start < part:
            state, _ = loop.advance(state)
        done = training.agent_steps_done(state)
        rate = (done - before) / (time.perf_counter() - start)
        own, mapped = memory()
        print(f"{line * part / 60:8.2f}{done - full:13,}{rate:10,.0f}{own:10.1f}{mapped:11.1f}", flush=True)


def main() -> None:
    options = arguments()
    if not options.plain_malloc and any(os.environ.get(name) != value for name, value in MALLOC.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **MALLOC})
    replay = FrameReplay(options.capacity)
    refuse_without_room(replay, 2, options.folder)
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        report(replay, replay.open(Path(folder) / "random", 0), options.batch)
        train(Path(folder) / "played", options.capacity, options.minutes)


if __name__ == "__main__":
    main()
