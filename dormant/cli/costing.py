"""What an experiment asks for, what of it is missing, and how long that will take: the table of a dry run."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from dormant.cli.watching import duration
from dormant.lab.costs import Cost, Speeds
from dormant.lab.jobs import Job, cells, jobs
from dormant.lab.spec import Experiment, Scale

KNOWN_SPEEDS = Path(__file__).parents[1] / "experiments" / "speeds.csv"


def plan(
    experiments: Sequence[Experiment], scale: Scale, todo: Sequence[Job], root: Path, known: Speeds, workers: int
) -> Group:
    """A row for each experiment, and their sum, in which shared runs count once."""
    title = f"{len(experiments)} experiments at scale {scale}, runs in {root}"
    table = Table("", "arms", "environments", "seeds", "runs", "done", "missing", "time", title=title)
    for each in experiments:
        table.add_row(*_row(each, scale, root, known, workers))
    missing = sum(len(job.training.seeds) for job in todo)
    table.add_section()
    table.add_row("together, shared runs once", "", "", "", "", "", str(missing), time_of(todo, known, workers))
    return Group(table, *map(Text, _notes(experiments, scale, todo, known, workers)))


def _row(experiment: Experiment, scale: Scale, root: Path, known: Speeds, workers: int) -> list[str]:
    design = experiment.designs[scale]
    shape = [len(design.arms), len(design.environments), len(design.seeds)]
    wanted = sum(len(cell.training.seeds) for cell in cells([experiment], scale))
    todo = jobs([experiment], scale, root, together=False)
    numbers = [*shape, wanted, wanted - len(todo), len(todo)]
    return [experiment.name, *map(str, numbers), time_of(todo, known, workers)]


def time_of(todo: Iterable[Job], known: Speeds, workers: int) -> str:
    """How long some jobs take on so many cores."""
    costs = [known.cost(job.training) for job in todo]
    unknown = costs.count(None)
    seconds = sum(cost.seconds for cost in costs if cost) / workers
    return (duration(seconds) if seconds or not unknown else "") + (f" + {unknown} of unknown speed" if unknown else "")


def _notes(
    experiments: Sequence[Experiment], scale: Scale, todo: Sequence[Job], known: Speeds, workers: int
) -> Iterable[str]:
    found: list[Cost] = [cost for job in todo if (cost := known.cost(job.training))]
    seconds = {source: sum(cost.seconds for cost in found if cost.source == source) for source in ("runs", "table")}
    yield (
        f"Time is that of {workers} worker{'s' * (workers > 1)}, compiling left out: "
        f"{duration(seconds['runs'] / workers)} from the speed of finished runs here, "
        f"{duration(seconds['table'] / workers)} from the measured speeds in "
        f"{KNOWN_SPEEDS.name}."
    )
    for each in experiments:
        left_out = each.designs[scale].leaves_out
        if left_out:
            yield f"{each.name} leaves out: {left_out}"
