"""Whether rings of frames fit on this machine, said before a run begins rather than found out in the middle of it."""

import os
import shutil
from pathlib import Path

from .frames import FrameReplay
from .steps import StepReplay

# What a training needs beside its rings: the program, XLA's compiler, networks and batches.
BESIDE_BYTES = 2 * 10**9


def refuse_without_room(replay: FrameReplay | StepReplay, rings: int, folder: Path) -> None:
    """Does nothing if so many rings fit into memory and on the disk of the folder, their files there counted.

    Raises ValueError with the sum if they do not.
    """
    kept = sum(file.stat().st_blocks * 512 for file in folder.rglob("*.npy")) if folder.exists() else 0
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    message = shortage(replay, rings, available_memory(), shutil.disk_usage(above).free + kept)
    if message:
        raise ValueError(message)


def shortage(replay: FrameReplay | StepReplay, rings: int, memory: int, disk: int) -> str:
    """What is missing for so many rings, with the sum; an empty text where there is enough.

    >>> print(shortage(FrameReplay(1_000_000), 2, memory=10 * 10**9, disk=100 * 10**9))
    2 rings of 1,000,000 agent steps take 2 x (1,010,043 frames x 7,056 bytes + 1,010,000 steps x 19 bytes) = 14.3 GB.
    With 2.0 GB for the rest that is more than the 10.0 GB of available memory, which has room for 2 rings of
    555,... agent steps.
    """
    taken = rings * replay.bytes
    short = [
        (f"With {_gb(BESIDE_BYTES)} for the rest that is", "available memory", memory, memory - BESIDE_BYTES),
        ("That is", "free disk", disk, disk),
    ]
    for says, what, there, left in short:
        if taken > left:
            return (
                f"{_sum(replay, rings)} {says} more than the {_gb(there)} of {what}, {_fitting(replay, rings, left)}."
            )
    return ""


def _sum(replay: FrameReplay | StepReplay, rings: int) -> str:
    return (
        f"{rings} ring{'s' * (rings > 1)} of {replay.capacity:,} agent steps take {rings} x ({replay.layout}) = "
        f"{_gb(rings * replay.bytes)}."
    )


def _fitting(replay: FrameReplay | StepReplay, rings: int, left: int) -> str:
    steps = int(left / rings * replay.slots / replay.bytes) - replay.slack
    return f"which has room for {rings} ring{'s' * (rings > 1)} of {max(steps, 0) // 1_000 * 1_000:,} agent steps"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def available_memory() -> int:
    """Bytes that can be used without driving out other programs; all of the machine's where it does not say.

    >>> available_memory() > 0
    True
    """
    table = Path("/proc/meminfo")
    if table.exists():
        rows = dict(line.split(":") for line in table.read_text().splitlines())
        machine = int(rows["MemAvailable"].split()[0]) * 1024
    else:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")  # that of a container
    allowed = limit.read_text().strip() if limit.exists() else "max"
    return machine if allowed == "max" else min(machine, int(allowed))
