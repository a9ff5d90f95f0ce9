"""Offline DQN and distillation on a few transitions. The values of these transitions are known."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dopamine_log import dopamine
from learning.probes import GAMMA, PROBES

from dormant.rl.agents.dqn import DQN
from dormant.rl.atari import AtariTraining
from dormant.rl.data import transitions
from dormant.rl.data.sources import DopamineReplay, FinishedRun, OwnReplay, Parts, TransitionFiles
from dormant.rl.data.transitions import Transitions
from dormant.rl.device import DeviceTraining
from dormant.rl.distillation import DistillationRun, DistillationTraining, Lesson, _fresh, regression_loss, remembered
from dormant.rl.envs.atari import Atari
from dormant.rl.envs.minatar import MinAtar
from dormant.rl.networks import MLP
from dormant.rl.offline import OfflineTraining, aimed
from dormant.rl.replay.files import checksum, flush
from dormant.rl.schedule import key_for

TWO_STEPS = PROBES[2]  # two steps, observations 0 and 1, reward only at the second step, for any actions
AGENT = DQN(
    MLP((16,)), gamma=GAMMA, batch_size=16, learning_rate=3e-3, min_replay=1, replay_capacity=8, target_period=50
)
CHAIN = Transitions(
    np.array([[0], [0], [1], [1]], np.float32),
    np.array([0, 1, 0, 1]),
    np.array([0, 0, 1, 1], np.float32),
    np.array([False, False, True, True]),
    np.array([False, False, True, True]),
    np.array([[1], [1], [2], [2]], np.float32),
)
STATES = np.array([[0], [1]], np.float32)


@pytest.fixture
def offline(tmp_path):
    """An offline training with two seeds on the transitions of CHAIN."""
    for seed in (0, 4):
        transitions.write(tmp_path / f"seed{seed}.npz", CHAIN)
    return OfflineTraining(
        AGENT,
        TWO_STEPS,
        TransitionFiles(tmp_path),
        gradient_steps=1_200,
        log_period=400,
        seeds=(0, 4),
        score_batch=8,
        eval_episodes=2,
        eval_period=800,
    )


def trained(training, folder):
    """Runs a training. Returns its last state and the metrics of each chunk."""
    run = training.after(folder)
    state, rows = run.init(), []
    while run.agent_steps_done(state) < run.agent_steps:
        state, metrics = run.advance(state)
        rows.append(metrics)
    return state, rows


def values(state, seed=0):
    params = jax.tree.map(lambda leaf: leaf[seed], state.agent.learner.params)
    return np.asarray(AGENT.network.apply(params, jnp.asarray(STATES)))


def test_moving_targets_lead_to_the_right_values(offline, tmp_path):
    state, rows = trained(offline, tmp_path)
    for seed in (0, 1):
        np.testing.assert_allclose(values(state, seed), [[GAMMA, GAMMA], [1, 1]], atol=0.1)
    assert [row["gradient_steps"].tolist() for row in rows] == [[400, 400], [800, 800], [1200, 1200]]
    assert [np.ma.getmaskarray(row["eval_return"]).all() for row in rows] == [True, False, True]
    assert rows[1]["eval_return"].tolist() == [1.0, 1.0]
    begin, params = offline.network.init(key_for(4, "fresh")), state.agent.learner.params
    moved = np.concatenate([np.ravel(a[1] - b) for a, b in zip(*map(jax.tree.leaves, (params, begin)), strict=True)])
    np.testing.assert_allclose(rows[-1]["distance_from_start"][1], np.sqrt(np.square(moved).mean()), rtol=1e-5)
    assert 0 < rows[-1]["distance_since_log"][1] < rows[0]["distance_since_log"][1]
    # The target is copied every 50 gradient steps. So the last gradient step, 1,200, also copies it.
    np.testing.assert_array_equal(state.agent.target["head"]["kernel"], state.agent.learner.params["head"]["kernel"])


def test_a_frozen_network_gives_its_own_values_throughout(offline, tmp_path):
    training = replace(offline, targets="frozen network", eval_period=0, seeds=(0,))
    state, rows = trained(training, tmp_path)
    frozen = training.network.init(key_for(0, "target"))
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda leaf: leaf[0], state.agent.target), frozen)
    after = GAMMA * float(AGENT.network.apply(frozen, jnp.ones((1, 1))).max())
    np.testing.assert_allclose(values(state), [[after, after], [1, 1]], atol=0.1)
    assert np.ma.getmaskarray(rows[1]["eval_return"]).all()


def test_fixed_numbers_are_learnt_for_each_transition_in_place_of_rewards(offline, tmp_path):
    state, _ = trained(replace(offline, targets="fixed numbers", eval_period=0, seeds=(4,)), tmp_path)
    numbers = np.asarray(jax.random.normal(key_for(4, "numbers"), (4,))).reshape(2, 2)
    np.testing.assert_allclose(values(state), numbers, atol=0.15)
    assert np.abs(numbers - [[GAMMA, GAMMA], [1, 1]]).max() > 0.5


def test_fixed_numbers_can_have_the_scale_of_q_values(offline):
    _, ring = transitions.ring_of(CHAIN, GAMMA)
    plain, large = (aimed("fixed numbers", 0, ring, mean).reward for mean in (0.0, 25.0))
    np.testing.assert_allclose(large, plain + 25, rtol=1e-6)
    with pytest.raises(ValueError, match="numbers_mean needs targets='fixed numbers', got 'moving'"):
        replace(offline, numbers_mean=25.0)


def test_targets_that_are_not_numbers_leave_the_data_as_it_is():
    _, ring = transitions.ring_of(CHAIN, GAMMA)
    assert aimed("moving", 0, ring) is ring and aimed("frozen network", 0, ring) is ring
    other = aimed("fixed numbers", 0, ring)
    assert not other.discount.any() and (other.observations == ring.observations).all()
    assert (aimed("fixed numbers", 0, ring).reward == other.reward).all()
    assert (aimed("fixed numbers", 1, ring).reward != other.reward).all()


def test_data_of_another_environment_and_none_are_refused(offline, tmp_path):
    with pytest.raises(
        ValueError, match=r"a different environment.*shape \(1,\), and it has at least 2 actions.*shape \(3,\) and 2"
    ):
        replace(offline, env=Wide()).after(tmp_path)
    with pytest.raises(ValueError, match=r"seed9.npz cannot be read"):
        replace(offline, seeds=(9,)).after(tmp_path)
    with pytest.raises(ValueError, match="no folder of the data set was named; name it with --data"):
        replace(offline, data=TransitionFiles()).after(tmp_path)


@dataclass(frozen=True)
class Wide(type(TWO_STEPS)):
    """A problem with one step. Its observations have three numbers."""

    name: str = "wide"
    length: int = 1
    random_sign: bool = False
    reward_by: str = "constant"
    places: tuple = ()
    values: tuple = ()
    observation_shape = (3,)


def test_the_replay_of_a_run_is_written_once_and_compared_afterwards(tmp_path):
    own = DeviceTraining(AGENT, TWO_STEPS, seeds=(0,), agent_steps=2_000, score_batch=4)
    source = OwnReplay(own)
    assert source.needs(PROBES[0], (5, 6)) == (replace(own, env=PROBES[0], seeds=(5, 6)),)
    state = jax.eval_shape(own.init)
    ring = own.replay.init()
    for number in range(3):
        column = [jnp.asarray(field[number]) for field in CHAIN]
        discount = jnp.where(column[3], 0.0, GAMMA)
        ring = own.replay.add(ring, jnp.array(number), column[0], column[1], column[2], discount, column[4], column[5])
    state = state._replace(replay=jax.tree.map(lambda leaf: leaf[None], ring), agent_steps=jnp.array([3]))
    ended = FinishedRun(state, tmp_path / "nothing")
    data = source.open(AGENT, TWO_STEPS, (0,), tmp_path, ended)
    assert (data.steps, data.at(0).reward.tolist()) == (3, [[0, 0, 1]])
    written = transitions.read(tmp_path / "seed0.npz")
    assert written.action.tolist() == [0, 1, 0] and written.terminal.tolist() == [False, False, True]
    assert source.open(AGENT, TWO_STEPS, (0,), tmp_path, ended).steps == 3
    transitions.write(tmp_path / "seed0.npz", CHAIN)
    with pytest.raises(ValueError, match=r"seed0\.npz holds the replay of another run"):
        source.open(AGENT, TWO_STEPS, (0,), tmp_path, ended)


def test_dopamines_parts_are_drawn_anew_every_so_many_gradient_steps(tmp_path):
    for run in (1, 3):
        folder = tmp_path / "Pong" / str(run) / "replay_logs"
        folder.mkdir(parents=True)
        for part in range(4):
            dopamine(folder, part, cursor=9, terminal=[0] * (4 + part) + [1] + [0] * (5 - part))
    source = DopamineReplay(tmp_path, parts=4, every=10)
    parts = Parts(source, tmp_path / "Pong", GAMMA, (0, 2))
    drawn = [parts.at(step) for step in (0, 9, 10, 20, 30, 40)]
    assert drawn[0] is drawn[1] and drawn[0].frames.shape == (2, 9, 2, 2)
    ends = [tuple(np.asarray(each.discount == 0).argmax(axis=1).tolist()) for each in drawn]
    expected = [
        tuple(4 + int(np.random.default_rng([seed, visit]).integers(4)) for seed in (0, 2))
        for visit in (0, 0, 1, 2, 3, 4)
    ]
    assert ends == expected and len(set(ends)) > 1
    with pytest.raises(ValueError, match=r"there is no .*Breakout; --data must be the folder of DQN-replay"):
        source.open(AGENT, Atari("Breakout"), (0,), tmp_path)
    with pytest.raises(ValueError, match="DQN-replay holds Atari games only"):
        source.open(AGENT, MinAtar("Breakout"), (0,), tmp_path)


def test_lengths_that_do_not_fit_are_refused(offline):
    with pytest.raises(ValueError, match="gradient_steps must be a multiple of log_period, got 1200 and 500"):
        replace(offline, log_period=500)
    with pytest.raises(ValueError, match="eval_period must be a multiple of log_period, or 0, got 600 and 400"):
        replace(offline, eval_period=600)


DISTILLATION = DistillationTraining(
    AGENT,
    TWO_STEPS,
    teacher=DeviceTraining(AGENT, replay_ratio=0.25),
    gradient_steps=800,
    log_period=400,
    seeds=(1,),
    score_batch=8,
    states=2,
)


def lesson(begin):
    """Returns a lesson on the states of the chain. The teacher's values are 3 and -1 in every state."""
    teacher = jax.tree.map(jnp.zeros_like, begin)
    teacher["head"]["bias"] = jnp.array([3.0, -1.0])
    return jax.tree.map(lambda leaf: leaf[None], Lesson(teacher, jnp.asarray(STATES), begin))


