"""Leases on a folder that several machines share. Some processes pretend to be on another machine."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from walks import Walk

from dormant.lab.runs import folder as run_folder
from dormant.lab.runs import lease
from dormant.lab.runs.folder import RunInUse, claimed, in_use
from dormant.lab.runs.lease import Lease, Taken, newest
from dormant.lab.runs.runner import run

RENEW, TRUST, LAPSE = 0.1, 0.4, 1.0
PROGRAM = """
import sys
sys.path[:0] = {path!r}
from dormant.lab.runs import lease, runner
from walks import Walk
lease.MACHINE = "elsewhere"
lease.RENEW_SECONDS, lease.TRUST_SECONDS, lease.LAPSE_SECONDS = {times!r}
try:
    runner.run(Walk(seconds={seconds!r}), {folder!r}, checkpoint_seconds=0.0)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    names = ("RENEW_SECONDS", "TRUST_SECONDS", "LAPSE_SECONDS")
    for name, seconds in zip(names, (RENEW, TRUST, LAPSE), strict=True):
        monkeypatch.setattr(lease, name, seconds)


@pytest.fixture
def unlocked(monkeypatch):
    """Simulates a disk such as NFS, where machines do not see each other's locks. Here, no process sees any lock."""
    monkeypatch.setattr(run_folder.fcntl, "flock", lambda *arguments: None)


@pytest.fixture
def elsewhere(tmp_path):
    """A function that starts a run in a process that pretends to be on another machine. Returns process and folder."""
    begun = []

    def begin(seconds=0.5):
        folder = tmp_path / "run"
        program = "from pathlib import Path\n" + PROGRAM.format(
            path=sys.path, times=(RENEW, TRUST, LAPSE), seconds=seconds, folder=folder
        ).replace("PosixPath", "Path")
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        begun.append(process)
        deadline = time.monotonic() + 120
        while not (folder / "metrics.jsonl").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        return process, folder

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def rows(folder):
    return (folder / "metrics.jsonl").read_bytes()


def test_a_run_of_another_machine_is_left_alone_and_seen(elsewhere, unlocked):
    _, folder = elsewhere(seconds=5.0)
    assert in_use(folder)
    with pytest.raises(RunInUse, match=r"in use by process \d+ on .*; wait for it"):
        run(Walk(seconds=5.0), folder)


def test_what_a_lost_machine_was_at_goes_on_after_its_lease_has_lapsed(elsewhere, unlocked, tmp_path):
    process, folder = elsewhere()
    process.kill()
    process.wait()
    begun = time.monotonic()
    run(Walk(seconds=0.5), folder)
    assert time.monotonic() - begun > LAPSE
    run(Walk(), tmp_path / "whole")
    assert rows(folder) == rows(tmp_path / "whole")
    assert newest(folder) == 0


def test_a_holder_that_slept_while_another_took_over_writes_nothing_more(elsewhere, unlocked, tmp_path):
    process, folder = elsewhere()
    process.send_signal(signal.SIGSTOP)
    run(Walk(seconds=0.5), folder)
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=60)
    assert said.startswith("RunInUse ") and "is in use by" in said
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before


def test_a_holder_that_slept_alone_goes_on(elsewhere, unlocked):
    process, folder = elsewhere()
    process.send_signal(signal.SIGSTOP)
    time.sleep(2 * LAPSE)
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=60)
    assert said == "" and (folder / "done").exists()


def test_what_a_process_of_this_machine_left_is_free_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "LAPSE_SECONDS", 1e9)
    (tmp_path / "run").mkdir()
    left = Lease(tmp_path / "run", alone=True)
    left.over.set()  # stops the renewals, like a kill
    with claimed(tmp_path / "run", Walk()):
        assert newest(tmp_path / "run") == 2
        with pytest.raises(Taken, match=rf"process {os.getpid()} on"):
            left.renew()
            left.check()
    assert b'"held": false' in (tmp_path / "run" / "lease-2").read_bytes()


def test_only_one_of_many_takes_what_has_lapsed(tmp_path):
    left = Lease(tmp_path, alone=True)
    left.over.set()
    got, refused = [], []

    def take():
        try:
            got.append(Lease(tmp_path, alone=False))
        except Taken:
            refused.append(True)

    takers = [threading.Thread(target=take) for _ in range(8)]
    for each in takers:
        each.start()
    for each in takers:
        each.join()
    assert (len(got), len(refused), newest(tmp_path)) == (1, 7, 2)
    got[0].end(keep=False)


def test_one_that_slept_while_others_came_and_went_withdraws(tmp_path, monkeypatch):
    left = Lease(tmp_path, alone=True)
    left.over.set()

    def slow(file):
        monkeypatch.setattr(lease, "_lapsed", lambda file: True)
        Lease(tmp_path, alone=True).end(keep=True)
        others.append(Lease(tmp_path, alone=True))
        return True

    others = []
    monkeypatch.setattr(lease, "_lapsed", slow)
    with pytest.raises(Taken):
        Lease(tmp_path, alone=False)
    assert newest(tmp_path) == 3 and not (tmp_path / "lease-2").exists()
    others[0].check()
    others[0].end(keep=False)


def test_a_disk_without_locks_has_leases(tmp_path, monkeypatch):
    def none(*arguments):
        raise OSError(run_folder.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_folder.fcntl, "flock", none)
    with claimed(tmp_path / "run", Walk()), pytest.raises(RunInUse, match="in use by process"):
        run(Walk(), tmp_path / "run")
    run(Walk(), tmp_path / "run")
    assert not in_use(tmp_path / "run")


def test_a_lease_that_is_not_written_yet_is_waited_for(tmp_path):
    (tmp_path / "lease-4").touch()
    begun = time.monotonic()
    taken = Lease(tmp_path, alone=True)
    assert taken.number == 5 and time.monotonic() - begun >= LAPSE
    taken.end(keep=False)
    assert not list(tmp_path.iterdir())
