"""Jobs in real worker processes. The jobs are random walks. They crash, are killed, or find their folder in use."""

import multiprocessing
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from walks import Place, Walk

from dormant.lab import Arm, Design, Experiment, crews
from dormant.lab.crews import DiskFull, Job, jobs, run_all
from dormant.lab.crews.local import Processes, Worker, interrupts_held
from dormant.lab.machine import cores
from dormant.lab.runs import runner
from dormant.lab.runs.description import run_path
from dormant.lab.runs.folder import RunFolder, Timing, claimed, rows, runs_by_seed


def job(path, **settings):
    return Job("walk", "Place/Line", Walk(**settings), path)


def metrics(path):
    return (path / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "seed0"
    runner.run(Walk(), path)
    return path


def test_workers_live_for_many_jobs_each_on_its_core_and_give_what_one_process_gives(tmp_path, whole):
    seen = set()

    def watch(board):
        for child in multiprocessing.active_children():
            seen.add((child.pid, tuple(os.sched_getaffinity(child.pid))))

    # The jobs are slow, so that every worker has time to start and to get a job.
    todo = [job(tmp_path / f"seed{seed}", seeds=(seed,), seconds=0.3) for seed in range(4)]
    board = run_all(todo, Processes(cores()), watch)
    assert [each.state for each in board.standings] == ["done"] * 4
    assert len({pid for pid, _ in seen}) == len(cores())
    assert {pinned for _, pinned in seen} >= {(core,) for core in cores()}
    assert metrics(tmp_path / "seed0") == metrics(whole)
    assert all(RunFolder(tmp_path / f"seed{seed}").done.exists() for seed in range(4))
    assert not list(tmp_path.glob("*.log"))


def test_what_crashes_once_is_tried_again_and_what_crashes_twice_is_reported_while_the_others_go_on(tmp_path, whole):
    marker = {"marker": str(tmp_path / "marker")}
    todo = [
        job(tmp_path / "once", wrong="raise", **marker),
        job(tmp_path / "twice", wrong="raise"),
        job(tmp_path / "killed once", wrong="kill", marker=str(tmp_path / "other")),
        job(tmp_path / "killed twice", wrong="kill"),
        job(tmp_path / "fine"),
    ]
    board = run_all(todo, Processes(cores()[:1], 0.0))
    assert [each.state for each in board.standings] == ["done", "failed", "done", "failed", "done"]
    once, twice, _, killed, _ = board.standings
    assert (once.message, once.tries) == ("", 1)
    assert (twice.message, twice.tries) == ("RuntimeError: the walker fell", 2)
    assert killed.message == "its process was killed by SIGKILL; last line of its log: the floor gave way"
    assert [file.name for file in sorted(tmp_path.glob("*.log"))] == ["killed twice.log", "twice.log"]
    assert "RuntimeError" in (tmp_path / "twice.log").read_text()
    for name in ("once", "killed once", "fine"):
        assert metrics(tmp_path / name) == metrics(whole)


def test_a_folder_in_use_is_waited_for_and_not_run_twice(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(crews, "RETRY_SECONDS", 0.1)
    other, path = [claimed(tmp_path / "seed0", Walk())], tmp_path / "seed0"
    other[0].__enter__()
    states = []

    def watch(board):
        states.append(board.standings[0].state)
        if states[-1] == "in use" and other:
            assert "in use by another process" in board.standings[0].message
            other.pop().__exit__(None, None, None)
            runner.run(Walk(), path)  # the other process finishes it
            path.joinpath("metrics.jsonl").chmod(0o444)

    board = run_all([job(path)], Processes(cores()[:1]), watch)
    assert "in use" in states and board.standings[0].state == "done"
    assert metrics(path) == metrics(whole)


def test_a_changed_specification_and_a_damaged_file_are_refused_once_and_keep_what_they_hold(tmp_path):
    runner.run(Walk(), tmp_path / "changed")
    runner.run(Walk(), tmp_path / "damaged")
    RunFolder(tmp_path / "damaged").done.unlink()
    with RunFolder(tmp_path / "damaged").metrics.open("r+") as stream:
        stream.write("\x00")
    before = {name: metrics(tmp_path / name) for name in ("changed", "damaged")}
    todo = [job(tmp_path / "changed", log_period=2), job(tmp_path / "damaged"), job(tmp_path / "fine")]
    board = run_all(todo, Processes(cores()[:1]))
    assert [(each.state, each.tries) for each in board.standings] == [("failed", 0), ("failed", 0), ("done", 0)]
    assert "another configuration: log_period is 4 in the folder and 2 in this command" in board.standings[0].message
    assert "metrics.jsonl is damaged (its content has changed)" in board.standings[1].message
    assert {name: metrics(tmp_path / name) for name in before} == before


def test_a_row_that_was_cut_off_is_written_again(tmp_path, whole):
    runner.run(Walk(agent_steps=12), tmp_path / "run")
    RunFolder(tmp_path / "run").done.unlink()
    text = metrics(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_bytes(text + b'{"seed": 0, "agent_st')
    assert run_all([job(tmp_path / "run")], Processes(cores()[:1])).standings[0].state == "done"
    assert metrics(tmp_path / "run") == text


@pytest.fixture
def small_disk(tmp_path):
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.fail("this test needs root to mount a disk of 64 kB; run it in a container")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_ends_all_with_its_place_and_keeps_what_was_written(small_disk, tmp_path):
    todo = [job(small_disk / "run", agent_steps=4_000), job(tmp_path / "later")]
    with pytest.raises(DiskFull, match=r"disk/run.*: No space left on device"):
        run_all(todo, Processes(cores()[:1], 0.0))
    assert len(list(rows(small_disk / "run" / "metrics.jsonl"))) > 1
    assert not multiprocessing.active_children()


def test_an_interrupt_ends_the_workers_and_the_same_call_goes_on(tmp_path, whole):
    path = tmp_path / "run"

    def interrupt(board):
        if board.standings[0].agent_steps >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all([job(path, seconds=0.5)], Processes(cores()[:1], 0.0), interrupt)
    assert not multiprocessing.active_children()
    assert not RunFolder(path).done.exists()
    begun = []
    board = run_all(
        [job(path, seconds=0.5)], Processes(cores()[:1]), lambda board: begun.append(board.standings[0].begun_at)
    )
    assert begun[-1] >= 4 and board.standings[0].state == "done"
    assert metrics(path) == metrics(whole)


def test_ctrl_c_never_reaches_a_worker_even_while_it_loads(tmp_path, whole, capfd):
    worker = Worker(None, 30.0, short=False)
    try:
        for _ in range(100):
            os.kill(worker.process.pid, signal.SIGINT)
            time.sleep(0.01)
        worker.give(job(tmp_path / "seed0"))
        worker.pipe.poll(60)
        os.kill(worker.process.pid, signal.SIGINT)
        while worker.pipe.poll(60) and (event := worker.pipe.recv()).kind == "steps":
            pass
        assert event == ("done", 12, "")
    finally:
        worker.end()
    assert metrics(tmp_path / "seed0") == metrics(whole)
    assert capfd.readouterr().err == ""


def test_ctrl_c_while_a_worker_is_started_comes_after_that():
    reached = []
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore Ctrl-C
    with pytest.raises(KeyboardInterrupt), interrupts_held():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        reached.append(True)
    assert reached and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_run_remembers_how_long_all_its_processes_took(tmp_path):
    class Killed(BaseException):
        pass

    def kill(done):
        if done == 8:
            raise Killed

    with pytest.raises(Killed):
        runner.run(Walk(seconds=0.05), tmp_path / "run", kill, checkpoint_seconds=0.0)
    first = RunFolder(tmp_path / "run").timing
    assert first.agent_steps == 8 and first.seconds >= 0.1
    timing = runner.run(Walk(seconds=0.05), tmp_path / "run").timing
    assert timing.agent_steps == 12 and first.seconds + 0.05 <= timing.seconds < first.seconds + 5
    (tmp_path / "run" / "timing.json").write_text("?")
    assert RunFolder(tmp_path / "run").timing == Timing()


class TestJobs:
    @pytest.fixture
    def experiments(self):
        def design(*arms):
            return {"pilot": Design(arms, (Place("Line"), Place("Ring")), (0, 1, 2))}

        plain, slow = Arm("plain", Walk()), Arm("slow", Walk(replay_ratio=2.0))
        return Experiment("one", "", design(plain)), Experiment("two", "", design(replace(plain, name="same"), slow))

    def test_shared_runs_are_there_once_with_one_seed_each(self, experiments, tmp_path):
        todo = jobs(experiments, "pilot", tmp_path, together=False)
        assert len(todo) == len({each.path for each in todo}) == 2 * 2 * 3
        assert todo[0].name == "plain on Place/Line, seed 0"
        assert {each.arm for each in todo} == {"plain", "slow"}
        assert todo[0].path == run_path(tmp_path, "pilot", todo[0].training)

    def test_all_seeds_of_an_arm_can_be_one_job(self, experiments, tmp_path):
        todo = jobs(experiments, "pilot", tmp_path, together=True)
        assert [each.training.seeds for each in todo] == [(0, 1, 2)] * 4
        assert todo[0].name == "plain on Place/Line, seeds 0, 1, 2"

    @pytest.mark.parametrize("together", [False, True])
    def test_only_seeds_that_no_finished_run_holds_are_left(self, experiments, tmp_path, together):
        for path, done in (("seed0-2", True), ("seed1", False)):
            folder = run_path(tmp_path, "pilot", Walk()).with_name(path)
            folder.mkdir(parents=True)
            if done:
                RunFolder(folder).done.touch()
        assert runs_by_seed(tmp_path, "pilot", Walk(seeds=(0, 1, 2))).keys() == {0, 2}
        (left,) = [
            each.training.seeds
            for each in jobs(experiments[:1], "pilot", tmp_path, together)
            if each.environment == "Place/Line"
        ]
        assert left == (1,)

    def test_an_experiment_without_that_scale_has_none(self, experiments, tmp_path):
        assert jobs(experiments, "laptop", Path(), together=True) == []


def test_a_worker_goes_on_with_seeds_of_its_last_job_and_leaves_those_of_others():
    paths = ["a/seed0", "a/seed1", "b/seed0", "b/seed1", "c/seed0"]
    board = crews.Board([crews.Standing(job(Path(path))) for path in paths])
    assert board.next().begin().path == Path("a/seed0")
    assert board.next().begin().path == Path("b/seed0")
    assert board.next(Path("b/seed0")).begin().path == Path("b/seed1")
    assert board.next(Path("a/seed0")).begin().path == Path("a/seed1")
    assert board.next(Path("b/seed1")).begin().path == Path("c/seed0")
    assert board.next() is None


def test_jobs_in_use_come_after_those_that_wait():
    board = crews.Board([crews.Standing(job(Path(f"{number}/seed0"))) for number in range(2)])
    board.standings[0].state, board.standings[0].not_before = "in use", 0.0
    assert board.next() is board.standings[1]
    board.standings[1].begin()
    assert board.next() is board.standings[0]
    board.standings[0].not_before = time.monotonic() + 60
    assert board.next() is None and board.left() == 2
