"""Runs that are killed at random moments, resumed, and compared with a run that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from campaign.outcomes import Outcome, Tally

SECONDS = 240.0
STEPS = 1_200
SMALL = ("--steps", str(STEPS), "--log-period", "100", "--eval-period", str(STEPS), "--checkpoint-seconds", "0")
DQN = ("--min-replay", "100", "--replay-capacity", "300", "--width", "8", "--period", "50", "--tau", "0.3")


class Case(NamedTuple):
    """A command that is killed, and the number of agent steps of its run."""

    arguments: tuple[str, ...]
    run: str  # the folder of the run below the command's folder
    steps: int


REDO = ("--intervention", "redo")
CASES = {
    "MinAtar": Case(
        ("train", *REDO, "--seeds", "1", *SMALL, *DQN, "--filters", "2", "--eval-episodes", "1"), "", STEPS
    ),
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


def campaign(tally: Tally, number: int, seed: int) -> None:
    """Kills each command in turn. Figures take long, so one case in fifteen is one."""
    with tempfile.TemporaryDirectory() as folder:
        whole: dict[str, dict[str, bytes]] = {}
        for case in range(number):
            name = "figure" if case % 15 == 14 else ("MinAtar", "SAC", "Atari")[case % 3]
            if name not in whole:
                path = Path(folder) / f"{name}-whole"
                assert finished(name, path) == 0, f"{name} does not run: {said_by(path)}"
                whole[name] = content(path)
            one(tally, name, random.Random(f"{seed} {case}"), Path(folder) / f"killed-{case}", whole[name], case)


def start(name: str, path: Path) -> subprocess.Popen[bytes]:
    cache = {"JAX_COMPILATION_CACHE_DIR": str(path.parent / "compiled"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    path.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "dormant", *CASES[name].arguments, "--run-dir", str(path)]
    with path.with_name(f"{path.name}.said").open("ab") as said:
        environment = os.environ | cache | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=said, env=environment, start_new_session=True
        )


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
    """The agent steps in all rows of metrics below a folder."""
    return sum(file.read_bytes().count(b"\n") for file in path.rglob("metrics.jsonl"))


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
    process: subprocess.Popen[bytes],
    path: Path,
    number: signal.Signals,
    rows: int,
    during: bool,
    seconds: float,
    twice: bool,
) -> None:
    """Sends a signal to the command and to its workers once there are so many rows. Ctrl-C may come twice."""
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
