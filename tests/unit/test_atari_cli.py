"""The command line on Atari games: defaults from the paper, the trainings that flags make, and errors for bad input."""

import builtins
import io
import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from dormant import Every, ReDo, Reset
from dormant.cli import terminal, train
from dormant.cli.terminal import SHOWN, newest_values, progress_bar
from dormant.experiments import alternatives
from dormant.experiments.benches import MINATAR, RATIOS, atari_bench
from dormant.experiments.redo import ATARI_DRQ, MINATAR_DRQ
from dormant.lab.runs.folder import RunFolder
from dormant.lab.runs.rows import Newest
from dormant.rl.agents.dqn import DQN
from dormant.rl.atari import AtariTraining
from dormant.rl.envs import atari
from dormant.rl.envs.atari import Atari
from dormant.rl.networks.convolutional import ImpalaResNet, NatureCNN

FLAGS = {"env": "ALE/DemonAttack"}
SMALL = ("--replay-capacity", "100", "--min-replay", "20", "--width", "0.05")


@pytest.fixture
def roomy(monkeypatch):
    """Turns off the check that the replay fits into memory and on disk, because the paper's replay is large."""
    monkeypatch.setattr(AtariTraining, "refuse_without_room", lambda *_: None)


def test_the_defaults_are_the_papers(built, roomy):
    assert built("--intervention", "redo") == AtariTraining(
        DQN(NatureCNN(), target_period=2_000), Atari("DemonAttack"), Every(1_000, ReDo(0.1)), 1.0, 2_500_000
    )


@pytest.mark.parametrize(("ratio", "period"), [("0.25", 8_000), ("0.5", 4_000), ("1", 2_000), ("2", 1_000)])
def test_the_target_period_follows_the_replay_ratio(built, ratio, period):
    assert built("--replay-ratio", ratio, *SMALL).agent.target_period == period
    assert built(f"--replay-ratio={ratio}", "--target-period", "8000", *SMALL).agent.target_period == 8_000


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", ["MinAtar, dqn", "Atari, dqn", "MinAtar, drq", "Atari, drq"])
def test_train_and_figure_have_the_same_settings(name, ratio):
    """Compares all settings of the agent, at every replay ratio of the paper."""
    benches = {
        "MinAtar, dqn": MINATAR,
        "Atari, dqn": atari_bench(10),
        "MinAtar, drq": MINATAR_DRQ,
        "Atari, drq": ATARI_DRQ,
    }
    family, agent = name.split(", ")
    figure = benches[name].dqn(ratio)
    line = ["--run-dir", "run", "--agent", agent, "--env", {"MinAtar": "MinAtar/Asterix", "Atari": "ALE/Pong"}[family]]
    trained = train.training_of(train.parse([*line, f"--replay-ratio={ratio}", f"--steps={figure.agent_steps}"]))
    # The capacities of the replays may differ, because both replays have room for all steps of the run.
    assert replace(trained.agent, replay_capacity=figure.agent.replay_capacity) == figure.agent
    assert figure.agent.replay_capacity >= min(trained.agent.replay_capacity, figure.agent_steps)


@pytest.mark.parametrize("scale", ["laptop", "paper"])
def test_train_and_figure_have_the_same_sac(scale):
    figure = alternatives.FIG14.designs[scale].arms[0].training
    assert train.training_of(train.parse(["--run-dir", "run", "--agent", "sac"])).agent == figure.agent


def test_every_kind_of_flag_reaches_the_training(built):
    training = built(
        *("--sticky", "0", "--noops", "29", "--life-loss", "--time-limit", "500", "--seeds", "2", "--steps", "8000"),
        *("--log-period", "400", "--eval-period", "800", "--eval-agent-steps", "100", "--score-batch", "16"),
        *("--intervention", "reset", "--layers", "dense", "head", "--learning-rate", "0.01", *SMALL),
        env="ALE/Pong",
    )
    assert training.env == Atari("Pong", 0.0, 500, 29, True)
    assert (training.seeds, training.agent_steps, training.log_period, training.eval_period) == ((0, 1), 8000, 400, 800)
    assert (training.eval_agent_steps, training.score_batch, training.agent.learning_rate) == (100, 16, 0.01)
    assert training.intervention == Every(100_000, Reset(("dense", "head")))
    assert not training.video and built("--video", *SMALL).video


def test_the_network_has_flags_of_its_own(built):
    flags = ("--replay-capacity", "100", "--min-replay", "20", "--width", "0.25", "--layer-norm")
    assert built("--network", "impala", *flags).agent.network == ImpalaResNet(0.25, layer_norm=True)
    assert built(*flags, "--padding", "VALID").agent.network == NatureCNN(0.25, "VALID", layer_norm=True)


