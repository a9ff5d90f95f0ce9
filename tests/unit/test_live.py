"""Metrics reach TensorBoard and Weights & Biases while a run trains. The tests read the written files."""

import json
import os
import struct
import subprocess
import sys

import pytest
from walks import Walk

from dormant.cli import run as command
from dormant.lab.runs import runner
from dormant.lab.runs.folder import RunFolder, rows
from dormant.lab.runs.live import TensorBoard, sending

TWO_SEEDS = Walk(seeds=(0, 3))
METRIC = "dormant/0.1/all"


def scalars(folder, name):
    """Returns the steps and values of a metric. Uses TensorBoard's reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return [(event.step, event.value) for event in found.Scalars(name)]


def expected(folder, seed):
    table = [row for row in rows(folder.metrics) if row["seed"] == seed]
    return [(row["agent_steps"], pytest.approx(row[METRIC])) for row in table if row[METRIC] is not None]


def records(file):
    """Yields the records of an offline run of W&B. The file has LevelDB's log format: blocks of 32 KiB with chunks."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, part = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32_768 - at % 32_768) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of a record
            yield Record.FromString(part)
            part = b""


class Stopped(Exception):
    """Simulates a kill."""


def trained(path, sinks, stop_at=None):
    """Runs a random walk with sinks that follow it. Returns its run folder, or raises Stopped at step `stop_at`."""
    folder = RunFolder(path)
    with sending(folder, sinks) as live:

        def progress(agent_steps):
            live(agent_steps)
            if agent_steps == stop_at:
                raise Stopped

        runner.run(TWO_SEEDS, path, progress, checkpoint_seconds=0.0)
    return folder


def test_tensorboard_reads_every_metric_of_each_seed(tmp_path):
    folder = trained(tmp_path / "run", [TensorBoard(tmp_path / "events", "a text")])
    for seed in (0, 3):
        assert len(expected(folder, seed)) == 4
        assert scalars(tmp_path / "events" / f"seed{seed}", METRIC) == expected(folder, seed)


def test_rows_are_there_before_the_run_ends(tmp_path):
    with pytest.raises(Stopped):
        trained(tmp_path / "run", [TensorBoard(tmp_path / "events")], stop_at=8)
    assert [step for step, _ in scalars(tmp_path / "events" / "seed0", METRIC)] == [0, 4, 8]


def test_a_resumed_run_has_each_row_once(tmp_path):
    with pytest.raises(Stopped):
        trained(tmp_path / "run", [TensorBoard(tmp_path / "events")], stop_at=8)
    folder = trained(tmp_path / "run", [TensorBoard(tmp_path / "events")])
    assert scalars(tmp_path / "events" / "seed3", METRIC) == expected(folder, 3)


TO_WANDB = """
from dormant.lab.runs.live import WeightsAndBiases, send
sink = WeightsAndBiases("a-project", "a-run", {"tau": 0.1})
for seed in (0, 3):
    send([{"seed": seed, "agent_steps": 4, "loss": 0.5, "eval_return": None}], [sink])
sink.close()
"""


def test_weights_and_biases_offline_has_a_run_for_each_seed(tmp_path):
    # Uses a new process, because wandb starts a service that does not end with the test.
    surroundings = os.environ | {"WANDB_MODE": "offline"}
    subprocess.run([sys.executable, "-c", TO_WANDB], cwd=tmp_path, env=surroundings, check=True, capture_output=True)
    named, logged = {}, {}
    for file in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb")):
        for record in records(file):
            if record.HasField("run"):
                named[file] = record.run.display_name
                assert (record.run.project, record.run.run_group) == ("a-project", "a-run")
            for item in record.history.item:
                key = "/".join(item.nested_key) or item.key
                logged.setdefault(file, {})[key] = json.loads(item.value_json)
    assert sorted(named.values()) == ["a-run/seed0", "a-run/seed3"]
    for values in logged.values():
        assert (values["agent_steps"], values["loss"]) == (4, 0.5) and "eval_return" not in values


def test_your_own_loop_sends_numbers(tmp_path):
    sink = TensorBoard(tmp_path)
    for step in (1, 2):
        sink.write(7, step, {"dormant/fraction": step / 10, "not measured": None})
    sink.close()
    assert scalars(tmp_path / "seed7", "dormant/fraction") == [(1, pytest.approx(0.1)), (2, pytest.approx(0.2))]


def test_the_command_writes_events_while_it_trains(tmp_path):
    small = ("--steps", "8", "--log-period", "4", "--eval-period", "1000", "--min-replay", "100", "--seeds", "1")
    size = ("--filters", "1", "--width", "2", "--replay-capacity", "100", "--score-batch", "2")
    flags = ("--run-dir", str(tmp_path / "run"), "--tensorboard", str(tmp_path / "events"), *small, *size)
    assert command(["train", *flags]) == 0
    assert scalars(tmp_path / "events" / "seed0", METRIC) == expected(RunFolder(tmp_path / "run"), 0)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as exit:
        command(
            ["train", "--run-dir", str(tmp_path / "run"), "--seeds", "1", "--tensorboard", f"{tmp_path}/file/events"]
        )
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert exit.value.code == 2 and "file" in line and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("mode", "project", "expected"),
    [("online", "a-project", "No API key configured"), ("offline", "a/project", "cannot contain characters")],
)
def test_what_weights_and_biases_refuses_is_one_line_before_the_run(tmp_path, mode, project, expected):
    command = [sys.executable, "-m", "dormant", "train", "--run-dir", "run", "--seeds", "1", "--wandb", project]
    missing = {"WANDB_MODE": mode, "WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    ended = subprocess.run(command, cwd=tmp_path, env=os.environ | missing, capture_output=True, text=True)
    (line,) = [each for each in ended.stderr.splitlines() if each.strip()]
    assert ended.returncode == 2 and line.startswith("dormant: Weights & Biases refused the run: ") and expected in line
    assert not (tmp_path / "run").exists()
