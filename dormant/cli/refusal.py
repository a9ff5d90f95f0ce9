"""Ends a command with one line on stderr and exit code 2 for bad input."""

import contextlib
import dataclasses
import io
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from dormant.lab.runs.folder import RunRefused


def refuse(message: object) -> NoReturn:
    """Ends the command with a message in one line. Raises SystemExit with code 2."""
    print(f"dormant: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(2)


def check_seconds(seconds: float) -> None:
    """Raises ValueError unless `seconds` can lie between two checkpoints."""
    if not seconds >= 0:  # false for NaN too
        raise ValueError(f"--checkpoint-seconds must be at least 0, got {seconds}.")


def check_numbers(flags: Any, prefix: str = "--") -> None:
    """Raises ValueError, with the flag, for an integer beyond 32 bits.

    >>> Size = dataclasses.make_dataclass("Size", ["steps"])
    >>> check_numbers(Size(steps=3))
    >>> check_numbers(Size(steps=2**31))
    Traceback (most recent call last):
    ValueError: --steps must be between -2,147,483,648 and 2,147,483,647, got 2147483648.
    """
    for each in dataclasses.fields(flags):
        value, flag = getattr(flags, each.name), prefix + each.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            check_numbers(value)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and not -(2**31) <= number < 2**31:
                raise ValueError(f"{flag} must be between {-(2**31):,} and {2**31 - 1:,}, got {_short(number)}.")


def check_finite(flags: Any) -> None:
    """Raises ValueError, with the flag, for a number that is NaN or infinite."""
    for each in dataclasses.fields(flags):
        value = getattr(flags, each.name)
        if dataclasses.is_dataclass(value):
            check_finite(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"--{each.name.replace('_', '-')} must be a finite number, got {value}.")


def _short(number: int) -> str:
    digits = str(number) if abs(number) < 10**300 else ""
    return digits if 0 < len(digits) <= 20 else "a number of more digits"


def check_folder(path: Path) -> None:
    """Raises ValueError if a folder of runs cannot be made because a file has its name or the name of a parent."""
    existing = next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
    if not existing.is_dir():
        raise ValueError(f"--run-dir {path}: {existing} is not a folder; choose another --run-dir.")


def not_written(error: OSError, path: object, advice: str) -> NoReturn:
    """Ends the command because a file could not be read or written: names the file, or `path` if it is not known."""
    refuse(f"{error.filename or path}: {error.strerror or error}. {advice}")


@contextlib.contextmanager
def parsing() -> Iterator[None]:
    """Turns tyro's errors, and ValueErrors of the values that tyro builds, into one line."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            yield
    except ValueError as error:
        refuse(error)
    except SystemExit as end:
        if end.code == 2:
            refuse(unboxed(output.getvalue()))
        raise


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Delays the stderr output of libraries to the end of the block. Drops it if a one-line error replaces it."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output), _outlasting_orbax():
            yield
    except (OSError, RunRefused):
        output = io.StringIO()
        raise
    finally:
        sys.stderr.write(output.getvalue())


@contextlib.contextmanager
def _outlasting_orbax() -> Iterator[None]:
    try:
        yield
    except (OSError, RunRefused) as error:
        if error.__cause__ is not None:
            # Orbax's concurrent reads or writes end a little later, each with a stack trace.
            time.sleep(0.5)
        raise


def unboxed(box: str) -> str:
    """The text in one of tyro's boxes, without its title.

    >>> unboxed("╭─ Unrecognized options ──────────╮│ Unrecognized options: --tua │╰──────────────────────╯")
    'Unrecognized options: --tua.'
    >>> unboxed("╭─ Parsing error ────╮│ Error parsing __tyro-dummy-inner__.agent: pad is -1 │╰──────────╯")
    'pad is -1.'
    """
    text = re.sub(r"\x1b\[[\d;]*m|[│╭╮╰╯]", "", box)
    _, *sections = (" ".join(section.split()) for section in re.split("[─-]{4,}", text))
    # For a flag of several types, the errors of each type mean nothing to a user.
    texts = (re.sub(r"Error parsing __tyro\S*: ", "", section.split(" Got errors:")[0]) for section in sections)
    return " ".join(section.rstrip(".") + "." for section in texts if section)
