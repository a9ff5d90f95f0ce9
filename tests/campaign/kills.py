"""Kills runs at random moments, resumes them, and compares them with uninterrupted runs.

Trainings are forked from this process. It has imported all modules but has computed nothing. Figures run in new
processes.
"""

import atexit
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from campaign.outcomes import Outcome, Tally
from dormant import __main__ as command_line

SECONDS = 7_200.0  # a figure takes minutes, or an hour on a busy machine
STEPS = 1_200
# Turns evaluations off, because they take longer to compile than the rest of a run.
SMALL = ("--steps", str(STEPS), "--log-period", "100", "--eval-period", "1000000", "--checkpoint-seconds", "0")
DQN = ("--min-replay", "100", "--replay-capacity", "300", "--width", "8", "--period", "50", "--tau", "0.3")


class Case(NamedTuple):
    """A command that is killed, and the number of agent steps of its run."""

    arguments: tuple[str, ...]
    run: str  # the run folder, relative to the command's folder
    steps: int


REDO = ("--intervention", "redo")
CASES = {
    "MinAtar": Case(("train", *REDO, "--seeds", "1", *SMALL, *DQN, "--filters", "2"), "", STEPS),
    "SAC": Case(
        (
            *("train", "--env", "Hopper-v5", *REDO, "--steps", "200", "--log-period", "20", "--eval-period", "200"),
            *("--eval-episodes", "1", "--width", "0.05", "--min-replay", "40", "--batch-size", "8", "--period", "20"),
            *("--replay-capacity", "100", "--checkpoint-seconds", "0", "--seeds", "1"),
        ),
        "",
        200,
    ),
    "Atari": Case(
        (
            *("train", "--env", "ALE/Pong", *REDO, "--seeds", "1", "--steps", "200", "--log-period", "20"),
            *("--eval-period", "200", "--eval-agent-steps", "20", "--width", "0.05", "--time-limit", "70"),
            *("--min-replay", "40", "--replay-capacity", "100", "--batch-size", "8", "--checkpoint-seconds", "0"),
        ),
        "",
        200,
    ),
    "figure": Case(("figure", "fig13", "--checkpoint-seconds", "0", "--workers", "2"), "smoke", 800),
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP)


def campaign(tally: Tally, number: int, seed: int, names: Sequence[str]) -> None:
    """Kills the named kinds of trainings in turn. A figure takes long, so only one case in fifteen kills a figure."""
    trained = [name for name in names if name != "figure"]
    folder = Path(tempfile.mkdtemp())  # a forked process would delete a TemporaryDirectory when it ends
    try:
        whole: dict[str, dict[str, bytes]] = {}
        for case in range(number):
            if not tally.takes("kill", case):
                continue
            name = "figure" if case % 15 == 14 or not trained else trained[case % len(trained)]
            if name not in whole:
                path = folder / f"{name}-whole"
                assert finished(name, path) == 0, f"{name} does not run: {said_by(path)}"
                whole[name] = content(path)
            one(tally, name, random.Random(f"{seed} {case}"), folder / f"killed-{case}", whole[name], case)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # after a Ctrl-C, a killed run may still write


@dataclass
class Forked:
    """A forked process with some methods of `subprocess.Popen`."""

    pid: int
    code: int | None = None

    def poll(self) -> int | None:
        """The exit code, or None while the process runs."""
        if self.code is None:
            gone, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if gone else None
        return self.code

    def wait(self, seconds: float = SECONDS) -> int:
        """The exit code. Raises TimeoutExpired if the process does not end in time."""
        until = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("dormant", seconds)
            time.sleep(0.02)
        assert self.code is not None
        return self.code


Process = Forked | subprocess.Popen[bytes]


def start(name: str, path: Path) -> Process:
    """Starts a command in a new session. Its stderr goes to a file next to its folder."""
    arguments = [*CASES[name].arguments, "--run-dir", str(path)]
    with path.with_name(f"{path.name}.said").open("ab") as said:
        if name == "figure":
            command = [sys.executable, "-m", "dormant", *arguments]
            streams: Any = {"stdout": subprocess.DEVNULL, "stderr": said}
            return subprocess.Popen(command, start_new_session=True, **streams)
        number = os.fork()
        if number:
            return Forked(number)
        _become(arguments, said.fileno())
    raise AssertionError("the forked process has ended")


