"""The Q gap of evaluations on device and host, compared with its definition: Q minus the discounted return."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dormant.rl import envs
from dormant.rl.envs import Objective, Outcome, QGap, play, play_on_host

GAMMA = 0.9


def by_definition(values, rewards, truncated, gamma=GAMMA):
    """Returns the summed gap of an episode and the number of states. A truncated episode's last state is left out."""
    counted = len(values) - truncated
    total = 0.0
    for state in range(counted):
        followed = sum(gamma ** (step - state) * rewards[step] for step in range(state, counted))
        total += values[state] - followed - truncated * gamma ** (counted - state) * values[-1]
    return total, counted


@pytest.mark.parametrize("truncated", [False, True])
def test_the_gap_of_an_episode_follows_its_definition(truncated):
    rng = np.random.default_rng(0)
    values, rewards = rng.normal(size=(2, 7)).astype(np.float32)
    zero, one = np.float32([0.0]), np.float32([1.0])
    gap = QGap(zero, zero, zero)
    for step, (value, reward) in enumerate(zip(values, rewards, strict=True)):
        last = one * (step == 6)
        ends = (zero, last) if truncated else (last, zero)
        gap = gap.after(value * one, reward * one, *ends, Objective(GAMMA))
    total, states = by_definition(values, rewards, truncated)
    assert_allclose([gap.total[0], gap.states[0]], [total, states], rtol=1e-5)
    assert gap.weight[0] == 0  # the next episode starts with weight 0


class Played(NamedTuple):
    left: jax.Array


@dataclass(frozen=True)
class Countdown:
    """An environment of pure functions. An episode has `length` steps. The reward of each step is 3."""

    length: int = 4
    truncates: bool = False
    observation_shape = (1,)
    observation_dtype = np.dtype(np.float32)
    actions = 2

    def reset(self, key):
        return Played(jnp.float32(self.length))

    def observe(self, state):
        return state.left[None]

    def step(self, key, state, action):
        state = Played(state.left - 1)
        over = state.left == 0
        ends = (~over & over, over) if self.truncates else (over, ~over & over)
        return state, Outcome(self.observe(state), jnp.float32(3.0), *ends)


@pytest.mark.parametrize("truncates", [False, True])
@pytest.mark.parametrize(("clip", "reward"), [(True, 1.0), (False, 3.0)])
def test_the_gap_is_measured_on_the_device_with_the_rewards_that_the_agent_learns_from(truncates, clip, reward):
    def policy(observation, uniform):
        return jnp.int32(0), 10 * observation[0]

    played = play(Countdown(truncates=truncates), policy, jax.random.key(0), 3, Objective(GAMMA, clip))
    total, states = by_definition([40.0, 30.0, 20.0, 10.0], [reward] * 4, truncates)
    assert_allclose(played.returns, [12.0] * 3)
    assert_allclose(played.gap.total, [total] * 3, rtol=1e-5)
    assert_allclose(played.gap.states, [states] * 3)


@dataclass(frozen=True)
class Lottery(Countdown):
    """A countdown with a random length."""

    def reset(self, key):
        return Played(jax.random.randint(key, (), 1, 9).astype(jnp.float32))


def test_many_episodes_are_played_in_batches_and_are_the_same(monkeypatch):
    def policy(observation, uniform):
        return jnp.int32(0), observation[0]

    found = play(Lottery(), policy, jax.random.key(0), 23, Objective(GAMMA))
    monkeypatch.setattr(envs, "AT_ONCE", 100)
    together = play(Lottery(), policy, jax.random.key(0), 23, Objective(GAMMA))
    assert len(set(found.returns.tolist())) > 4
    assert_array_equal(found.returns, together.returns)
    assert_allclose(found.gap.total, together.gap.total, rtol=1e-6)


class Step(NamedTuple):
    reward: np.ndarray
    terminal: np.ndarray
    restarted: np.ndarray


class Scripted:
    """Two seeds. Episodes of the first terminate every two steps. Those of the second are truncated every three steps.

    The second seed loses a life at the first step.
    """

    def __init__(self):
        self.done = 0

    @property
    def observations(self):
        return np.float32([[self.done], [self.done]])

    def save(self):
        return self.done

    def restore(self, state):
        self.done = state

    def step(self, actions):
        self.done += 1
        ends = self.done % 2 == 0, self.done % 3 == 0
        life = np.array([False, self.done == 1])
        return Step(np.float32([1.0, 2.0]), np.array([ends[0], False]) | life, np.array(ends))


def test_the_gap_is_measured_on_the_host_for_each_seed_until_it_has_played_enough():
    def policy(seen):
        return np.zeros(2, int), 5 + seen[:, 0]

    played = play_on_host(Scripted(), policy, 1, objective=Objective(GAMMA))
    assert [each.tolist() for each in played.returns] == [[2.0], [6.0]]
    first, _ = by_definition([5.0, 6.0], [1.0, 1.0], False)
    # The lost life ends the return of the first state, so its gap is 5 - 2. The return of the second state has one
    # reward, and then the value of the last state.
    second = by_definition([5.0], [2.0], False)[0] + by_definition([6.0, 7.0], [2.0, 2.0], True)[0]
    assert_allclose(played.metrics()["q_gap"], [first / 2, second / 2], rtol=1e-6)
    assert_allclose(played.metrics()["eval_return"], [2.0, 6.0])


def test_an_agent_without_q_values_of_a_return_has_no_gap():
    played = play_on_host(Scripted(), lambda seen: (np.zeros(2, int), None), 1)
    assert list(played.metrics()) == ["eval_return"]
