"""Executes runs as a SLURM array. Scripts are submitit's, and small_slurm replaces SLURM with local processes."""

import os

import pytest
from cluster import small_slurm
from cluster.small_slurm import lose_node, time_is_up
from walks import Walk

from dormant.lab.crews import Job, cluster, on_slurm, run_all
from dormant.lab.crews.cluster import NoCluster, Resources
from dormant.lab.crews.on_slurm import SlurmArray, Terms, record
from dormant.lab.runs.folder import RunFolder
from dormant.lab.runs.runner import run


@pytest.fixture
def queue(tmp_path, monkeypatch):
    folder = small_slurm.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(on_slurm, "CENSUS_SECONDS", 0.0)
    monkeypatch.setattr(on_slurm, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.1)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return metrics(run(Walk(), tmp_path_factory.mktemp("whole") / "seed0").path)


def job(path, **settings):
    return Job("walk", "Place/Line", Walk(**settings), path)


def metrics(path):
    return (path / "metrics.jsonl").read_bytes()


def test_one_array_runs_all_and_one_lost_and_one_that_crashed_are_sent_again(queue, tmp_path, whole):
    root, lost, states = tmp_path / "runs", [], []
    todo = [
        job(root / "lost", seconds=3.0),
        job(root / "once", wrong="raise", marker=str(tmp_path / "marker")),
        job(root / "twice", wrong="raise"),
        job(root / "fine"),
    ]

    def watch(board):
        states.append([each.state for each in board.standings])
        if not lost and board.standings[0].agent_steps >= 4:
            lose_node(queue, "100_0")
            lost.append(board.standings[0])

    board = run_all(todo, SlurmArray(root, checkpoint_seconds=0.0), watch)
    assert [each.state for each in board.standings] == ["done", "done", "failed", "done"]
    assert [each.tries for each in board.standings] == [0, 1, 2, 0]
    assert {state for each in states for state in each} >= {"running", "waiting"}
    for name in ("lost", "once", "fine"):
        assert metrics(root / name) == whole
    assert board.standings[2].message == "RuntimeError: the walker fell"
    assert "#SBATCH --array=0-3%4" in (queue / "100.sh").read_text()
    assert [file.name for file in root.glob("*.log")] == ["twice.log"]


def test_the_script_declares_what_was_asked_for(queue, tmp_path):
    (queue / "hold").touch()
    terms = Terms(hours=1.5, partition="long", account="us", qos="low", constraint="avx2")
    crew = SlurmArray(tmp_path / "runs", Resources(cpus=2, gpus=1.0, memory_gb=3.5), terms, at_once=2)
    for worker, seed in zip(crew.workers(3), range(3), strict=True):
        worker.give(job(tmp_path / "runs" / f"seed{seed}"))
    crew.wait(0.0)
    lines = (queue / "100.sh").read_text().splitlines()
    assert {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")} >= {
        *("array=0-2%2", "time=90", "mem=3584M", "cpus-per-task=2", "gpus-per-node=1", "requeue", "job-name=dormant"),
        *("partition=long", "account=us", "qos=low", "constraint=avx2", "signal=USR2@90", "open-mode=append"),
    }
    assert "export NPROC=2" in lines and "export JAX_PLATFORMS=cpu" not in lines
    assert record(crew.entries[1].job).read_text() == "100_1\n"


def test_a_command_that_was_stopped_follows_what_it_had_sent(queue, tmp_path, whole):
    path = tmp_path / "runs" / "seed0"

    def stop(board):
        if board.standings[0].agent_steps >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all([job(path, seconds=4.0)], SlurmArray(tmp_path / "runs"), stop)
    assert not RunFolder(path).done.exists()
    board = run_all([job(path, seconds=4.0)], SlurmArray(tmp_path / "runs"))
    assert board.standings[0].state == "done" and metrics(path) == whole
    assert len(list(queue.glob("*.sh"))) == 1


def test_a_run_whose_time_is_up_is_queued_again_and_goes_on(queue, tmp_path, whole):
    path, sent = tmp_path / "runs" / "seed0", []

    def watch(board):
        if not sent and board.standings[0].agent_steps >= 4:
            sent.append(time_is_up(queue, "100"))

    board = run_all([job(path, seconds=2.0)], SlurmArray(tmp_path / "runs", checkpoint_seconds=0.0), watch)
    assert len(sent) == 1 and board.standings[0].state == "done" and board.standings[0].tries == 0
    assert metrics(path) == whole
    assert (queue / "100.out").read_text().count("Starting with JobEnvironment") == 2


def test_what_was_cancelled_is_not_sent_again(queue, tmp_path):
    (queue / "hold").touch()
    states = []

    def cancel(board):
        states.append(board.standings[0].state)
        (queue / "100.state").write_text("CANCELLED")

    board = run_all([job(tmp_path / "runs" / "seed0")], SlurmArray(tmp_path / "runs"), cancel)
    (standing,) = board.standings
    assert (standing.state, standing.message) == ("failed", "SLURM's job 100 ended: CANCELLED")
    assert states[0] == "queued"


def test_what_slurm_refuses_is_said_in_its_words(queue, tmp_path):
    (queue / "refuse").write_text("invalid partition specified: loong")
    with pytest.raises(NoCluster, match="SLURM refuses the runs: invalid partition specified: loong"):
        run_all([job(tmp_path / "runs" / "seed0")], SlurmArray(tmp_path / "runs", terms=Terms(partition="loong")))


def test_where_there_is_no_slurm_that_is_said(tmp_path):
    with pytest.raises(NoCluster, match=r"there is no SLURM here .*srun.*; run the command on a machine with sbatch"):
        SlurmArray(tmp_path / "runs")
