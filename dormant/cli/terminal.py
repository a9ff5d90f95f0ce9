"""Output of the commands: errors in one line, the plan of runs, the board of many runs, and the progress of a run."""

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dormant.lab import Experiment, Scale
from dormant.lab.crews import Board, Job, Standing, Watch, cells, jobs
from dormant.lab.runs.costs import Cost, Speeds
from dormant.lab.runs.folder import RunFolder, RunRefused
from dormant.lab.runs.rows import Newest
from dormant.rl.envs.atari import FRAME_SKIP


def refuse(message: object) -> NoReturn:
    """Prints a message in one line and raises SystemExit with code 2."""
    print(f"dormant: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(2)


def check_seconds(seconds: float) -> None:
    """Raises ValueError if `seconds` is not a valid time between two checkpoints."""
    if not seconds >= 0:  # false for NaN too
        raise ValueError(f"--checkpoint-seconds must be at least 0, got {seconds}.")


def check_folder(path: Path, flag: str = "--run-dir") -> None:
    """Raises ValueError if the folder of a flag cannot be created, because the folder or a parent of it is a file."""
    existing = next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
    if not existing.is_dir():
        raise ValueError(f"{flag} {path}: {existing} is not a folder; choose another {flag}.")


def not_written(error: OSError, path: object, advice: str) -> NoReturn:
    """Ends the command after a failed read or write. The message names the file, or `path` if the file is unknown."""
    refuse(f"{error.filename or path}: {error.strerror or error}. {advice}")


FAILURES = (OSError, RunRefused, KeyboardInterrupt)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Delays output of libraries to stderr until the block ends. Drops it if the block fails or is interrupted."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output), _outlasting_orbax():
            yield
    except FAILURES:
        output = io.StringIO()
        raise
    finally:
        sys.stderr.write(output.getvalue())


@contextlib.contextmanager
def _outlasting_orbax() -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        if error.__cause__ is not None or isinstance(error, KeyboardInterrupt):
            # Other reads or writes of Orbax end a little later and also print stack traces. Waits, to drop these too.
            time.sleep(0.5)
        raise


Weight = Callable[[Job], float]  # returns the relative duration of a job, in any unit
KNOWN_SPEEDS = Path(__file__).parents[1] / "experiments" / "speeds.csv"
WORDS = {"waiting": "tried again", "in use": "waits"}
LINE_SECONDS = 60.0  # between two lines of progress in redirected output
BLOCKS = "▁▂▃▄▅▆▇█"
SHOWN = {"train_return": "return {:.1f}", "dormant/0.1/all": "dormant {:.0%}"}


@contextmanager
def live_board(console: Console, weight: Weight) -> Iterator[Watch]:
    """Yields a function that shows a board of jobs: as a live table on a terminal, otherwise as a line per change."""
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda board: live.update(Group(_running(board), Text(summary(board, weight))))


class Lines:
    """Prints a line whenever a job starts, ends, fails or waits."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.printed: dict[int, tuple[str, int]] = {}

    def __call__(self, board: Board) -> None:
        for number, standing in enumerate(board.standings):
            now = (standing.state, standing.tries)
            if self.printed.get(number, ("waiting", 0)) != now:
                self.printed[number] = now
                self.console.print(_line(standing, board), soft_wrap=True, markup=False, highlight=False)


def _line(standing: Standing, board: Board) -> str:
    ended = f"[{board.count('done', 'failed')}/{len(board.standings)}]"
    word = WORDS.get(standing.state, standing.state)
    return f"{ended} {word}: {standing.job.name}" + (f": {standing.message}" if standing.message else "")


def _running(board: Board) -> Table:
    table = Table("running", "agent steps", "of", "steps/s")
    for each in board.standings:
        if each.state == "running":
            pace = _made(each) / max(time.monotonic() - each.since, 1e-9)
            numbers = (f"{each.agent_steps:,}", f"{each.job.training.agent_steps:,}", f"{pace:.0f}")
            table.add_row(each.job.name, *numbers)
        elif each.message:
            table.add_row(
                f"{WORDS.get(each.state, each.state)}: {each.job.name}: {each.message}", "", "", "", style="dim"
            )
    return table


def _made(standing: Standing) -> int:
    # Clipped at 0, because a resumed run first goes back to its last checkpoint and then has fewer agent steps.
    return max(0, standing.agent_steps - (standing.begun_at or 0))


def summary(board: Board, weight: Weight) -> str:
    """One line: how many runs are done, running, queued and failed, and the time left if it is known."""
    counts = f"{board.count('done')} of {len(board.standings)} runs done, {board.count('running')} running, "
    counts += f"{board.count('queued')} queued, " if board.count("queued") else ""
    left = time_left(board, weight)
    return counts + f"{board.count('failed')} failed" + (f", {duration(left)} left" if left else "")


def time_left(board: Board, weight: Weight) -> float:
    """Seconds until all jobs are done at the speed so far. Returns 0 if the speed is not known yet."""
    made = left = 0.0
    for each in board.standings:
        share = weight(each.job) / each.job.training.agent_steps
        made += share * _made(each)
        left += (
            share * (each.job.training.agent_steps - each.agent_steps) if each.state not in ("done", "failed") else 0
        )
    return left * (time.monotonic() - board.started) / made if made else 0.0


@contextmanager
def live_table(console: Console) -> Iterator[Callable[[Callable[[], Table]], None]]:
    """Yields a function `show`. `show(make)` calls `make` and shows the returned table in place of the previous table.

    In redirected output, `show` prints at most one table per `LINE_SECONDS`. Otherwise it does not call `make`.
    """
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda made: live.update(made(), refresh=True)
        return
    printed: list[float] = []

    def show(made: Callable[[], Table]) -> None:
        if not printed or time.monotonic() - printed[-1] >= LINE_SECONDS:
            printed[:] = [time.monotonic()]
            console.print(made())

    yield show


def sparkline(values: Iterable[float], highest: float, width: int = 16) -> str:
    """A curve as blocks, padded to `width`: the lowest block is 0, the highest is `highest`. NaN is a space.

    >>> sparkline([0.0, 0.5, 1.0, float("nan")], 1.0, width=5)
    '▁▅█  '

    If there are more than `width` values, shows every n-th value, counted from the last value.
    """
    curve = list(values)
    every = -(-len(curve) // width) if curve else 1
    shown = curve[::-1][::every][::-1]
    heights = (0.0 if each != each else min(max(each / highest, 0.0), 1.0) for each in shown)
    blocks = (BLOCKS[round(height * (len(BLOCKS) - 1))] for height in heights)
    line = "".join(" " if each != each else block for each, block in zip(shown, blocks, strict=True))
    return line.ljust(width)


def latest(values: Iterable[float], form: str) -> str:
    """The last value that is not NaN, in a format, or a dash.

    >>> latest([1.0, 2.0, float("nan")], ".1f"), latest([], ".1f")
    ('2.0', '-')
    """
    measured = [each for each in values if each == each]
    return format(measured[-1], form) if measured else "-"


def each_seed(values: Iterable[float], form: str, unit: str = "") -> str:
    """The mean of the seeds and, if there are several, each seed in brackets. NaN is a dash.

    >>> each_seed([10.0, 20.0], ".0f", " %"), each_seed([10.0], ".0f", " %")
    ('15 % (10, 20)', '10 %')
    >>> each_seed([1.0, float("nan")], ".1f")
    '- (1.0, -)'
    """
    seeds = list(values)
    mean, *shown = (latest([each], form) for each in (sum(seeds) / len(seeds), *seeds))
    return f"{mean}{unit} ({', '.join(shown)})" if len(seeds) > 1 else mean + unit


def duration(seconds: float) -> str:
    """A duration with its unit.

    >>> duration(42.0), duration(150.0), duration(45_000.0)
    ('42 s', '2 min', '12.5 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3600:.1f} h"


def counted(number: int, noun: str) -> str:
    """A number and its noun.

    >>> counted(1, "run"), counted(0, "run")
    ('1 run', '0 runs')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def plan(
    experiments: Sequence[Experiment], scale: Scale, todo: Sequence[Job], root: Path, known: Speeds, workers: int
) -> Group:
    """The table of a dry run, with notes. It has one row per experiment and a row with the total.

    A run that several experiments share is in the row of each experiment. The total includes it once.
    """
    title = f"{counted(len(experiments), 'experiment')} at scale {scale}, runs in {root}"
    table = Table("", "arms", "environments", "seeds", "runs", "done", "missing", "time", title=title)
    for each in experiments:
        table.add_row(*_row(each, scale, root, known, workers))
    missing = sum(len(job.training.seeds) for job in todo)
    table.add_section()
    table.add_row("total, shared runs once", "", "", "", "", "", str(missing), time_of(todo, known, workers))
    return Group(table, *map(Text, _notes(experiments, scale, todo, known, workers)))


def _row(experiment: Experiment, scale: Scale, root: Path, known: Speeds, workers: int) -> list[str]:
    design = experiment.designs[scale]
    shape = [len(design.arms), len(design.environments), len(design.seeds)]
    wanted = sum(len(cell.training.seeds) for cell in cells([experiment], scale))
    todo = jobs([experiment], scale, root, together=False)
    numbers = [*shape, wanted, wanted - len(todo), len(todo)]
    return [experiment.name, *map(str, numbers), time_of(todo, known, workers)]


def time_of(todo: Iterable[Job], known: Speeds, workers: int) -> str:
    """The estimated duration of jobs on `workers` workers, as text, and the number of runs without an estimate."""
    costs = [(known.cost(job.training), len(job.training.seeds)) for job in todo]
    seconds = sum(cost.seconds for cost, _ in costs if cost) / workers
    unknown = sum(runs for cost, runs in costs if cost is None)
    if not unknown:
        return duration(seconds)
    return f"{duration(seconds)}, without {counted(unknown, 'run')}" if seconds else "unknown"


def _notes(
    experiments: Sequence[Experiment], scale: Scale, todo: Sequence[Job], known: Speeds, workers: int
) -> Iterable[str]:
    found: list[Cost] = [cost for job in todo if (cost := known.cost(job.training))]
    seconds = {source: sum(cost.seconds for cost in found if cost.source == source) for source in ("runs", "table")}
    yield (
        f"Estimated time with {counted(workers, 'worker')}, without compiling: "
        f"{duration(seconds['runs'] / workers)} from finished runs here, "
        f"{duration(seconds['table'] / workers)} from the speeds in {KNOWN_SPEEDS.name}."
    )
    if any(known.cost(job.training) is None for job in todo):
        yield "Runs without an estimate: no run with their environment and network has finished yet."
    for each in experiments:
        left_out = each.designs[scale].leaves_out
        if left_out:
            yield f"{each.name} leaves out: {left_out}"


@contextmanager
def progress_bar(folder: RunFolder, steps: int, frames: bool) -> Iterator[Callable[[int], None]]:
    """Shows the progress of a run. Yields a function to call with the agent steps done.

    On a terminal, it shows a bar, and a line with the newest values. Otherwise it prints a line at the start, a line at
    the end, and at most one line per `LINE_SECONDS` in between. If `frames` is true, it also shows the number of
    emulator frames.
    """
    console, newest, begun = Console(), Newest(folder.metrics, SHOWN), list[tuple[float, int]]()

    def values(done: int) -> str:
        begun[1:] = [(time.monotonic(), done)]
        shown = [*_speed(begun, frames), *newest_values(newest)]
        compiling = done == begun[0][1] and done < steps
        return ", ".join(["compiling", *shown] if compiling else shown)

    if not console.is_terminal:
        yield _lines_at_intervals(console, steps, values)
        return
    columns = (TextColumn("{task.completed:,}/{task.total:,} agent steps"), BarColumn(), TimeRemainingColumn())
    bars, line = Progress(*columns, TextColumn("left"), console=console), Text()
    task = bars.add_task("training", total=steps)

    def update(done: int) -> None:
        bars.update(task, completed=done)
        line.plain = values(done)

    with Live(Group(bars, line), console=console, refresh_per_second=4):
        yield update


def _lines_at_intervals(console: Console, steps: int, values: Callable[[int], str]) -> Callable[[int], None]:
    """Returns a function that prints a line for the agent steps done, unless it has printed one recently."""
    printed: list[float] = []

    def update(done: int) -> None:
        text = values(done)
        if not printed or done >= steps or time.monotonic() - printed[-1] >= LINE_SECONDS:
            printed[:] = [time.monotonic()]
            console.print(f"{done:,} of {steps:,} agent steps, {text}", soft_wrap=True, markup=False, highlight=False)

    return update


def _speed(begun: list[tuple[float, int]], frames: bool) -> list[str]:
    """The number of frames and the agent steps per second of this process, as text."""
    (first, before), (now, done) = begun[0], begun[-1]
    played = [f"{FRAME_SKIP * done:,} frames"] if frames else []
    if done <= before:
        return played
    speed = (done - before) / (now - first)
    return [*played, f"{speed:,.0f} steps/s" if speed >= 100 else f"{speed:.3g} steps/s"]


def newest_values(newest: Newest) -> list[str]:
    """Reads the new rows and returns the newest values as a list of texts.

    These are the return and the dormant fraction (means over seeds), and the agent step of the first divergence, if
    there is one. A metric that is not measured yet is left out.
    """
    values = [SHOWN[name].format(value) for name, value in newest.update().items()]
    return [*values, *diverged(newest)]


def diverged(newest: Newest) -> list[str]:
    """A text with the agent step at which the first seed of a run diverged. The list is empty if no seed diverged."""
    return [f"diverged at {min(newest.diverged.values()):,}"] if newest.diverged else []
