"""Functions that damage a file at random."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[random.Random, Path, Path | None], None]


def flip(draw: random.Random, file: Path, other: Path | None) -> None:
    content = bytearray(file.read_bytes())
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def cut(draw: random.Random, file: Path, other: Path | None) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: draw.randrange(len(content))] if content else content)


def empty(draw: random.Random, file: Path, other: Path | None) -> None:
    file.write_bytes(b"")


def double(draw: random.Random, file: Path, other: Path | None) -> None:
    file.write_bytes(file.read_bytes() * 2)


def delete(draw: random.Random, file: Path, other: Path | None) -> None:
    file.unlink()


def scramble(draw: random.Random, file: Path, other: Path | None) -> None:
    content = bytearray(file.read_bytes())
    start = draw.randrange(len(content) + 1)
    block = draw.randbytes(draw.randrange(1, 64))
    content[start : start + len(block)] = block
    file.write_bytes(content)


def zeros(draw: random.Random, file: Path, other: Path | None) -> None:
    content = file.read_bytes()
    start = draw.randrange(len(content) + 1)
    file.write_bytes(content[:start] + bytes(len(content) - start))


def append(draw: random.Random, file: Path, other: Path | None) -> None:
    with file.open("ab") as stream:
        stream.write(draw.randbytes(draw.randrange(1, 100)))


def wrong_type(draw: random.Random, file: Path, other: Path | None) -> None:
    values = ["null", "5", "[]", "{}", '"text"', "[" * 100_000, '{"seed": "0"}', '{"training": 5}', "NaN", "{}{}"]
    file.write_text(draw.choice(values) + draw.choice(["", "\n"]))


def word(draw: random.Random, file: Path, other: Path | None) -> None:
    """Replaces a random digit in a text file by an unexpected value, such as null or NaN."""
    content = file.read_bytes()
    places = [place for place, byte in enumerate(content) if byte in b"0123456789"]
    if places:
        place = draw.choice(places)
        new = draw.choice([b"null", b'"x"', b"-1", b"9" * 25, b"1e999", b"[]", b"true", b"NaN"])
        file.write_bytes(content[:place] + new + content[place + 1 :])


def drop_lines(draw: random.Random, file: Path, other: Path | None) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    start = draw.randrange(len(lines) + 1)
    del lines[start : start + draw.randrange(1, 4)]
    file.write_bytes(b"".join(lines))


def repeat_line(draw: random.Random, file: Path, other: Path | None) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    if lines:
        lines.insert(draw.randrange(len(lines)), draw.choice(lines))
    file.write_bytes(b"".join(lines))


def of_another(draw: random.Random, file: Path, other: Path | None) -> None:
    """Replaces the file by `other`: a different file of this run, or a file of a different run."""
    if other is not None and other.is_file() and other != file:
        shutil.copyfile(other, file)
    else:
        empty(draw, file, other)


def folder_instead(draw: random.Random, file: Path, other: Path | None) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: tuple[Damage, ...] = (
    *(flip, flip, flip, cut, empty, double, delete, scramble, zeros, append, wrong_type, word),
    *(drop_lines, repeat_line, of_another, of_another, folder_instead),
)
