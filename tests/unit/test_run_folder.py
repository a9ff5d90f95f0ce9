"""Run folders: starting, killing, resuming, damaging and reading runs of a random walk."""

import errno
import gc
import json
import os
import subprocess
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from killed_walks import Killed, Walk, files, kill_at, last_state

from dormant.lab.judging import at_end_of_run, mean_interval
from dormant.lab.runs import runner
from dormant.lab.runs.checkpoints import checkpoints, save
from dormant.lab.runs.description import differences
from dormant.lab.runs.folder import RunFolder, RunRefused, claimed, curve, layers, newest, rows
from dormant.lab.runs.rows import Journal, Newest


@pytest.fixture
def whole(tmp_path):
    return runner.run(Walk(), tmp_path / "whole")


def test_a_run_has_a_row_for_each_seed_and_log_point_and_one_before_the_first_step(whole):
    steps, values = curve(whole, "dormant/0.1/dense")
    assert steps.tolist() == list(range(0, 41, 4))
    assert values.shape == (2, 11)
    assert values[:, 0].tolist() == [0.0, 0.0]
    assert whole.done.exists()


def test_metrics_keep_their_bits(whole):
    _, metrics = Walk().advance(Walk().init())
    _, values = curve(whole, "dormant/0.1/all")
    assert values[:, 1].astype(np.float32).tobytes() == metrics["dormant/0.1/all"].tobytes()


def test_what_was_not_measured_reads_as_nan(whole):
    _, values = curve(whole, "eval_return")
    assert np.isnan(values[0]).tolist() == [step % 8 != 0 or step == 0 for step in range(0, 41, 4)]


def test_scores_are_kept_apart_with_their_neurons(whole):
    assert layers(whole) == ("dense",)
    assert curve(whole, "scores/dense").values.shape == (2, 11, 2)
    assert "scores/dense" not in next(rows(whole.metrics))


def test_an_unknown_metric_is_refused_with_the_names_there_are(whole):
    with pytest.raises(KeyError, match=r"no metric 'loss'; it has agent_steps, dormant/0.1/all"):
        curve(whole, "loss")


@pytest.mark.parametrize("agent_steps", [0, 4, 20, 36])
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e6])
def test_a_killed_run_ends_like_one_that_was_not(whole, tmp_path, agent_steps, checkpoint_seconds):
    path = tmp_path / "killed"
    with pytest.raises(Killed):
        runner.run(Walk(), path, kill_at(agent_steps), checkpoint_seconds)
    folder = runner.run(Walk(), path)
    assert files(folder) == files(whole)
    assert last_state(folder, Walk())["position"].tobytes() == last_state(whole, Walk())["position"].tobytes()


def test_a_row_that_was_cut_off_is_dropped_on_resume(whole, tmp_path):
    with pytest.raises(Killed):
        runner.run(Walk(), tmp_path / "cut", kill_at(20), 0.0)
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as stream:
        stream.write('{"seed": 3, "agent_st')
    assert files(runner.run(Walk(), tmp_path / "cut")) == files(whole)


def test_the_last_two_checkpoints_are_kept(tmp_path):
    folder = runner.run(Walk(), tmp_path / "run", checkpoint_seconds=0.0)
    assert sorted(int(entry.name) for entry in folder.checkpoint.iterdir()) == [36, 40]


def test_a_saved_state_is_freed_at_once(tmp_path):
    array = jnp.ones(3)
    seen, collecting = weakref.ref(array), gc.isenabled()
    gc.disable()
    try:
        with checkpoints(RunFolder(tmp_path / "run")) as manager:
            save(manager, 1, {"array": array}, 0, {})
            del array
            assert seen() is None
    finally:
        if collecting:
            gc.enable()


def test_a_finished_run_is_left_alone(whole):
    before = files(whole)
    reached = []
    runner.run(Walk(), whole.path, reached.append)
    assert files(whole) == before
    assert reached == [40]


def test_the_folder_says_which_configuration_and_code_made_it(whole):
    spec = json.loads(whole.spec.read_text())
    assert spec["training"] == {"is": "Walk", "agent_steps": 40, "log_period": 4, "seeds": [3, 5], "size": 1.0}
    assert spec["packages"]["jax"] == jax.__version__
    assert {"revision", "command", "time", "device"} <= spec.keys()


def test_a_folder_of_another_configuration_is_refused_with_the_difference(whole):
    with pytest.raises(RunRefused, match=r"another configuration: size is 1.0 in the folder and 2.0 in this command\."):
        runner.run(Walk(size=2.0), whole.path)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunRefused, match=r"not a run folder: it contains thesis.tex but no spec.json. Choose another"):
        runner.run(Walk(), tmp_path)


def test_settings_of_another_class_are_shown_whole():
    old, new = {"is": "Chain", "links": []}, {"is": "Every", "period": 5, "what": {"is": "ReDo", "layers": ["a"]}}
    difference = "plan is Chain(links=[]) in the folder and Every(period=5, what=ReDo(layers=[a])) in this command"
    assert list(map(str, differences({"plan": old}, {"plan": new}))) == [difference]


@pytest.mark.parametrize(
    "content", ['{"training": {"is"', "null", "", '{"command": ["dormant"]}', '{"training": null}'], ids=str
)
def test_a_damaged_specification_is_refused(whole, content):
    whole.spec.write_text(content)
    with pytest.raises(RunRefused, match=r"spec.json is damaged .*; restore it, or choose another --run-dir"):
        runner.run(Walk(), whole.path)


