"""Bad input ends in one line on stderr and exit code 2."""

import contextlib
import io
import re
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

from dormant.lab.runs.folder import RunRefused


def refuse(message: object) -> NoReturn:
    """Ends the command with one line that says what is wrong. Raises SystemExit with code 2."""
    print(f"dormant: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(2)


@contextlib.contextmanager
def parsing() -> Iterator[None]:
    """Refuses what tyro refuses, and what a specification does that it builds, in one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except ValueError as error:
        refuse(error)
    except SystemExit as end:
        if end.code == 2:
            refuse(unboxed(said.getvalue()))
        raise


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Keeps what libraries say on stderr until the end, and drops it where one line will say it."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), _outlasting_orbax():
            yield
    except (OSError, RunRefused):
        said = io.StringIO()
        raise
    finally:
        sys.stderr.write(said.getvalue())


@contextlib.contextmanager
def _outlasting_orbax() -> Iterator[None]:
    try:
        yield
    except (OSError, RunRefused) as error:
        if error.__cause__ is not None:
            # The other reads or writes that were under way end a little later, each with a trace.
            time.sleep(0.5)
        raise


def unboxed(box: str) -> str:
    """The text in a box of tyro's, without its title.

    >>> unboxed("╭─ Unrecognized options ──────────╮│ Unrecognized options: --tua │╰──────────────────────╯")
    'Unrecognized options: --tua.'
    >>> unboxed("╭─ Parsing error ────╮│ Error parsing __tyro-dummy-inner__.agent: pad is -1 │╰──────────╯")
    'pad is -1.'
    """
    text = re.sub(r"\x1b\[[\d;]*m|[│╭╮╰╯]", "", box)
    _, *sections = (" ".join(section.split()) for section in re.split("[─-]{4,}", text))
    # For a flag of several types, what each of them says is Python's words and not the user's.
    said = (re.sub(r"Error parsing __tyro\S*: ", "", section.split(" Got errors:")[0]) for section in sections)
    return " ".join(section.rstrip(".") + "." for section in said if section)
