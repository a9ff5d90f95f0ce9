"""Compares our SAC with Stable-Baselines3's and sbx's in agent steps per second.

    python benchmarks/sac.py [--env HalfCheetah-v5] [--repeats 5] [--steps 200]

All three share the task, the network and the batch size, and train at replay ratio 1. After a warm-up they are measured
in turn; each number is a median. A measurement has `--steps` agent steps, each with a gradient step. `ours with ReDo`
recycles twice per measurement. To add a row, add a function to `CONTESTANTS`. It takes the task and the number of
steps. It returns a function that runs one measurement.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

Advance = Callable[[], Any]
WARM_UP = 300  # agent steps of random play before learning; the first round of learning is not measured either


def ours(task: str, steps: int, recycle: bool = False) -> Advance:
    """A function that runs one chunk of `dormant train --agent sac`, with metrics and without a checkpoint."""
    from dormant import Chain, Every, ReDo
    from dormant.rl.agents.sac import SAC
    from dormant.rl.control import ControlTraining
    from dormant.rl.envs.mujoco import MuJoCo

    training = ControlTraining(
        agent=SAC(min_replay=WARM_UP, replay_capacity=100_000),
        env=MuJoCo(task),
        intervention=Every(max(1, steps // 2), ReDo(tau=0.1)) if recycle else Chain(),
        agent_steps=10**9 // steps * steps,
        log_period=steps,
        eval_period=10**6 * steps,
    )
    state = training.init()
    loop = training.open(Path(tempfile.mkdtemp()), state)

    def advance() -> None:
        nonlocal state
        state, _ = loop.advance(state)

    for _ in range(-(-WARM_UP // steps)):
        advance()
    return advance


def stable_baselines3(task: str, steps: int) -> Advance:
    from stable_baselines3 import SAC

    return _theirs(SAC, task, steps)


def sbx(task: str, steps: int) -> Advance:
    from sbx import SAC

    return _theirs(SAC, task, steps)


def _theirs(agent: Any, task: str, steps: int) -> Advance:
    import gymnasium

    model = agent("MlpPolicy", gymnasium.make(task), learning_starts=WARM_UP, buffer_size=100_000)
    model.learn(WARM_UP)
    return lambda: model.learn(steps, reset_num_timesteps=False)


CONTESTANTS: dict[str, Callable[[str, int], Advance]] = {
    "ours": ours,
    "ours with ReDo": lambda task, steps: ours(task, steps, recycle=True),
    "Stable-Baselines3": stable_baselines3,
    "sbx": sbx,
}


def seconds(contestants: dict[str, Advance], repeats: int) -> dict[str, float]:
    """Median wall time per contestant. Measures them in turn, so that other programs slow all of them equally."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(repeats + 1):
        for name, advance in contestants.items():
            start = time.perf_counter()
            advance()
            if number:  # the first round still compiles
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="agent steps of each measurement")
    parser.add_argument("--record", type=Path, metavar="TABLE", help="write the speeds into this table (CSV)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    taken = seconds({name: make(options.env, options.steps) for name, make in CONTESTANTS.items()}, options.repeats)
    print(f"{options.env}, one seed, replay ratio 1, batch 256, two hidden layers of 256\n")
    print(f"{'':20s}{'ms / step':>10s}{'steps/s':>10s}{'ours is':>10s}")
    for name, duration in taken.items():
        each, ratio = duration / options.steps, duration / taken["ours"]
        print(f"{name:20s}{each * 1e3:10.2f}{1 / each:10.1f}{ratio:9.2f}x")
    if options.record:
        keep(options, taken)


def keep(options: argparse.Namespace, taken: dict[str, float]) -> None:
    """Writes the speeds into the table that `--record` names."""
    from speed_page import OURS, PACKAGE, Speed, record

    from dormant.lab.machine import version

    loop = f"SAC on {options.env}, one seed, replay ratio 1"
    packages = {"Stable-Baselines3": "stable-baselines3", "sbx": "sbx-rl"}
    speeds = []
    for name, each in taken.items():
        package = packages.get(name)
        kind, found = (PACKAGE, version(package) or "") if package else (OURS, "")
        speeds.append(Speed(loop, name, kind, options.steps / each, found))
    record(speeds, options.record)


if __name__ == "__main__":
    main()