def test_the_loss_is_the_squared_error_over_all_values():
    params = jax.tree.map(jnp.zeros_like, AGENT.network.init(jax.random.key(0), (1,), 2))
    taught = jnp.array([[1.0, 2.0], [0.0, -1.0]])
    assert float(regression_loss(AGENT, params, jnp.asarray(STATES), taught)) == 6 / 4


def test_a_student_learns_its_teachers_values_from_where_it_begins():
    begin = DISTILLATION.network.init(jax.random.key(7))
    run = DistillationRun(DISTILLATION, lesson(begin))
    state = run.init()
    jax.tree.map(lambda mine, given: np.testing.assert_array_equal(mine[0], given), state.learner.params, begin)
    first = run.measure(state)["loss"]
    for _ in range(2):
        state, metrics = run.advance(state)
    student = jax.tree.map(lambda leaf: leaf[0], state.learner.params)
    np.testing.assert_allclose(AGENT.network.apply(student, jnp.asarray(STATES)), [[3, -1], [3, -1]], atol=0.1)
    assert metrics["loss"][0] < 0.01 * first[0] and run.agent_steps_done(state) == 800
    assert set(metrics) >= {"dormant/0.1/all", "scores/dense_0", "gradient_steps"}
    assert 0 < metrics["distance_since_log"][0] < metrics["distance_from_start"][0]


