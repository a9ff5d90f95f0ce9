"""Arrays in files mapped into memory, which a run goes on from."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy import ndarray


def created(file: Path, shape: tuple[int, ...], dtype: type) -> ndarray:
    """An array of zeros in a new file. Raises OSError if the disk has no room for it."""
    array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
    # Else a disk that fills up later would kill the process where it writes into the map.
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
    return np.asarray(array)


def opened(file: Path, shape: tuple[int, ...], dtype: type) -> ndarray:
    """The array in a file. Raises ValueError if it has another shape or type."""
    array = np.lib.format.open_memmap(file, mode="r+")
    if (array.shape, array.dtype) != (shape, np.dtype(dtype)):
        raise ValueError(
            f"{file} has {array.dtype}{list(array.shape)}, not {np.dtype(dtype)}{list(shape)}: another ring."
        )
    return np.asarray(array)


def flush(arrays: Iterable[ndarray]) -> None:
    """Writes what changed to the disk, as a checkpoint must before it counts on the files after a power cut."""
    for array in arrays:
        if isinstance(array.base, np.memmap):
            array.base.flush()
