"""`dormant runs`: lists run folders, compares two of them, and writes TensorBoard event files."""

import dataclasses
import json
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from dormant.cli.terminal import counted, diverged, refuse
from dormant.hints import folded
from dormant.lab import FAMILIES
from dormant.lab.runs.description import differences, shown
from dormant.lab.runs.folder import RunFolder, RunRefused, end_of, in_use, newest, origin_of
from dormant.lab.runs.live import TensorBoard, send
from dormant.lab.runs.rows import rows

Status = Literal["done", "running", "stopped", "damaged"]
NOTHING = {"is": "Chain", "links": []}
WIDE = 100  # smallest width of a terminal, in columns, at which runs are printed as a table
LAST_VALUES = {
    "agent_steps": "{:,.0f}",
    "gradient_steps": "{:,.0f}",
    "eval_return": "{:.2f}",
    "dormant/0.1/all": "{:.1%}",
}


@dataclass(frozen=True)
class Runs:
    """List run folders with their settings, progress, last return and dormant fraction, or compare two runs."""

    root: tyro.conf.Positional[Path] = Path("runs")
    """Folder that contains runs at any depth."""
    env: str | None = None
    """Show only runs in environments whose name contains this text, such as Asterix or ALE/Breakout."""
    status: Status | None = None
    """Show only runs with this status. Stopped runs can be resumed."""
    sort: Literal["path", "return", "dormant", "steps"] = "path"
    """Order of the runs: by folder, or largest value first."""
    compare: tuple[Path, Path] | None = None
    """Compare two run folders: the settings that differ, and the last values."""
    tensorboard: Path | None = None
    """Write the metrics of the listed runs as TensorBoard event files to this folder. Older files are replaced."""
    json: bool = False
    """Print the list as JSON, with one object per run. An unknown number is null."""
    check: bool = False
    """Verify every file of the runs against its checksum, and list damaged files. With damage, the exit code is 1."""


@dataclass(frozen=True)
class Entry:
    """A summary of a run folder. A missing number is None."""

    path: Path
    status: Status
    environment: str = ""
    settings: str = ""
    agent_steps: int = 0
    wanted: int = 0
    returned: float | None = None
    dormant: float | None = None
    unit: str = ""  # unit of the steps, empty for agent steps
    diverged: str = ""  # the agent step of the divergence, as text


def runs(flags: Runs) -> int:
    """Prints the list, the comparison or the check. Returns 0, or 1 if a run is damaged. Exits with 2 for bad input."""
    console = Console()
    try:
        if flags.compare and flags.tensorboard:
            raise ValueError("--tensorboard and --compare exclude each other; leave out one of them.")
        if flags.json and (flags.compare or flags.tensorboard):
            raise ValueError("--json prints the list of runs alone; leave out --compare and --tensorboard.")
        if flags.check:
            return _check(flags)
        kept = () if flags.compare else matching(flags)
        if flags.json:
            print(json.dumps([_object(each) for each in kept], indent=2))
            return 0
        if flags.compare:
            console.print(_comparison(*flags.compare))
        elif console.width < WIDE:
            for line in _lines(kept):
                console.print(line, soft_wrap=True, markup=False, highlight=False)
        else:
            console.print(_listing(kept, flags.root))
        if flags.tensorboard:
            console.print(_write_events(kept, flags.root, flags.tensorboard), soft_wrap=True)
    except (RunRefused, ValueError) as error:
        refuse(error)
    except OSError as error:
        refuse(f"{error.filename or 'standard output'}: {error.strerror}.")
    return 0


