"""Rings in memory-mapped files: opens them, flushes them, verifies their content, and checks that they fit.

The owner of a ring is a number that identifies one seed of one run. The checksum of a stored step covers the bytes of
the step, the number of the step, and the owner. Therefore the checksum is wrong if the slot holds an older step or a
step of another run, or if a bit has flipped. Computing a checksum takes 3 microseconds per Atari frame. Opening a ring
reads all its steps once, at about 1.5 GB per second.
"""

import os
import shutil
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from numpy import ndarray

from dormant.files import available_memory

# Memory that a training needs in addition to its rings: the program, XLA's compiler, networks and batches.
OTHER_BYTES = 2 * 10**9


class DamagedRing(ValueError):
    """The files of a ring are damaged, or belong to another ring, run or seed."""


@runtime_checkable
class Ring(Protocol):
    """The size of a ring. It stores `slots` agent steps: `capacity` steps that can be drawn, and `slack` more steps."""

    @property
    def capacity(self) -> int: ...
    @property
    def slack(self) -> int: ...
    @property
    def slots(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def layout(self) -> str: ...


def save_due(ring: Ring, added: int, saved: int, steps: int) -> bool:
    """Whether `steps` more agent steps would overwrite steps that the last checkpoint needs.

    `added` is the number of steps in the ring now. `saved` is the number of steps at the last checkpoint.
    """
    return max(saved - ring.capacity, 0) + ring.slots - added < steps


def opener(added: int) -> Callable[[Path, tuple[int, ...], type], ndarray]:
    """Returns the function that opens a ring's file: `created` before the first agent step, `opened` after it."""
    return created if added == 0 else opened


def created(file: Path, shape: tuple[int, ...], dtype: type) -> ndarray:
    """Creates a file of zeros and maps it into memory. Raises OSError if the disk is full."""
    array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
    # Reserves the disk space. Without this, a full disk would kill the process when it writes to the mapped memory.
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
    return np.asarray(array)


def opened(file: Path, shape: tuple[int, ...], dtype: type) -> ndarray:
    """Maps an existing file. Raises DamagedRing if its content, shape or dtype is wrong, OSError if it is missing."""
    try:
        array = np.lib.format.open_memmap(file, mode="r")  # in mode "r+", NumPy would extend a truncated file
    except OSError:
        raise
    except Exception as error:  # NumPy raises many types of errors for a damaged header
        raise DamagedRing(f"{file} is damaged ({' '.join(str(error).split())[:200]}).") from None
    if (array.shape, array.dtype) != (shape, np.dtype(dtype)):
        raise DamagedRing(
            f"{file} has {array.dtype}{list(array.shape)}, not {np.dtype(dtype)}{list(shape)}; "
            "it belongs to a ring with other settings."
        )
    expected = array.offset + array.nbytes
    if file.stat().st_size != expected:
        raise DamagedRing(f"{file} is damaged: it has {file.stat().st_size:,} bytes, not {expected:,}.")
    return np.asarray(np.lib.format.open_memmap(file, mode="r+"))


def claim_ring(mark: ndarray, owner: int | None, added: int, folder: Path) -> None:
    """Writes `owner` into a new ring. Raises DamagedRing if an existing ring has another owner."""
    if added == 0:
        mark[0] = owner or 0
    elif owner is not None and mark[0] != owner:
        raise DamagedRing(f"{folder} is the ring of another run or seed.")


def checksum(owner: int, number: int, *parts: bytes | ndarray | np.generic) -> int:
    """Returns a checksum of three things: the owner of a ring, the number of a step or frame, and its bytes in `parts`.

    >>> checksum(1, 0, b"abc") == checksum(2, 0, b"abc"), checksum(1, 0, b"abc") == checksum(1, 1, b"abc")
    (False, False)
    """
    total = zlib.crc32(number.to_bytes(8, "little"), owner)
    for part in parts:
        total = zlib.crc32(part if isinstance(part, bytes) else part.data, total)
    return total


def refuse_changed(kept: ndarray, numbers: Iterable[int], sums: Iterable[int], what: str, folder: Path) -> None:
    """Raises DamagedRing if a computed checksum differs from the stored one. The message names the step or frame.

    `numbers` are the numbers of steps or frames. `sums` has their computed checksums. `kept` has all stored checksums.
    """
    for number, found in zip(numbers, sums, strict=True):
        if kept[number % len(kept)] != found:
            raise DamagedRing(f"{folder} is damaged, or no longer holds all steps: {what} {number} has changed.")


def flush(ring: object) -> None:
    """Writes the changed pages of a ring's arrays to the disk. Must be called before each checkpoint."""
    for array in jax.tree.leaves(ring):
        if isinstance(array.base, np.memmap):
            array.base.flush()


def refuse_without_room(ring: Ring, rings: int, folder: Path) -> None:
    """Raises ValueError if `rings` rings do not fit into memory or on the disk.

    The rings can use the space of ring files that are already in the folder.
    """
    kept = sum(file.stat().st_blocks * 512 for file in folder.rglob("*.npy")) if folder.exists() else 0
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    message = shortage(ring, rings, available_memory(), shutil.disk_usage(existing).free + kept)
    if message:
        raise ValueError(message)


def shortage(ring: Ring, rings: int, memory: int, disk: int) -> str:
    """Returns a message with the sizes if `rings` rings do not fit. Returns an empty string if they fit.

    >>> from dormant.rl.replay.frames import FrameReplay
    >>> print(shortage(FrameReplay(1_000_000), 2, memory=10 * 10**9, disk=100 * 10**9))
    2 rings of 1,000,000 agent steps take 2 x (1,010,043 frames x 7,060 bytes + 1,010,000 steps x 23 bytes) = 14.3 GB.
    With 2.0 GB for other data, that is more than the 10.0 GB of available memory, which has room for 2 rings of
    554,... agent steps.
    """
    total = f"{_rings(rings)} of {ring.capacity:,} agent steps take {rings} x ({ring.layout}) = "
    total += f"{_gb(rings * ring.bytes)}."
    limits = [
        (f"With {_gb(OTHER_BYTES)} for other data, that is", "available memory", memory, memory - OTHER_BYTES),
        ("That is", "free disk", disk, disk),
    ]
    for subject, resource, there, usable in limits:
        if rings * ring.bytes > usable:
            most = max(int(usable / rings * ring.slots / ring.bytes) - ring.slack, 0) // 1_000 * 1_000
            room = f"which has room for {_rings(rings)} of {most:,} agent steps"
            return f"{total} {subject} more than the {_gb(there)} of {resource}, {room}."
    return ""


def _rings(number: int) -> str:
    return f"{number} ring{'s' * (number > 1)}"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
