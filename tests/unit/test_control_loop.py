"""The control loop: units, schedules, and results. Results do not depend on chunks, other seeds or overlapped work."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from learning.control_probes import ControlProbes
from numpy.testing import assert_allclose, assert_array_equal
from runs_of_loops import assert_rows_have_distances, played, trees_equal

from dormant import Every, Prune, ReDo, Reset
from dormant.rl import host
from dormant.rl.agents.sac import NETWORKS, SAC
from dormant.rl.control import ControlTraining
from dormant.rl.envs import ControlOutcome

AGENT = SAC(hidden=(8,), batch_size=4, min_replay=16, replay_capacity=48, polyak=0.1)
TRAINING = ControlTraining(
    agent=AGENT,
    env=ControlProbes(),
    intervention=Every(10, ReDo(tau=0.5)),
    agent_steps=64,
    log_period=16,
    seeds=(3, 5),
    score_batch=8,
    eval_episodes=2,
    eval_period=32,
)
ALONE = replace(TRAINING, seeds=(0,), eval_period=640)


def test_an_episode_that_is_cut_off_is_bootstrapped_and_one_that_ends_is_not():
    flags = np.array([[True, False, True], [False, True, True]])
    seen, actions, after = np.zeros((3, 1)), np.ones((3, 1)), np.full((3, 1), 2.0)
    outcome = ControlOutcome(after.astype(np.float32), np.zeros(3, np.float32), *flags)
    *_, discount, observation = TRAINING.columns(seen, actions, outcome)
    assert_allclose(discount, [0, AGENT.gamma, 0])
    assert_array_equal(observation, after)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return played(TRAINING, tmp_path_factory.mktemp("run"))


def test_metrics_have_a_value_for_each_seed(run):
    _, _, metrics = run
    assert_array_equal([row["agent_steps"] for row in metrics], [[16] * 2, [32] * 2, [48] * 2, [64] * 2])
    assert_array_equal([row["gradient_steps"][0] for row in metrics], [0, 16, 32, 48])
    assert [bool(np.isfinite(row["eval_return"]).all()) for row in metrics] == [False, True, False, True]
    for name in ("loss", "actor_loss", "q_mean", "entropy", "temperature"):
        assert [bool(np.isfinite(row[name]).all()) for row in metrics] == [False, True, True, True]
    for row in metrics:
        assert {value.shape for name, value in row.items() if not name.startswith("scores/")} == {(2,)}
        assert_allclose(row["dormant/0.1/critic2/dense_0"], (row["scores/critic2/dense_0"] <= 0.1).mean(1))
    assert all((metrics[-1][f"recycled/{name}/dense_0"] > 0).any() for name in NETWORKS)


def test_dormant_fractions_are_pooled_over_each_network_and_over_all(run):
    for row in run[2]:
        parts = [row[f"dormant/0.1/{name}/all"] for name in NETWORKS]
        assert_allclose(parts, [row[f"dormant/0.1/{name}/dense_0"] for name in NETWORKS])
        assert_allclose(row["dormant/0.1/all"], np.mean(parts, axis=0), rtol=1e-6)


def test_rows_have_the_condition_of_the_networks(run):
    _, states, rows = run
    assert_rows_have_distances([state.agent.learner.params for state in states[1:]], rows[1:])
    assert {f"isometry/{name}/head/kernel" for name in NETWORKS} <= rows[0].keys()


def test_a_state_is_gone_on_from_again(run):
    loop, states, metrics = run
    written = jax.tree.map(np.array, states[2])
    state, row = loop.advance(written)
    trees_equal(state, states[3])
    trees_equal(row, metrics[2])
    trees_equal(loop.advance(state)[0], states[4])


def test_chunks_and_evaluation_do_not_change_a_run(run, tmp_path):
    once = replace(TRAINING, log_period=64, eval_period=64, eval_episodes=1)
    trees_equal(played(once, tmp_path)[1][-1], run[1][-1])


def test_a_seed_does_not_depend_on_its_company(run, tmp_path):
    loop, states, metrics = run
    alone, own, rows_alone = played(replace(TRAINING, seeds=(5,)), tmp_path)
    for mine, theirs in zip(jax.tree.leaves(own[-1]), jax.tree.leaves(states[-1]), strict=True):
        assert_allclose(np.asarray(mine)[0], np.asarray(theirs)[1], rtol=1e-5, atol=1e-6)
    assert_allclose(alone.rings[0].steps, loop.rings[1].steps, rtol=1e-5, atol=1e-6)
    assert_allclose(rows_alone[-1]["eval_return"][0], metrics[-1]["eval_return"][1], rtol=1e-5)


def test_the_shorter_gradient_step_changes_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(host, "may_change", lambda *_: True)
    _, plain, _ = played(TRAINING, tmp_path)
    for mine, theirs in zip(jax.tree.leaves(plain[-1]), jax.tree.leaves(run[1][-1]), strict=True):
        assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_gradient_steps_draw_from_the_steps_before_their_round(run):
    loop, _, _ = run
    rows, noise = TRAINING.batch(loop.rings, 40, next(TRAINING.draws(range(40, 41))))
    there = {row.tobytes() for row in loop.rings[1].steps[:40]}
    assert {row.tobytes() for row in rows[:, 1].reshape(-1, rows.shape[-1])} <= there
    assert noise.shape == (1, 2, 2, 4, 1)


def test_a_truncated_episode_is_bootstrapped_and_a_terminated_one_is_not():
    seen, flags = np.zeros((2, 7), np.float32), np.array([True, False])
    outcome = ControlOutcome(seen, np.ones(2, np.float32), flags, ~flags)
    assert_allclose(TRAINING.columns(seen, np.zeros((2, 1)), outcome)[3], [0.0, AGENT.gamma])
    assert outcome.restarted.all()


def test_actions_are_random_and_nothing_is_learned_before_min_replay(run):
    loop, states, _ = run
    trees_equal(states[1].agent, states[0].agent)
    action = loop.rings[0].steps[:16, TRAINING.env.observations]
    assert (np.abs(action) < 1).all() and len(np.unique(action)) == 16


def test_the_replay_keeps_what_was_seen_and_done(run):
    ring = run[0].rings[0].steps[:64]
    before, after = ring[:, :7], ring[:, -7:]
    going_on = ring[:, 9] > 0
    assert_array_equal(ring[going_on, 9], np.float32(AGENT.gamma))
    assert going_on.any() and not going_on.all()
    assert_array_equal(before[1:][going_on[:-1]], after[:-1][going_on[:-1]])


def test_pruning_acts_at_every_step_on_every_network_at_replay_ratio_a_quarter(tmp_path):
    training = replace(ALONE, replay_ratio=0.25, intervention=Prune(tau=0.5, period=10))
    _, states, metrics = played(training, tmp_path)
    assert_array_equal(metrics[-1]["gradient_steps"], [12])
    for name in NETWORKS:
        gone = np.asarray(states[-1].intervention.gone[f"{name}/dense_0"][0])
        assert gone.any()
        assert not np.asarray(states[-1].agent.learner.params[name]["head"]["kernel"])[0][gone].any()


def test_targets_are_reset_too_if_the_agent_says_so_at_replay_ratio_two(tmp_path):
    """The reset is at the last gradient step, so no later step hides it. With Polyak 0, only resets change targets."""
    agent = replace(AGENT, reset_targets=True, polyak=0.0)
    training = replace(ALONE, replay_ratio=2.0, agent=agent, intervention=Every(96, Reset(layers=("critic1",))))
    _, states, metrics = played(training, tmp_path)
    assert_array_equal(metrics[-1]["gradient_steps"], [96])
    trees_equal(states[-1].agent.target["critic1"], states[-1].agent.learner.params["critic1"])
    trees_equal(states[-1].agent.target["critic2"], states[0].agent.target["critic2"])


def test_an_evaluation_plays_whole_episodes_with_the_mean_action(tmp_path):
    """Each episode has one or two steps. Two evaluations of the same parameters give equal returns."""
    state = TRAINING.init()
    params = [jax.tree.map(lambda leaf, n=n: leaf[n], state.agent.learner.params) for n in (0, 1)]
    first, again = (np.array(TRAINING.evaluate(params, 32, tmp_path).returns) for _ in range(2))
    assert_array_equal(first, again)
    assert first.shape == (2, 2) and first.dtype == np.float32
    assert np.isfinite(first).all() and (np.abs(first) <= 2.5).all()


@pytest.mark.parametrize(
    "change",
    [{"replay_ratio": 0.3}, {"log_period": 7}, {"eval_period": 24}, {"seeds": ()}, {"eval_episodes": 0}],
)
def test_a_training_refuses_numbers_that_do_not_fit(change):
    with pytest.raises(ValueError, match="seeds" if "seeds" in change else next(iter(change))):
        replace(TRAINING, **change)


def test_a_training_that_does_not_fit_is_refused_before_it_begins(tmp_path):
    training = replace(TRAINING, agent=replace(AGENT, replay_capacity=10**12))
    with pytest.raises(ValueError, match=r"2 rings of 1,000,000,000,000 agent steps take 2 x \("):
        training.open(tmp_path / "replay", training.init())
    assert not (tmp_path / "replay").exists()


def test_a_checkpoint_is_due_before_the_slack_runs_out(run):
    loop, _, _ = run
    assert TRAINING.replay.slack == 48
    assert [loop.save_due(done, 0) for done in (64, 80, 96)] == [False, False, True]
