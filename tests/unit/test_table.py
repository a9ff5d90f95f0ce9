"""The table of the runs of an experiment. The tests write run folders, and read the table from them."""

import json
import time
from dataclasses import replace

import polars as pl
import pytest

from dormant.interventions import Chain, Every, ReDo, Reset
from dormant.lab import Arm, Design, Experiment
from dormant.lab.crews import jobs
from dormant.lab.judging import table as table_of_runs
from dormant.lab.runs.description import run_path
from dormant.lab.runs.folder import RunFolder, RunRefused
from dormant.rl.device import DeviceTraining
from dormant.rl.envs.minatar import MinAtar

PLAIN = DeviceTraining(agent_steps=8_000, replay_ratio=0.5)
RESET = replace(PLAIN, intervention=Chain(Every(500, ReDo()), Every(1_000, Reset(("dense",)), start=1_000, stop=3_000)))
ASTERIX, BREAKOUT = MinAtar("Asterix"), MinAtar("Breakout")


def experiment(*arms, environments=(ASTERIX,), seeds=(0, 1, 2)):
    return Experiment("fig00", "", {"smoke": Design(arms, environments, seeds)})


DONE = json.dumps(
    {"time": "", "command": [], "revision": "abc", "packages": {}, "device": "cpu", "backend": "cpu", "files": {}}
)
DQN = experiment(Arm("DQN", PLAIN))


