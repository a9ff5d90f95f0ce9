"""`dormant demo`: DQN against DQN + ReDo, side by side, in about five minutes. `--quick` is in `quick.py`."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from dormant.cli import quick
from dormant.cli.terminal import check_folder, counted, duration, each_seed, latest, live_table, refuse, sparkline
from dormant.lab.judging import at_end_of_run, mean, mean_interval, training_returns
from dormant.lab.machine import cores, keep_compiled_code
from dormant.lab.runs.folder import RunFolder, curve, layers
from dormant.lab.runs.rows import last_row
from dormant.metrics import Interval
from dormant.supervised.renamed import RenamedDigits

GAME = "MinAtar/Asterix"
# ReDo's returns rise above DQN's after 120,000 agent steps, and two quiet cores train this in five minutes (LOG.md).
AGENT_STEPS, SEEDS = 180_000, 2
TAU = 0.1
DORMANT = f"dormant/{TAU:g}/all"
WINDOWS = 18  # number of windows over which returns are averaged
ARMS = {
    "DQN": ("--intervention", "none"),
    "DQN + ReDo": ("--intervention", "redo", "--tau", str(TAU)),
}
Folders = Mapping[str, RunFolder]
Seeds = Float[np.ndarray, " seeds"]


class Length(NamedTuple):
    """Agent steps per seed, and seeds per arm."""

    steps: int
    seeds: int


@dataclass(frozen=True)
class Demo:
    """Train DQN and DQN + ReDo side by side. Show live curves, and at the end a table, a picture and a summary.

    With --quick, train a classifier of digits on labels that change, with and without recycling.
    """

    run_dir: Path = Path("runs/demo")
    """Folder of the two runs and the picture; the same command resumes the runs."""
    steps: int | None = None
    """Agent steps per seed. Default: 180,000. Not for --quick."""
    seeds: int | None = None
    """Seeds per arm. Default: 2, with --quick 3."""
    quick: bool = False
    """Train a small classifier instead of agents. Takes less than a minute."""


class End(NamedTuple):
    """An arm's dormant fraction and return in the last tenth of its run, per seed."""

    dormant: Seeds
    returns: Seeds


