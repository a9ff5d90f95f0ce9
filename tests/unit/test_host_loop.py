"""The host loop: units, schedules, and results. Results do not depend on chunks, other seeds or overlapped work."""

from dataclasses import replace

import cv2
import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from runs_of_loops import assert_rows_have_distances, played, trees_equal

from dormant import Chain, Every, Prune, ReDo
from dormant.interventions.schedule import may_change
from dormant.lab.runs import runner
from dormant.lab.runs.description import describe
from dormant.lab.runs.folder import rows
from dormant.rl import host
from dormant.rl.agents.dqn import DQN
from dormant.rl.atari import AtariTraining
from dormant.rl.condition import TRIED
from dormant.rl.device import DeviceTraining, _condition, chunk
from dormant.rl.envs.atari import Atari
from dormant.rl.learning import EVALUATED
from dormant.rl.networks import MLP
from dormant.rl.replay.frames import FrameReplay

AGENT = DQN(
    network=MLP((8,)), replay_capacity=48, min_replay=16, batch_size=4, target_period=16, epsilon_steps=64, n_step=2
)
TRAINING = AtariTraining(
    agent=AGENT,
    env=Atari("Pong", time_limit=30),
    intervention=Every(10, ReDo(tau=0.5)),
    agent_steps=64,
    log_period=16,
    seeds=(3, 5),
    score_batch=8,
    eval_agent_steps=40,
    eval_period=32,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return played(TRAINING, tmp_path_factory.mktemp("run"))


def test_metrics_have_a_value_for_each_seed(run):
    _, _, metrics = run
    assert_array_equal([row["agent_steps"] for row in metrics], [[16] * 2, [32] * 2, [48] * 2, [64] * 2])
    assert_array_equal([row["gradient_steps"][0] for row in metrics], [0, 16, 32, 48])
    assert [bool(np.isfinite(row["eval_return"]).all()) for row in metrics] == [False, True, False, True]
    assert [bool(np.isfinite(row["loss"]).all()) for row in metrics] == [False, True, True, True]
    assert_array_equal([row["train_episodes"] for row in metrics], [[0] * 2, [1] * 2, [0] * 2, [1] * 2])
    for row in metrics:
        assert {value.shape for name, value in row.items() if not name.startswith("scores/")} == {(2,)}
        assert_allclose(row["dormant/0.1/dense_0"], (row["scores/dense_0"] <= 0.1).mean(1))
    assert (metrics[-1]["recycled/dense_0"] > 0).all()


def test_the_rank_of_features_is_measured_where_it_is_asked_for(run, tmp_path):
    loop, states, metrics = run
    ranked = replace(TRAINING, rank_batch=12)
    found = replace(loop, training=ranked).representations(states[-1])
    seen = loop._inputs(states[-1], "rank", 12)
    for seed in range(2):
        layer = jax.tree.map(lambda leaf, seed=seed: np.asarray(leaf[seed]), states[-1].agent.learner.params["dense_0"])
        features = np.maximum(seen[seed].reshape(12, -1) @ layer["kernel"] + layer["bias"], 0)
        values = np.linalg.svd(features, compute_uv=False)
        assert float(found["srank"][seed]) == np.sum(np.cumsum(values) < 0.99 * values.sum()) + 1
        shares = values[values > 0] / values.sum()
        assert_allclose(found["effective_rank"][seed], np.exp(-(shares * np.log(shares)).sum()), rtol=1e-4)
        assert_allclose(found["stable_rank"][seed], (values**2).sum() / values.max() ** 2, rtol=1e-4)
        assert_allclose(found["feature_norm"][seed], np.linalg.norm(features, axis=1).mean(), rtol=1e-5)
        weights = jax.tree.leaves(jax.tree.map(lambda leaf, seed=seed: leaf[seed], states[-1].agent.learner.params))
        assert_allclose(
            found["weight_norm"][seed], np.linalg.norm(np.concatenate([w.ravel() for w in weights])), rtol=1e-5
        )
    assert "srank" not in metrics[-1]
    # The first chunk has no evaluation.
    first = ranked.open(tmp_path, ranked.init()).advance(ranked.init())[1]["srank"]
    assert np.ma.getmaskarray(first).tolist() == [True, True]


def test_metrics_have_the_names_of_the_device_loop(run):
    _, _, metrics = run
    training = DeviceTraining(agent=AGENT, intervention=TRAINING.intervention, log_period=32, seeds=(0,))
    names = jax.eval_shape(lambda state: chunk(*training.program, state, 0)[1], jax.eval_shape(training.init))
    names |= jax.eval_shape(
        lambda state: _condition(*training.program, state.agent.learner.params, state), jax.eval_shape(training.init)
    )
    assert {name for each in metrics for name in each} == {*names, *EVALUATED}


def test_rows_have_the_condition_of_the_network(run):
    _, states, rows = run
    assert_rows_have_distances([state.agent.learner.params for state in states[1:]], rows[1:])


def test_a_trial_step_is_measured_and_not_taken(run):
    loop, states, _ = run
    ranked, before = replace(loop, training=replace(TRAINING, rank_batch=12)), jax.tree.map(np.array, states[-1])
    found = ranked.trial(states[-1])
    assert set(found) == set(TRIED)
    assert all(np.isfinite(each).all() and each.shape == (2,) for each in found.values())
    assert (found["gradient_norm"] > 0).all() and (found["value_churn"] > 0).all()
    trees_equal(before, states[-1])
    trees_equal(found, ranked.trial(states[-1]))


def test_a_state_is_gone_on_from_again(run):
    loop, states, metrics = run
    written = jax.tree.map(np.array, states[2])
    state, row = loop.advance(written)
    trees_equal(state, states[3])
    trees_equal(row, metrics[2])
    trees_equal(loop.advance(state)[0], states[4])


def test_chunks_and_evaluation_do_not_change_a_run(run, tmp_path):
    _, states, _ = run
    once = replace(TRAINING, log_period=64, eval_period=64, eval_agent_steps=1)
    trees_equal(played(once, tmp_path)[1][-1], states[-1])


@pytest.mark.fusing_compiler
def test_a_seed_does_not_depend_on_its_company(run, tmp_path):
    loop, states, metrics = run
    alone, own, rows_alone = played(replace(TRAINING, seeds=(5,)), tmp_path)
    for mine, theirs in zip(jax.tree.leaves(own[-1]), jax.tree.leaves(states[-1]), strict=True):
        assert_allclose(np.asarray(mine)[0], np.asarray(theirs)[1], rtol=1e-5, atol=1e-6)
    trees_equal(alone.rings[0], loop.rings[1])
    assert_allclose(rows_alone[-1]["eval_return"][0], metrics[-1]["eval_return"][1])


def test_overlap_and_the_shorter_gradient_step_change_nothing(run, tmp_path, monkeypatch):
    _, states, metrics = run
    monkeypatch.setattr(FrameReplay, "drawn_before", lambda *_: False)
    monkeypatch.setattr(host, "may_change", lambda *_: True)
    _, plain, rows_plain = played(TRAINING, tmp_path)
    trees_equal(jax.tree.leaves(plain[-1].env), jax.tree.leaves(states[-1].env))
    for mine, theirs in zip(jax.tree.leaves(plain[-1]), jax.tree.leaves(states[-1]), strict=True):
        assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)
    trees_equal(rows_plain[-1]["recycled/dense_0"], metrics[-1]["recycled/dense_0"])


