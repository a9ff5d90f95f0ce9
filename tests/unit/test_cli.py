"""The command line: what it builds from flags, and what it says to bad input."""

import subprocess
import sys
import threading

import jax
import pytest

from dormant.cli import demo, run, train
from dormant.cli.interventions import USES, Settings, intervention
from dormant.cli.terminal import held_back
from dormant.interventions import (
    Chain,
    ClipWeights,
    ContinualBackprop,
    Dormant,
    Every,
    Gap,
    HareTortoise,
    PlasticityInjection,
    PooledShare,
    Prune,
    Recycle,
    ReDo,
    Renewal,
    Reset,
    ResetOptimizer,
    Share,
    ShrinkPerturb,
    WhenDormant,
    redo_as_published,
)
from dormant.lab import machine
from dormant.lab.runs.folder import RunFolder, RunRefused
from dormant.regularisers import L2Init, Parseval, Spectral
from dormant.rl.networks import Injectable
from dormant.rl.networks.convolutional import MinAtarCNN


@pytest.fixture
def built(monkeypatch, tmp_path):
    """What a command line would train, without training it."""
    trainings = []
    monkeypatch.setattr(train, "run", lambda training, *rest: trainings.append(training))
    monkeypatch.setattr(train, "keep_compiled_code", lambda: None)
    monkeypatch.setattr(train, "spread_seeds", lambda seeds: None)  # JAX has its devices already

    def build(*arguments):
        assert run(["train", "--run-dir", str(tmp_path / "run"), *arguments]) == 0
        return trainings.pop()

    return build


@pytest.fixture
def refused(built, capsys):
    """The one line on stderr that a command line is refused with."""

    def refusal(*arguments):
        with pytest.raises(SystemExit) as exit:
            built(*arguments)
        assert exit.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    return refusal


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


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(), Chain()),
        (Settings("weight-decay"), Chain()),
        (Settings("redo"), Every(1_000, ReDo())),
        (Settings("redo", tau=0.025, outgoing="fresh", period=5, stop=9), Every(5, ReDo(0.025, "fresh"), stop=9)),
        (Settings("redo", layers=("dense",), start=10), Every(1_000, ReDo(layers=("dense",)), start=10)),
        (Settings("redo-as-published", xavier=False), Every(1_000, redo_as_published(xavier=False))),
        (Settings("reset"), Every(100_000, Reset(("dense",)))),
        (Settings("reset", layers=("head",), moments="keep"), Every(100_000, Reset(("head",), moments="keep"))),
        (Settings("prune", period=7), Prune(0.0, 7)),
        (Settings("shrink-perturb", keep=0.5), Every(1_000, ShrinkPerturb(0.5))),
        (Settings("redo", incoming="scaled"), Every(1_000, ReDo(incoming="scaled"))),
        (Settings("recycle", tau=0.2, score="utility", stop=9), Every(1_000, Recycle("utility", Dormant(0.2)), stop=9)),
        (
            Settings("recycle", number="share", share=0.2, recyclings=7, order="random", at_most=3),
            Every(1_000, Recycle(number=Share(0.2, 7), order="random", at_most=3)),
        ),
        (Settings("recycle", number="pooled-share", share=0.2), Every(1_000, Recycle(number=PooledShare(0.2)))),
        (
            Settings("recycle", number="gap", outgoing="fresh", layers=("dense",)),
            Every(1_000, Recycle(number=Gap(), renewal=Renewal("fresh"), layers=("dense",))),
        ),
        (Settings("regrama", at_most=2), Every(1_000, Recycle("gradient", Dormant(0.01), at_most=2))),
        (
            Settings("continual-backprop", maturity=7, moments="keep"),
            ContinualBackprop(maturity=7, renewal=Renewal(moments="keep")),
        ),
        (Settings("hare-tortoise", momentum=0.9, period=5), HareTortoise(0.9, 5)),
        (Settings("clip-weights", factor=3.0), ClipWeights(3.0)),
        (Settings("reset-optimizer", step_count="keep"), Every(1_000, ResetOptimizer(step_count="keep"))),
        (Settings("l2-init", strength=0.1), Chain()),
        (Settings("redo", when_dormant=0.3, period=5), Every(5, WhenDormant(0.3, ReDo()))),
        (Settings("plasticity-injection", at=7), PlasticityInjection(7)),
    ],
    ids=str,
)
def test_settings_become_the_intervention_they_name(settings, expected):
    assert intervention(settings) == expected