def demo(flags: Demo) -> int:
    """Runs the demo. Returns 0 if the picture is drawn, 130 on Ctrl-C, and otherwise the failed arm's exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # prints a question mark for a character that the encoding lacks
    console = Console()
    try:
        check_folder(flags.run_dir)
        for name, value in (("--steps", flags.steps), ("--seeds", flags.seeds)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if flags.quick:
            RenamedDigits().env.refuse_unless_there()
        if flags.quick and flags.steps is not None:
            raise ValueError("--quick has a fixed length; leave out --steps.")
    except ValueError as error:
        refuse(error)
    if flags.quick:
        return _quick(console, flags)
    return _full(console, Length(flags.steps or AGENT_STEPS, flags.seeds or SEEDS), flags.run_dir)


def _quick(console: Console, flags: Demo) -> int:
    keep_compiled_code()
    try:
        return quick.run(console, flags.run_dir / "quick.png", flags.seeds or quick.SEEDS)
    except KeyboardInterrupt:
        console.print("Stopped; the same command starts again from the beginning.")
        return 130


def _full(console: Console, length: Length, run_dir: Path) -> int:
    console.print(
        f"[bold]{GAME}[/], replay ratio 1, {length.steps:,} agent steps, {counted(length.seeds, 'seed')} per arm."
    )
    folders = folders_in(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    code = _train(console, length, folders)
    if code == 0:
        console.print(_table(folders, length))
        console.print(closing(*(_end(folder, length) for folder in folders.values())), highlight=False)
        console.print(f"Picture: {draw(length, folders, run_dir / 'demo.png')}", soft_wrap=True)
    return code


def folders_in(run_dir: Path) -> Folders:
    """The run folder of each arm."""
    return {arm: RunFolder(run_dir / arm.lower().replace(" + ", "-")) for arm in ARMS}


def _train(console: Console, length: Length, folders: Folders) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # SystemExit makes the `finally` below end the arms
    available = cores()
    arms = {}
    for number, arm in enumerate(ARMS):
        arguments = _arguments(arm, length, folders[arm])
        console.print(f"  dormant {' '.join(arguments)}", style="dim", soft_wrap=True)
        arms[arm] = _start([*arguments, "--core", str(available[number % len(available)])], _log(folders[arm]))
    try:
        _watch(console, length, folders, arms)
        return _verdict(folders, {arm: process.poll() for arm, process in arms.items()})
    except KeyboardInterrupt:
        console.print("Stopped; the same command resumes the runs.")
        return 130
    finally:
        for process in arms.values():
            process.terminate()
            process.wait()


def _arguments(arm: str, length: Length, folder: RunFolder) -> list[str]:
    # Epsilon reaches its final value after a tenth of the run. The demo shows the returns of training episodes, so the
    # agent is evaluated only at the end of the run.
    periods = ("--epsilon-steps", str(max(1, length.steps // 10)), "--eval-period", str(length.steps))
    size = ("--steps", str(length.steps), "--seeds", str(length.seeds))
    return ["train", "--env", GAME, "--replay-ratio", "1", *ARMS[arm], *size, *periods, "--run-dir", str(folder.path)]


def _log(folder: RunFolder) -> Path:
    return folder.path.with_suffix(".log")


def _start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    # Two processes can share a GPU only if neither preallocates all of its memory.
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    with log.open("w") as stream:
        command = [sys.executable, "-m", "dormant", *arguments]
        return subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)


def _watch(console: Console, length: Length, folders: Folders, arms: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """Shows the arms until all have ended or one has failed."""
    begun = _done(folders), time.monotonic()
    with live_table(console) as show:
        while any(process.poll() is None for process in arms.values()) and not any(p.poll() for p in arms.values()):
            show(lambda: _progress(folders, length, _left(folders, length, *begun)))
            time.sleep(1.0)
        show(lambda: _progress(folders, length, ""))


def _done(folders: Folders) -> list[int]:
    return [last_row(folder.metrics).get("agent_steps", 0) for folder in folders.values()]


def _left(folders: Folders, length: Length, before: list[int], since: float) -> str:
    """The estimated time until the slower arm ends, as text. `since` is when `before` was measured."""
    seconds = time.monotonic() - since
    unfinished = [
        (done, done - first) for done, first in zip(_done(folders), before, strict=True) if done < length.steps
    ]
    if not all(made > 0 for _, made in unfinished):
        return "compiling"
    left = max((seconds * (length.steps - done) / made for done, made in unfinished), default=0.0)
    return f"{duration(left)} left"


def _progress(folders: Folders, length: Length, left: str) -> Table:
    """The curves so far: per arm the agent steps, the returns of training episodes, and the dormant neurons."""
    table = Table("", "agent steps", "return", "dormant neurons", box=None, padding=(0, 1), title=left)
    curves = {arm: _curves(folder, length) for arm, folder in folders.items()}
    highest = max((each for returns, _ in curves.values() for each in returns if each == each), default=1.0)
    for (arm, (returns, dormant)), done in zip(curves.items(), _done(folders), strict=True):
        shown = f"{sparkline(returns, max(highest, 1.0))} {latest(returns, '.1f')}"
        table.add_row(
            arm, f"{done:,}/{length.steps:,}", shown, f"{sparkline(dormant, 1.0)} {latest(100 * dormant, '.0f')} %"
        )
    return table


def _curves(folder: RunFolder, length: Length) -> tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]:
    """Means over seeds so far: returns of training episodes in the windows that have ended, and dormant fractions."""
    if not last_row(folder.metrics):
        return np.array([]), np.array([])
    dormant = curve(folder, DORMANT)
    returns = training_returns(folder, WINDOWS, length.steps)
    ended = returns.agent_steps <= dormant.agent_steps[-1]
    return _over_seeds(returns.values[:, ended]), _over_seeds(dormant.values)


def _over_seeds(values: Float[np.ndarray, "seeds points"]) -> Float[np.ndarray, " points"]:
    return mean(values.T[..., None])


def _verdict(folders: Folders, codes: Mapping[str, int | None]) -> int:
    for arm, code in codes.items():
        if code:
            said = _log(folders[arm]).read_text().strip() or f"{arm} ended with code {code}"
            print(said.splitlines()[-1], file=sys.stderr)
            return code if code > 0 else 1
    return 0


def _end(folder: RunFolder, length: Length) -> End:
    return End(at_end_of_run(folder, DORMANT), training_returns(folder, 10, length.steps).values[:, -1])


def _table(folders: Folders, length: Length) -> Table:
    several = ": the mean over seeds, and each seed in brackets" if length.seeds > 1 else ""
    table = Table("", *folders, title=f"{GAME}, dormant at τ = {TAU:g}", caption=f"Last tenth of the run{several}.")
    for layer in (*layers(next(iter(folders.values()))), "all"):
        shares = [100 * at_end_of_run(folder, f"dormant/{TAU:g}/{layer}") for folder in folders.values()]
        table.add_row(f"dormant neurons, {layer}", *(each_seed(share, ".1f", " %") for share in shares))
    returns = [_end(folder, length).returns for folder in folders.values()]
    table.add_row("return of training episodes", *(each_seed(each, ".2f") for each in returns))
    return table


def closing(plain: End, recycled: End) -> str:
    """What the numbers of DQN and of DQN + ReDo show and what they do not, in plain words."""
    before, after = plain.returns.mean(), recycled.returns.mean()
    if np.isnan(before + after):
        return "Returns are unknown, because in some seed no episode ended in the last tenth of the run. Raise --steps."
    times = f", {after / before:.1f} times as much" if before > 0 else ""
    higher, seeds = int(np.sum(recycled.returns > plain.returns)), len(plain.returns)
    seen = (
        f"Seen: at the end {plain.dormant.mean():.0%} of DQN's neurons are dormant, and {recycled.dormant.mean():.0%} "
        f"with ReDo. DQN's return is {before:.2f}, and {after:.2f} with ReDo{times}. With ReDo it is higher in "
        f"{higher} of {seeds} seeds."
    ).replace("%", " %")
    return f"{seen}\nNot seen: {_not_seen(mean_interval(recycled.returns - plain.returns), seeds)}"


def _not_seen(difference: Interval, seeds: int) -> str:
    """What the returns do not show. `difference` is ReDo's return minus DQN's, with its 95 % interval."""
    more = "`dormant figure fig09 --scale laptop` trains more seeds, longer, in three games."
    if seeds == 1:
        return f"whether the difference in return is chance; one seed cannot tell. {more}"
    bounds = f"its 95 % interval over {seeds} seeds, {difference.low:.2f} to {difference.high:.2f},"
    if difference.low <= 0 <= difference.high:
        return f"whether ReDo or chance made the difference in return: {bounds} contains 0. {more}"
    return f"other games and longer runs. Chance hardly explains this difference in return: {bounds} excludes 0. {more}"


def draw(length: Length, folders: Folders, file: Path) -> Path:
    """Draws the runs of both arms into a file: returns of training episodes, dormant neurons, and neuron scores."""
    from dormant.lab.drawing import demo_picture  # imported late, because it loads slowly

    spec = json.loads(next(iter(folders.values())).spec.read_text())
    caption = (
        f"dormant demo --steps {length.steps} --seeds {length.seeds}; revision {spec['revision']}; {spec['device']}. "
        "Thin lines are seeds, thick lines are their means; the neuron scores are those of seed 0."
    )
    returns = {arm: training_returns(folder, WINDOWS, length.steps) for arm, folder in folders.items()}
    demo_picture(folders, TAU, f"{GAME} at replay ratio 1", caption, returns).savefig(file)
    return file