@pytest.mark.parametrize(("ratio", "gradient_steps"), [(0.25, 12), (2.0, 96)])
def test_the_replay_ratio_counts_gradient_steps_per_agent_step(ratio, gradient_steps, tmp_path):
    training = replace(TRAINING, replay_ratio=ratio, intervention=Chain(), seeds=(0,), eval_period=640)
    _, _, metrics = played(training, tmp_path)
    assert_array_equal(metrics[-1]["gradient_steps"], [gradient_steps])
    assert np.isfinite(metrics[-1]["loss"]).all()


def test_the_target_is_copied_after_so_many_agent_steps(tmp_path):
    """Learning starts at step 16. From then on, the networks are equal only after the copies at steps 32, 48 and 64."""
    training = replace(TRAINING, log_period=8, intervention=Chain(), seeds=(0,), eval_period=640)
    _, states, _ = played(training, tmp_path)
    same = [np.array_equal(s.agent.target["head"]["kernel"], s.agent.learner.params["head"]["kernel"]) for s in states]
    assert same == [True, True, True, False, True, False, True, False, True]


def test_the_replay_keeps_what_was_seen_done_and_clipped(run):
    loop, states, _ = run
    ring, slots = loop.rings[0], TRAINING.replay.slots
    assert slots >= 64
    assert_array_equal(np.flatnonzero(ring.last[:64]), [29, 59])
    assert_allclose(ring.discount[:64], 0.99)
    assert set(ring.action[:64]) <= set(range(TRAINING.env.actions))
    assert np.abs(ring.reward).max() <= 1
    assert_array_equal(states[-1].env.elapsed, [4, 4])


