"""Measures agent steps and gradient steps per second of each agent at replay ratio 1, and the time that ReDo takes.

    python benchmarks/agents.py [--repeats 3] [--agent-steps 100] [--core 0]

DQN and DrQ(eps) play an Atari game with the Nature CNN and batches of 32. SAC plays HalfCheetah-v5 with batches of 256.
A measurement is one chunk of `dormant train`, with metrics and without a checkpoint. After a warm-up, the agents are
measured in turn; each number is a median. In chunks with ReDo, ReDo acts after every gradient step, so that its cost
exceeds the noise. The cost is printed per event. It is also printed relative to the training time between two events
at the paper's period.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dormant import Every, ReDo
from dormant.lab.machine import pin
from dormant.rl.agents import atari_dqn, atari_drq
from dormant.rl.agents.sac import SAC
from dormant.rl.atari import AtariTraining
from dormant.rl.control import ControlTraining
from dormant.rl.envs.atari import Atari

PERIODS = {"DQN": 1_000, "DrQ(eps)": 1_000, "SAC": 200_000}  # gradient steps between two events of ReDo in the paper
RING: dict[str, Any] = {"replay_capacity": 1_000, "min_replay": 300}


def trainings(agent_steps: int) -> dict[str, Any]:
    """One training per agent, with chunks of `agent_steps` agent steps."""
    length: dict[str, Any] = {"agent_steps": 10**6 * agent_steps, "log_period": agent_steps}
    length["eval_period"] = length["agent_steps"]
    atari = {
        "DQN": replace(atari_dqn(), **RING, epsilon_steps=1),
        "DrQ(eps)": replace(atari_drq(), **RING, epsilon_steps=1),
    }
    plain = {name: AtariTraining(agent, Atari("MsPacman"), **length) for name, agent in atari.items()}
    return plain | {"SAC": ControlTraining(SAC(**RING), **length)}


def chunks(training: Any, folder: Path) -> Callable[[], Any]:
    """Fills the replay and compiles the training. Returns a function that runs the next chunk."""
    state = training.init()
    loop = training.open(folder, state)

    def advance() -> None:
        nonlocal state
        state, _ = loop.advance(state)

    for _ in range(2 + -(-RING["min_replay"] // training.log_period)):
        advance()
    return advance


def seconds(rows: dict[Any, Callable[[], Any]], repeats: int) -> dict[Any, float]:
    """Median wall time of each function. Calls the functions in turn, so that other programs slow all equally."""
    times: dict[Any, list[float]] = {name: [] for name in rows}
    for _ in range(repeats):
        for name, advance in rows.items():
            start = time.perf_counter()
            advance()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--agent-steps", type=int, default=100, help="agent steps of each chunk")
    parser.add_argument("--core", type=int, help="use only this core; default: all")
    options = parser.parse_args()
    if options.core is not None:
        pin(options.core)
    steps = options.agent_steps
    with tempfile.TemporaryDirectory() as folder:
        rows = {}
        for name, training in trainings(steps).items():
            treated = replace(training, intervention=Every(1, ReDo(tau=0.1)))
            rows[name, False] = chunks(training, Path(folder) / name / "plain")
            rows[name, True] = chunks(treated, Path(folder) / name / "redo")
        taken = seconds(rows, options.repeats)
    print(f"{'':12s}{'agent steps/s':>15s}{'gradient steps/s':>18s}{'ms per ReDo':>17s}{'of its period':>15s}")
    for name, period in PERIODS.items():
        chunk = taken[name, False]
        event = (taken[name, True] - chunk) / steps
        rate, share = steps / chunk, event / (chunk / steps * period)
        print(f"{name:12s}{rate:15.1f}{rate:18.1f}{event * 1e3:17.1f}{share:15.3%}")


if __name__ == "__main__":
    main()