def _check(flags: Runs) -> int:
    """Prints the faults of each run folder. Returns 1 if there are any, else 0.

    Raises ValueError if other flags are given too, or if the folder does not exist.
    """
    from dormant.lab.runs.checking import faults, run_folders

    if flags != Runs(flags.root, check=True):
        raise ValueError("--check verifies all runs of a folder; leave out the other flags.")
    if not flags.root.is_dir():
        raise ValueError(f"{flags.root} is not a folder; name a folder that contains runs.")
    folders = run_folders(flags.root)
    damaged = 0
    for folder in folders:
        found = faults(folder)
        damaged += bool(found)
        for fault in found:
            print(f"{folder}: {fault}")
    print(f"{counted(len(folders), 'run')} checked, {damaged} damaged.")
    return 1 if damaged else 0


def matching(flags: Runs) -> list[Entry]:
    """Reads the run folders. Returns the selected runs, sorted. Raises ValueError if there are none."""
    if not flags.root.is_dir():
        raise ValueError(f"{flags.root} is not a folder; name a folder that contains runs.")
    entries = [entry(file.parent) for file in sorted(flags.root.rglob("spec.json"))]
    if not entries:
        raise ValueError(f"{flags.root} contains no run; make some with `dormant figure` or `dormant train`.")
    kept = [each for each in entries if _wanted(each, flags)]
    if not kept:
        environments = ", ".join(sorted({each.environment for each in entries if each.environment}))
        raise ValueError(
            f"no run in {flags.root} matches ({len(entries)} runs found, in {environments or 'no environment'})."
        )
    return sorted(kept, key=lambda each: _rank(each, flags.sort))


def _listing(kept: Sequence[Entry], root: Path) -> Table:
    table = Table(title=str(root))
    for name in ("run", "environment", "settings", "status", "agent steps", "return", "dormant"):
        table.add_column(name, overflow="fold")
    for each in kept:
        numbers = [_number("{:.2f}", each.returned), _number("{:.1%}", each.dormant)]
        where = str(each.path.relative_to(root))
        status = ", ".join(filter(None, [each.status, each.diverged]))
        table.add_row(where, each.environment, each.settings, status, _share(each), *numbers)
    return table


def _share(each: Entry) -> str:
    wanted = f" of {each.wanted:,}" if each.wanted else ""
    return "" if each.status == "damaged" else f"{each.agent_steps:,}{wanted}{each.unit}"


def _lines(kept: Sequence[Entry]) -> Iterator[str]:
    """Yields the lines of the list for a narrow terminal. Each path is alone on its line, so that it can be copied."""
    table = [("status", "agent steps", "return", "dormant", "environment")]
    for each in kept:
        returned, share = _number("{:.2f}", each.returned), _number("{:.1%}", each.dormant)
        table.append((each.status, _share(each), returned, share, each.environment))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    first, *rows = ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
    yield first
    for each, row in zip(kept, rows, strict=True):
        yield from (str(each.path), row)
        yield from textwrap.wrap(
            ", ".join(filter(None, [each.settings, each.diverged])), 76, initial_indent="  ", subsequent_indent="  "
        )


def _object(each: Entry) -> dict[str, str | int | float | None]:
    """A run as an object for JSON. NaN becomes None, because JSON has no NaN."""
    known = {name: value for name, value in dataclasses.asdict(each).items() if value == value}
    return {
        "path": str(each.path),
        **{name: known[name] for name in ("status", "environment", "settings")},
        "steps": each.agent_steps,
        "wanted_steps": each.wanted or None,
        "unit": f"{each.unit.strip() or 'agent'} steps",
        "eval_return": known.get("returned"),
        "dormant_fraction": known.get("dormant"),
        "diverged": each.diverged or None,
    }


def _write_events(kept: Sequence[Entry], root: Path, to: Path) -> str:
    """Writes the event files of the listed runs. Returns the line to print."""
    whole = [each for each in kept if each.status != "damaged"]
    for each in whole:
        write_events(RunFolder(each.path), to / each.path.relative_to(root))
    return f"Event files of {len(whole)} of {len(kept)} runs written; show them with: tensorboard --logdir {to}"


def _wanted(each: Entry, flags: Runs) -> bool:
    fits = flags.env is None or folded(flags.env) in folded(each.environment)
    return fits and flags.status in (None, each.status)


