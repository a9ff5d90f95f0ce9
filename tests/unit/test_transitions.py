"""Logged transitions: files in our format, files from a ring, files of Dopamine, and data sets of Minari."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from dopamine_log import dopamine

from dormant.rl.data import dopamine as dopamine_files
from dormant.rl.data import transitions
from dormant.rl.data.dopamine import FrameMemory
from dormant.rl.data.transitions import Transitions
from dormant.rl.replay.device import Replay

STEPS = Transitions(
    np.array([[0, 1], [1, 1], [0, 0]], bool),
    np.array([2, 0, 1]),
    np.array([0.0, 1.0, -1.0], np.float32),
    np.array([False, True, False]),
    np.array([False, True, True]),
    np.array([[1, 1], [1, 0], [0, 1]], bool),
)


def same(one, other):
    for name, mine, theirs in zip(Transitions._fields, one, other, strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=name)


def test_a_file_gives_back_what_was_written(tmp_path):
    file = tmp_path / "new" / "seed0.npz"
    transitions.write(file, STEPS)
    same(transitions.read(file), STEPS)
    assert [each.name for each in file.parent.iterdir()] == ["seed0.npz"]
    assert set(np.load(file).files) == set(Transitions._fields)


def episode(number, steps, observations):
    return SimpleNamespace(
        id=number,
        observations=np.zeros((observations, 2)),
        actions=np.zeros(steps, int),
        rewards=np.zeros(steps),
        terminations=np.zeros(steps, bool),
        truncations=np.zeros(steps, bool),
    )


def test_a_minari_episode_that_lacks_an_observation_is_refused_by_its_number(monkeypatch):
    found = SimpleNamespace(iterate_episodes=lambda: [episode(0, 3, 4), episode(7, 3, 3)])
    monkeypatch.setattr(transitions, "_loaded", lambda name: found)
    with pytest.raises(ValueError, match=r"episode 7 of the Minari data set 'walk' has 3 steps and 3 observations"):
        transitions.read_minari("walk")


def test_a_file_that_is_no_transitions_is_refused(tmp_path):
    file = tmp_path / "seed0.npz"
    with pytest.raises(ValueError, match=r"seed0.npz cannot be read"):
        transitions.read(file)
    file.write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match=r"seed0.npz cannot be read"):
        transitions.read(file)
    np.savez(file, action=[1])
    with pytest.raises(ValueError, match="lacks observation, reward, terminal, last, next_observation"):
        transitions.read(file)
    np.savez(file, **STEPS._replace(reward=STEPS.reward[:2])._asdict())
    with pytest.raises(ValueError, match="at least one entry, and equally many in each array, got"):
        transitions.read(file)


def test_a_ring_is_emptied_oldest_first():
    replay = Replay(3, (2,), np.dtype(bool))
    ring = replay.init()
    for number in range(5):
        bits = jnp.array([number % 2, number // 2 % 2], bool)
        flags = jnp.array(number == 3), jnp.array(number >= 3)
        discount = jnp.where(flags[0], 0.0, 0.9)
        reward = jnp.float32(number)
        ring = replay.add(ring, jnp.array(number), bits, jnp.array(number), reward, discount, flags[1], ~bits)
    found = transitions.of_ring(replay, ring, 5)
    assert found.action.tolist() == [2, 3, 4] and found.reward.tolist() == [2, 3, 4]
    assert found.observation.tolist() == [[False, True], [True, True], [False, False]]
    assert found.next_observation.tolist() == [[True, False], [False, False], [True, True]]
    assert (found.terminal.tolist(), found.last.tolist()) == ([False, True, False], [False, True, True])
    assert found.observation.dtype == bool
    assert transitions.of_ring(replay, ring, 2).action.tolist() == [3, 4]


def test_a_ring_made_of_transitions_holds_them():
    replay, ring = transitions.ring_of(STEPS, gamma=0.5)
    same(transitions.of_ring(replay, ring, 3), STEPS)
    assert ring.discount.tolist() == [0.5, 0.0, 0.5]
    batch = replay.sample(ring, jnp.array(3), jnp.array([0.0, 0.4, 0.9]))
    assert (batch.action_tm1.tolist(), batch.return_t.tolist()) == ([2, 0, 1], [0, 1, -1])
    assert batch.observation_t.tolist() == STEPS.next_observation.tolist()
    two = transitions.ring_of(STEPS, gamma=0.5, n_step=2)
    assert two[0].sample(two[1], jnp.array(3), jnp.array([0.0])).return_t.tolist() == [0.5]


def test_actions_that_are_no_bytes_and_seeds_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="actions must lie between 0 and 255, got 0 to 300"):
        transitions.ring_of(STEPS._replace(action=np.array([0, 1, 300])), 0.9)
    short = Transitions(*[column[:2] for column in STEPS])
    with pytest.raises(ValueError, match=r"must have equally many steps, got \[2, 3\]"):
        transitions.joined([transitions.ring_of(each, 0.9)[1] for each in (STEPS, short)])


def test_dopamines_frames_are_stacked_and_never_across_a_termination(tmp_path):
    # The last of the ten slots belongs to the previous part. Blank frames are in slots 0, 1, 6 and 7.
    dopamine(tmp_path, part=3, cursor=29, terminal=[0, 0, 0, 0, 0, 1, 0, 0, 0, 0])
    log = dopamine_files.read(tmp_path, part=3, gamma=0.5, stack=3)
    assert log.frames.shape == (9, 2, 2)
    # Slots 6 and 7 cannot be drawn, because each has the termination in one of the two slots before it. Slot 8 has no
    # next step.
    assert int(log.number) == 4 and log.steps[:4].tolist() == [2, 3, 4, 5]
    memory = FrameMemory(stack=3)
    batch = memory.sample(log, jnp.array(0), jnp.array([0.0, 0.3, 0.6, 0.9]))
    assert batch.observation_tm1.shape == (4, 2, 2, 3)
    assert batch.observation_tm1[:, 0, 0].tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    assert batch.observation_t[:, 1, 1].tolist() == [[1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6]]
    assert (batch.return_t.tolist(), batch.action_tm1.tolist()) == ([2, 3, 4, 5], [2, 0, 1, 2])
    assert batch.discount_t.tolist() == [0.5, 0.5, 0.5, 0.0]
    states = memory.states(log, jnp.array(0), jnp.array([0.99]))
    assert states[0, 0, 0].tolist() == [3, 4, 5]


def test_the_first_rows_of_dopamines_files_are_enough(tmp_path):
    dopamine(tmp_path, part=0, cursor=9, terminal=[0] * 10)
    log = dopamine_files.read(tmp_path, part=0, gamma=0.5, stack=3, rows=5)
    assert log.steps[: int(log.number)].tolist() == [2, 3]


def test_dopamines_missing_and_damaged_files_are_refused_by_name(tmp_path):
    with pytest.raises(
        ValueError, match=r"there is no .*observation_ckpt.0.gz; expected part 0 of a logged DQN replay"
    ):
        dopamine_files.read(tmp_path, 0, 0.9)
    dopamine(tmp_path, part=0, cursor=9, terminal=[0] * 10)
    with pytest.raises(ValueError, match="has no step that may be drawn, of 4 rows"):
        dopamine_files.read(tmp_path, 0, 0.9, rows=4)
    damaged = tmp_path / "$store$_reward_ckpt.0.gz"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"reward_ckpt.0.gz is damaged"):
        dopamine_files.read(tmp_path, 0, 0.9)


@pytest.fixture
def minari_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def recorded(name, ends):
    """Writes a Minari data set. Per entry of `ends` ("terminated" or "truncated"), it has an episode of two steps."""
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    buffers = [
        EpisodeBuffer(
            id=number,
            observations=[np.full(2, 10 * number + step, np.float32) for step in range(3)],
            actions=[number, 1],
            rewards=[0.0, float(number + 1)],
            terminations=[False, end == "terminated"],
            truncations=[False, end == "truncated"],
        )
        for number, end in enumerate(ends)
    ]
    minari.create_dataset_from_buffers(
        name,
        buffers,
        observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32),
        action_space=gymnasium.spaces.Discrete(2),
        algorithm_name="by hand",
        author="dormant",
        code_permalink="-",
        author_email="-",
        description="-",
    )


@pytest.mark.filterwarnings("ignore")  # Minari warns about a data set without an environment
def test_a_minari_data_set_keeps_the_last_observation_of_a_truncated_episode(minari_folder):
    recorded("by/hand-v0", ["terminated", "truncated"])
    found = transitions.read_minari("by/hand-v0")
    assert found.observation[:, 0].tolist() == [0, 1, 10, 11]
    assert found.next_observation[:, 0].tolist() == [1, 2, 11, 12]
    assert (found.action.tolist(), found.reward.tolist()) == ([0, 1, 1, 1], [0, 1, 0, 2])
    assert found.terminal.tolist() == [False, True, False, False]
    assert found.last.tolist() == [False, True, False, True]
    assert found.observation.dtype == np.float32


@pytest.mark.filterwarnings("ignore")
def test_a_minari_data_set_that_is_not_there_is_not_fetched(minari_folder):
    with pytest.raises(ValueError, match="there is no Minari data set 'by/nobody-v0' in its folder"):
        transitions.read_minari("by/nobody-v0")