@pytest.mark.parametrize("name", sorted(USES))
def test_a_setting_that_an_intervention_does_not_use_is_refused(name):
    values = {"tau": 0.1, "keep": 0.5, "layers": ("dense",), "outgoing": "zero", "period": 10, "xavier": True}
    for setting, value in values.items():
        if setting in USES[name]:
            intervention(Settings(name, **{setting: value}))
        else:
            with pytest.raises(ValueError, match=f"--intervention {name} does not use --{setting}"):
                intervention(Settings(name, **{setting: value}))


def test_weight_decay_is_the_papers_unless_it_is_set(built):
    assert built("--intervention", "weight-decay").agent.weight_decay == 1e-5
    assert built("--intervention", "weight-decay", "--weight-decay", "1e-3").agent.weight_decay == 1e-3
    assert built().agent.weight_decay == 0


def test_a_penalty_is_the_agents(built):
    assert built("--intervention", "l2-init", "--strength", "0.1").agent.regulariser == L2Init(0.1)
    assert built("--intervention", "parseval").agent.regulariser == Parseval()
    assert built("--intervention", "spectral").agent.regulariser == Spectral()
    assert built().agent.regulariser is None


def test_plasticity_injection_brings_the_network_that_it_needs(built):
    training = built("--intervention", "plasticity-injection", "--at", "7")
    assert training.intervention == PlasticityInjection(7)
    assert training.agent.network == Injectable(MinAtarCNN(), ("conv",))


