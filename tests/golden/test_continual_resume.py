"""Games in a row: what changes when the next game begins. A run killed between two games resumes to the same bits."""

from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.kills import assert_same_run
from numpy.testing import assert_array_equal
from runs_of_loops import trees_equal

from dormant import Every, ReDo
from dormant.lab.runs import runner
from dormant.lab.runs.folder import RunFolder, rows
from dormant.rl.agents.dqn import DQN
from dormant.rl.continual import ContinualTraining, Games
from dormant.rl.networks import MLP

AGENT = DQN(MLP((8,)), min_replay=20, replay_capacity=64, batch_size=4, target_period=16, epsilon_steps=40, double=True)
TRAINING = ContinualTraining(
    AGENT,
    Games(("Asterix", "Breakout"), steps=80, time_limit=30),
    Every(10, ReDo(tau=0.5)),
    log_period=40,
    seeds=(3,),
    score_batch=8,
    eval_period=4_000,
)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def run():
    """Returns all states and all metrics of a whole run."""
    states, metrics = [TRAINING.init()], []
    for _ in range(4):
        state, row = TRAINING.advance(states[-1])
        states.append(state)
        metrics.append(row)
    return states, metrics


def test_a_switch_changes_the_game_and_nothing_else(run):
    states, metrics = run
    assert_array_equal([row["game"][0] for row in metrics], [0, 0, 1, 1])
    # Each game begins with 20 agent steps without learning.
    assert_array_equal([row["gradient_steps"][0] for row in metrics], [20, 60, 80, 120])
    for number, moved in enumerate(([True, True, False, False], [False, False, True, True])):
        games = [jax.tree.leaves(state.env[number]) for state in states]
        changed = [any((a != b).any() for a, b in zip(before, after, strict=True)) for before, after in pairwise(games)]
        assert changed == moved


def test_the_return_of_an_episode_does_not_cross_a_switch(run):
    states, _ = run
    poisoned = states[2]._replace(episode_return=states[2].episode_return + 1_000)
    trees_equal(TRAINING.advance(poisoned)[1], TRAINING.advance(states[2])[1])


def test_a_new_replay_holds_steps_of_the_new_game_only():
    kept, new = (replace(TRAINING, keep_replay=keep).phases[1].replay for keep in (True, False))
    uniform = jnp.linspace(0, 0.999, 200)
    slots = [set(np.asarray(each._starts(jnp.int32(100), uniform)).tolist()) for each in (kept, new)]
    assert slots == [set(range(64)), {step % 64 for step in range(80, 100)}]
    assert set(np.asarray(new._starts(jnp.int32(150), uniform)).tolist()) == set(range(64))


@pytest.mark.parametrize("change", [{"log_period": 30}, {"agent": replace(AGENT, n_step=2)}])
def test_settings_that_do_not_fit_a_switch_are_refused(change):
    with pytest.raises(ValueError, match="must be"):
        replace(TRAINING, **change)


@pytest.mark.parametrize("done", [80, 120])
def test_a_run_that_is_killed_at_a_switch_or_after_it_ends_with_the_same_bits(done, tmp_path, monkeypatch):
    runner.run(TRAINING, tmp_path / "whole", checkpoint_seconds=0.0)
    save = runner.save

    def killed(manager, step, *rest):
        if step == done:  # the rows are written, the checkpoint is not
            raise Killed
        save(manager, step, *rest)

    monkeypatch.setattr(runner, "save", killed)
    with pytest.raises(Killed):
        runner.run(TRAINING, tmp_path / "killed", checkpoint_seconds=0.0)
    monkeypatch.setattr(runner, "save", save)
    runner.run(TRAINING, tmp_path / "killed", checkpoint_seconds=0.0)
    names = assert_same_run(tmp_path / "whole", tmp_path / "killed", 160)
    assert any("params" in name for name in names)
    recycled = [row.get("recycled/dense_0", 0) for row in rows(RunFolder(tmp_path / "whole").metrics)]
    assert max(recycled) > 0, "the run must recycle for this to say anything about recycling"