def _become(arguments: list[str], said: int) -> None:
    """Runs the command in this forked process, then ends the process."""
    code: Any = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(said, 2)
        sys.argv = ["dormant", *arguments]
        command_line.main()
    except SystemExit as end:
        code = end.code or 0
        atexit._run_exitfuncs()  # as a process that was not forked does at its end
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def said_by(path: Path) -> str:
    return path.with_name(f"{path.name}.said").read_text(errors="replace")


def finished(name: str, path: Path) -> int:
    process = start(name, path)
    try:
        return process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def content(path: Path) -> dict[str, bytes]:
    """The rows of all runs below a folder, and the checksums of their last states."""
    found = {}
    for done in sorted(path.rglob("done")):
        steps = max(int(each.name) for each in (done.parent / "checkpoint").iterdir())
        found |= {
            str(done.with_name(name).relative_to(path)): done.with_name(name).read_bytes()
            for name in ("metrics.jsonl", "scores.jsonl")
        }
        seal = json.loads((done.parent / "checkpoint" / str(steps) / "seal" / "metadata").read_text())
        found[f"{done.parent.relative_to(path)} {steps}"] = json.dumps(seal["leaves"], sort_keys=True).encode()
    return found


def reached(path: Path) -> int:
    """The number of rows in all files of metrics below a folder."""
    rows = 0
    for folder, inner, files in os.walk(path):  # unlike rglob, ignores folders that vanish during the walk
        inner[:] = [name for name in inner if name != "checkpoint"]
        if "metrics.jsonl" in files:
            rows += Path(folder, "metrics.jsonl").read_bytes().count(b"\n")
    return rows


def saving(path: Path) -> bool:
    """Whether a checkpoint is being written."""
    try:
        return any("orbax-checkpoint-tmp" in name for name in os.listdir(path / "checkpoint"))
    except FileNotFoundError:
        return False


def one(tally: Tally, name: str, draw: random.Random, path: Path, whole: dict[str, bytes], case: int) -> None:
    number, rows = draw.choice(SIGNALS), draw.randrange(1, 11 if name != "figure" else 60)
    during, seconds = draw.random() < 0.5, draw.uniform(0, 0.2)
    said = f"{case}: {number.name} after {rows} rows{' while a checkpoint is written' if during else ''}"
    try:
        stop(start(name, path), path, number, rows, during, seconds, draw.random() < 0.3)
        code = finished(name, path)
    except subprocess.TimeoutExpired:
        tally.add(f"kill {name}", "hanging", said, said_by(path))
        return
    outcome, why = judged(code, whole, path)
    tally.add(f"kill {name}", outcome, said, why)


def judged(code: int, whole: dict[str, bytes], path: Path) -> tuple[Outcome, str]:
    if "Traceback" in said_by(path):
        return "traceback", said_by(path)
    if code:
        return "wrong", f"code {code}: {said_by(path)}"
    return ("recovered", "") if content(path) == whole else ("wrong", "another end")


def stop(
    process: Process,
    path: Path,
    number: signal.Signals,
    rows: int,
    during: bool,
    seconds: float,
    twice: bool,
) -> None:
    """Sends a signal to the command and its workers once they have written `rows` rows.

    If `during` is true, waits until a checkpoint is being written. If `twice` is true, sends SIGINT a second time.
    """
    until = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < until and reached(path) < rows:
        time.sleep(0.01)
    time.sleep(seconds)
    patience = time.monotonic() + 2
    while during and process.poll() is None and not saving(path) and time.monotonic() < patience:
        time.sleep(0.0005)
    if process.poll() is not None:
        return
    group = os.killpg if number != signal.SIGTERM else os.kill
    group(process.pid, number)
    if number == signal.SIGSTOP:
        time.sleep(1 + 5 * seconds)
        group(process.pid, signal.SIGCONT)
    elif number == signal.SIGINT and twice:
        time.sleep(seconds)
        if process.poll() is None:
            group(process.pid, number)
    process.wait(SECONDS)