def _rank(each: Entry, sort: str) -> Any:
    if sort == "path":
        return each.path
    number = {"return": each.returned, "dormant": each.dormant, "steps": each.agent_steps}[sort]
    if number is None or math.isnan(number):
        return (True, 0.0)
    return (False, -number)


def entry(path: Path) -> Entry:
    """Reads the summary of a run folder. The status is "damaged" if the files cannot be read."""
    folder = RunFolder(path)
    try:
        training = origin_of(folder)["training"]
        found = newest(folder, LAST_VALUES)
        last, env, settings = found.means(), training["env"], _short(training)
        family = FAMILIES.get(env["is"], env["is"])
        game = env.get("game") or "-".join(env.get("games", ()))
        environment = str(env.get("task") or (f"{family}/{game}" if game else family))
        wanted = training.get("agent_steps", training.get("gradient_steps", 0))  # a training in epochs has neither
        if folder.done.exists():
            end_of(folder)
    except (RunRefused, ValueError, KeyError, TypeError, AttributeError):
        return Entry(path, "damaged")
    status = "done" if folder.done.exists() else "running" if in_use(path) else "stopped"
    numbers = (int(last.get("agent_steps", 0)), wanted, last.get("eval_return"), last.get("dormant/0.1/all"))
    unit = "" if "replay_ratio" in training else " gradient"
    return Entry(path, status, environment, settings, *numbers, unit, "".join(diverged(found)))


def _short(training: dict[str, Any]) -> str:
    agent, intervention = training["agent"], training.get("intervention", NOTHING)
    acts = "replay_ratio" in training
    parts = [] if acts else [training["is"].removesuffix("Training")]
    parts += [agent["is"], *([brief(agent["network"])] if "network" in agent else [])]
    parts += [f"RR {training['replay_ratio']:g}"] if acts else []
    parts += [f"{training[name]} {name}" for name in ("labels", "targets") if name in training]
    return ", ".join([*parts, *([] if intervention == NOTHING else [brief(intervention)])])


def brief(description: Any) -> str:
    """A short form of a description. It shows only the first two settings.

    >>> brief({"is": "Every", "period": 1000, "what": {"is": "ReDo", "tau": 0.1, "outgoing": "zero"}, "start": 0})
    'ReDo(0.1, zero) every 1000'
    """
    if not isinstance(description, dict):
        return shown(description)
    if description["is"] == "Every":
        return f"{brief(description['what'])} every {description['period']}"
    settings = [shown(value) for name, value in description.items() if name != "is"]
    return f"{description['is']}({', '.join(settings[:2])})"


def _number(form: str, value: float | None) -> str:
    return "" if value is None else form.format(value)


def _comparison(one: Path, other: Path) -> Table:
    table = Table("", str(one), str(other), title="Two runs")
    for difference in differences(*(_training(path) for path in (one, other))):
        table.add_row(*difference)
    table.add_section()
    ends = [newest(RunFolder(path), LAST_VALUES).means() for path in (one, other)]
    for name, form in LAST_VALUES.items():
        table.add_row(f"last {name}", *(_number(form, values.get(name)) for values in ends))
    return table


def _training(path: Path) -> dict[str, Any]:
    try:
        return origin_of(RunFolder(path))["training"]
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path} is not a run folder: it has no spec.json.") from None


def write_events(folder: RunFolder, to: Path) -> None:
    """Writes TensorBoard event files of a run, in one folder `seed<k>` per seed.

    They hold every metric over agent steps, and spec.json as text. Replaces the event files of an earlier call. Skips
    values that were not measured.

    Raises RunRefused if the run is damaged, ModuleNotFoundError if tensorboardX is not installed.
    """
    sink = TensorBoard(to, folder.spec.read_text())
    send(list(rows(folder.metrics)), (sink,))
    sink.close()
