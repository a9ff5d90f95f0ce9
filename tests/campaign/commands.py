"""Runs command lines with malformed flags, each in a forked process.

Trainings do not run. If a training would start, the outcome is "accepted".
"""

import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from campaign.outcomes import Outcome, Tally
from dormant import __main__ as command_line
from dormant.cli import compare, demo, figure, train

SECONDS = 900.0  # a command takes seconds, or minutes on a busy machine
STARTED = "the runs would start here"
NUMBERS = (
    *("-1", "0", "1", "99999999999999999999", "1e300", "nan", "inf", "-inf", "", "x", "0x10", "1_0", "²"),
    "9" * 400,
)
WORDS = (
    "",
    "x",
    "none",
    "redo",
    "ALE/Pong",
    "ALE/",
    "MinAtar/",
    "é" * 5,
    "a\nb",
    "[red]",
    "../..",
    "0,1",
    "None",
    "\udc80",
)
PATHS = (
    "",
    "file",
    "folder",
    "missing/deep",
    "/dev/null",
    "/dev/full",
    "a" * 300,
    "é",
    "a\nb",
    "[b]x",
    "run",
    "link",
    ".",
    "/",
)
COMMON = {
    **dict.fromkeys(("--checkpoint-seconds", "--cpus", "--gpus", "--memory-gb", "--hours", "--workers"), NUMBERS),
    **dict.fromkeys(("--ray", "--partition", "--account", "--qos", "--constraint"), WORDS),
}
SEVERAL = {
    "--run-dir": PATHS,
    "--scale": (*WORDS, "smoke", "laptop", "paper"),
    "--dry-run": (None,),
    "--slurm": (None,),
    **COMMON,
}
OF_TRAIN = {
    "--run-dir": PATHS,
    "--agent": (*WORDS, "dqn", "drq", "sac"),
    "--env": (*WORDS, "MinAtar/Breakout", "Hopper-v5", "CartPole-v1"),
    "--intervention": (*WORDS, "weight-decay", "reset", "shrink-perturb", "weight-clipping", "redo,reset"),
    **dict.fromkeys(("--network", "--layers", "--outgoing", "--incoming", "--selection"), WORDS),
    **dict.fromkeys(
        (
            *("--seeds", "--steps", "--replay-ratio", "--log-period", "--score-batch", "--eval-period", "--core"),
            *("--eval-episodes", "--checkpoint-seconds", "--sticky", "--time-limit", "--eval-epsilon", "--rank-batch"),
            *("--period", "--tau", "--weight-decay", "--l2-init", "--when-dormant", "--share", "--start", "--stop"),
            *("--learning-rate", "--gamma", "--n-step", "--batch-size", "--replay-capacity", "--min-replay", "--width"),
            *("--target-period", "--epsilon-steps", "--filters", "--pad", "--intensity", "--hidden", "--adam-eps"),
        ),
        NUMBERS,
    ),
    "--stop-when-diverged": (None,),
}
COMMANDS: dict[str, tuple[Sequence[str], dict[str, Sequence[str | None]]]] = {
    "train": (("--run-dir", "new"), OF_TRAIN),
    "figure": (("fig07", "--run-dir", "new"), {**SEVERAL, "--data": PATHS, "": (*WORDS, "fig09", "all")}),
    "compare": (
        ("--run-dir", "new"),
        {**SEVERAL, "--interventions": (*WORDS, "redo,redo", "all", "none,redo"), "--suite": (*WORDS, "atari")},
    ),
    "demo": ((), {"--run-dir": PATHS, "--steps": NUMBERS, "--seeds": NUMBERS, "--quick": (None,)}),
    "cite": (("folder",), {"": PATHS}),
    "runs": (
        ("folder",),
        {
            **{"": PATHS, "--env": WORDS, "--status": (*WORDS, "done", "damaged"), "--sort": (*WORDS, "return")},
            **{"--compare": PATHS, "--tensorboard": PATHS, "--check": (None,)},
        },
    ),
    "report": (("folder",), {"": PATHS, "-o": PATHS, "--out": PATHS, "--scale": (*WORDS, "smoke", "pilot")}),
    "scan": (
        ("net.npz", "--apply", "net:apply", "--batch", "x.npy"),
        {
            **{
                "": PATHS,
                "--apply": (*WORDS, "net:apply", "net:", "leaves:apply", "net:leave", "net:number", "os:getcwd"),
            },
            **{"--batch": (*PATHS, "x.npy", "net.npz"), "--params": (*WORDS, "dense"), "--tau": NUMBERS},
            "--module": (*WORDS, "net:apply", "net:number", "os:getcwd"),
            **{
                "--picture": (*PATHS, "a.png", "a.gif", "folder/a.svg"),
                "--fit-steps": NUMBERS,
                "--init": (*WORDS, "net:init"),
            },
        },
    ),
    "doctor": ((), {"": WORDS}),
    "": ((), {"": (*WORDS, "train", "--help", "--version")}),
}


