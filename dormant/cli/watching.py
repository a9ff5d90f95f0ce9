"""The progress of many runs: a live table on a terminal, a line for each change elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dormant.lab.jobs import Job
from dormant.lab.pool import Board, Standing, Watch

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
