"""A lease on a run folder that several machines share. The holder must renew the lease, otherwise the lease lapses.

Processes of one machine exclude each other with a lock. The operating system releases the lock when the process ends.
Other machines may not see the lock (Linux locks an NFS folder only within one machine), and a lost machine cannot
release anything. Therefore a run folder has a file lease-<number> with a counter. The holder keeps increasing the
counter. If another machine sees no increase for LAPSE_SECONDS, it creates the file with the next number. Only one
machine can succeed, because creating the file fails if it exists. The clocks of two machines are never compared. A
holder that was paused, so that its last renewal is older than TRUST_SECONDS, writes nothing until it has created the
next file.
"""

import json
import os
import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from dormant.lab.runs.schema import Damaged, Holder, read

RENEW_SECONDS = 5.0
TRUST_SECONDS = 20.0  # for this time after a renewal, the holder may write without reading the folder again
LAPSE_SECONDS = 45.0  # after this time without a renewal, another machine may take over; allows for a slow write
TEXT_BYTES = 256  # fixed, because the file is overwritten in place so that other machines see each change at once


class Taken(Exception):
    """Another process has the lease. The message names the process."""


def machine() -> str:
    """Returns a name for this machine. On Linux, the name changes at each boot."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else socket.gethostname()


MACHINE = machine()


class Lease:
    """The right to write in a folder. A thread renews the lease until `end`. Raises Taken if another process has it.

    `alone` means that no other process of this machine uses the folder. An old lease of this machine then has no holder
    and can be replaced at once.
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
        """Renews the lease if the last renewal is old. Raises Taken if another machine may be writing in the folder."""
        if _now() - self.renewed > TRUST_SECONDS:
            self.renew()
        if self.taken or _now() - self.renewed > TRUST_SECONDS:
            raise Taken(_holder(self.folder))

    def renew(self) -> None:
        """Renews the lease. If it has lapsed, competes for a new one."""
        # Ignores disk errors. `check` notices if no renewal succeeds, because the last renewal is then old.
        with self.lock, suppress(OSError):
            self._renew()

    def end(self, keep: bool) -> None:
        """Releases the lease. If `keep` is true, keeps the lease file but marks it as released. Otherwise deletes it.

        The file of an unfinished run must be kept, so that no later lease gets the same number.
        """
        self.over.set()
        self.thread.join()
        file = _file(self.folder, self.number)
        with suppress(OSError):  # a lease that cannot be released lapses by itself
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
        """Takes the lease with the next number. Sets `taken` if another process has taken that number."""
        began, file = _now(), _file(self.folder, self.number + 1)
        try:
            with file.open("xb") as stream:
                stream.write(self._text())
        except FileExistsError:
            self.taken = True
            return
        if newest(self.folder) != self.number + 1:  # other machines took later numbers while this process was paused
            file.unlink()
            self.taken = True
            return
        for old in _numbers(self.folder) - {self.number + 1}:
            _file(self.folder, old).unlink(missing_ok=True)
        self.number, self.renewed = self.number + 1, began

    def _text(self, held: bool = True) -> bytes:
        who = {"machine": MACHINE, "host": socket.gethostname(), "pid": os.getpid()}
        return json.dumps({"held": held, "count": self.count, **who}).encode().ljust(TEXT_BYTES) + b"\n"


def held_by_another_machine(folder: Path) -> bool:
    """Whether another machine has a current lease on a folder. Assumes that the clocks of both machines agree."""
    file = _file(folder, newest(folder))
    known = _known(file)
    if known is None or not known.held or known.machine == MACHINE:
        return False
    return time.time() - file.stat().st_mtime < LAPSE_SECONDS


def is_lease(file: Path) -> bool:
    """Whether a file in a run folder is a lease.

    The number of a lease has only the digits 0 to 9, so lease-² is not a lease. A folder is not a lease either.
    """
    return re.fullmatch("lease-[1-9][0-9]{0,17}", file.name, re.ASCII) is not None and file.is_file()


def newest(folder: Path) -> int:
    """Returns the highest lease number in a folder. Returns 0 if there is no lease."""
    return max(_numbers(folder), default=0)


def _numbers(folder: Path) -> set[int]:
    return {int(file.name[6:]) for file in folder.iterdir() if is_lease(file)}


def _file(folder: Path, number: int) -> Path:
    return folder / f"lease-{number}"


def _free(file: Path, alone: bool) -> bool:
    known = _known(file)
    if known and not known.held:
        return True
    return (alone and known is not None and known.machine == MACHINE) or _lapsed(file)


def _lapsed(file: Path) -> bool:
    """Waits for at most LAPSE_SECONDS. Returns False as soon as the lease is renewed, and True if it is not renewed."""
    first, until = _content(file), _now() + LAPSE_SECONDS
    while _now() < until:
        time.sleep(RENEW_SECONDS / 5)
        if _content(file) != first:
            return False
    return True


def _holder(folder: Path) -> str:
    known = _known(_file(folder, newest(folder)))
    return f"process {known.pid} on {known.host}" if known else "another process"


def _known(file: Path) -> Holder | None:
    """Returns the content of a lease. Returns None if the file is gone, not yet written or damaged."""
    try:
        return read(Holder, file)
    except (OSError, Damaged):
        return None


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None


def _overwrite(file: Path, text: bytes) -> None:
    with file.open("r+b") as stream:
        stream.write(text)


def _now() -> float:
    # Uses CLOCK_BOOTTIME if the system has it, because this clock continues while the machine sleeps.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
