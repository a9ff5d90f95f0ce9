"""Damaged run folders: some damage is skipped, some is refused, and some is found by the check."""

import shutil

import pytest
from killed_walks import Killed, Walk, files, kill_at, killed

from dormant.cli import run as run_command
from dormant.lab.crews import Job, run_job
from dormant.lab.runs import runner
from dormant.lab.runs.checking import faults, run_folders
from dormant.lab.runs.folder import RunRefused, rows


@pytest.fixture
def whole(tmp_path):
    return runner.run(Walk(), tmp_path / "whole")


def test_damaged_rows_after_the_checkpoint_are_written_again(whole, tmp_path):
    killed(tmp_path / "run", 8)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as stream:
        stream.write("\x00\x00\n")
    assert files(runner.run(Walk(), tmp_path / "run")) == files(whole)


def flipped(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def unreadable(checkpoint):
    (checkpoint / "default" / "_METADATA").write_text("?")


def another_step(checkpoint):
    before = checkpoint.with_name("16")
    shutil.rmtree(checkpoint)
    shutil.copytree(before, checkpoint)


def without_seal(checkpoint):
    shutil.rmtree(checkpoint / "seal")


def other_numbers(checkpoint):
    """Replaces the arrays of a checkpoint by those of another run. Orbax does not detect this change."""
    other = killed(checkpoint.parents[2] / "other", 20)[-1]
    shutil.rmtree(checkpoint / "default")
    with pytest.raises(Killed):
        runner.run(Walk(size=2.0), checkpoint.parents[2] / "larger", kill_at(20), 0.0)
    shutil.copytree(checkpoint.parents[2] / "larger" / "checkpoint" / "20" / "default", checkpoint / "default")
    assert other.name == "20"


def fewer_rows(checkpoint):
    file = checkpoint.parents[1] / "metrics.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:11]))


def another_digit(checkpoint):
    flipped(checkpoint.parents[1] / "scores.jsonl", -3)


DAMAGE = [unreadable, another_step, without_seal, other_numbers, fewer_rows, another_digit]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_skipped_with_one_line(damage, whole, tmp_path, caplog):
    newest = killed(tmp_path / "run", 20)[-1]
    damage(newest)
    assert files(runner.run(Walk(), tmp_path / "run")) == files(whole)
    (record,) = caplog.records
    assert "resumed from step 16" in record.message and "\n" not in record.message


def test_a_job_tells_the_warnings_of_its_run(tmp_path):
    unreadable(killed(tmp_path / "run", 20)[-1])
    ended = run_job(Job("an arm", "a game", Walk(), tmp_path / "run"), 30.0)
    assert ended.kind == "done" and "resumed from step 16" in ended.message


def test_a_run_without_a_whole_checkpoint_is_refused_and_kept(tmp_path):
    for checkpoint in killed(tmp_path / "run", 20):
        unreadable(checkpoint)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(RunRefused, match=r"run has no undamaged checkpoint: .*/20 cannot be read .* Delete the folder"):
        runner.run(Walk(), tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("file", ["metrics.jsonl", "scores.jsonl"])
def test_a_changed_file_of_a_finished_run_is_not_read(whole, file):
    flipped(whole.path / file, 40)
    with pytest.raises(RunRefused, match=rf"{file} is damaged \(its content has changed\)"):
        list(rows(whole.path / file))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"seed": "0", "agent_steps": 4}', "seed: Input should be a valid integer"),
        ('{"agent_steps": 4}', "seed: Field required"),
        ('{"seed": 0, "agent_steps": 4, "loss": "much"}', "loss.*: Input should be a valid"),
        ('{"seed": 0, "agent_steps": 99999999999999999999}', "agent_steps: Input should be less than"),
        ("[" * 200_000, "Invalid JSON: recursion limit"),
        ("{}{}", "Invalid JSON"),
        ("\udc80", "Invalid JSON"),
    ],
)
def test_a_row_is_read_through_a_schema(tmp_path, row, said):
    whole = '{"seed": 0, "agent_steps": 0, "loss": NaN, "eval_return": null}'
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(f"{whole}\n{row}\n".encode(errors="surrogateescape"))
    with pytest.raises(RunRefused, match=rf"line 2 of .*metrics.jsonl is damaged \({said}"):
        list(rows(file))


def test_the_check_finds_what_is_damaged(whole, tmp_path, capsys):
    killed(tmp_path / "stopped", 20)
    assert [faults(path) for path in run_folders(tmp_path)] == [[], []]
    assert run_command(["runs", str(tmp_path), "--check"]) == 0
    other_numbers(tmp_path / "stopped" / "checkpoint" / "20")
    (whole.path / "spec.json").unlink()
    with whole.metrics.open("a") as stream:
        stream.write("{}\n")
    assert run_command(["runs", str(tmp_path), "--check"]) == 1
    said = capsys.readouterr().out
    assert "stopped/checkpoint/20 is damaged: position has changed." in said and f"{whole.spec} is missing." in said
    assert said.endswith("4 runs checked, 2 damaged.\n")


@pytest.mark.parametrize("content", ["5", "[" * 100_000, '{"init_timestamp_nsecs": 1.5}'])
def test_a_damaged_description_of_a_checkpoint_changes_no_bits_and_is_found(whole, tmp_path, content):
    description = killed(tmp_path / "run", 20)[-1] / "_CHECKPOINT_METADATA"
    description.write_text(content)
    (found,) = faults(tmp_path / "run")
    assert "checkpoint cannot be opened" in found and description.read_text() == content
    assert files(runner.run(Walk(), tmp_path / "run")) == files(whole)
    assert faults(tmp_path / "run") == []