def arguments(draw: random.Random) -> list[str]:
    """A command line with one to three mutated flags."""
    name = draw.choice(list(COMMANDS))
    fixed, flags = COMMANDS[name]
    line = [name, *fixed] if name else []
    for _ in range(draw.randrange(1, 4)):
        flag = draw.choice(list(flags))
        value = draw.choice(flags[flag])
        line += [part for part in (flag, value) if part is not None and (part or part is value)]
    if draw.random() < 0.05:
        line.append(draw.choice(("--help", "--", "-h", "--no-such-flag", "=")))
    if draw.random() < 0.05:
        del line[draw.randrange(len(line))]
    return line


def prepare(folder: Path) -> None:
    """Writes the files that the command lines name."""
    (folder / "file").write_text("not a folder")
    (folder / "folder" / "smoke").mkdir(parents=True)
    (folder / "run").mkdir()
    (folder / "run" / "spec.json").write_text("{}")
    (folder / "link").symlink_to("nowhere")
    np.savez(folder / "net.npz", kernel=np.ones((3, 4), np.float32), out=np.ones((4, 2), np.float32))
    np.save(folder / "x.npy", np.ones((5, 3), np.float32))
    network = "import jax\nimport sys\nnumber = 1\ndef apply(p, x): return jax.nn.relu(x @ p['kernel']) @ p['out']\n"
    network += (
        "def init(key): return {'kernel': jax.random.normal(key, (3, 4)), 'out': jax.random.normal(key, (4, 2))}\n"
    )
    (folder / "net.py").write_text(network + "def leave(p, x): sys.exit(3)\n")
    (folder / "leaves.py").write_text("import sys\nsys.exit()\n")


def stand_in(*arguments: Any, **named: Any) -> Any:
    """Replaces the functions that run trainings, because trainings would take minutes."""
    raise SystemExit(STARTED)


def finish(line: Sequence[str], folder: Path, change: Callable[[], None], stubs: bool = True) -> None:
    """Runs the command in this process, in `folder`, after calling `change`. Then ends the process."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if stubs:
        train.run = figure.train = compare.train = demo._train = demo.quick.run = stand_in
    sys.argv = ["dormant", *line]
    code: Any = 1
    told = os.open("traceback", os.O_WRONLY | os.O_CREAT)
    try:
        change()
        code = _exit_code()
        if sys.stdout:
            sys.stdout.flush()  # as Python does when it ends normally
    except BaseException:
        os.write(told, traceback.format_exc().encode())
    finally:
        os._exit(code or 0)


def _exit_code() -> Any:
    try:
        command_line.main()
    except SystemExit as end:
        return 0 if end.code == STARTED else end.code
    raise AssertionError("the command did not end")


def letters(encoding: str) -> Callable[[], None]:
    """Returns a function that sets the encoding of stdout and stderr."""

    def change() -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(encoding=encoding, errors="strict")  # pyright: ignore[reportAttributeAccessIssue]

    return change


def campaign(tally: Tally, number: int, seed: int) -> None:
    for case in range(number):
        if tally.takes("command", case):
            draw = random.Random(f"{seed} {case}")
            line, terminal = arguments(draw), draw.choice(("utf-8", "utf-8", "ascii", "latin-1"))
            kind = f"dormant {line[0] if line[:1] and line[0] in COMMANDS else ''}".strip()
            tally.add(kind, *called(line, letters(terminal), f"{case}: {terminal} {line}"))


def called(line: Sequence[str], change: Callable[[], None], case: str, quiet: bool = False) -> tuple[Outcome, str, str]:
    """Runs a command in a forked process. Returns the outcome, the name of the case and the output."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        number = os.fork()
        if not number:
            finish(line, folder, change)
        code = ended(number, SECONDS)
        if code is None:
            return "hanging", case, ""
        said = [_text(folder / name) for name in ("stdout", "stderr", "traceback")]
        outcome, printed = judged(code, said[0], said[1] + said[2], quiet)
        return outcome, case, printed


def ended(number: int, seconds: float) -> int | None:
    """The exit code of a child process, or None if it had to be killed after `seconds`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        gone, status = os.waitpid(number, os.WNOHANG)
        if gone:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    return None


def _text(file: Path) -> str:
    return file.read_bytes().decode(errors="replace") if file.exists() else ""


def judged(code: int, out: str, err: str, quiet: bool = False) -> tuple[Outcome, str]:
    """The outcome of a command, from its exit code and, unless `quiet`, from its output."""
    both = f"code {code}: {out[-300:]}{err}"
    if "Traceback" in out + err or code < 0:
        return "traceback", both
    if code == 0:
        return "accepted", ""
    lines = [line for line in err.splitlines() if line.strip()]
    told = bool((out + err if code == 1 else err).strip())
    plain = code != 2 or (len(lines) == 1 and lines[0].startswith("dormant: "))
    if code not in (1, 2, 130) or (not quiet and not (told and plain)):
        return "wrong", both
    return "refused", ""
