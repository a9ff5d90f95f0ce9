"""`dormant runs`: what lies in a folder of runs, in which settings two of them differ, and their event files."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from dormant.cli.refusal import refuse
from dormant.lab.runs.description import differences, shown
from dormant.lab.runs.folder import RunFolder, RunRefused, in_use, last_rows, rows

Status = Literal["done", "running", "stopped", "damaged"]
NOTHING = {"is": "Chain", "links": []}
ENDS = {"eval_return": "{:.2f}", "dormant/0.1/all": "{:.1%}"}


@dataclass(frozen=True)
class Runs:
    """List run folders: settings in short, progress, last return and dormancy; or compare two of them."""

    root: tyro.conf.Positional[Path] = Path("runs")
    """Folder in which runs lie, at any depth."""
    env: str | None = None
    """Only runs in environments whose name has this in it, such as Asterix."""
    status: Status | None = None
    """Only runs of that status: stopped ones were begun and can be gone on with."""
    sort: Literal["path", "return", "dormant", "steps"] = "path"
    """Order: by folder, or largest first."""
    compare: tuple[Path, Path] | None = None
    """Two run folders: the settings in which they differ, and how they ended."""
    tensorboard: Path | None = None
    """Folder in which to write the metrics of the listed runs as TensorBoard's event files, in place of older ones."""


@dataclass(frozen=True)
class Entry:
    """A run folder in short. A number that the run has not is None."""

    path: Path
    status: Status
    environment: str = ""
    settings: str = ""
    agent_steps: int = 0
    wanted: int = 0
    returned: float | None = None
    dormant: float | None = None
    unit: str = ""  # of the steps, where they are not an agent's


def runs(flags: Runs) -> int:
    """Prints the list or the comparison: 0, or 2 if there is nothing to show."""
    console = Console()
    try:
        if flags.compare and flags.tensorboard:
            raise ValueError("--tensorboard writes the runs of a list; --compare lists none.")
        kept = () if flags.compare else _kept(flags)
        console.print(_comparison(*flags.compare) if flags.compare else _listing(kept, flags.root))
        if flags.tensorboard:
            console.print(_write_events(kept, flags.root, flags.tensorboard), soft_wrap=True)
    except (RunRefused, ValueError) as error:
        refuse(error)
    except OSError as error:
        refuse(f"{error.filename}: {error.strerror}.")
    return 0


def _kept(flags: Runs) -> list[Entry]:
    """The runs to list, in order."""
    if not flags.root.is_dir():
        raise ValueError(f"{flags.root} is no folder; give one in which runs lie.")
    entries = [entry(file.parent) for file in sorted(flags.root.rglob("spec.json"))]
    if not entries:
        raise ValueError(f"{flags.root} holds no run; `dormant figure` and `dormant train` make them.")
    kept = [each for each in entries if _wanted(each, flags)]
    if not kept:
        raise ValueError(f"none of the {len(entries)} runs in {flags.root} is like that.")
    return sorted(kept, key=lambda each: _rank(each, flags.sort))


def _listing(kept: Sequence[Entry], root: Path) -> Table:
    table = Table(title=str(root))
    for name in ("run", "environment", "settings", "status", "agent steps", "return", "dormant"):
        table.add_column(name, overflow="fold")
    for each in kept:
        wanted = f" of {each.wanted:,}" if each.wanted else ""
        share = "" if each.status == "damaged" else f"{each.agent_steps:,}{wanted}{each.unit}"
        numbers = [_number("{:.2f}", each.returned), _number("{:.1%}", each.dormant)]
        where = str(each.path.relative_to(root))
        table.add_row(where, each.environment, each.settings, each.status, share, *numbers)
    return table


def _write_events(kept: Sequence[Entry], root: Path, to: Path) -> str:
    """What was written where."""
    from dormant.cli.runs import write_events

    whole = [each for each in kept if each.status != "damaged"]
    for each in whole:
        write_events(RunFolder(each.path), to / each.path.relative_to(root))
    return f"Written: {len(whole)} of {len(kept)}; tensorboard --logdir {to} shows them."


def _wanted(each: Entry, flags: Runs) -> bool:
    fits = flags.env is None or flags.env.lower() in each.environment.lower()
    return fits and flags.status in (None, each.status)


def _rank(each: Entry, sort: str) -> Any:
    if sort == "path":
        return each.path
    number = {"return": each.returned, "dormant": each.dormant, "steps": each.agent_steps}[sort]
    return (number is None, -(number or 0.0))


