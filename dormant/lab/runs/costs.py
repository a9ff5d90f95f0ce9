"""Estimates the time of runs from finished runs or from a table of speeds, and measures relative times."""

import csv
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dormant.lab.runs.description import describe, shown
from dormant.lab.runs.folder import RunFolder
from dormant.lab.runs.runner import FilingTraining

TABLE_COLUMNS = (
    *("environment", "network", "backend", "agent_steps_per_second", "gradient_steps_per_second"),
    *("revision", "time"),
)


class Kind(NamedTuple):
    """The properties of a training that determine its speed: environment class, network, and JAX's backend."""

    environment: str
    network: str
    backend: str


class Speed(NamedTuple):
    """The speed of one seed, for acting and for learning."""

    agent_steps_per_second: float
    gradient_steps_per_second: float


class Cost(NamedTuple):
    """The estimated seconds of a training if its seeds run one after another, and the source of the estimate."""

    seconds: float
    source: Literal["runs", "table"]


@dataclass(frozen=True)
class Speeds:
    """Known speeds of trainings. `runs` has the seconds per agent step of finished runs, by kind and replay ratio.

    `table` has the speeds of kinds without a finished run. A training that does not act in an environment has no replay
    ratio, and its steps are gradient steps.
    """

    runs: Mapping[tuple[Kind, float | None], float]
    table: Mapping[Kind, Speed]
    backend: str = "cpu"

    def cost(self, training: Any) -> Cost | None:
        """Returns the estimated cost of a training. Returns None if neither the runs nor the table have its kind.

        >>> from dormant.rl.device import DeviceTraining
        >>> training = DeviceTraining(agent_steps=2_000, eval_period=2_000, seeds=(0, 1), replay_ratio=2.0)
        >>> Speeds({}, {kind_of(training, "cpu"): Speed(100.0, 50.0)}).cost(training)
        Cost(seconds=200.0, source='table')
        """
        kind = kind_of(training, self.backend)
        steps, ratio = training.agent_steps * len(training.seeds), getattr(training, "replay_ratio", None)
        known = self.runs.get((kind, ratio))
        if known is not None:
            return Cost(steps * known, "runs")
        if kind not in self.table:
            return None
        acting, learning = self.table[kind]
        seconds = steps / learning if ratio is None else steps / acting + steps * ratio / learning
        return Cost(seconds, "table")


def kind_of(training: object, backend: str) -> Kind:
    """The kind of a training.

    >>> from dormant.rl.device import DeviceTraining
    >>> kind_of(DeviceTraining(), "cpu")
    Kind(environment='MinAtar', network='MinAtarCNN(filters=16, width=128, ...)', backend='cpu')
    """
    return _kind(describe(training), backend)


def _kind(training: Mapping[str, Any], backend: str) -> Kind:
    agent = training["agent"]
    # An agent with several networks has no field `network`. Its fields `hidden` and `width` give the networks' size.
    size = {"is": agent["is"], **{name: agent[name] for name in ("hidden", "width") if name in agent}}
    return Kind(training["env"]["is"], shown(agent.get("network", size)), backend)


def speeds(root: Path, table: Path, backend: str) -> Speeds:
    """Reads speeds from the finished runs under a folder and from a benchmark's table."""
    return Speeds(paces(sorted(root.rglob("done")) if root.exists() else ()), read_table(table), backend)


def paces(finished: Iterable[Path]) -> dict[tuple[Kind, float | None], float]:
    """Returns the mean seconds per agent step and seed of finished runs, for each kind and replay ratio.

    Skips runs that have no timing or a damaged file.
    """
    agent_steps, seconds = defaultdict(float), defaultdict(float)
    for done in finished:
        folder = RunFolder(done.parent)
        try:
            training = json.loads(folder.spec.read_text())["training"]
            key = (_kind(training, json.loads(done.read_text())["backend"]), training.get("replay_ratio"))
            seeds = len(training["seeds"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        agent_steps[key] += seeds * folder.timing.agent_steps
        seconds[key] += folder.timing.seconds
    return {key: seconds[key] / steps for key, steps in agent_steps.items() if steps}


def read_table(table: Path) -> dict[Kind, Speed]:
    """Reads a table of speeds. Returns the speed of each kind."""
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {
        Kind(row["environment"], row["network"], row["backend"]): Speed(
            float(row["agent_steps_per_second"]), float(row["gradient_steps_per_second"])
        )
        for row in rows
    }


REPEATS = 5


def relative_times(
    trainings: Mapping[str, Any], of: str, progress: Callable[[str], None], repeats: int = REPEATS
) -> dict[str, float]:
    """Times each training with one seed. Returns the median of its time divided by the time of the training `of`.

    A measurement lasts from one log point to the next. It begins after learning has started, and includes neither
    compilation nor evaluation. `progress` is called with the name of each training before the training is compiled.
    """
    with tempfile.TemporaryDirectory() as folder:
        steps = {}
        for name, training in trainings.items():
            progress(name)
            steps[name] = _warm(training, Path(folder) / name, repeats)
        return {name: statistics.median(each) for name, each in time_quotients(steps, of, repeats).items()}


def time_quotients(
    steps: Mapping[str, Callable[[], None]], of: str, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Times all functions in turn, `repeats` times. Returns each time relative to the time of function `of`.

    Both times are from the same turn, so that a disturbance of the machine affects both.
    """
    turns = [{name: _seconds(step, clock) for name, step in steps.items()} for _ in range(repeats)]
    return {name: [turn[name] / turn[of] for turn in turns] for name in steps}


def _warm(training: Any, folder: Path, turns: int) -> Callable[[], None]:
    """Runs a training until its learning code is compiled. Returns a function that runs it to its next log point."""
    # The length and the evaluation period are so long that no measurement reaches the end or an evaluation.
    endless = 10_000_000 * training.log_period
    begins = training.agent.min_replay + training.log_period
    # The replay ring has room for the measured steps only. At its usual size it would hold 7 GB of Atari frames.
    room = min(training.agent.replay_capacity, begins + (turns + 2) * training.log_period)
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


def _seconds(step: Callable[[], None], clock: Callable[[], float]) -> float:
    start = clock()
    step()  # waits for the device, because the metrics are copied to the host
    return clock() - start
