"""The command line: the trainings that flags describe, and the errors for bad input."""

import importlib.metadata
import os
import subprocess
import sys
import threading

import pytest

from dormant.cli import run, train
from dormant.cli.parsing import MOST_USED
from dormant.cli.terminal import held_back
from dormant.lab.runs.folder import RunRefused


def test_every_kind_of_flag_reaches_the_training(built):
    training = built(
        *("--env", "MinAtar/Breakout", "--sticky", "0.2", "--replay-ratio", "0.5", "--seeds", "2", "--steps", "8000"),
        *(
            "--log-period",
            "400",
            "--eval-period",
            "800",
            "--learning-rate",
            "0.01",
            "--width",
            "32",
            "--score-batch",
            "16",
        ),
    )
    assert (training.env.game, training.env.sticky, training.replay_ratio) == ("Breakout", 0.2, 0.5)
    assert (training.seeds, training.agent_steps, training.log_period, training.eval_period) == ((0, 1), 8000, 400, 800)
    assert (training.agent.learning_rate, training.agent.network.width, training.score_batch) == (0.01, 32, 16)


def test_a_network_takes_its_options(built):
    network = built("--activation", "crelu", "--layer-norm", "--spectral-norm").agent.network
    assert (network.activation, network.layer_norm, network.spectral_norm) == ("crelu", True, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--env", "MinAtar/Astrix"), "unknown environment 'MinAtar/Astrix'; did you mean MinAtar/Asterix"),
        (("--env", "Pong"), "there are MinAtar/Asterix, MinAtar/Breakout, "),
        (("--intervention", "redo", "--tau", "-0.1"), "tau must be at least 0, got -0.1"),
        (("--replay-ratio", "0"), "replay_ratio must lie between 1e-6 and 1e6, got 0.0"),
        (("--replay-ratio", "0.4"), "replay_ratio must be n or 1/n for a whole number n, got 0.4; the nearest is 0.5"),
        (("--seeds", "0"), "--seeds must be at least 1, got 0"),
        (("--steps", "1001"), "agent_steps must be a multiple of log_period, got 1001 and 2000"),
        (("--sticky", "2"), "sticky must be a probability"),
        (("--learning-rate", "0"), "learning_rate must be positive"),
        (("--learning-rate", "nan"), "learning_rate must be positive and finite, got nan"),
        (("--weight-decay", "-1"), "weight_decay must be at least 0 and finite, got -1.0"),
        (("--replay-ratio", "nan"), "replay_ratio must lie between 1e-6 and 1e6, got nan"),
        (("--eval-epsilon", "2"), "eval_epsilon must lie between 0 and 1, got 2.0"),
        (("--eval-episodes", "0"), "eval_episodes must be at least 1, got 0"),
        (("--intervention", "redo", "--layers"), "--layers expects the name of at least one layer, got none"),
        (("--filters", "0"), "filters must be at least 1, got 0"),
        (("--width", "-1"), "width must be at least 1, got -1"),
        (("--tau", "0.1"), "--intervention none does not use --tau; it uses no setting"),
        (("--intervention", "redo", "--layers", "dens"), "'dens'"),
        (("--intervention", "recycle", "--number", "gap", "--tau", "0.1"), "--number gap does not use --tau; choose"),
        (("--intervention", "recycle", "--share", "0.1"), "--number dormant does not use --share; choose another"),
        (("--intervention", "clip-weights", "--factor", "0"), "factor must be positive and finite, got 0.0"),
        (("--checkpoint-seconds", "nan"), "--checkpoint-seconds must be at least 0, got nan"),
        (("--checkpoint-seconds", "-1"), "--checkpoint-seconds must be at least 0, got -1.0"),
        (("--core", "4096"), "--core 4096 is not available"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_and_code_2(refused, arguments, message):
    assert message in refused(*arguments)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (RunRefused("run has another configuration: tau is 0 in the folder."), "tau is 0 in the folder"),
        (PermissionError(13, "Permission denied", "/locked/run"), "/locked/run: Permission denied. Choose another"),
        (FileExistsError(17, "File exists", "/a/file"), "/a/file: File exists. Choose another --run-dir"),
        (
            OSError(28, "No space left on device"),
            "No space left on device. Everything written before is kept. Free",
        ),
    ],
    ids=str,
)
def test_a_folder_that_fails_is_one_line_and_code_2(refused, monkeypatch, fault, message):
    def fail(*arguments):
        raise fault

    refusal = refused
    monkeypatch.setattr(train, "run", fail)
    assert message in refusal()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Expected one of {demo, train, figure, compare, runs, report, scan, cite, doctor}."),
        (("trian",), "Available subcommands: demo, train, figure, compare, runs, report, scan, cite, doctor."),
        (("train",), "Missing from dormant train: --run-dir PATH"),
        (("train", "--run-dir", "x", "--learning-rat", "1"), "Perhaps you meant: --learning-rate FLOAT"),
        (("train", "--run-dir", "x", "--intervention", "reddo"), "did you mean redo?"),
        (("train", "--run-dir", "x", "--steps", "abc"), "Error parsing --steps: invalid literal"),
        (("train", "--run-dir", "x", "--period", "1.5"), "from ['1.5']. Argument helptext"),
    ],
    ids=str,
)
def test_what_the_parser_refuses_is_one_line_and_code_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as exit:
        run(arguments)
    assert exit.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("dormant: ")
    assert said.count("\n") == 1
    assert message in said