def row(seed, agent_steps, **metrics):
    return {"seed": seed, "agent_steps": agent_steps, "gradient_steps": agent_steps // 2} | metrics


def write(root, training, seeds, finished=True, environment=ASTERIX, height=0.0, points=5):
    """Writes a run and returns its folder. The loss is the seed plus `height`. The first log point has no loss."""
    folder = RunFolder(run_path(root, "smoke", replace(training, env=environment, seeds=seeds)))
    folder.path.mkdir(parents=True)
    table = [row(seed, 0) for seed in seeds]
    table += [row(s, 2_000 * p, loss=s + height, eval_return=None) for p in range(1, points) for s in seeds]
    folder.metrics.write_text("".join(json.dumps(each) + "\n" for each in table))
    if finished:
        folder.done.write_text(DONE)
    return folder


def missing(root, what):
    return [(job.arm, job.environment, job.training.seeds) for job in jobs([what], "smoke", root, together=True)]


def losses(table):
    return {seed: value for seed, value in table.drop_nulls("loss").select("seed", "loss").iter_rows()}


def test_there_is_a_row_for_each_seed_and_log_point_and_null_where_nothing_was_measured(tmp_path):
    write(tmp_path, PLAIN, (0, 1, 2))
    table = table_of_runs.read(tmp_path, "smoke", DQN)
    assert table.columns == [*table_of_runs.FIRST_COLUMNS, *table_of_runs.LAST_COLUMNS]
    assert table["agent_steps"].to_list() == [step for step in range(0, 10_000, 2_000) for _ in range(3)]
    assert table.filter(agent_steps=0)["loss"].null_count() == 3
    assert losses(table) == {0: 0.0, 1: 1.0, 2: 2.0}
    assert table["eval_return"].null_count() == len(table)
    assert set(table["replay_ratio"]) == {0.5}
    assert set(table["environment"]) == {"MinAtar/Asterix"}


def test_seeds_come_from_several_folders_and_each_from_one(tmp_path):
    write(tmp_path, PLAIN, (0,), height=100.0)
    write(tmp_path, PLAIN, (0, 1), height=200.0)
    write(tmp_path, PLAIN, (2, 7), height=300.0)
    table = table_of_runs.read(tmp_path, "smoke", DQN)
    assert losses(table) == {0: 100.0, 1: 201.0, 2: 302.0}
    assert len(table) == 15


def test_only_finished_runs_count_unless_asked(tmp_path):
    write(tmp_path, PLAIN, (0, 1), finished=False, height=100.0)
    write(tmp_path, PLAIN, (1, 2))
    assert losses(table_of_runs.read(tmp_path, "smoke", DQN)) == {1: 1.0, 2: 2.0}
    assert losses(table_of_runs.read(tmp_path, "smoke", DQN, unfinished=True)) == {0: 100.0, 1: 1.0, 2: 2.0}
    assert missing(tmp_path, DQN) == [("DQN", "MinAtar/Asterix", (0,))]


def test_arms_of_the_same_training_share_a_run(tmp_path):
    write(tmp_path, PLAIN, (0, 1, 2))
    twice = experiment(Arm("DQN", PLAIN), Arm("as in figure 7", PLAIN))
    table = table_of_runs.read(tmp_path, "smoke", twice)
    assert table.group_by("arm").len().sort("arm")["len"].to_list() == [15, 15]
    assert missing(tmp_path, twice) == []


def test_arms_and_environments_keep_apart(tmp_path):
    write(tmp_path, PLAIN, (0, 1, 2))
    write(tmp_path, RESET, (0,), environment=BREAKOUT, height=5.0)
    both = experiment(Arm("DQN", PLAIN), Arm("Reset", RESET), environments=(ASTERIX, BREAKOUT))
    table = table_of_runs.read(tmp_path, "smoke", both)
    found = table.group_by("arm", "environment").agg(pl.col("loss").max()).sort("arm").rows()
    assert found == [("DQN", "MinAtar/Asterix", 2.0), ("Reset", "MinAtar/Breakout", 5.0)]
    assert ("Reset", "MinAtar/Breakout", (1, 2)) in missing(tmp_path, both)


def test_the_age_of_a_reset_network_is_counted_in_its_periods(tmp_path):
    write(tmp_path, RESET, (0,), points=9)
    write(tmp_path, PLAIN, (0,))
    table = table_of_runs.read(tmp_path, "smoke", experiment(Arm("Reset", RESET), Arm("DQN", PLAIN), seeds=(0,)))
    ages = table.filter(arm="Reset").select("gradient_steps", "reset_age").rows()
    # There are two resets, at 1,000 and 2,000 gradient steps. A period is 1,000 gradient steps.
    assert ages == [(0, 0), (1000, 0), (2000, 0), (3000, 1), (4000, 2), (5000, 3), (6000, 4), (7000, 5), (8000, 6)]
    assert table.filter(arm="DQN")["reset_age"].null_count() == 5


def test_the_age_of_a_network_counts_from_a_reset_at_the_start_of_its_schedule(tmp_path):
    late = replace(PLAIN, intervention=Every(2_000, Reset(("dense",)), start=1_500))
    write(tmp_path, late, (0,))
    ages = table_of_runs.read(tmp_path, "smoke", experiment(Arm("Reset", late), seeds=(0,)))
    # There are two resets, at 1,500 and 3,500 gradient steps. A period is 2,000 gradient steps.
    assert ages.select("gradient_steps", "reset_age").rows() == [
        (0, 0.0),
        (1000, 0.5),
        (2000, 0.25),
        (3000, 0.75),
        (4000, 0.25),
    ]


def test_without_runs_the_table_is_empty_and_everything_is_missing(tmp_path):
    table = table_of_runs.read(tmp_path, "smoke", DQN)
    assert table.is_empty()
    assert table.columns == [*table_of_runs.FIRST_COLUMNS, *table_of_runs.LAST_COLUMNS]
    assert missing(tmp_path, DQN) == [("DQN", "MinAtar/Asterix", (0, 1, 2))]
    assert table_of_runs.read(tmp_path, "paper", DQN).is_empty()


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    folder = write(tmp_path, PLAIN, (0,), finished=False)
    with folder.metrics.open("a") as stream:
        stream.write('{"seed": 0, "agent_st')
    assert len(table_of_runs.read(tmp_path, "smoke", DQN, unfinished=True)) == 5


@pytest.mark.parametrize("content", ["", '{"seed": 0'], ids=["empty", "half a line"])
def test_a_file_without_a_whole_line_has_no_rows(tmp_path, content):
    folder = write(tmp_path, PLAIN, (0,), finished=False)
    folder.metrics.write_text(content)
    assert table_of_runs.read(tmp_path, "smoke", DQN, unfinished=True).is_empty()


@pytest.mark.parametrize("line", ["\x00\x00", '{"seed": 0, "agent_st', "", "null", '{"seed": 0}{"seed": 1}', "7"])
def test_a_damaged_line_is_refused_by_its_number(tmp_path, line):
    folder = write(tmp_path, PLAIN, (0,))
    lines = folder.metrics.read_text().splitlines()
    folder.metrics.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    with pytest.raises(RunRefused, match=r"line 3 of .*seed0/metrics.jsonl is damaged"):
        table_of_runs.read(tmp_path, "smoke", DQN)


def test_infinite_losses_are_read(tmp_path):
    folder = write(tmp_path, PLAIN, (0,))
    with folder.metrics.open("a") as stream:
        stream.write(json.dumps(row(0, 10_000, loss=float("inf"))) + "\n")
    assert losses(table_of_runs.read(tmp_path, "smoke", DQN)) == {0: float("inf")}


def test_a_metric_that_is_whole_at_first_keeps_its_fractions(tmp_path):
    folder = write(tmp_path, PLAIN, (0,))
    with folder.metrics.open("a") as stream:
        stream.write(json.dumps(row(0, 10_000, recycled=3)) + "\n" + json.dumps(row(0, 12_000, recycled=0.5)) + "\n")
    assert table_of_runs.read(tmp_path, "smoke", DQN)["recycled"].drop_nulls().to_list() == [3.0, 0.5]


def test_hundreds_of_runs_take_seconds(tmp_path):
    seeds = tuple(range(200))
    for seed in seeds:
        write(tmp_path, PLAIN, (seed,), points=50)
    many = experiment(Arm("DQN", PLAIN), seeds=seeds)
    before = time.perf_counter()
    assert len(table_of_runs.read(tmp_path, "smoke", many)) == 10_000
    assert time.perf_counter() - before < 10  # 2 s when measured
