"""Runs commands in unusual environments, such as without a home folder or with a closed pipe or a full disk."""

import os
import pwd
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from campaign.commands import COMMANDS, SECONDS, called, ended, finish, letters
from campaign.outcomes import Outcome, Tally
from dormant.cli import train

LINES: tuple[tuple[str, ...], ...] = (
    *((), ("--help",), ("train", "--help"), ("train", "--env", "ALE/Pong", "--help"), ("nonsense",)),
    *((name, *fixed) for name, (fixed, _) in COMMANDS.items() if name),
    *(("figure", "fig07", "--dry-run"), ("compare", "--dry-run"), ("scan", "missing.npz")),
)


def _without_home() -> None:
    def missing(user: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    os.environ.pop("HOME", None)
    os.environ.pop("XDG_CACHE_HOME", None)
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    pwd.getpwuid = missing


def _onto(name: str, *numbers: int) -> Callable[[], None]:
    def change() -> None:
        for number in numbers:
            os.dup2(os.open(name, os.O_WRONLY), number)

    return change


def _reader_gone() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)


def _without_stdout() -> None:
    os.close(1)
    sys.stdout = None  # as Python does if the descriptor is closed


def _folder_gone() -> None:
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)


def _narrow() -> None:
    os.environ["COLUMNS"] = "2"


SURROUNDINGS: dict[str, Callable[[], None]] = {
    "no home": _without_home,
    "ascii": letters("ascii"),
    "latin-1": letters("latin-1"),
    "full disk": _onto("/dev/full", 1),
    "full disk, errors too": _onto("/dev/full", 1, 2),
    "closed pipe": _reader_gone,
    "closed output": _without_stdout,
    "deleted folder": _folder_gone,
    "narrow terminal": _narrow,
}


QUIET = ("full disk, errors too", "closed pipe")  # the cases in which no error message is expected


def campaign(tally: Tally, share: float) -> None:
    """Runs every command in every environment, or only a fraction `share` of these cases."""
    every = [(name, line) for name in SURROUNDINGS for line in LINES]
    chosen = range(0, len(every), max(1, round(1 / share))) if share else ()
    for case in chosen:
        name, line = every[case]
        if tally.takes("surroundings", case):
            tally.add(name, *called(line, SURROUNDINGS[name], f"{case}: {list(line)}", quiet=name in QUIET))
    if share and tally.takes("surroundings", len(every)):
        tally.add("Ctrl-C twice", *_interrupted_twice())


def _interrupted_twice() -> tuple[Outcome, str, str]:
    """Runs a command that gets a second Ctrl-C while it handles the first Ctrl-C."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        number = os.fork()
        if not number:
            train.run = _stubborn
            finish(("train", "--run-dir", "new"), folder, lambda: None, stubs=False)
        for mark in ("running", "interrupted"):
            _await(folder / mark)
            os.kill(number, signal.SIGINT)
        code = ended(number, SECONDS)
        said = (folder / "stderr").read_text()
        right = code == 130 and said.count("\n") == 1 and "Traceback" not in said
        return "hanging" if code is None else "refused" if right else "wrong", "train", f"code {code}: {said}"


def _stubborn(*arguments: Any, **named: Any) -> None:
    """Stands in for a run that takes long to end after Ctrl-C."""
    try:
        Path("running").touch()
        time.sleep(SECONDS)
    finally:
        Path("interrupted").touch()
        time.sleep(SECONDS)


def _await(mark: Path) -> None:
    until = time.monotonic() + SECONDS
    while not mark.exists() and time.monotonic() < until:
        time.sleep(0.005)
