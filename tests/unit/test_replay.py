"""The ring on the device: wrap-around, n-step returns, ends of episodes, uniform draws, and packed observations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dormant.rl.replay.device import Replay

GAMMA = 0.5


def numbered(capacity, n_step=1):
    """Returns the settings of a ring. An observation is a single number."""
    return Replay(capacity, (1,), np.dtype(np.float32), n_step)


def filled(replay, rewards, discounts=None, last=None, first=0):
    """Returns a ring. Step k goes from observation k to k + 0.5, so each step has a unique `observation_t`."""
    ring, add = replay.init(), jax.jit(replay.add)
    for k, reward in enumerate(rewards):
        discount = GAMMA if discounts is None else discounts[k]
        ended = discount == 0 if last is None else last[k]
        ring = add(
            ring,
            jnp.int32(first + k),
            jnp.array([k], jnp.float32),
            jnp.int32(k % 4),
            jnp.float32(reward),
            jnp.float32(discount),
            jnp.array(ended),
            jnp.array([k + 0.5], jnp.float32),
        )
    return ring


def everything(replay, ring, added):
    """Returns a batch with all transitions that can be drawn. Each is there once, and the oldest is the first."""
    number = min(added, replay.capacity) - replay.n_step + 1
    places = (np.arange(number, dtype=np.float32) + np.float32(0.5)) / np.float32(number)
    return jax.jit(replay.sample)(ring, jnp.int32(added), places)


def test_one_step_transitions_are_what_was_added():
    replay = numbered(8)
    batch = everything(replay, filled(replay, [1.0, 2.0, 3.0]), 3)
    assert_array_equal(batch.observation_tm1[:, 0], [0, 1, 2])
    assert_array_equal(batch.observation_t[:, 0], [0.5, 1.5, 2.5])
    assert_array_equal(batch.action_tm1, [0, 1, 2])
    assert_array_equal(batch.return_t, [1, 2, 3])
    assert_array_equal(batch.discount_t, [GAMMA] * 3)


def test_a_full_ring_forgets_the_oldest():
    replay = numbered(4)
    batch = everything(replay, filled(replay, range(6)), 6)
    assert_array_equal(batch.observation_tm1[:, 0], [2, 3, 4, 5])


def test_n_step_returns_discount_and_never_cross_the_newest_step():
    replay = numbered(4, n_step=3)
    batch = everything(replay, filled(replay, [1, 2, 4, 8, 16, 32]), 6)
    assert_array_equal(batch.observation_tm1[:, 0], [2, 3])
    assert_allclose(batch.return_t, [4 + 8 / 2 + 16 / 4, 8 + 16 / 2 + 32 / 4])
    assert_allclose(batch.discount_t, [GAMMA**3] * 2)
    assert_array_equal(batch.observation_t[:, 0], [4.5, 5.5])


def test_a_return_ends_with_its_episode():
    """Step 1 terminates its episode. So the n-step returns leave out all later rewards, and do not bootstrap."""
    replay = numbered(8, n_step=3)
    batch = everything(replay, filled(replay, [1, 2, 4, 8], discounts=[GAMMA, 0, GAMMA, GAMMA]), 4)
    assert_allclose(batch.return_t, [1 + 2 / 2, 2])
    assert_array_equal(batch.discount_t, [0, 0])


def test_a_truncated_episode_is_bootstrapped_from_its_own_last_observation():
    replay = numbered(8, n_step=3)
    batch = everything(replay, filled(replay, [1, 2, 4, 8], last=[False, True, False, False]), 4)
    assert_allclose(batch.return_t, [1 + 2 / 2, 2])
    assert_allclose(batch.discount_t, [GAMMA**2, GAMMA])
    assert_array_equal(batch.observation_t[:, 0], [1.5, 1.5])


def test_draws_are_uniform_over_what_is_held():
    replay = numbered(5)
    uniform = jax.random.uniform(jax.random.key(0), (10_000,))
    batch = jax.jit(replay.sample)(filled(replay, range(7)), jnp.int32(7), uniform)
    assert_allclose(np.bincount(batch.observation_tm1[:, 0].astype(int)), [0, 0, *[2_000] * 5], atol=200)


def test_the_largest_draw_stays_inside():
    replay = numbered(100_000)
    largest = jnp.array([np.nextafter(np.float32(1), np.float32(0))])
    assert int(replay._starts(jnp.int32(99_999), largest)[0]) == 99_998


@pytest.mark.parametrize("shape", [(10, 10, 4), (3, 3, 1), (8,)])
def test_boolean_observations_are_kept_as_bits(shape):
    replay = Replay(4, shape, np.dtype(bool))
    observation = jax.random.bernoulli(jax.random.key(0), shape=(5, *shape))
    packed = replay.pack(observation)
    assert packed.dtype == jnp.uint8
    assert packed.shape == (5, -(-np.prod(shape) // 8))
    assert_array_equal(replay.unpack(packed), observation)


def test_seeds_side_by_side_are_seeds_alone():
    replay = numbered(4, n_step=2)
    rings = [filled(replay, rewards) for rewards in ([1, 2, 3], [4, 5, 6])]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rings)
    uniform = jax.random.uniform(jax.random.key(0), (2, 6))
    batches = jax.jit(jax.vmap(replay.sample, in_axes=(0, None, 0)))(together, jnp.int32(3), uniform)
    for seed, ring in enumerate(rings):
        alone = jax.jit(replay.sample)(ring, jnp.int32(3), uniform[seed])
        jax.tree.map(lambda many, one, seed=seed: assert_array_equal(many[seed], one), batches, alone)