def test_teacher_and_student_are_of_its_environment_and_seeds():
    used = DeviceTraining(AGENT, replay_ratio=1.0)
    teacher, student = replace(DISTILLATION, student=used).needs
    assert (teacher.env, teacher.seeds, teacher.replay_ratio) == (TWO_STEPS, (1,), 0.25)
    assert (student.env, student.seeds, student.replay_ratio) == (TWO_STEPS, (1,), 1.0)
    with pytest.raises(ValueError, match="the teacher must have the agent's network"):
        replace(DISTILLATION, teacher=DeviceTraining(replace(AGENT, network=MLP((8,)))))


def test_what_learns_from_a_run_does_not_begin_with_that_runs_weights(offline, tmp_path):
    seeds = jnp.arange(2)
    first = jax.vmap(lambda seed: DISTILLATION.network.init(key_for(seed, "init")))(seeds)
    student = _fresh(DISTILLATION, seeds)
    learner = replace(offline, seeds=(0, 4)).after(tmp_path).init().agent.learner.params
    for other in (student, learner):
        assert not np.isclose(other["head"]["kernel"][0], first["head"]["kernel"][0]).any()


def test_a_pretrained_student_begins_with_the_last_network_of_its_run():
    played = DISTILLATION.needs[0]
    fields = jax.eval_shape(played.init)
    ring = played.replay.init()._replace(observations=jnp.arange(16.0).reshape(8, 2, 1))
    ended = []
    for number in (1, 2):
        params = jax.tree.map(lambda leaf: leaf[None], DISTILLATION.network.init(jax.random.key(number)))
        agent = fields.agent._replace(learner=fields.agent.learner._replace(params=params))
        state = fields._replace(
            agent=agent, replay=jax.tree.map(lambda leaf: leaf[None], ring), agent_steps=jnp.array([5])
        )
        ended.append(FinishedRun(state, Path()))
    training = replace(DISTILLATION, states=500, student=DeviceTraining(AGENT))
    run = training.after(Path(), *ended)
    teacher, student = (each.state.agent.learner.params for each in ended)
    assert (run.lesson.teacher["head"]["kernel"] == teacher["head"]["kernel"]).all()
    assert (run.lesson.begin["head"]["kernel"] == student["head"]["kernel"]).all()
    fresh = _fresh(training, jnp.array(training.seeds))
    begin = replace(training, new_head=True).after(Path(), *ended).lesson.begin
    assert (begin["head"]["kernel"] == fresh["head"]["kernel"]).all()
    assert (begin["dense_0"]["kernel"] == student["dense_0"]["kernel"]).all()
    with pytest.raises(ValueError, match="new_head needs a pretrained student"):
        replace(DISTILLATION, new_head=True)
    assert run.lesson.states.shape == (1, 500, 1)
    # The ring has five steps with even observations. About a fifth of the drawn states equal each observation.
    found, counts = np.unique(run.lesson.states, return_counts=True)
    assert found.tolist() == [0, 2, 4, 6, 8] and counts.min() > 50


def test_a_teacher_on_atari_remembers_in_its_files(tmp_path):
    played = AtariTraining(replace(AGENT, min_replay=4), Atari("Pong"), seeds=(3,), agent_steps=1_000)
    ring = played.replay.open(tmp_path / "seed3", 0, checksum(0, 3))
    for step in range(6):
        frame = np.full((84, 84), step, np.uint8)
        played.replay.add(ring, step, frame, 0, 0.0, 0.99, False, frame)
    flush(ring)
    states = remembered(played, FinishedRun(SimpleNamespace(agent_steps=np.array([6])), tmp_path), 40)
    assert states.shape == (1, 40, 84, 84, 4) and states.dtype == np.uint8
    newest = np.asarray(states[0, :, 5, 5, 3])
    assert set(newest.tolist()) == set(range(6))
    np.testing.assert_array_equal(states[0, :, 0, 0, 2], np.maximum(newest.astype(int) - 1, 0))
