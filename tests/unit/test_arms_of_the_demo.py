"""`dormant demo` and `dormant demo --quick`. In most tests the arms do not train, but only write the files of a run."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from dormant.cli import demo, quick, run
from dormant.interventions import Chain
from dormant.lab.judging import training_returns
from dormant.lab.runs.folder import RunFolder
from dormant.supervised.renamed import RenamedDigits


@pytest.fixture
def arms(monkeypatch):
    """A function that replaces `dormant train` in the demo by another program."""

    def replace(program):
        def start(arguments, log):
            with log.open("w") as stream:
                command = [sys.executable, "-c", program, *arguments]
                return subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)

        monkeypatch.setattr(demo, "_start", start)

    return replace


WRITE = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1])
folder.mkdir(parents=True, exist_ok=True)
share = 0.1 if "redo" in sys.argv else 0.5
with (folder / "metrics.jsonl").open("w") as metrics, (folder / "scores.jsonl").open("w") as scores:
    for step in (0, 50, 100):
        for seed in (0, 1):
            row = {"seed": seed, "agent_steps": step}
            fractions = {f"dormant/0.1/{layer}": share + seed / 100 for layer in ("conv", "dense", "all")}
            returns = step / 100 / share + seed if step else None
            print(json.dumps({**row, **fractions, "train_episodes": step // 50, "train_return": returns}), file=metrics)
            print(json.dumps({**row, "scores/conv": [1, 1], "scores/dense": [0, 2, 1]}), file=scores)
(folder / "spec.json").write_text(json.dumps({"revision": "abc", "device": "cpu"}))
"""


def test_it_prints_what_the_runs_measured_and_draws_it(arms, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    arms(WRITE)
    assert run(["demo", "--run-dir", str(tmp_path), "--steps", "100", "--seeds", "2"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "MinAtar/Asterix, replay ratio 1, 100 agent steps, 2 seeds per arm." in shown
    assert "dormant neurons, dense │ 50.5 % (50.0, 51.0) │ 10.5 % (10.0, 11.0) │" in shown
    # All episodes of the last tenth end at step 100. Their returns are 2 and 3 with DQN, and 10 and 11 with ReDo.
    assert "return of training episodes │ 2.50 (2.00, 3.00) │ 10.50 (10.00, 11.00) │" in shown
    assert "Seen: at the end 50 % of DQN's neurons are dormant, and 11 % with ReDo." in shown
    assert (
        "DQN's return is 2.50, and 10.50 with ReDo, 4.2 times as much. With ReDo it is higher in 2 of 2 seeds" in shown
    )
    assert "over 2 seeds, 8.00 to 8.00, excludes 0" in shown
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_its_last_line_says_what_few_seeds_cannot_show():
    share = np.array([0.5, 0.5])
    same = demo.closing(demo.End(share, np.array([1.0, 2.0])), demo.End(share, np.array([3.0, 1.0])))
    assert "higher in 1 of 2 seeds" in same and "contains 0" in same
    one = demo.closing(demo.End(share[:1], np.array([1.0])), demo.End(share[:1], np.array([3.0])))
    assert "3.0 times as much" in one and "one seed cannot tell" in one
    unknown = demo.closing(demo.End(share, np.array([1.0, np.nan])), demo.End(share, np.array([3.0, 1.0])))
    assert "no episode ended in the last tenth of the run" in unknown


def test_its_curves_grow_with_the_runs(tmp_path):
    folder, length = RunFolder(tmp_path), demo.Length(steps=100, seeds=1)
    assert [len(each) for each in demo._curves(folder, length)] == [0, 0]
    rows = [(0, 0, None), (50, 3, 1.0), (100, 1, 5.0)]
    written = [
        {"seed": 0, "agent_steps": step, "dormant/0.1/all": 0.1, "train_episodes": ended, "train_return": value}
        for step, ended, value in rows
    ]
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in written))
    # All episodes have equal weight. An episode belongs to the window of its log point.
    assert training_returns(folder, 1, 100).values.tolist() == [[2.0]]
    assert training_returns(folder, 2, 100).values.tolist() == [[1.0, 5.0]]
    folder.metrics.write_text(json.dumps(written[0]) + "\n")
    assert np.isnan(training_returns(folder, 1, 100).values).tolist() == [[True]]
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in written))
    assert np.isnan(training_returns(folder, 4, 100).values).tolist() == [[True, False, True, False]]
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in written[:2]))
    returns, dormant = demo._curves(folder, length)
    assert (len(returns), len(dormant)) == (9, 2)


