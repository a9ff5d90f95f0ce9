"""Our MuJoCo tasks equal Gymnasium's, restore saved states exactly, and distinguish truncation from termination."""

import os
import sys

import gymnasium
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dormant.rl.envs import mujoco
from dormant.rl.envs.mujoco import TASKS, MuJoCo


def actions_of(spec, steps, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (steps, 1, spec.actions)).astype(np.float32)


@pytest.mark.parametrize("task", TASKS)
def test_plays_as_gymnasium_does(task, tmp_path, monkeypatch):
    """Compares our task with Gymnasium's from the same start. Stops after 100 steps or when an episode terminates."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes warnings into the current folder
    spec = MuJoCo(task)
    bodies, theirs = spec.begin([3]), gymnasium.make(task)
    theirs.unwrapped.np_random = np.random.Generator(np.random.Philox(key=(3, 0), counter=[0, 0, 0, 0]))
    observation, _ = theirs.reset()
    assert_array_equal(bodies.observations[0], observation.astype(np.float32))
    high = theirs.action_space.high
    for action in actions_of(spec, 100):
        outcome = bodies.step(action)
        observation, reward, terminal, truncated, _ = theirs.step(action[0] * high)
        assert_array_equal(outcome.observation[0], observation.astype(np.float32))
        assert outcome.reward[0] == np.float32(reward)
        assert (outcome.terminal[0], outcome.truncated[0]) == (terminal, truncated)
        if terminal:
            break


@pytest.mark.parametrize("task", TASKS)
def test_a_restored_state_goes_on_to_the_same_bits(task):
    """Restores the state into a body that had a different state. Compares several episodes."""
    spec = MuJoCo(task, time_limit=25)
    bodies, other = spec.begin([5]), spec.begin([5])
    actions = actions_of(spec, 90)
    for action in actions[:31]:
        bodies.step(action)
    for action in actions[50:83]:
        other.step(action)
    other.restore(bodies.save())
    for action in actions[31:]:
        for mine, theirs in zip(bodies.step(action), other.step(action), strict=True):
            assert_array_equal(mine, theirs)
        for mine, theirs in zip(bodies.save(), other.save(), strict=True):
            assert_array_equal(mine, theirs)


def test_saving_does_not_disturb():
    spec = MuJoCo("Ant-v5")
    bodies, watched = spec.begin([1]), spec.begin([1])
    for action in actions_of(spec, 20):
        watched.restore(watched.save())
        assert_array_equal(bodies.step(action).observation, watched.step(action).observation)


def test_the_time_limit_truncates_and_a_fall_terminates():
    spec = MuJoCo("HalfCheetah-v5", time_limit=5)  # this robot never falls
    bodies = spec.begin([0])
    outcomes = [bodies.step(action) for action in actions_of(spec, 10)]
    assert [bool(outcome.truncated[0]) for outcome in outcomes] == [False, False, False, False, True] * 2
    assert not any(outcome.terminal[0] for outcome in outcomes)
    assert_array_equal(outcomes[4].observation.shape, (1, 17))
    assert (outcomes[4].observation != bodies.observations).any()

    spec = MuJoCo("Hopper-v5")  # this robot falls with random actions
    bodies = spec.begin([0])
    outcomes = [bodies.step(action) for action in actions_of(spec, 200)]
    assert any(outcome.terminal[0] for outcome in outcomes)
    assert not any(outcome.truncated[0] for outcome in outcomes)


def test_seeds_streams_and_company():
    spec = MuJoCo("Walker2d-v5")
    together, alone = spec.begin([0, 1]), spec.begin([1])
    assert_array_equal(together.observations[1], alone.observations[0])
    assert (together.observations[0] != together.observations[1]).any()
    assert (spec.begin([1], stream=7).observations != alone.observations).any()
    action = actions_of(spec, 1)[0]
    assert_array_equal(
        together.step(np.concatenate([action, action])).observation[1], alone.step(action).observation[0]
    )


def test_actions_are_scaled_to_the_tasks_range():
    body = MuJoCo("Humanoid-v5").begin([0])
    body.step(np.full((1, 17), 0.5))
    assert_allclose(body._bodies[0]._task.data.ctrl, 0.2, rtol=1e-6)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("Hoper-v5", r"unknown MuJoCo task 'Hoper-v5'; did you mean Hopper-v5\?"),
        ("Hopper-v4", r"did you mean Hopper-v5\?"),
        ("humanoid", r"did you mean Humanoid-v5\?"),
        ("Pusher-v5", "expected one of HalfCheetah-v5, Hopper-v5, Walker2d-v5, Ant-v5, Humanoid-v5"),
    ],
)
def test_an_unknown_task_is_refused_with_near_names(task, message):
    with pytest.raises(ValueError, match=message):
        MuJoCo(task)


def test_a_time_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="time_limit must be at least 1 agent step, got 0"):
        MuJoCo(time_limit=0)


@pytest.mark.parametrize("package", ["gymnasium", "mujoco"])
def test_a_missing_package_says_what_to_install(monkeypatch, package):
    mujoco._packages.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    try:
        with pytest.raises(ImportError, match=r"pip install 'dormant\[mujoco\]'"):
            MuJoCo("Ant-v5").begin([0])
    finally:
        mujoco._packages.cache_clear()


def test_nothing_is_said_and_no_file_is_left(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    MuJoCo("HalfCheetah-v5").begin([0])
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr() == ("", "")
