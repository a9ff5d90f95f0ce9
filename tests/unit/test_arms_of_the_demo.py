"""`dormant demo` with arms that train nothing and only write the files of a run."""

import subprocess
import sys

import pytest

from dormant.cli import demo, run
from dormant.lab.runs.folder import RunFolder


@pytest.fixture
def arms(monkeypatch):
    """A function that replaces `dormant train` by another program."""

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
            print(json.dumps({**row, **fractions, "eval_return": step / 10 if step else None}), file=metrics)
            print(json.dumps({**row, "scores/conv": [1, 1], "scores/dense": [0, 2, 1]}), file=scores)
(folder / "spec.json").write_text(json.dumps({"revision": "abc", "device": "cpu"}))
"""


def test_it_prints_what_the_runs_measured_and_draws_it(arms, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    arms(WRITE)
    assert run(["demo", "--run-dir", str(tmp_path), "--steps", "100", "--seeds", "2"]) == 0
    shown = capsys.readouterr().out
    assert "MinAtar/Asterix, replay ratio 1, 100 agent steps, 2 seeds per arm." in shown
    dense = next(line for line in shown.splitlines() if "dormant, dense" in line)
    # The two seeds differ by 1 %, so the standard error is half of this. The interval is the mean ± 12.7 standard
    # errors.
    assert "50.5%  [44.1%, 56.9%]" in dense
    assert "10.5%  [4.1%, 16.9%]" in dense
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


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
        _, *arguments = demo._arguments(arm, demo.Demo(), RunFolder(tmp_path / "run"))
        training = built(*arguments)
        assert training.replay_ratio == 1
        assert training.seeds == (0, 1, 2)