def test_weight_decay_is_the_papers(built):
    assert built("--intervention", "weight-decay", *SMALL).agent.weight_decay == 1e-5


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("ALE/DemonAttck", "unknown Atari game 'DemonAttck'; did you mean DemonAttack?"),
        ("ALE/demon_attack", "did you mean DemonAttack?"),
        ("ALE/Chess", "expected one of Alien, Amidar"),
    ],
)
def test_an_unknown_game_is_refused_with_near_names(refused, env, message):
    assert message in refused(env=env)


def test_a_game_without_its_family_is_refused_with_it(refused):
    assert "unknown environment 'DemonAttack'; did you mean ALE/DemonAttack?" in refused(env="DemonAttack")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--replay-ratio", "0"), "replay_ratio must lie between 1e-6 and 1e6, got 0.0"),
        (("--replay-ratio", "-1"), "replay_ratio must lie between 1e-6 and 1e6, got -1.0"),
        (("--replay-ratio", "0.4"), "the nearest is 0.5"),
        (("--replay-ratio", "much"), "--replay-ratio"),
        (("--steps", "1500"), "agent_steps must be a multiple of log_period, got 1500 and 1000"),
        (("--seeds", "0"), "--seeds must be at least 1, got 0"),
        (("--sticky", "1"), "sticky must be a probability below 1"),
        (("--eval-episodes", "0"), "eval_episodes must be at least 1, got 0"),
        (("--eval-agent-steps", "0"), "eval_agent_steps"),
        (("--checkpoint-seconds", "nan"), "--checkpoint-seconds must be at least 0, got nan"),
        (("--intervention", "reset", "--layers", "fc"), "['fc']"),
        (("--replay-capacity", "1000000000"), "1 ring of 1,000,000,000 agent steps take 1 x ("),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_and_code_2(refused, arguments, message):
    assert message in refused(*arguments)


@pytest.mark.parametrize("package", ["ale_py", "cv2"])
def test_a_missing_package_says_what_to_install(refused, monkeypatch, package):
    real = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == package:
            raise ImportError(f"No module named {package!r}")
        return real(name, *rest)

    atari._ale.cache_clear()
    atari._cv2.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    try:
        assert "pip install 'dormant[atari]'" in refused(*SMALL, env="ALE/Pong")
    finally:
        atari._ale.cache_clear()
        atari._cv2.cache_clear()


MEASURED = [
    {"seed": 0, "agent_steps": 0, "dormant/0.1/all": 0.5},
    {"seed": 0, "agent_steps": 50, "dormant/0.1/all": 0.2, "train_return": -20.0},
    {"seed": 1, "agent_steps": 50, "dormant/0.1/all": 0.3, "train_return": -21.0},
    {"seed": 1, "agent_steps": 100, "dormant/0.1/all": 0.3, "train_return": None},
]


def test_redirected_progress_is_a_line_at_the_start_and_one_at_the_end(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in MEASURED))
    assert newest_values(Newest(folder.metrics, SHOWN)) == ["return -20.5", "dormant 25%"]
    with progress_bar(folder, 1_000, frames=True) as update:
        for done in (0, 500, 1_000):
            update(done)
    first, last = capsys.readouterr().out.splitlines()
    assert first == "0 of 1,000 agent steps, compiling, 0 frames, return -20.5, dormant 25%"
    assert last.startswith("1,000 of 1,000 agent steps, 4,000 frames, ") and last.endswith("return -20.5, dormant 25%")


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_progress_on_a_terminal_is_never_cut(columns, tmp_path, monkeypatch):
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=columns, color_system=None)
    monkeypatch.setattr(terminal, "Console", lambda: console)
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=iter((0.0, 2_000.0)).__next__))
    folder = RunFolder(tmp_path)
    rows = [*MEASURED, {"seed": 1, "agent_steps": 4_000_000, "dormant/0.1/all": math.nan}]
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with progress_bar(folder, 10_000_000, frames=True) as update:
        update(0)
        console.print(terminal.Text("next"))  # makes rich print the progress immediately
        update(9_999_999)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.getvalue())
    assert max(map(len, shown.splitlines())) <= columns and "…" not in shown and "━" in shown
    words = " ".join(shown.split())
    assert "compiling, 0 frames" in words and "9,999,999/10,000,000 agent steps" in words and "left" in words
    assert "39,999,996 frames, 5,000 steps/s, return -20.5, dormant nan%, diverged at 4,000,000" in words
