"""The ring of agent steps: drawing steps, overwriting old steps, and resuming from the file of the ring."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dormant.rl.replay.files import DamagedRing, flush, shortage
from dormant.rl.replay.steps import StepReplay

REPLAY = StepReplay(capacity=6, observations=3, actions=2, slack=4)


def step(number):
    """Returns the observation, action, reward, discount and next observation of a step. All depend on its number."""
    return np.full(3, number), np.full(2, -number), number / 10, float(number % 2), np.full(3, number + 0.5)


def filled(folder, steps):
    ring = REPLAY.open(folder, 0)
    for number in range(steps):
        REPLAY.add(ring, number, *step(number))
    return ring


@pytest.mark.parametrize("added", [1, 5, 6, 23])
def test_the_last_steps_are_drawn_oldest_first_and_uniformly(tmp_path, added):
    held = min(added, 6)
    rows = REPLAY.rows(filled(tmp_path, added), added, (np.arange(held) + 0.5) / held)
    assert_array_equal(rows[:, 0], np.arange(added - held, added))
    ends = REPLAY.rows(filled(tmp_path, added), added, np.array([0.0, np.nextafter(1.0, 0.0)]))
    assert_array_equal(ends[:, 0], [added - held, added - 1])


def test_a_batch_has_everything_in_its_place(tmp_path):
    rows = jnp.asarray(REPLAY.rows(filled(tmp_path, 5), 5, np.array([0.5, 0.9])))
    noise = jnp.arange(8.0).reshape(2, 2, 2)
    batch = REPLAY.batch(rows, noise)
    for place, number in enumerate([2, 4]):
        fields = [np.asarray(leaf[place]) for leaf in batch[:5]]
        for mine, expected in zip(fields, step(number), strict=True):
            assert_allclose(mine, expected, rtol=1e-6)
    assert_array_equal(batch.noise_tm1, noise[0])
    assert_array_equal(batch.noise_t, noise[1])
    assert_array_equal(REPLAY.inputs(rows)[1], batch.action_tm1)


def test_nothing_is_drawn_from_an_empty_ring(tmp_path):
    with pytest.raises(ValueError, match="nothing can be drawn yet"):
        REPLAY.rows(REPLAY.open(tmp_path, 0), 0, np.array([0.5]))


def test_a_file_goes_on_as_it_was_at_a_checkpoint(tmp_path):
    """After the checkpoint, the test adds as many steps as the slack allows."""
    ring = filled(tmp_path, 15)
    kept = REPLAY.rows(ring, 15, np.linspace(0, 0.99, 20))
    for number in range(15, 19):
        REPLAY.add(ring, number, *step(99))
    flush([ring])
    again = REPLAY.open(tmp_path, 15)
    assert_array_equal(REPLAY.rows(again, 15, np.linspace(0, 0.99, 20)), kept)
    assert not REPLAY.save_due(added=15, saved=15, steps=4)
    assert REPLAY.save_due(added=16, saved=15, steps=4)


def test_a_flipped_bit_and_another_owner_are_refused(tmp_path):
    ring = REPLAY.open(tmp_path, 0, owner=7)
    for number in range(8):
        REPLAY.add(ring, number, *step(number))
    flush(ring)
    REPLAY.open(tmp_path, 8, owner=7)
    with pytest.raises(DamagedRing, match="another run or seed"):
        REPLAY.open(tmp_path, 8, owner=8)
    ring.steps[4, 3] += 1
    with pytest.raises(DamagedRing, match="step 4 has changed"):
        REPLAY.open(tmp_path, 8, owner=7)


def test_another_ring_or_none_is_refused(tmp_path):
    filled(tmp_path, 3)
    with pytest.raises(ValueError, match=r"steps.npy has float32\[10, 10\], not float32\[9, 10\]; it belongs"):
        StepReplay(capacity=5, observations=3, actions=2, slack=4).open(tmp_path, 3)
    with pytest.raises(FileNotFoundError):
        REPLAY.open(tmp_path / "other", 3)


def test_the_sum_says_what_a_ring_takes():
    said = shortage(StepReplay(1_000_000, 348, 17), 1, memory=3 * 10**9, disk=10**12)
    assert said.startswith("1 ring of 1,000,000 agent steps take 1 x (1,010,000 steps x 2,864 bytes) = 2.9 GB")


@pytest.mark.parametrize("name", ["capacity", "observations", "actions", "slack"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        StepReplay(**{"capacity": 1, "observations": 1, "actions": 1, "slack": 1, name: 0})