def entry(path: Path) -> Entry:
    """A run folder in short; damaged if its files cannot be read."""
    folder = RunFolder(path)
    try:
        training = json.loads(folder.spec.read_text())["training"]
        ends = {name: _mean(folder, name) for name in ("agent_steps", *ENDS)}
        env, settings = training["env"], _short(training)
        environment = env.get("task") or "/".join([env["is"], *([env["game"]] if "game" in env else [])])
        wanted = training.get("agent_steps", training.get("gradient_steps", 0))  # a training of epochs has neither
    except (RunRefused, ValueError, KeyError, TypeError):
        return Entry(path, "damaged")
    status = "done" if folder.done.exists() else "running" if in_use(path) else "stopped"
    numbers = (int(ends["agent_steps"] or 0), wanted, ends["eval_return"], ends["dormant/0.1/all"])
    return Entry(path, status, environment, settings, *numbers, "" if "replay_ratio" in training else " gradient")


def _short(training: dict[str, Any]) -> str:
    agent, intervention = training["agent"], training.get("intervention", NOTHING)
    acts = "replay_ratio" in training
    parts = [] if acts else [training["is"].removesuffix("Training")]
    parts += [agent["is"], *([brief(agent["network"])] if "network" in agent else [])]
    parts += [f"RR {training['replay_ratio']:g}"] if acts else []
    parts += [f"{training[name]} {name}" for name in ("labels", "targets") if name in training]
    return ", ".join([*parts, *([] if intervention == NOTHING else [brief(intervention)])])


def brief(description: Any) -> str:
    """A described value with its first two settings, which are those that name it; the rest is in spec.json.

    >>> brief({"is": "Every", "period": 1000, "what": {"is": "ReDo", "tau": 0.1, "outgoing": "zero"}, "start": 0})
    'ReDo(0.1, zero) every 1000'
    """
    if not isinstance(description, dict):
        return shown(description)
    if description["is"] == "Every":
        return f"{brief(description['what'])} every {description['period']}"
    settings = [shown(value) for name, value in description.items() if name != "is"]
    return f"{description['is']}({', '.join(settings[:2])})"


def _mean(folder: RunFolder, name: str) -> float | None:
    """The last value of a metric, averaged over the seeds."""
    values = [row[name] for row in last_rows(folder, name)]
    return sum(values) / len(values) if values else None


def _number(form: str, value: float | None) -> str:
    return "" if value is None else form.format(value)


def _comparison(one: Path, other: Path) -> Table:
    table = Table("", str(one), str(other), title="Two runs")
    for setting in differences(*(_training(path) for path in (one, other))):
        name, _, values = setting.partition(" is ")
        there, _, here = values.rpartition(" there and ")
        table.add_row(name, there, here.removesuffix(" here"))
    table.add_section()
    for row in _ends(one, other):
        table.add_row(*row)
    return table


def _training(path: Path) -> dict[str, Any]:
    try:
        return json.loads((path / "spec.json").read_text())["training"]
    except FileNotFoundError:
        raise ValueError(f"{path} is not a run folder: it has no spec.json.") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path / 'spec.json'} is damaged.") from None


def _ends(one: Path, other: Path) -> Iterator[list[str]]:
    for name, form in {"agent_steps": "{:,.0f}", "gradient_steps": "{:,.0f}", **ENDS}.items():
        yield [f"last {name}", *(_number(form, _mean(RunFolder(path), name)) for path in (one, other))]


SUFFIX = ".dormant"  # of the files that are ours to replace
KEYS = ("seed", "agent_steps")


def write_events(folder: RunFolder, to: Path) -> None:
    """Writes every metric of a run over agent steps, and its specification as text, to a folder `seed<k>` a seed.

    What was written there before is replaced, so that a run that has gone on can be written again. A value that was not
    measured is left out. Raises RunRefused if the run is damaged, ModuleNotFoundError without tensorboardX.
    """
    from tensorboardX import SummaryWriter

    table = list(rows(folder.metrics))
    for seed in sorted({row["seed"] for row in table}):
        place = to / f"seed{seed}"
        for old in place.glob(f"*{SUFFIX}"):
            old.unlink()
        with SummaryWriter(str(place), filename_suffix=SUFFIX) as writer:
            writer.add_text("spec", f"```\n{folder.spec.read_text()}\n```")
            for row in table:
                if row["seed"] == seed:
                    for name, value in row.items():
                        if name not in KEYS and value is not None:
                            writer.add_scalar(name, value, row["agent_steps"])
