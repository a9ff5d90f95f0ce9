"""The run folder: starting, killing, resuming, damaging and reading runs of a random walk."""

import errno
import gc
import json
import os
import shutil
import subprocess
import weakref
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dormant.cli import run as run_command
from dormant.lab.crews import Job, run_job
from dormant.lab.judging import at_end_of_run, mean_interval, summary
from dormant.lab.runs import runner
from dormant.lab.runs.checking import faults, run_folders
from dormant.lab.runs.checkpoints import checkpoints, save
from dormant.lab.runs.description import differences
from dormant.lab.runs.folder import RunFolder, RunRefused, claimed, curve, layers, newest, rows
from dormant.lab.runs.rows import Journal, Newest


@dataclass(frozen=True)
class Walk:
    """A training that is a random walk per seed. Its state is a position, a key and the agent steps done."""

    agent_steps: int = 40
    log_period: int = 4
    seeds: tuple[int, ...] = (3, 5)
    size: float = 1.0

    def init(self):
        return {
            "key": jax.vmap(jax.random.key)(jnp.array(self.seeds)),
            "position": jnp.zeros(len(self.seeds)),
            "steps": jnp.zeros((), jnp.int32),
        }

    def measure(self, state):
        position = np.asarray(state["position"])
        scores = np.stack([position, position + 1], axis=1)
        return {"dormant/0.1/dense": position / 10, "dormant/0.1/all": position, "scores/dense": scores}

    def advance(self, state):
        keys = jax.vmap(jax.random.split)(state["key"])
        position = state["position"] + self.size * jax.vmap(jax.random.normal)(keys[:, 0])
        state = {"key": keys[:, 1], "position": position, "steps": state["steps"] + self.log_period}
        steps = np.full(len(self.seeds), int(state["steps"]))
        returns = np.asarray(position) if steps[0] % 8 == 0 else np.ma.masked_all(len(self.seeds))
        return state, {"agent_steps": steps, "eval_return": returns, **self.measure(state)}

    def agent_steps_done(self, state):
        return int(state["steps"])


class Killed(BaseException):
    """Simulates a kill. The library must not catch this exception."""


def kill_at(agent_steps):
    def progress(done):
        if done >= agent_steps:
            raise Killed

    return progress


def files(folder):
    return {file.name: file.read_bytes() for file in (folder.metrics, folder.scores)}


def last_state(folder, training):
    return runner.last_state(training, folder)


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


def test_damaged_rows_after_the_checkpoint_are_written_again(whole, tmp_path):
    killed(tmp_path / "run", 8)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as stream:
        stream.write("\x00\x00\n")
    assert files(runner.run(Walk(), tmp_path / "run")) == files(whole)


def killed(path, agent_steps):
    with pytest.raises(Killed):
        runner.run(Walk(), path, kill_at(agent_steps), 0.0)
    return sorted((path / "checkpoint").iterdir(), key=lambda folder: int(folder.name))


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
    """Replaces the arrays of a checkpoint by the arrays of another run. Orbax does not notice this."""
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
    # Yields None if this process may not mount. Tests then use /dev/full, which cannot hold a run folder.
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


def test_a_summary_averages_the_last_tenth_of_each_seed(whole):
    _, values = curve(whole, "dormant/0.1/dense")
    np.testing.assert_allclose(at_end_of_run(whole, "dormant/0.1/dense"), values[:, -2:].mean(axis=1))
    names = [name for name, _ in summary(whole, tau=0.1)]
    assert names == ["return", "dormant, dense", "dormant, all"]


def test_an_interval_over_seeds_is_students():
    mean, low, high = mean_interval(np.array([4.0, 6.0, np.nan]))
    # The values are 4 and 6. The t quantile for one degree of freedom is 12.706.
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


def test_a_damaged_description_of_a_checkpoint_is_refused_with_a_remedy(tmp_path):
    folder = runner.run(Walk(), tmp_path / "run", checkpoint_seconds=0.0)
    folder.done.unlink()
    newest = max(folder.checkpoint.iterdir(), key=lambda each: int(each.name))
    (newest / "_CHECKPOINT_METADATA").write_text("5")
    with pytest.raises(RunRefused, match=r"_CHECKPOINT_METADATA in .* is damaged .* delete that checkpoint's folder"):
        runner.run(Walk(), folder.path)
