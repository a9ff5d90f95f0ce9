"""The ring of frames: stacks, wrap-around, n-step returns, ends of episodes, resuming from files, and sizes."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dormant.rl.replay.files import DamagedRing, flush, refuse_without_room, shortage
from dormant.rl.replay.frames import FrameReplay

GAMMA = 0.5
RUNNING, OVER, CUT = (GAMMA, False), (0.0, True), (GAMMA, True)  # (discount, whether the episode ends)


def numbered(capacity, n_step=1, stack=2, slack=3, time_limit=1):
    """Returns the settings of a ring. Its frames have one pixel, so that a frame is a number."""
    return FrameReplay(capacity, (1, 1), stack, n_step, slack, time_limit)


def frame(number):
    return np.full((1, 1), number, np.uint8)


def added_to(replay, ring, kinds, first=0):
    """Adds steps to the ring, and returns it. Step k has reward k and goes from frame 10 + k to frame 11 + k.

    If step k ends an episode, it goes to frame 100 + k.
    """
    for k, (discount, last) in enumerate(kinds, first):
        replay.add(ring, k, frame(10 + k), k % 4, float(k), discount, last, frame(100 + k if last else 11 + k))
    return ring


def filled(replay, kinds):
    return added_to(replay, replay.init(), kinds)


def places(number):
    return (np.arange(number) + 0.5) / number


def everything(replay, ring, added):
    """Returns a batch with all transitions that can be drawn. Each is there once, and the oldest is the first."""
    return replay.sample(ring, added, places(min(added, replay.capacity) - replay.n_step + 1))


def seen(observations):
    return observations[:, 0, 0].tolist()


def assert_same(batch, batch_too):
    for leaf, leaf_too in zip(batch, batch_too, strict=True):
        assert_array_equal(leaf, leaf_too)


def test_one_step_transitions_are_what_was_added():
    replay = numbered(8, stack=3)
    batch = everything(replay, filled(replay, [RUNNING] * 4), 4)
    assert seen(batch.observation_tm1) == [[0, 0, 10], [0, 10, 11], [10, 11, 12], [11, 12, 13]]
    assert seen(batch.observation_t) == [[0, 10, 11], [10, 11, 12], [11, 12, 13], [12, 13, 14]]
    assert_array_equal(batch.action_tm1, [0, 1, 2, 3])
    assert_array_equal(batch.return_t, [0, 1, 2, 3])
    assert_array_equal(batch.discount_t, [GAMMA] * 4)
    assert [leaf.dtype.name for leaf in jax.tree.leaves(batch)] == ["uint8", "int32", "float32", "float32", "uint8"]


def test_a_stack_never_reaches_into_the_episode_before():
    replay = numbered(8)
    batch = everything(replay, filled(replay, [RUNNING, OVER, RUNNING, CUT, RUNNING]), 5)
    assert seen(batch.observation_tm1) == [[0, 10], [10, 11], [0, 12], [12, 13], [0, 14]]


def test_a_truncated_episode_is_bootstrapped_from_its_own_last_frame_and_a_terminated_one_from_nothing():
    replay = numbered(8)
    batch = everything(replay, filled(replay, [RUNNING, OVER, RUNNING, CUT, RUNNING]), 5)
    assert seen(batch.observation_t) == [[10, 11], [10, 11], [12, 13], [13, 103], [14, 15]]
    assert_array_equal(batch.discount_t, [GAMMA, 0, GAMMA, GAMMA, GAMMA])


def test_a_full_ring_forgets_the_oldest_and_keeps_whole_stacks():
    replay = numbered(4, stack=3, time_limit=1_000)
    batch = everything(replay, filled(replay, [RUNNING] * 30), 30)
    assert seen(batch.observation_tm1) == [[34, 35, 36], [35, 36, 37], [36, 37, 38], [37, 38, 39]]
    assert_array_equal(batch.return_t, [26, 27, 28, 29])


def test_n_step_returns_discount_and_never_cross_the_newest_step():
    replay = numbered(4, n_step=3)
    batch = everything(replay, filled(replay, [RUNNING] * 10), 10)
    assert seen(batch.observation_tm1) == [[15, 16], [16, 17]]
    assert_allclose(batch.return_t, [6 + 7 / 2 + 8 / 4, 7 + 8 / 2 + 9 / 4])
    assert_allclose(batch.discount_t, [GAMMA**3] * 2)
    assert seen(batch.observation_t) == [[18, 19], [19, 20]]


def test_an_n_step_return_stops_at_a_termination():
    replay = numbered(8, n_step=3)
    batch = everything(replay, filled(replay, [RUNNING, RUNNING, OVER, RUNNING, RUNNING]), 5)
    assert_allclose(batch.return_t, [0 + 1 / 2 + 2 / 4, 1 + 2 / 2, 2])
    assert_array_equal(batch.discount_t, [0, 0, 0])


def test_an_n_step_return_stops_at_a_truncation_and_bootstraps_there():
    replay = numbered(8, n_step=3)
    batch = everything(replay, filled(replay, [RUNNING, CUT, RUNNING, RUNNING, RUNNING]), 5)
    assert_allclose(batch.return_t, [0 + 1 / 2, 1, 2 + 3 / 2 + 4 / 4])
    assert_allclose(batch.discount_t, [GAMMA**2, GAMMA, GAMMA**3])
    assert seen(batch.observation_t) == [[11, 101], [11, 101], [14, 15]]


def test_draws_are_uniform_over_what_is_held():
    replay = numbered(5)
    uniform = np.random.default_rng(0).random(10_000)
    batch = replay.sample(filled(replay, [RUNNING, CUT, OVER, RUNNING, CUT, RUNNING, RUNNING]), 7, uniform)
    assert_allclose(np.bincount(batch.return_t.astype(int)), [0, 0, *[2_000] * 5], atol=200)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("capacity", [3, 99_999, 1_000_000])
def test_the_largest_draw_stays_inside(capacity, dtype):
    """In float32, 99,999 times the largest number below 1 rounds up to 99,999, which is out of range."""
    largest = np.nextafter(dtype(1), dtype(0))[None]
    assert FrameReplay(capacity)._starts(capacity, largest)[0] == capacity - 1


def test_draws_of_several_batches_are_those_of_each():
    replay = numbered(6, n_step=2)
    ring, uniform = filled(replay, [RUNNING, CUT, RUNNING, OVER, RUNNING]), np.random.default_rng(0).random((3, 7))
    together = replay.sample(ring, 5, uniform)
    for index in range(3):
        assert_same(replay.sample(ring, 5, uniform[index]), jax.tree.map(lambda leaf, n=index: leaf[n], together))


def test_states_are_the_observations_acted_from():
    replay = numbered(6)
    ring = filled(replay, [RUNNING, CUT, RUNNING])
    assert_array_equal(replay.states(ring, 3, places(3)), replay.sample(ring, 3, places(3)).observation_tm1)


@pytest.mark.parametrize("saved", [1, 4, 6, 9, 25])
def test_a_killed_run_finds_its_ring_as_it_was(saved, tmp_path):
    """Before the kill, the run overwrites the whole slack. After the resume, it takes other steps."""
    replay = numbered(6, n_step=2)
    kinds = [RUNNING, RUNNING, OVER, RUNNING, CUT, RUNNING, RUNNING] * 6
    ring = added_to(replay, replay.open(tmp_path, 0), kinds[:saved])
    flush(ring)
    before = everything(replay, ring, saved) if saved > 1 else None
    room = next(steps for steps in range(1, 99) if replay.save_due(saved, saved, steps)) - 1
    assert room >= replay.slack
    for k in range(saved, saved + room):
        # The first of these steps starts from the same frame as the first step after the resume. The emulator's state
        # is saved in the checkpoint.
        replay.add(ring, k, frame(10 + k if k == saved else 200), 9, -1.0, GAMMA, True, frame(201))
    del ring
    resumed = replay.open(tmp_path, saved)
    if before:
        assert_same(everything(replay, resumed, saved), before)
    added_to(replay, resumed, kinds[saved:40], first=saved)
    assert_same(everything(replay, resumed, 40), everything(replay, filled(replay, kinds[:40]), 40))


def test_a_checkpoint_is_due_before_it_is_too_late(tmp_path):
    replay = numbered(6)
    ring = added_to(replay, replay.open(tmp_path, 0), [RUNNING] * 20)
    assert [replay.save_due(added, 20, 1) for added in (20, 22, 23)] == [False, False, True]
    assert [replay.save_due(20, 20, steps) for steps in (3, 4)] == [False, True]
    added_to(replay, ring, [RUNNING] * 3, first=20)
    replay.open(tmp_path, 20)
    added_to(replay, ring, [RUNNING], first=23)
    with pytest.raises(ValueError, match=r"no longer holds all steps: (step|frame)"):
        replay.open(tmp_path, 20)


def cut(file, size):
    file.write_bytes(file.read_bytes()[:size])


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: cut(folder / "frames.npy", -1), "frames.npy is damaged"),
        (lambda folder: cut(folder / "frames.npy", 5), "frames.npy is damaged"),
        (lambda folder: cut(folder / "reward.npy", 0), "reward.npy is damaged"),
        (lambda folder: flip(folder / "frames.npy", 128 + 7), "frame 7 has changed"),
        (lambda folder: flip(folder / "reward.npy", 128 + 4 * 5 + 1), "step 5 has changed"),
        (lambda folder: flip(folder / "place.npy", 128 + 8 * 6 + 7), "step 6 has changed"),
        (lambda folder: flip(folder / "owner.npy", 128), "another run or seed"),
    ],
)
def test_a_damaged_ring_is_refused(tmp_path, damage, said):
    replay = numbered(6)
    flush(added_to(replay, replay.open(tmp_path, 0, owner=7), [RUNNING] * 8))
    replay.open(tmp_path, 8, owner=7)
    damage(tmp_path)
    with pytest.raises(DamagedRing, match=said):
        replay.open(tmp_path, 8, owner=7)


def test_the_ring_of_another_run_is_refused(tmp_path):
    replay = numbered(6)
    flush(added_to(replay, replay.open(tmp_path, 0, owner=7), [RUNNING] * 8))
    with pytest.raises(DamagedRing, match="the ring of another run or seed"):
        replay.open(tmp_path, 8, owner=8)
    # The file now names this run as the owner. The steps in the ring still belong to another run.
    (tmp_path / "owner.npy").write_bytes((tmp_path / "owner.npy").read_bytes().replace(b"\x07", b"\x08"))
    with pytest.raises(DamagedRing, match="step 2 has changed"):
        replay.open(tmp_path, 8, owner=8)


def test_a_run_without_a_checkpoint_starts_a_new_ring(tmp_path):
    replay = numbered(6)
    added_to(replay, replay.open(tmp_path, 0), [RUNNING] * 4)
    assert not any(array.any() for array in replay.open(tmp_path, 0))


def test_files_of_another_ring_are_refused(tmp_path):
    added_to(numbered(6), numbered(6).open(tmp_path, 0), [RUNNING] * 4)
    with pytest.raises(ValueError, match=r"frames.npy has uint8\[\d+, 1, 1\], not uint8\[\d+, 1, 1\]; it belongs"):
        numbered(7).open(tmp_path, 4)


def test_files_are_as_large_as_said_and_not_sparse(tmp_path):
    replay = FrameReplay(100, slack=50)
    replay.open(tmp_path, 0)
    files = list(tmp_path.iterdir())
    assert replay.bytes <= sum(file.stat().st_size for file in files) <= replay.bytes + 10 * 128
    assert all(file.stat().st_blocks * 512 >= file.stat().st_size for file in files)


def test_a_frame_is_kept_once():
    assert FrameReplay(1_000_000).bytes < 1_000_000 * 7_200


def test_too_many_truncations_are_refused():
    replay = numbered(10, time_limit=100)
    with pytest.raises(ValueError, match="more than one episode in time_limit=100 steps was truncated"):
        filled(replay, [CUT] * 20)


def test_an_early_draw_is_refused():
    replay = numbered(10, n_step=3)
    with pytest.raises(ValueError, match="nothing can be drawn yet: n_step=3, and 2 steps were added"):
        replay.sample(filled(replay, [RUNNING] * 2), 2, places(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 0}, "capacity must be at least 1, got 0"),
        ({"capacity": 5, "slack": 0}, "slack must be at least 1, got 0"),
        ({"capacity": 5, "n_step": 6}, "n_step=6 steps do not fit in a ring of capacity=5"),
    ],
)
def test_bad_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FrameReplay(**options)


def test_rings_that_do_not_fit_are_refused_with_the_sum(tmp_path):
    replay = FrameReplay(100_000)
    fits = 2 * replay.bytes
    assert shortage(replay, 2, memory=fits + 2 * 10**9, disk=fits) == ""
    assert "= 1.6 GB. With 2.0 GB for other data, that is more than the 3.6 GB" in shortage(
        replay, 2, memory=fits + 2 * 10**9 - 1, disk=fits
    )
    assert "That is more than the 1.6 GB of free disk" in shortage(replay, 2, memory=10**12, disk=fits - 1)
    refuse_without_room(FrameReplay(1_000), 1, tmp_path / "not" / "there")
    with pytest.raises(ValueError, match="1 ring of 1,000,000,000,000 agent steps take 1 x"):
        refuse_without_room(FrameReplay(10**12), 1, tmp_path)


def test_the_capacity_that_is_advised_fits():
    replay, memory = FrameReplay(1_000_000), 12 * 10**9
    advised = int(shortage(replay, 2, memory, 10**12).split("2 rings of ")[2].split()[0].replace(",", ""))
    assert shortage(FrameReplay(advised), 2, memory, 10**12) == ""
    assert shortage(FrameReplay(advised + 1_000), 2, memory, 10**12)
