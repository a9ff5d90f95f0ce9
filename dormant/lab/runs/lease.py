"""Who runs in a folder that several machines share: a lease that its holder renews, and that lapses if it does not.

Among the processes of one machine a lock of the system is enough, which ends with its process. Other machines need not
see it (Linux locks a folder of NFS for its own machine only), and a lost machine frees nothing that says so. Therefore
a run's folder has a file lease-<number>, in which a count goes up. A machine that sees no count go up for long enough
makes the file of the next number, which only one can, since it has to be new; no two clocks are compared. A holder that
was stopped or cut off for that long writes nothing more before it has made the next number itself.
"""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

RENEW_SECONDS = 5.0
TRUST_SECONDS = 20.0  # after a renewal, in which the holder may write without another look
LAPSE_SECONDS = 45.0  # without a renewal, after which another machine may take over: trust, and a very slow write
TEXT_BYTES = 256  # a file is overwritten in place, which a network's disk shows at once, and so keeps its length


class Taken(Exception):
    """The folder is another process's; the message says whose."""


def machine() -> str:
    """A name for this machine since its last start, by which those that share a disk know each other."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else socket.gethostname()


MACHINE = machine()


class Lease:
    """The right to write in a folder, renewed by a thread until `end`. Raises Taken if another process has it.

    `alone` says that no other process of this machine is at the folder, so that what one of them held is free.
    """

    def __init__(self, folder: Path, alone: bool) -> None:
        self.folder, self.number, self.count, self.taken = folder, newest(folder), 0, False
        if self.number and not _free(_file(folder, self.number), alone):
            raise Taken(_holder(folder))
        self.lock, self.over = threading.Lock(), threading.Event()
        self._advance()
        if self.taken:
            raise Taken(_holder(folder))
        self.thread = threading.Thread(target=self._keep_renewing, daemon=True)
        self.thread.start()

    def check(self) -> None:
        """Raises Taken if another machine may write here by now."""
        if _now() - self.renewed > TRUST_SECONDS:
            self.renew()
        if self.taken or _now() - self.renewed > TRUST_SECONDS:
            raise Taken(_holder(self.folder))

    def renew(self) -> None:
        """Lets the others see that this process lives; if it has not for long, as one of those who want the folder."""
        # A disk may not answer now; `check` knows since when.
        with self.lock, suppress(OSError):
            self._renew()

    def end(self, keep: bool) -> None:
        """Gives it back. A number is not used again as long as its file is kept, which an unfinished run needs."""
        self.over.set()
        self.thread.join()
        file = _file(self.folder, self.number)
        with suppress(OSError):  # what cannot be given back lapses
            if self.taken or newest(self.folder) != self.number:
                return
            if keep:
                _overwrite(file, self._text(held=False))
            else:
                file.unlink()

    def _keep_renewing(self) -> None:
        while not self.over.wait(RENEW_SECONDS):
            self.renew()

    def _renew(self) -> None:
        began = _now()
        if newest(self.folder) != self.number:
            self.taken = True
        elif began - self.renewed > TRUST_SECONDS:
            self._advance()
        else:
            self.count += 1
            _overwrite(_file(self.folder, self.number), self._text())
            self.renewed = began

    def _advance(self) -> None:
        """Takes the next number, unless somebody else has."""
        began, file = _now(), _file(self.folder, self.number + 1)
        try:
            with file.open("xb") as stream:
                stream.write(self._text())
        except FileExistsError:
            self.taken = True
            return
        if newest(self.folder) != self.number + 1:  # this process slept while others came and went
            file.unlink()
            self.taken = True
            return
        for old in _numbers(self.folder) - {self.number + 1}:
            _file(self.folder, old).unlink(missing_ok=True)
        self.number, self.renewed = self.number + 1, began

    def _text(self, held: bool = True) -> bytes:
        who = {"machine": MACHINE, "host": socket.gethostname(), "pid": os.getpid()}
        return json.dumps({"held": held, "count": self.count, **who}).encode().ljust(TEXT_BYTES) + b"\n"


def held_elsewhere(folder: Path) -> bool:
    """Whether a process of another machine is at a folder, as far as the two clocks agree."""
    file = _file(folder, newest(folder))
    known = _known(file)
    if not known.get("held") or known.get("machine") == MACHINE:
        return False
    return time.time() - file.stat().st_mtime < LAPSE_SECONDS


def is_lease(file: Path) -> bool:
    """Whether a file in a run's folder is a lease.

    >>> is_lease(Path("runs/a/lease-3")), is_lease(Path("runs/a/metrics.jsonl"))
    (True, False)
    """
    return file.name.startswith("lease-") and file.name[6:].isdigit()


def newest(folder: Path) -> int:
    """The highest number of a lease in a folder, 0 if there is none."""
    return max(_numbers(folder), default=0)


def _numbers(folder: Path) -> set[int]:
    return {int(file.name[6:]) for file in folder.iterdir() if is_lease(file)}


def _file(folder: Path, number: int) -> Path:
    return folder / f"lease-{number}"


def _free(file: Path, alone: bool) -> bool:
    known = _known(file)
    if known and not known["held"]:
        return True
    return (alone and known.get("machine") == MACHINE) or _lapsed(file)


def _lapsed(file: Path) -> bool:
    """Whether nobody renews it; takes LAPSE_SECONDS to find out, and one renewal to find the contrary."""
    first, until = _content(file), _now() + LAPSE_SECONDS
    while _now() < until:
        time.sleep(RENEW_SECONDS / 5)
        if _content(file) != first:
            return False
    return True


def _holder(folder: Path) -> str:
    known = _known(_file(folder, newest(folder)))
    return f"process {known['pid']} on {known['host']}" if known else "another process"


def _known(file: Path) -> dict[str, Any]:
    """What a file says; nothing if it is gone, or not yet written."""
    try:
        return json.loads(_content(file) or b"{}")
    except ValueError:
        return {}


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None


def _overwrite(file: Path, text: bytes) -> None:
    with file.open("r+b") as stream:
        stream.write(text)


def _now() -> float:
    # The clock that goes on while a machine sleeps, where there is one.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
