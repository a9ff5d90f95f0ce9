"""`dormant demo`: trains DQN and DQN + ReDo side by side in about ten minutes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from dormant.cli.terminal import check_folder, refuse
from dormant.lab.judging import summary
from dormant.lab.machine import cores
from dormant.lab.runs.folder import RunFolder
from dormant.lab.runs.rows import last_row
from dormant.metrics import Interval

GAME = "MinAtar/Asterix"
# The demo takes about ten minutes, because neurons become dormant slowly. A higher learning rate does not make it
# shorter, because recycled neurons then become dormant again before the next check (LOG.md).
AGENT_STEPS = 150_000
TAU = 0.1
TRAINING = ("--replay-ratio", "1", "--eval-period", "10000")
ARMS = {
    "DQN": ("--intervention", "none"),
    "DQN + ReDo": ("--intervention", "redo", "--tau", str(TAU)),
}


@dataclass(frozen=True)
class Demo:
    """Train DQN and DQN + ReDo side by side; then print a table and draw a picture."""

    run_dir: Path = Path("runs/demo")
    """Folder of the two runs and the picture; the same command resumes the runs."""
    steps: int = AGENT_STEPS
    """Agent steps per seed."""
    seeds: int = 3
    """Number of seeds per arm. They train side by side."""


def demo(flags: Demo) -> int:
    """Runs the demo. Returns 0 if the picture is drawn, 130 on Ctrl-C, and otherwise the failed arm's exit code."""
    console = Console()
    try:
        check_folder(flags.run_dir)
        if flags.steps < 1 or flags.seeds < 1:
            raise ValueError(f"--steps and --seeds must be at least 1, got {flags.steps} and {flags.seeds}.")
    except ValueError as error:
        refuse(error)
    console.print(f"[bold]{GAME}[/], replay ratio 1, {flags.steps:,} agent steps, {flags.seeds} seeds per arm.")
    folders = {arm: RunFolder(flags.run_dir / arm.lower().replace(" + ", "-")) for arm in ARMS}
    code = _train(console, flags, folders)
    if code == 0:
        console.print(_table(folders))
        console.print(f"Picture: {_picture(flags, folders)}")
    return code


def _train(console: Console, flags: Demo, folders: Mapping[str, RunFolder]) -> int:
    flags.run_dir.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # SystemExit makes the `finally` below end the arms
    available = cores()
    arms = {}
    for number, arm in enumerate(ARMS):
        arguments = _arguments(arm, flags, folders[arm])
        console.print(f"  dormant {' '.join(arguments)}", style="dim", soft_wrap=True)
        arms[arm] = _start([*arguments, "--core", str(available[number % len(available)])], _log(folders[arm]))
    try:
        _watch(console, flags, folders, arms)
        return _verdict(folders, {arm: process.poll() for arm, process in arms.items()})
    except KeyboardInterrupt:
        console.print("Stopped; the same command resumes the runs.")
        return 130
    finally:
        for process in arms.values():
            process.terminate()
            process.wait()


def _arguments(arm: str, flags: Demo, folder: RunFolder) -> list[str]:
    # --epsilon-steps ends exploration after a tenth of the run.
    scale = (
        "--steps",
        str(flags.steps),
        "--epsilon-steps",
        str(max(1, flags.steps // 10)),
        "--seeds",
        str(flags.seeds),
    )
    return ["train", "--env", GAME, *TRAINING, *ARMS[arm], *scale, "--run-dir", str(folder.path)]


def _log(folder: RunFolder) -> Path:
    return folder.path.with_suffix(".log")


def _start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    # Two processes can share a GPU only if neither preallocates all of its memory.
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    with log.open("w") as stream:
        command = [sys.executable, "-m", "dormant", *arguments]
        return subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)


def _watch(
    console: Console, flags: Demo, folders: Mapping[str, RunFolder], arms: Mapping[str, subprocess.Popen[bytes]]
) -> None:
    columns = (TextColumn("{task.description:>10}"), BarColumn(None), TextColumn("{task.completed:,.0f} agent steps"))
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False))
    with Progress(*columns, *times, console=console, speed_estimate_period=120) as bars:
        tasks = {arm: bars.add_task(arm, total=flags.steps) for arm in arms}
        while any(process.poll() is None for process in arms.values()) and not any(p.poll() for p in arms.values()):
            _update(bars, folders, tasks)
            time.sleep(0.5)
        _update(bars, folders, tasks)


def _update(bars: Progress, folders: Mapping[str, RunFolder], tasks: Mapping[str, TaskID]) -> None:
    for arm, task in tasks.items():
        done = last_row(folders[arm].metrics).get("agent_steps", 0)
        if done > bars.tasks[task].completed:
            bars.update(task, completed=done)


def _verdict(folders: Mapping[str, RunFolder], codes: Mapping[str, int | None]) -> int:
    for arm, code in codes.items():
        if code:
            said = _log(folders[arm]).read_text().strip() or f"{arm} ended with code {code}"
            print(said.splitlines()[-1], file=sys.stderr)
            return code if code > 0 else 1
    return 0


def _table(folders: Mapping[str, RunFolder]) -> Table:
    note = "Means of the last tenth of the run, with 95 % t-intervals over seeds."
    table = Table("", *folders, title=f"{GAME}: dormant at τ = {TAU:g}", caption=note)
    columns = [list(summary(folder, TAU)) for folder in folders.values()]
    for entries in zip(*columns, strict=True):
        name = entries[0][0]
        table.add_row(name, *(_cell(interval, name != "return") for _, interval in entries))
    return table


def _cell(interval: Interval, percent: bool) -> str:
    form = "{:.1%}" if percent else "{:.2f}"
    mean, low, high = (form.format(bound) for bound in interval)
    return mean if "nan" in low else f"{mean}  \\[{low}, {high}]"  # a single seed has no interval


def _picture(flags: Demo, folders: Mapping[str, RunFolder]) -> Path:
    from dormant.lab.drawing import demo_picture  # imported late, because it loads slowly

    spec = json.loads(next(iter(folders.values())).spec.read_text())
    caption = (
        f"dormant demo --steps {flags.steps} --seeds {flags.seeds}; revision {spec['revision']}; {spec['device']}. "
        "Thin lines are seeds, thick lines are their means; the neuron scores are those of seed 0."
    )
    file = flags.run_dir / "demo.png"
    demo_picture(folders, TAU, f"{GAME} at replay ratio 1", caption).savefig(file)
    return file
