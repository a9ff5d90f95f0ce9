"""The progress of runs on other machines, and jobs that are refused."""

import pytest
from walks import Walk

from dormant.lab.crews import Board, Event, Job, Standing
from dormant.lab.crews.cluster import RemoteProgress, Resources, agent_steps_in, run_job_here
from dormant.lab.runs import rows
from dormant.lab.runs.runner import run


@pytest.fixture
def job(tmp_path):
    return Job("walk", "Place/Line", Walk(), tmp_path / "runs" / "seed0")


def test_a_machine_that_does_not_see_the_folder_refuses(job, tmp_path):
    event = run_job_here(job, 30.0, Resources(), tmp_path / "runs" / "token")
    assert (
        event.kind == "refused"
        and f"does not see {tmp_path / 'runs'}; choose a --run-dir that all machines share." in event.message
    )
    assert not job.path.exists()


def test_a_machine_without_the_gpu_that_was_asked_for_refuses(job, tmp_path):
    event = run_job_here(job, 30.0, Resources(gpus=0.5), tmp_path)
    assert event.kind == "refused" and "JAX finds no GPU on" in event.message


def test_progress_is_the_last_complete_row(tmp_path, monkeypatch):
    assert agent_steps_in(tmp_path / "none") == 0
    path = run(Walk(), tmp_path / "run").path
    gauge = RemoteProgress(path)
    assert list(gauge.events()) == [Event("steps", 12)]
    with (path / "metrics.jsonl").open("a") as stream:
        stream.write('{"seed": 0, "agent_steps": 16}\n{"seed": 0, "agent_st')
    assert list(gauge.events()) == []
    assert list(gauge.events(at_once=True)) == [Event("steps", 16)]
    monkeypatch.setattr(rows, "TAIL_BYTES", 60)
    assert agent_steps_in(path) == 16


def test_a_lost_machine_counts_as_a_try_only_if_the_run_got_no_further(job):
    board = Board([Standing(job)])
    (standing,) = board.standings
    for agent_steps, tries, state in ((0, 1, "waiting"), (4, 1, "waiting"), (8, 1, "waiting"), (8, 2, "failed")):
        standing.begin()
        standing.take(Event("queued"))
        assert standing.state == "queued" and board.left() == 1 and board.next() is None
        standing.take(Event("begun"))
        standing.take(Event("steps", agent_steps))
        standing.take(Event("lost", message="its node is gone"))
        assert (standing.tries, standing.state, standing.message) == (tries, state, "its node is gone")


@pytest.mark.parametrize("wrong", [{"cpus": 0}, {"gpus": -1.0}, {"memory_gb": 0.0}], ids=str)
def test_a_run_takes_at_least_something(wrong):
    with pytest.raises(ValueError, match="run"):
        Resources(**wrong)
