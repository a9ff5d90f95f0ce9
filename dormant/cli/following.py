"""The progress bar of a run, with what its last rows of metrics say."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dormant.lab.store import RunFolder, rows
from dormant.rl.envs.atari import FRAME_SKIP

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
            bars.update(task, completed=done, said=", ".join([*_pace(begun, frames), *news(folder)]))

        yield update


def _pace(begun: list[tuple[float, int]], frames: bool) -> list[str]:
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