def test_an_arm_that_fails_ends_it_with_its_code_and_last_line(arms, tmp_path, capsys):
    arms("import sys; print('noise'); print('dormant: the reason'); sys.exit(2)")
    assert run(["demo", "--run-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.strip() == "dormant: the reason"


def test_an_arm_that_is_killed_is_no_success(arms, tmp_path, capsys):
    arms("import os; os.kill(os.getpid(), 9)")
    assert run(["demo", "--run-dir", str(tmp_path)]) == 1
    assert "ended with code -9" in capsys.readouterr().err


def test_an_interrupt_stops_the_arms(arms, tmp_path, capsys, monkeypatch):
    arms("import time; time.sleep(60)")

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_watch", interrupt)
    assert run(["demo", "--run-dir", str(tmp_path)]) == 130
    assert "the same command resumes" in capsys.readouterr().out


def test_its_arms_are_commands_that_train_accepts(built, tmp_path):
    for arm in demo.ARMS:
        _, *arguments = demo._arguments(arm, demo.Length(demo.AGENT_STEPS, demo.SEEDS), RunFolder(tmp_path / "run"))
        training = built(*arguments)
        assert training.replay_ratio == 1
        assert (training.seeds, training.agent_steps) == ((0, 1), 180_000)
        assert training.agent.epsilon_steps == 18_000


def test_quick_trains_a_classifier_and_draws_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(quick, "TASKS", 2)
    monkeypatch.setattr(quick, "RenamedDigits", partial(RenamedDigits, steps=20))
    assert run(["demo", "--quick", "--seeds", "1", "--run-dir", str(tmp_path / "new")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "accuracy on the first task" in shown and "1 seeds per arm" not in shown
    assert "ReDo is ahead in" in shown and "Not seen:" in shown
    assert (tmp_path / "new" / "quick.png").read_bytes().startswith(b"\x89PNG")
    found = quick.read(tmp_path / "new" / "quick.csv")
    assert {arm: each[0].shape for arm, each in found.items()} == {"plain": (2, 1), "with ReDo": (2, 1)}


def test_the_numbers_of_the_quick_picture_are_read_as_they_were_written(tmp_path):
    first, second = np.arange(6.0).reshape(3, 2), np.arange(6.0).reshape(3, 2) / 8
    quick.write({"a": (first, second), "b": (second, first)}, tmp_path / "quick.csv")
    found = quick.read(tmp_path / "quick.csv")
    np.testing.assert_array_equal(found["a"], (first, second))
    np.testing.assert_array_equal(found["b"], (second, first))


def test_quick_refuses_a_length(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(["demo", "--quick", "--steps", "9", "--run-dir", str(tmp_path)])
    assert "--quick has a fixed length; leave out --steps." in capsys.readouterr().err


def test_a_task_renames_all_digits_and_both_arms_see_the_same():
    training = RenamedDigits(Chain(), seeds=(0, 1), steps=40)
    state, first = training.advance(training.init(), 0)
    _, same = training.advance(training.init(), 0)
    np.testing.assert_array_equal(first.accuracy, same.accuracy)
    # The network has learned the labels of task 0, but not the labels of task 1.
    _, other = replace(training, steps=1, learning_rate=1e-9).advance(state, 1)
    assert (first.accuracy > 0.3).all() and (other.accuracy < 0.3).all()
    with pytest.raises(ValueError, match="steps must be at least 1"):
        RenamedDigits(steps=0)
