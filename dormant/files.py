"""Writes files completely or not at all, and reads arrays from files that may be damaged or hostile."""

import gzip
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

BLOCK_BYTES = 2**24


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yields the path of a new file. The new file replaces `file` when the block ends without an error.

    If the process is killed, `file` has either the old content or the new content. An existing file or link at the
    yielded path is removed first, so that nothing is ever written through a link.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "spec.json"
    ...     with replacing(file) as part:
    ...         _ = part.write_text("{}")
    ...     file.read_text(), part.exists()
    ('{}', False)

    Raises OSError if the folder cannot be written to.
    """
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    try:
        yield part
        with part.open("rb") as stream:
            os.fsync(stream.fileno())  # without fsync, the file could be empty after a power cut
        os.replace(part, file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_whole(file: Path, text: str) -> None:
    """Writes a text file completely or not at all.

    Raises OSError if the disk is full or the folder cannot be written to. The file then keeps its old content.
    """
    # Mode "x" raises an error if another process has created a file or link at this path in the meantime.
    with replacing(file) as part, part.open("x", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()


class UnreadableFile(ValueError):
    """Raised if a file is damaged, is too large, or does not have the expected format. The message names the file."""


def read_array(file: Path) -> np.ndarray:
    """Returns the array in an .npy file, which may be gzipped (.gz).

    Raises UnreadableFile if the file is damaged, if it contains Python objects, or if its array is larger than the
    available memory.
    """
    with _readable(file), gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        found = _array(stream)
        # gzip verifies its checksum only when the end of the file is read.
        if stream.read(1):
            raise ValueError("there is more data after the array")
        return found


def is_zip(file: Path) -> bool:
    """Whether a file is a zip archive, such as an .npz file. A damaged archive is one too: reading it raises."""
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:  # the end of the archive is damaged
        return True


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Returns a dictionary from names to the arrays of an .npz file, in the order in which the file stores them.

    Raises UnreadableFile if the file is damaged or encrypted, if it contains Python objects, or if its arrays are
    larger than the available memory.
    """
    with _readable(file), zipfile.ZipFile(file) as archive:
        names = [member.filename for member in archive.infolist()]
        if not names:
            raise ValueError("it has no arrays")
        if len(set(names)) < len(names):
            raise ValueError("two of its arrays have the same name")
        if sum(member.file_size for member in archive.infolist()) > available_memory():
            raise ValueError("its arrays are larger than the available memory")
        found = {}
        for member in archive.infolist():
            with archive.open(member) as stream:
                found[member.filename.removesuffix(".npy")] = _array(stream)
                if stream.read(1):
                    raise ValueError(f"{member.filename} has more data after the array")
        return found


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turns the errors that NumPy, zipfile and gzip raise for damaged files into UnreadableFile."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableFile(f"{file} cannot be read: {error.strerror or error}.") from error
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableFile(f"{file} cannot be read: {words[:300].rstrip('.')}.") from error


def _array(stream: Any) -> np.ndarray:
    """Returns the first array of a stream in NumPy's .npy format.

    Raises ValueError if the data is not in this format, if it contains Python objects, or if the array is incomplete or
    larger than the available memory.
    """
    magic = stream.read(8)
    if len(magic) < 8 or not magic.startswith(np.lib.format.MAGIC_PREFIX) or magic[6] not in (1, 2, 3):
        raise ValueError("it is not a NumPy file")
    read_header = np.lib.format.read_array_header_1_0 if magic[6] == 1 else np.lib.format.read_array_header_2_0
    shape, fortran, kind = read_header(stream)
    if kind.hasobject:
        raise ValueError("it contains Python objects; expected numbers")
    size = math.prod(shape) * kind.itemsize
    if size > available_memory():
        raise ValueError(f"its array of {size:,} bytes is larger than the available memory")
    content, done = np.empty(size, np.uint8), 0
    while done < size:
        block = stream.read(min(BLOCK_BYTES, size - done))
        if not block:
            raise ValueError(f"its array is incomplete: {done:,} of {size:,} bytes")
        content[done : done + len(block)] = np.frombuffer(block, np.uint8)
        done += len(block)
    return content.view(kind).reshape(shape, order="F" if fortran else "C")


def available_memory() -> int:
    """Returns the number of bytes of memory that this process may use.

    This is the free memory of the machine, or its total memory if the system does not report the free memory. If the
    process runs in a container, the result is at most the container's limit.

    >>> available_memory() > 0
    True
    """
    table = Path("/proc/meminfo")
    if table.exists():
        rows = dict(line.split(":") for line in table.read_text().splitlines())
        machine = int(rows["MemAvailable"].split()[0]) * 1024
    else:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")  # the limit of a container
    allowed = limit.read_text().strip() if limit.exists() else "max"
    return machine if allowed == "max" else min(machine, int(allowed))
