"""The command line of SAC: defaults from the paper, the trainings that flags make, and errors for bad input."""

import subprocess
import sys

import pytest

from dormant import Chain, Every, Prune, ReDo, Reset
from dormant.interventions import Dormant, Recycle
from dormant.regularisers import L2Init
from dormant.rl.agents.sac import NETWORKS, SAC
from dormant.rl.control import ControlTraining
from dormant.rl.device import DeviceTraining
from dormant.rl.envs.mujoco import MuJoCo

FLAGS = {"env": "Hopper-v5", "agent": "sac"}
SMALL = ("--replay-capacity", "100", "--min-replay", "20", "--width", "0.05")


def test_the_defaults_are_the_papers(built):
    training = built()
    assert training == ControlTraining(
        SAC(), MuJoCo("Hopper-v5"), Chain(), 1.0, 1_000_000, 1_000, (0,), 256, 30, 10_000
    )
    assert training.agent == SAC((256, 256), 1.0, 0.99, 256, 3e-4, 3e-4, 3e-4, 1e-7, 0.0, 0.0, 0.005, 0.1)
    assert (training.agent.replay_capacity, training.agent.min_replay) == (1_000_000, 10_000)


def test_a_task_that_only_sac_plays_needs_no_agent(built):
    assert built(*SMALL, agent=None).env == MuJoCo("Hopper-v5")
    assert isinstance(built(agent=None, env="MinAtar/Asterix"), DeviceTraining)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("redo",), Every(200_000, ReDo(tau=0.0))),
        (("redo", "--tau", "0.1", "--period", "10"), Every(10, ReDo(tau=0.1))),
        (
            ("redo", "--layers", "actor", "critic1/dense_0"),
            Every(200_000, ReDo(0.0, layers=("actor", "critic1/dense_0"))),
        ),
        (("reset",), Every(200_000, Reset(NETWORKS))),
        (("reset", "--layers", "critic1", "critic2"), Every(200_000, Reset(("critic1", "critic2")))),
        (("prune",), Prune(0.0)),
        (("regrama",), Every(200_000, Recycle("gradient", Dormant(0.01)))),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_interventions_have_the_papers_schedule_for_sac(built, arguments, expected):
    assert built("--intervention", *arguments, *SMALL).intervention == expected


def test_a_penalty_is_that_of_all_networks(built):
    assert built("--intervention", "l2-init", "--strength", "0.1", *SMALL).agent.regulariser == L2Init(0.1)
    assert built(*SMALL).agent.regulariser is None


def test_weight_decay_is_set_for_all_networks_or_for_each(built):
    agent = built("--intervention", "weight-decay", *SMALL).agent
    assert (agent.actor_weight_decay, agent.critic_weight_decay) == (1e-5, 1e-5)
    agent = built("--intervention", "weight-decay", "--critic-weight-decay", "0.1", *SMALL).agent
    assert (agent.actor_weight_decay, agent.critic_weight_decay) == (0, 0.1)


def test_every_kind_of_flag_reaches_the_training(built):
    training = built(
        *("--time-limit", "50", "--seeds", "2", "--steps", "8000", "--log-period", "400", "--eval-period", "800"),
        *(
            "--eval-episodes",
            "3",
            "--score-batch",
            "16",
            "--replay-ratio",
            "2",
            "--reset-targets",
            "--hidden",
            "8",
            "4",
        ),
        *("--gamma", "0.9", "--reward-scale", "1", "--target-entropy", "-1", *SMALL),
        env="Walker2d-v5",
    )
    assert training.env == MuJoCo("Walker2d-v5", 50)
    assert (training.seeds, training.agent_steps, training.log_period, training.eval_period) == ((0, 1), 8000, 400, 800)
    assert (training.eval_episodes, training.score_batch, training.replay_ratio) == (3, 16, 2.0)
    agent = training.agent
    assert (agent.reset_targets, agent.hidden, agent.width, agent.gamma) == (True, (8, 4), 0.05, 0.9)
    assert (agent.reward_scale, agent.target_entropy) == (1.0, -1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steps", "1500"), "agent_steps must be a multiple of log_period, got 1500 and 1000"),
        (("--replay-ratio", "0.4"), "the nearest is 0.5"),
        (("--seeds", "0"), "--seeds must be at least 1, got 0"),
        (("--time-limit", "0"), "time_limit must be at least 1 agent step, got 0"),
        (("--eval-episodes", "0"), "eval_episodes must be at least 1, got 0"),
        (("--gamma", "2"), "gamma must lie between 0 and 1, got 2.0"),
        (("--hidden", "0"), "at least 1 neuron"),
        (("--width", "-1"), "width must be positive"),
        (("--sticky", "0.1"), "--sticky"),
        (("--learning-rate", "0.1"), "--learning-rate"),
        (("--agent", "ppo"), "ppo"),
        (("--checkpoint-seconds", "nan"), "--checkpoint-seconds must be at least 0, got nan"),
        (("--intervention", "plasticity-injection"), "works with --agent dqn and drq only, not with sac"),
        (("--intervention", "prune", "--layers", "actor"), "--intervention prune does not use --layers"),
        (("--intervention", "redo", "--layers", "critic3"), "no layer is called 'critic3'"),
        (("--intervention", "reset", "--layers", "fc"), "['fc']"),
        (("--replay-capacity", "1000000000"), "1 ring of 1,000,000,000 agent steps take 1 x ("),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_and_code_2(refused, arguments, message):
    assert message in refused(*arguments)


@pytest.mark.parametrize(
    ("env", "agent", "message"),
    [
        ("Hoper-v5", "sac", "unknown MuJoCo task 'Hoper-v5'; did you mean Hopper-v5?"),
        ("Hoper-v5", None, "did you mean Hopper-v5?"),
        ("ALE/Pong", "sac", "--agent sac trains on HalfCheetah-v5,"),
        ("MinAtar/Breakout", "sac", "not on MinAtar/Breakout; use --agent dqn"),
        ("Hopper-v5", "dqn", "dqn"),
    ],
)
def test_an_agent_and_an_environment_that_do_not_fit_are_refused(refused, env, agent, message):
    assert message in refused(env=env, agent=agent)


def test_a_missing_package_says_what_to_install(tmp_path):
    """Uses a new process, because the type checks of the test suite have already imported the package in this one."""
    program = "import sys; sys.modules['mujoco'] = None; from dormant.cli import run; run(sys.argv[1:])"
    arguments = ("train", "--agent", "sac", "--run-dir", str(tmp_path / "run"), *SMALL)
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert len(done.stderr.strip().splitlines()) == 1
    assert "pip install 'dormant[mujoco]'" in done.stderr