def test_a_network_takes_its_options(built):
    network = built("--activation", "crelu", "--layer-norm", "--spectral-norm").agent.network
    assert (network.activation, network.layer_norm, network.spectral_norm) == ("crelu", True, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--env", "MinAtar/Astrix"), "unknown environment 'MinAtar/Astrix'; did you mean MinAtar/Asterix"),
        (("--env", "Pong"), "there are MinAtar/Asterix, MinAtar/Breakout, "),
        (("--intervention", "redo", "--tau", "-0.1"), "tau must be at least 0, got -0.1"),
        (("--replay-ratio", "0"), "replay_ratio must be positive, got 0.0"),
        (("--replay-ratio", "0.4"), "replay_ratio must be a whole number or one over it, got 0.4; the nearest is 0.5"),
        (("--seeds", "0"), "--seeds must be at least 1, got 0"),
        (("--steps", "1001"), "agent_steps must be a multiple of log_period, got 1001 and 2000"),
        (("--sticky", "2"), "sticky must be a probability"),
        (("--learning-rate", "0"), "learning_rate must be positive"),
        (("--learning-rate", "nan"), "learning_rate must be positive, got nan"),
        (("--weight-decay", "-1"), "weight_decay must not be negative, got -1.0"),
        (("--replay-ratio", "nan"), "replay_ratio must be positive, got nan"),
        (("--eval-epsilon", "2"), "eval_epsilon must lie between 0 and 1, got 2.0"),
        (("--eval-episodes", "0"), "eval_episodes must be at least 1, got 0"),
        (("--intervention", "redo", "--layers"), "--layers expects the name of at least one layer, got none"),
        (("--filters", "0"), "filters must be at least 1, got 0"),
        (("--width", "-1"), "width must be at least 1, got -1"),
        (("--tau", "0.1"), "--intervention none does not use --tau; it uses no setting"),
        (("--intervention", "redo", "--layers", "dens"), "'dens'"),
        (("--intervention", "recycle", "--number", "gap", "--tau", "0.1"), "--number gap does not use --tau; choose"),
        (("--intervention", "recycle", "--share", "0.1"), "--number dormant does not use --share; choose another"),
        (("--intervention", "clip-weights", "--factor", "0"), "factor must be positive, got 0.0"),
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
        ((), "Expected one of {demo, train, figure, compare, runs, report, scan, doctor}."),
        (("trian",), "Available subcommands: demo, train, figure, compare, runs, report, scan, doctor."),
        (("train",), "Missing from dormant train: --run-dir PATH"),
        (("train", "--run-dir", "x", "--learning-rat", "1"), "Perhaps you meant: --learning-rate FLOAT"),
        (("train", "--run-dir", "x", "--intervention", "reddo"), "invalid choice 'reddo'"),
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


def test_traces_that_come_after_the_failure_are_left_out_too(capsys):
    late = threading.Timer(0.1, lambda: print("Traceback", file=sys.stderr))
    with pytest.raises(OSError), held_back():
        late.start()
        raise OSError(28, "No space left on device") from ValueError("Orbax")
    late.join()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("moment", ["import", "run"])
def test_an_interrupt_at_any_time_is_one_line_and_code_130(moment):
    cli = """
import os, signal, types
def interrupt(): os.kill(os.getpid(), signal.SIGINT)
class Cli(types.ModuleType):
    @property
    def run(self):
        if moment == "import": interrupt()
        return lambda arguments: interrupt()
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
    monkeypatch.setattr(train, "spread_seeds", lambda seeds: None)  # JAX has its devices already
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


@pytest.mark.parametrize(("package", "extra"), [("tyro", "cli"), ("rich", "cli")])
def test_a_missing_extra_names_the_line_that_installs_it(package, extra):
    program = f"import sys; sys.modules[{package!r}] = None; from dormant.__main__ import main; main()"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.returncode == 2
    assert answer.stderr.strip() == f"dormant: {package} is not installed; run: pip install 'dormant[{extra}]'"


def test_a_missing_environment_names_the_line_that_installs_it(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "pgx.minatar.freeway", None)
    # A setting of its own: what was compiled in this process before needs no import.
    assert "pip install 'dormant[minatar]'" in refused("--env", "MinAtar/Freeway", "--sticky", "0.123")


def test_the_doctor_names_device_and_versions(capsys):
    assert run(["doctor"]) == 0
    report = capsys.readouterr().out
    assert jax.__version__ in report
    assert "MinAtar/Asterix steps." in report
    assert str(jax.devices()[0]) in report


def test_pinning_keeps_to_one_core_and_one_device():
    program = """
import os
from dormant.lab.machine import cores, pin
core = cores()[-1]
pin(core)
import jax
print(core, *os.sched_getaffinity(0), jax.device_count())
"""
    core, *pinned, devices = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert pinned == [core] and devices == "1"


@pytest.mark.parametrize(("seeds", "devices"), [(1, 1), (2, 2), (3, 3), (4, 2), (6, 2), (11, 1), (14, 2)])
def test_seeds_are_spread_evenly_over_two_cores(monkeypatch, seeds, devices):
    chosen = {"jax_num_cpu_devices": 1}
    monkeypatch.setattr(machine.jax.config, "update", chosen.__setitem__)
    monkeypatch.setattr(machine, "cores", lambda: (0, 1))
    machine.spread_seeds(seeds)
    assert chosen["jax_num_cpu_devices"] == devices


def test_compiled_code_is_kept_where_the_user_wants_it(monkeypatch, tmp_path):
    chosen = {}
    monkeypatch.setattr(machine.jax.config, "update", chosen.__setitem__)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    machine.keep_compiled_code()
    assert chosen == {}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    machine.keep_compiled_code()
    assert chosen == {"jax_compilation_cache_dir": str(tmp_path / "dormant")}


class TestDemo:
    """The demo with arms that only write what a training would."""

    @pytest.fixture
    def arms(self, monkeypatch):
        """Replaces `dormant train` by a program of the test's choice."""

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

    def test_it_prints_what_the_runs_measured_and_draws_it(self, arms, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "120")
        arms(self.WRITE)
        assert run(["demo", "--run-dir", str(tmp_path), "--steps", "100", "--seeds", "2"]) == 0
        shown = capsys.readouterr().out
        assert "MinAtar/Asterix, replay ratio 1, 100 agent steps, 2 seeds an arm." in shown
        dense = next(line for line in shown.splitlines() if "dormant, dense" in line)
        # Two seeds, 1 % apart: the mean, and 12.7 times half of that to each side.
        assert "50.5%  [44.1%, 56.9%]" in dense
        assert "10.5%  [4.1%, 16.9%]" in dense
        assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")

    def test_an_arm_that_fails_ends_it_with_its_code_and_last_line(self, arms, tmp_path, capsys):
        arms("import sys; print('noise'); print('dormant: the reason'); sys.exit(2)")
        assert run(["demo", "--run-dir", str(tmp_path)]) == 2
        assert capsys.readouterr().err.strip() == "dormant: the reason"

    def test_an_arm_that_is_killed_is_no_success(self, arms, tmp_path, capsys):
        arms("import os; os.kill(os.getpid(), 9)")
        assert run(["demo", "--run-dir", str(tmp_path)]) == 1
        assert "ended with code -9" in capsys.readouterr().err

    def test_an_interrupt_stops_the_arms(self, arms, tmp_path, capsys, monkeypatch):
        arms("import time; time.sleep(60)")

        def interrupt(*arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr(demo, "_watch", interrupt)
        assert run(["demo", "--run-dir", str(tmp_path)]) == 130
        assert "the same command resumes" in capsys.readouterr().out

    def test_its_arms_are_commands_that_train_accepts(self, built, tmp_path):
        for arm in demo.ARMS:
            _, *arguments = demo._arguments(arm, demo.Demo(), RunFolder(tmp_path / "run"))
            training = built(*arguments)
            assert training.replay_ratio == 1
            assert training.seeds == (0, 1, 2)
