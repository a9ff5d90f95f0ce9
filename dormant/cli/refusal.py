"""Ends a command with one line on stderr and exit code 2 for bad input."""

import contextlib
import io
import re
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

from dormant.lab.runs.folder import RunRefused


def refuse(message: object) -> NoReturn:
    """Ends the command with a message in one line. Raises SystemExit with code 2."""
    print(f"dormant: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(2)


def check_seconds(seconds: float) -> None:
    """Raises ValueError unless `seconds` can lie between two checkpoints."""
    if not seconds >= 0:  # false for NaN too
        raise ValueError(f"--checkpoint-seconds must be at least 0, got {seconds}.")


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
