"""The command line of DrQ: defaults from the paper on Atari, DQN's defaults on MinAtar, and errors for bad input."""

import pytest

from dormant import Every, ReDo
from dormant.rl.agents import ATARI_100K_GAME, atari_dqn, atari_drq, minatar_drq
from dormant.rl.agents.dqn import Augmentation
from dormant.rl.atari import AtariTraining
from dormant.rl.envs.atari import Atari
from dormant.rl.envs.minatar import MinAtar

FLAGS = {"env": "ALE/Pong", "agent": "drq"}
SMALL = ("--replay-capacity", "100", "--min-replay", "20", "--width", "0.05")


@pytest.fixture(autouse=True)
def roomy(monkeypatch):
    """Turns off the check that the replay fits into memory and on disk, because the paper's replay is large."""
    monkeypatch.setattr(AtariTraining, "refuse_without_room", lambda *_: None)


def test_the_defaults_on_atari_are_the_papers(built):
    """DrQ has the defaults of the paper, here at replay ratio 8. DQN has its usual defaults."""
    training = built("--replay-ratio", "8", "--intervention", "redo")
    assert training == AtariTraining(
        atari_drq(),
        Atari("Pong", **ATARI_100K_GAME),
        Every(1_000, ReDo(0.1)),
        8.0,
        400_000,
        eval_agent_steps=1,
        eval_period=10_000,
        eval_episodes=100,
    )
    assert built(agent="dqn") == AtariTraining(atari_dqn(), Atari("Pong"))


def test_the_defaults_on_minatar_are_those_of_dqn_there(built):
    training = built(env="MinAtar/Asterix")
    assert (training.agent, training.env) == (minatar_drq(200_000), MinAtar("Asterix"))


def test_every_flag_reaches_the_training(built):
    training = built(
        *("--sticky", "0.1", "--noops", "3", "--no-life-loss", "--eval-episodes", "4", "--eval-agent-steps", "50"),
        *("--pad", "2", "--intensity", "0.1", "--n-step", "3", "--no-double", "--no-dueling", "--target-period", "7"),
        *("--seeds", "2", "--video", *SMALL),
    )
    assert training.env == Atari("Pong", 0.1, 27_000, 3, False)
    assert (training.eval_episodes, training.eval_agent_steps, training.seeds, training.video) == (4, 50, (0, 1), True)
    agent = training.agent
    assert (agent.augmentation, agent.n_step, agent.double) == (Augmentation(2, 0.1), 3, False)
    assert (agent.network.dueling, agent.network.width, agent.target_period) == (False, 0.05, 7)
    assert built("--network", "impala", *SMALL).agent.network.dueling
    assert built("--pad", "1", env="MinAtar/Breakout").agent.augmentation == Augmentation(1, 0.05)


def test_the_pieces_of_drq_are_dqns_too(built):
    agent = built("--pad", "4", "--dueling", "--n-step", "3", *SMALL, agent="dqn").agent
    assert (agent.augmentation, agent.network.dueling, agent.n_step, agent.double) == (Augmentation(4), True, 3, False)


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        (("--pad", "-1"), "ALE/Pong", "pad must be at least 0 cells, got -1"),
        (("--intensity", "0.6"), "ALE/Pong", "intensity must lie in [0, 0.5), got 0.6"),
        (("--n-step", "2000"), "ALE/Pong", "min_replay must lie between n_step and replay_capacity"),
        (("--replay-ratio", "0.3"), "ALE/Pong", "the nearest is 0.333333"),
        (("--intervention", "reset", "--layers", "head"), "ALE/Pong", "['head']"),
        (("--eval-agent-steps", "5"), "MinAtar/Asterix", "--eval-agent-steps"),
        (("--noops", "5"), "MinAtar/Asterix", "--noops"),
        ((), "ALE/Pongg", "did you mean Pong?"),
        ((), "Hopper-v5", "Hopper-v5 needs --agent sac; dqn and drq play MinAtar/GAME and ALE/GAME."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_and_code_2(refused, arguments, env, message):
    assert message in refused(*arguments, env=env)