def test_a_file_size_limit_is_an_os_error(tmp_path, monkeypatch):
    def too_large(manager, step, **arguments):
        raise ValueError("Failed to write 4096 bytes to file 7: File too large")

    monkeypatch.setattr(runner.ocp.CheckpointManager, "save", too_large)
    with pytest.raises(OSError, match="File too large"):
        runner.run(Walk(), tmp_path / "run")


def test_a_folder_in_use_is_refused(tmp_path):
    with claimed(tmp_path / "run", Walk()), pytest.raises(RunRefused, match="in use by another process"):
        runner.run(Walk(), tmp_path / "run")


def test_a_disk_that_fills_up_loses_nothing_that_was_written(whole, tmp_path, monkeypatch):
    path, save, calls = tmp_path / "full", runner.ocp.CheckpointManager.save, []

    def fill_up(manager, step, **arguments):
        calls.append(step)
        if len(calls) == 3:
            raise ValueError("RESOURCE_EXHAUSTED: Failed to write 4096 bytes to file 7: No space left on device")
        return save(manager, step, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(runner.ocp.CheckpointManager, "save", fill_up)
        with pytest.raises(OSError, match="No space left") as caught:
            runner.run(Walk(), path, checkpoint_seconds=0.0)
    assert caught.value.errno == errno.ENOSPC
    assert sorted(int(entry.name) for entry in (path / "checkpoint").iterdir()) == [4, 8]
    assert files(runner.run(Walk(), path)) == files(whole)


@pytest.fixture
def small_disk(tmp_path):
    path = tmp_path / "disk"
    path.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)], capture_output=True
        ).returncode
    )
    # Yields None if this process cannot mount a disk. The test then writes to /dev/full.
    yield path if mounted else None
    if mounted:
        subprocess.run(["umount", str(path)], check=True)


def test_a_real_full_disk_is_an_os_error_and_keeps_what_it_holds(small_disk, tmp_path):
    if small_disk is None:
        (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
        journal = Journal(tmp_path)
        with pytest.raises(OSError, match="No space left"):
            journal.append({"agent_steps": np.zeros(1, int)}, (0,))
        return
    with pytest.raises(OSError, match="No space left"):
        runner.run(Walk(agent_steps=4_000), small_disk / "run", checkpoint_seconds=0.0)
    kept = list(rows(small_disk / "run" / "metrics.jsonl"))
    assert kept[0] == next(rows(small_disk / "run" / "metrics.jsonl"))
    assert len(kept) > 2


def test_the_end_of_a_run_is_its_last_tenth_for_each_seed(whole):
    _, values = curve(whole, "dormant/0.1/dense")
    np.testing.assert_allclose(at_end_of_run(whole, "dormant/0.1/dense"), values[:, -2:].mean(axis=1))


def test_an_interval_over_seeds_is_students():
    mean, low, high = mean_interval(np.array([4.0, 6.0, np.nan]))
    # The values are 4 and 6, with standard error 1. The t quantile for one degree of freedom is 12.706.
    np.testing.assert_allclose([mean, low, high], [5.0, 5 - 12.706, 5 + 12.706], rtol=1e-4)
    assert np.isnan(mean_interval(np.array([4.0])).low)
    assert np.isnan(mean_interval(np.array([np.nan])).estimate)


def test_a_folder_that_may_not_be_written_is_a_permission_error(tmp_path):
    tmp_path.chmod(0o555)
    nobody = 65534
    if os.geteuid() == 0:
        os.seteuid(nobody)  # root could write anywhere
    try:
        with pytest.raises(PermissionError), claimed(tmp_path / "locked" / "run", Walk()):
            pass
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        tmp_path.chmod(0o755)


def test_a_diverged_network_is_said_once_and_ends_the_run_on_request(tmp_path, caplog):
    folder = runner.run(Walk(size=np.nan), tmp_path / "run")
    said = [record.message.partition(": ")[2] for record in caplog.records]
    assert said == [f"seed {seed} diverged: dormant/0.1/dense is not finite at agent step 4." for seed in (3, 5)]
    assert newest(folder, ["dormant/0.1/all"]).diverged == {3: 4, 5: 4}
    assert (
        '"dormant/0.1/all": NaN' in folder.metrics.read_text() and '"eval_return": null' in folder.metrics.read_text()
    )
    with pytest.raises(runner.Diverged, match="was stopped because it diverged before agent step 4"):
        runner.run(Walk(size=np.nan), tmp_path / "stopped", stop_when_diverged=True)


def test_the_newest_values_are_read_without_reading_all_again(whole, tmp_path):
    lines = whole.metrics.read_text().splitlines(keepends=True)
    file = tmp_path / "metrics.jsonl"
    seen = Newest(file, ["dormant/0.1/all"])
    assert seen.update() == {}
    for line in lines:
        with file.open("a") as stream:
            stream.write(line[:9])
        before = seen.update()
        with file.open("a") as stream:
            stream.write(line[9:])
        assert seen.update() != before or '"agent_steps": 0,' in line
        assert seen.rows.read == file.stat().st_size
    assert seen.update() == newest(whole, ["dormant/0.1/all"]).means()
