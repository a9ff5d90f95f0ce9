"""How long trainings take beside each other, measured in turn so that what disturbs one disturbs all."""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dormant.lab.runner import FilingTraining

REPEATS = 5


def relative_times(
    trainings: Mapping[str, Any], of: str, progress: Callable[[str], None], repeats: int = REPEATS
) -> dict[str, float]:
    """The time that each training takes over that of the one named `of`, one seed each.

    It is that between two log points after learning has begun, the median of `repeats`, without compiling and
    evaluations. `progress` is told the name of each training while it warms up.
    """
    with tempfile.TemporaryDirectory() as folder:
        steps = {}
        for name, training in trainings.items():
            progress(name)
            steps[name] = _warm(training, Path(folder) / name)
        times = {name: [] for name in steps}
        for _ in range(repeats):
            for name, step in steps.items():
                times[name].append(_seconds(step))
    medians = {name: statistics.median(each) for name, each in times.items()}
    return {name: each / medians[of] for name, each in medians.items()}


def _warm(training: Any, folder: Path) -> Callable[[], None]:
    """What goes on with a training to its next log point, after learning has begun and all is compiled."""
    # Large enough to be reached by no measurement, and no evaluation on the way.
    endless = 10_000_000 * training.log_period
    begins = training.agent.min_replay + training.log_period
    # As many steps as are made here: a full ring of Atari frames would take 7 GB for each training.
    room = min(training.agent.replay_capacity, begins + (REPEATS + 2) * training.log_period)
    agent = replace(training.agent, replay_capacity=room)
    training = replace(training, agent=agent, seeds=training.seeds[:1], agent_steps=endless, eval_period=endless)
    steps_done, state = training.agent_steps_done, training.init()
    loop = training.open(folder, state) if isinstance(training, FilingTraining) else training

    def advance() -> None:
        nonlocal state
        state, _ = loop.advance(state)

    while steps_done(state) <= begins:
        advance()
    return advance


def _seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()  # its metrics are on the host, so that it has waited for the device
    return time.perf_counter() - start
