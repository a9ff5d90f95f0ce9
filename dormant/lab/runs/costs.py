"""What runs will cost, from how fast others were: finished ones on this machine, or else a table of measured speeds."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from dormant.lab.runs.description import describe, shown
from dormant.lab.runs.folder import RunFolder
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from dormant.lab.runs.runner import FilingTraining

TABLE_COLUMNS = (
    *("environment", "network", "backend", "agent_steps_per_second", "gradient_steps_per_second"),
    *("revision", "time"),
)


class Kind(NamedTuple):
    """What decides how fast a training is: the class of its environment, its network, and JAX's backend."""

    environment: str
    network: str
    backend: str


class Speed(NamedTuple):
    """How fast one seed acts, and how fast it learns."""

    agent_steps_per_second: float
    gradient_steps_per_second: float


class Cost(NamedTuple):
    """Seconds of all seeds of a training one after the other, and where that comes from."""

    seconds: float
    source: Literal["runs", "table"]


@dataclass(frozen=True)
class Speeds:
    """Seconds for each agent step of finished runs, by kind and replay ratio, and a table for the other kinds.

    Where nothing acts there is no replay ratio, and the steps are gradient steps.
    """

    runs: Mapping[tuple[Kind, float | None], float]
    table: Mapping[Kind, Speed]
    backend: str = "cpu"

    def cost(self, training: Any) -> Cost | None:
        """What a training will take; None where neither runs nor table know one of its kind.

        >>> from dormant.rl.loops import DeviceTraining
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


def kind_of(training: Any, backend: str) -> Kind:
    """The kind of a training.

    >>> from dormant.rl.loops import DeviceTraining
    >>> kind_of(DeviceTraining(), "cpu")
    Kind(environment='MinAtar', network='MinAtarCNN(filters=16, width=128)', backend='cpu')
    """
    return _kind(describe(training), backend)


def _kind(training: Mapping[str, Any], backend: str) -> Kind:
    agent = training["agent"]
    # An agent of several networks has no one of that name, but their size.
    size = {"is": agent["is"], **{name: agent[name] for name in ("hidden", "width") if name in agent}}
    return Kind(training["env"]["is"], shown(agent.get("network", size)), backend)


def speeds(root: Path, table: Path, backend: str) -> Speeds:
    """What is known of speeds: from the finished runs under a folder, and from a table that a benchmark wrote."""
    return Speeds(paces(sorted(root.rglob("done")) if root.exists() else ()), read_table(table), backend)


def paces(finished: Iterable[Path]) -> dict[tuple[Kind, float | None], float]:
    """Seconds for each agent step of a seed, the mean over the finished runs of a kind at a replay ratio.

    Runs that were not timed, or whose files are damaged, are left out.
    """
    agent_steps, seconds = defaultdict(float), defaultdict(float)
    for done in finished:
        folder = RunFolder(done.parent)
        try:
            training = json.loads(folder.spec.read_text())["training"]
            key = (_kind(training, json.loads(done.read_text())["backend"]), training.get("replay_ratio"))
            seeds = len(training["seeds"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        agent_steps[key] += seeds * folder.timing.agent_steps
        seconds[key] += folder.timing.seconds
    return {key: seconds[key] / steps for key, steps in agent_steps.items() if steps}


def read_table(table: Path) -> dict[Kind, Speed]:
    """The rows of a table of speeds."""
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
