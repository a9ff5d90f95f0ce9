"""Helps tyro to parse flags: prints errors in one line, checks numbers, and shows the most used flags first."""

import contextlib
import dataclasses
import io
import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dormant.cli.terminal import refuse


@contextmanager
def parsing() -> Iterator[None]:
    """Ends the command after an error of tyro or a ValueError in the block. Prints the error in one line."""
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


def unboxed(box: str) -> str:
    """The text in one of tyro's boxes, without its title.

    >>> unboxed("╭─ Unrecognized options ──────────╮│ Unrecognized options: --tua │╰──────────────────────╯")
    'Unrecognized options: --tua.'
    >>> unboxed("╭─ Parsing error ────╮│ Error parsing __tyro-dummy-inner__.agent: pad is -1 │╰──────────╯")
    'pad is -1.'
    """
    text = re.sub(r"\x1b\[[\d;]*m|[│╭╮╰╯]", "", box)
    _, *sections = (" ".join(section.split()) for section in re.split("[─-]{4,}", text))
    # Drops the text after " Got errors:". tyro appends it if a flag accepts several types, with an unhelpful error for
    # each type.
    texts = (re.sub(r"Error parsing __tyro\S*: ", "", section.split(" Got errors:")[0]) for section in sections)
    return " ".join(section.rstrip(".") + "." for section in texts if section)


def check_numbers(flags: Any, prefix: str = "--") -> None:
    """Raises ValueError if an integer does not fit into 32 bits. The message names the flag.

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


def _short(number: int) -> str:
    digits = str(number) if abs(number) < 10**300 else ""
    return digits if 0 < len(digits) <= 20 else "a number of more digits"


def check_finite(flags: Any) -> None:
    """Raises ValueError if a number is NaN or infinite. The message names the flag."""
    for each in dataclasses.fields(flags):
        value = getattr(flags, each.name)
        if dataclasses.is_dataclass(value):
            check_finite(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"--{each.name.replace('_', '-')} must be a finite number, got {value}.")


MOST_USED = (
    *("--run-dir", "--agent", "--env", "--intervention", "--tau", "--period"),
    *("--seeds", "--steps", "--replay-ratio", "--learning-rate", "--tensorboard", "--wandb"),
)
ONE_BOX = 129  # on a terminal of more columns, tyro prints boxes side by side


@contextmanager
def most_used_first(arguments: Sequence[str]) -> Iterator[None]:
    """Catches the help text that tyro prints in the block. Then prints it with the flags of `MOST_USED` first."""
    encoding = sys.stdout.encoding or "utf-8"  # a StringIO has none
    if not {"-h", "--help"} & {*arguments} or encoding.lower() != "utf-8":  # tyro prints boxes only in UTF-8
        yield
        return
    output, columns = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(min(shutil.get_terminal_size().columns, ONE_BOX))
    try:
        with contextlib.redirect_stdout(output):
            yield
    finally:
        os.environ.pop("COLUMNS")
        os.environ.update({"COLUMNS": columns} if columns else {})
        output.seek(0)
        print(most_used_moved(output.read()))


def most_used_moved(text: str) -> str:
    """Moves the flags of `MOST_USED` in a help text to a box before the other boxes.

    >>> print(most_used_moved("Trains.\\n\\n╭─ options ────╮\\n│ --x INT      │\\n│ --tau FLOAT  │\\n╰──────────────╯"))
    Trains.
    <BLANKLINE>
    ╭─ most used ──╮
    │ --tau FLOAT  │
    ╰──────────────╯
    ╭─ options ────╮
    │ --x INT      │
    ╰──────────────╯
    """
    lines = text.rstrip().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("╭"))
    moved: dict[str, list[str]] = {flag: [] for flag in MOST_USED}
    others, flag = list[str](), ""
    for line in lines[start:]:
        name = re.match(r"│ (--?[\w-]+)", line)
        flag = name[1] if name else "" if line.startswith(("╭", "╰")) else flag
        moved.get(flag, others).append(line)
    width = len(lines[start])
    top, bottom = "╭─ most used ".ljust(width - 1, "─") + "╮", "╰".ljust(width - 1, "─") + "╯"
    paragraphs = "\n".join(lines[:start]).strip().split("\n\n")
    told = [line for each in paragraphs for line in (*textwrap.wrap(each, width, break_on_hyphens=False), "")]
    return "\n".join([*told, top, *(line for each in moved.values() for line in each), bottom, *others])
