"""The progress of many runs: a live table on a terminal, a line for each change elsewhere."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dormant.lab.crews.jobs import Job, cells, jobs
from dormant.lab.crews.scheduler import Board, Standing, Watch
from dormant.lab.design import Experiment, Scale
from dormant.lab.runs.costs import Cost, Speeds
from dormant.lab.runs.folder import RunFolder, rows
from dormant.rl.envs.atari import FRAME_SKIP

Weight = Callable[[Job], float]  # how long a job takes beside the others, in any unit
WORDS = {"waiting": "tried again", "in use": "waits"}


@contextmanager
def watching(console: Console, weight: Weight) -> Iterator[Watch]:
    """What shows a board of jobs each time that it is called."""
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda board: live.update(Group(_running(board), Text(summary(board, weight))))


class Lines:
    """Prints a line for each job that begins, ends, fails, or waits."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.said: dict[int, tuple[str, int]] = {}

    def __call__(self, board: Board) -> None:
        for number, standing in enumerate(board.standings):
            now = (standing.state, standing.tries)
            if self.said.get(number, ("waiting", 0)) != now:
                self.said[number] = now
                self.console.print(_line(standing, board), soft_wrap=True, markup=False, highlight=False)


def _line(standing: Standing, board: Board) -> str:
    ended = f"[{board.count('done', 'failed')}/{len(board.standings)}]"
    word = WORDS.get(standing.state, standing.state)
    return f"{ended} {word}: {standing.job.name}" + (f": {standing.message}" if standing.message else "")


def _running(board: Board) -> Table:
    table = Table("running", "agent steps", "of", "steps/s")
    for each in board.standings:
        if each.state == "running":
            numbers = (f"{each.agent_steps:,}", f"{each.job.training.agent_steps:,}", f"{_pace(each):.0f}")
            table.add_row(each.job.name, *numbers)
        elif each.message:
            table.add_row(
                f"{WORDS.get(each.state, each.state)}: {each.job.name}: {each.message}", "", "", "", style="dim"
            )
    return table


def _pace(standing: Standing) -> float:
    """Agent steps a second since the job began here."""
    return _made(standing) / max(time.monotonic() - standing.since, 1e-9)


def _made(standing: Standing) -> int:
    # Rows after the last checkpoint are taken back when a run goes on.
    return max(0, standing.agent_steps - (standing.begun_at or 0))


def summary(board: Board, weight: Weight) -> str:
    """One line of counts and of the time left, as far as it can be said."""
    counts = f"{board.count('done')} of {len(board.standings)} runs done, {board.count('running')} running, "
    counts += f"{board.count('queued')} queued, " if board.count("queued") else ""
    left = time_left(board, weight)
    return counts + f"{board.count('failed')} failed" + (f", {duration(left)} left" if left else "")


def time_left(board: Board, weight: Weight) -> float:
    """Seconds until all is done at the pace so far; 0 while there is none."""
    made = left = 0.0
    for each in board.standings:
        share = weight(each.job) / each.job.training.agent_steps
        made += share * _made(each)
        left += (
            share * (each.job.training.agent_steps - each.agent_steps) if each.state not in ("done", "failed") else 0
        )
    return left * (time.monotonic() - board.started) / made if made else 0.0


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(42.0), duration(150.0), duration(45_000.0)
    ('42 s', '2 min', '12.5 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3600:.1f} h"


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


SHOWN = {"train_return": "return {:.1f}", "dormant/0.1/all": "dormant {:.0%}"}


@contextmanager
def following(folder: RunFolder, steps: int, frames: bool) -> Iterator[Callable[[int], None]]:
    """A bar, and what moves it on: a function of the agent steps done. Frames are shown if an emulator plays them."""
    columns = (
        TextColumn("agent steps"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TextColumn("time left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console()) as bars:
        task, begun = bars.add_task("training", total=steps, said=""), []

        def update(done: int) -> None:
            begun.append((time.monotonic(), done))
            bars.update(task, completed=done, said=", ".join([*_speed(begun, frames), *news(folder)]))

        yield update


def _speed(begun: list[tuple[float, int]], frames: bool) -> list[str]:
    """Frames so far, and steps a second since this process began."""
    (first, before), (now, done) = begun[0], begun[-1]
    played = [f"{FRAME_SKIP * done:,} frames"] if frames else []
    return [*played, f"{(done - before) / (now - first):.1f} steps/s"] if done > before else played


def news(folder: RunFolder) -> list[str]:
    """The newest return and dormant fraction, averaged over the seeds."""
    newest: dict[str, dict[int, float]] = {name: {} for name in SHOWN}
    for row in rows(folder.metrics):
        for name, of_seeds in newest.items():
            if row.get(name) is not None:
                of_seeds[row["seed"]] = row[name]
    return [SHOWN[name].format(sum(each.values()) / len(each)) for name, each in newest.items() if each]
