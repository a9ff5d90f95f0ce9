"""Measures the cost of checksums and synced rows in short trainings on MinAtar and Atari.

    python benchmarks/integrity.py [--repeats 5] [--agent-steps 4000 400]

Trains in turn with and without the functions that compute checksums and sync rows. Measures CPU seconds, because other
programs on the machine affect wall-clock time. Prints a share and a ratio per environment, as medians over pairs of
runs. The share is the fraction of a run's time that these functions take. The ratio is the time of a run with these
functions divided by the time of a run without them; it includes the noise between runs. A run has one seed, starts to
learn after a tenth of its steps, and writes one checkpoint at its end. Usual runs write only one checkpoint per 30
seconds, so these short runs write more. All runs of an environment share compiled code.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from dormant.interventions import Every, ReDo
from dormant.lab.runs import checkpoints, rows, runner
from dormant.rl.agents import atari_dqn, minatar_dqn
from dormant.rl.atari import AtariTraining
from dormant.rl.device import DeviceTraining
from dormant.rl.envs.atari import Atari
from dormant.rl.envs.minatar import MinAtar
from dormant.rl.replay import frames

REDO = Every(1_000, ReDo())
PLACES = ((checkpoints, "checksum"), (frames, "checksum"), (rows.Journal, "synced"))


def trainings(minatar_steps: int, atari_steps: int) -> Mapping[str, Any]:
    """Returns one training per kind of environment."""
    atari = replace(atari_dqn(), min_replay=atari_steps // 10, replay_capacity=10 * atari_steps)
    minatar = replace(minatar_dqn(200_000), min_replay=minatar_steps // 10)
    return {
        "MinAtar": DeviceTraining(minatar, MinAtar("Asterix"), REDO, **_length(minatar_steps)),
        "Atari": AtariTraining(atari, Atari("Pong"), REDO, **_length(atari_steps)),
    }


def _length(steps: int) -> dict[str, Any]:
    return {"agent_steps": steps, "log_period": steps // 20, "eval_period": 10 * steps, "seeds": (0,)}


@contextmanager
def replaced(instead: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Replaces each checking or syncing function `f` by `instead(f)` inside the block."""
    changes = [patch.object(place, name, instead(getattr(place, name))) for place, name in PLACES]
    for change in changes:
        change.start()
    try:
        yield
    finally:
        for change in changes:
            change.stop()


def without(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a stand-in for a function that checks or syncs. The stand-in does neither."""
    return (lambda journal: dict(journal.marks)) if function.__name__ == "synced" else (lambda *arguments: 0)


def seconds(training: Any) -> float:
    """CPU seconds of a whole training."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        runner.run(training, Path(folder) / "seed0", checkpoint_seconds=1e9)
        return time.process_time() - began


def measured(training: Any) -> tuple[float, float]:
    """Returns the CPU seconds of a whole training, and how many of these the checking and syncing functions take."""
    inside = 0.0

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal inside
            began = time.thread_time()
            try:
                return function(*arguments)
            finally:
                inside += time.thread_time() - began

        return call

    with replaced(timed):
        return seconds(training), inside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    steps = "agent steps of a run on MinAtar, and of a run on Atari"
    parser.add_argument("--agent-steps", type=int, nargs=2, default=(4_000, 400), help=steps)
    options = parser.parse_args()
    for name, training in trainings(*options.agent_steps).items():
        seconds(training)  # this first run only compiles
        shares, ratios, checked = [], [], 0.0
        for _ in range(options.repeats):
            checked, inside = measured(training)
            with replaced(without):
                unchecked = seconds(training)
            shares.append(inside / checked)
            ratios.append(checked / unchecked)
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(
            f"{name}: {training.agent_steps} agent steps, {checked:.1f} CPU s, share {statistics.median(shares):.2%}, "
            f"ratio {statistics.median(ratios):.3f} ({spread})",
            flush=True,
        )


if __name__ == "__main__":
    main()