def test_pruning_acts_at_every_step(tmp_path):
    """Pruning keeps pruned weights at zero at every step, also between its checks. Then it needs no scores."""
    training = replace(TRAINING, intervention=Prune(tau=0.5, period=10), seeds=(0,), eval_period=640)
    _, states, _ = played(training, tmp_path)
    gone = np.asarray(states[-1].intervention.gone["dense_0"][0])
    assert gone.any()
    assert not np.asarray(states[-1].agent.learner.params["head"]["kernel"])[0][gone].any()


def test_may_change_follows_schedules():
    redo = Every(10, ReDo(), start=20, stop=40)
    assert [step for step in range(60) if may_change(Chain(redo), step)] == [20, 30]
    assert may_change(Chain(redo, Prune()), 1)


def test_an_evaluation_plays_whole_episodes(monkeypatch, tmp_path):
    """Episodes have 30 steps, so an evaluation of at least 40 steps plays two episodes."""
    steps = []

    def act(training, params, seen, explores, action):
        steps.append(explores)
        return action, np.zeros(2, np.float32)

    monkeypatch.setattr(AtariTraining, "act_with_value", act)
    assert [len(returns) for returns in TRAINING.evaluate([], 32, tmp_path).returns] == [2, 2]
    assert len(steps) == 60


def test_the_first_episode_of_an_evaluation_is_filmed_and_changes_nothing(tmp_path):
    """A resumed run may change `video`, because this option does not change results."""
    filmed, plain = replace(TRAINING, video=True), TRAINING
    assert describe(filmed) == describe(plain)
    loop, _, metrics = played(replace(filmed, agent_steps=32, seeds=(3,)), tmp_path / "replay")
    assert [film.name for film in loop.videos.iterdir()] == ["32.mp4"]
    video = cv2.VideoCapture(str(loop.videos / "32.mp4"))
    assert (video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (320, 420)
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 30
    assert metrics[-1]["eval_return"] == -0.0


@pytest.mark.parametrize(
    "change",
    [{"replay_ratio": 0.3}, {"log_period": 7}, {"eval_period": 24}, {"seeds": ()}, {"eval_agent_steps": 0}],
)
def test_a_training_refuses_numbers_that_do_not_fit(change):
    with pytest.raises(ValueError, match="seeds" if "seeds" in change else next(iter(change))):
        replace(TRAINING, **change)


def test_a_training_that_does_not_fit_is_refused_before_it_begins(tmp_path):
    training = replace(TRAINING, agent=replace(AGENT, replay_capacity=10**9))
    with pytest.raises(ValueError, match=r"2 rings of 1,000,000,000 agent steps take 2 x \("):
        training.open(tmp_path / "replay", training.init())
    assert not (tmp_path / "replay").exists()


def test_a_checkpoint_is_made_before_the_slack_runs_out(tmp_path, monkeypatch):
    agent = replace(AGENT, replay_capacity=16)
    training = replace(TRAINING, agent=agent, intervention=Chain(), seeds=(0,), agent_steps=96, eval_period=960)
    assert training.replay.slack == 16
    saved = []
    save = runner.save
    monkeypatch.setattr(runner, "save", lambda manager, done, *rest: saved.append(done) or save(manager, done, *rest))
    folder = runner.run(training, tmp_path / "run", checkpoint_seconds=1e9)
    assert saved == [32, 48, 64, 80, 96]
    assert [row["agent_steps"] for row in rows(folder.metrics)] == [0, 16, 32, 48, 64, 80, 96]