def test_what_libraries_say_of_a_refused_run_is_left_out_and_otherwise_kept(capsys):
    with pytest.raises(OSError), held_back():
        print("Traceback", file=sys.stderr)
        raise OSError(28, "No space left on device")
    with pytest.raises(ZeroDivisionError), held_back():
        print("a hint", file=sys.stderr)
        raise ZeroDivisionError
    with held_back():
        print("a warning", file=sys.stderr)
    assert capsys.readouterr().err == "a hint\na warning\n"


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_traces_that_come_after_the_failure_are_left_out_too(failure, capsys):
    late = threading.Timer(0.1, lambda: print("Traceback", file=sys.stderr))
    with pytest.raises(type(failure)), held_back():
        late.start()
        raise failure from ValueError("Orbax") if isinstance(failure, OSError) else None
    late.join()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("moment", ["import", "run", "callback"])
def test_an_interrupt_at_any_time_is_one_line_and_code_130(moment):
    cli = """
import os, signal, time, types
def interrupt(): os.kill(os.getpid(), signal.SIGINT)
class Deleted:  # Python ignores exceptions here
    def __del__(self): interrupt()
def run(arguments):
    if moment == "run": interrupt()
    Deleted()
    time.sleep(60)
class Cli(types.ModuleType):
    @property
    def run(self):
        if moment == "import": interrupt()
        return run
"""
    program = f"import sys; moment = {moment!r}\n{cli}\nsys.modules['dormant.cli'] = Cli('dormant.cli')\n"
    program += "from dormant.__main__ import main; main()"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (answer.returncode, answer.stderr) == (130, "dormant: interrupted.\n")


def test_an_interrupted_run_says_how_to_continue(monkeypatch, capsys, tmp_path):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "run", interrupt)
    monkeypatch.setattr(train, "keep_compiled_code", lambda: None)
    monkeypatch.setattr(train, "spread_seeds", lambda seeds: None)  # not possible, because JAX already has its devices
    assert run(["train", "--run-dir", str(tmp_path)]) == 130
    assert "the same command resumes" in capsys.readouterr().err


def test_a_finished_run_says_so(built, capsys, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "done").touch()
    built()
    assert "was already done" in capsys.readouterr().out


def test_a_finished_run_of_another_configuration_is_not_called_done(built, monkeypatch, capsys, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "done").touch()

    def refuse(*arguments):
        raise RunRefused("another configuration")

    monkeypatch.setattr(train, "run", refuse)
    with pytest.raises(SystemExit):
        built()
    assert "already done" not in capsys.readouterr().out


def test_the_version_is_printed(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"{importlib.metadata.version('dormant')}\n"


@pytest.mark.parametrize("choice", [(), ("--agent", "sac"), ("--env", "ALE/Pong"), ("--agent", "drq")])
def test_the_help_of_train_has_the_most_used_flags_first_and_all_others_by_topic(choice, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        run(["train", *choice, "--help"])
    lines = capsys.readouterr().out.splitlines()
    flags = [line.split()[1].rstrip(",") for line in lines if line.startswith("│ -")]
    topics = [line.strip("╭─╮ ") for line in lines if line.startswith("╭")]
    present = [flag for flag in MOST_USED if flag in flags]
    assert len(MOST_USED) == 12 and flags[: len(present)] == present and len(present) >= 11
    assert len(flags) == len(set(flags)) > 50 and max(map(len, lines)) <= 80
    assert topics[:5] == ["most used", "options", "length options", "intervention options", "agent options"]
    assert os.environ["COLUMNS"] == "80"
