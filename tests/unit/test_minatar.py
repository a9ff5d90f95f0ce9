"""The five games of our adapter, compared step by step with the minatar package. Both get the same random draws."""

import logging
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dormant.rl.envs import step_or_restart
from dormant.rl.envs.minatar import GAMES, MinAtar

MODULES = {name: row[0] for name, row in GAMES.items()}


class Scripted:
    """Replaces MinAtar's RandomState. It returns the numbers that pgx draws from its key."""

    def __init__(self, uniforms=(), integers=()):
        self.uniforms, self.integers = list(uniforms), list(integers)

    def rand(self, *shape):
        return self.uniforms.pop(0)

    def randint(self, *arguments, **bounds):
        value = self.integers.pop(0)
        return value(*arguments) if callable(value) else value


def below(flag):
    """Returns a number in [0, 1). It is below 1/3 if the flag is set, otherwise above 1/2."""
    return 0.0 if flag else 0.9


COIN, THIRD = jnp.array([True, False]), jnp.array([1 / 3, 2 / 3])


@jax.jit
def asterix_numbers(key, empty):
    _, lr, gold, slot = jax.random.split(key, 4)
    slot = jax.random.choice(slot, jnp.arange(8), p=empty / jnp.maximum(empty.sum(), 1.0))
    return jax.random.choice(lr, COIN), jax.random.choice(gold, COIN, p=THIRD), slot


def asterix_draws(key, oracle):
    empty = np.array([entity is None for entity in oracle.env.entities], np.float32)
    lr, gold, slot = asterix_numbers(key, empty)
    among = np.flatnonzero(empty).tolist()
    return Scripted([below(lr), below(gold)], [among.index(slot)] if among else [])


def freeway_draws(key, oracle):
    return freeway_cars(jax.random.split(key, 2)[1])


@jax.jit
def freeway_numbers(key):
    speeds, directions = jax.random.split(key, 2)
    return jax.random.randint(speeds, [8], 1, 6), jax.random.choice(directions, jnp.array([-1, 1]), [8])


def freeway_cars(key):
    speeds, directions = freeway_numbers(key)
    return Scripted([0.5 + 0.25 * np.asarray(directions)], [np.asarray(speeds, int)])


@jax.jit
def seaquest_numbers(key):
    keys = jax.random.split(key, 6)
    coins = [jax.random.choice(keys[1], COIN), jax.random.choice(keys[2], COIN, p=THIRD)]
    rows = [jax.random.choice(keys[place], jnp.arange(1, 9)) for place in (3, 5)]
    return [*coins, jax.random.choice(keys[4], COIN)], rows


def seaquest_draws(key, oracle):
    (*enemy, diver), (enemy_row, diver_row) = seaquest_numbers(key)
    spawns = oracle.env.e_spawn_timer == 0
    uniforms = [below(coin) for coin in [*enemy * spawns, diver]]
    return Scripted(uniforms, [int(row) for row in [*[enemy_row] * spawns, diver_row]])


DRAWS = {"Asterix": asterix_draws, "Freeway": freeway_draws, "Seaquest": seaquest_draws}
FIRST = {"Freeway": freeway_cars, "Breakout": lambda key: Scripted([], [int(jax.random.choice(key, 2))])}


def oracle_game(name, key):
    logging.disable(logging.WARNING)  # minatar warns that it cannot display games
    from minatar.environment import Environment

    logging.disable(logging.NOTSET)
    oracle = Environment(MODULES[name], sticky_action_prob=0.0)
    oracle.env.random = FIRST.get(name, lambda key: Scripted())(key)
    oracle.reset()
    return oracle


def policy(name, generator, game):
    """Returns a random action. In Seaquest, most actions keep the submarine alive, for example by surfacing for air."""
    if name != "Seaquest":
        return generator.integers(MinAtar(name).actions)
    if game.sub_y == 0 or (game.oxygen > 60 and game.sub_y < 3):
        return 4
    if game.diver_count and game.oxygen < 100:
        return 2
    return generator.choice([1, 2, 3, 4, 5], p=[0.2, 0.1, 0.2, 0.1, 0.4])


def playthrough(name, steps, seed):
    """Yields the adapter's outcome and MinAtar's outcome of each step. Restarts both games when an episode ends."""
    env = MinAtar(name, sticky=0.0)
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    generator = np.random.default_rng(seed)
    minimal = oracle_game(name, jax.random.key(0)).minimal_action_set()
    state, over = None, True
    for key in jax.random.split(jax.random.key(seed), steps):
        if over:
            state, oracle = reset(key), oracle_game(name, key)
            yield SimpleNamespace(ours=(env.observe(state), 0.0, False), theirs=(oracle.state(), 0.0, False))
        action = int(policy(name, generator, oracle.env))
        oracle.env.random = DRAWS.get(name, lambda key, oracle: Scripted())(key, oracle)
        state, outcome = step(key, state, action)
        reward, over = oracle.act(minimal[action])
        ours = (outcome.observation, float(outcome.reward), bool(outcome.terminal))
        yield SimpleNamespace(ours=ours, theirs=(oracle.state(), reward, over))


@pytest.mark.parametrize("name", GAMES)
def test_plays_as_minatar_does(name):
    ends = 0
    for step in playthrough(name, steps=1_500, seed=1):
        assert step.ours[1:] == step.theirs[1:]
        np.testing.assert_array_equal(step.ours[0], step.theirs[0])
        ends += step.theirs[2]
    assert ends or name == "Freeway"


@pytest.mark.parametrize("name", GAMES)
def test_declares_what_it_shows(name):
    env = MinAtar(name)
    state = env.reset(jax.random.key(0))
    assert env.observe(state).shape == env.observation_shape
    assert env.observe(state).dtype == env.observation_dtype
    after, _ = jax.eval_shape(env.step, jax.random.key(0), state, jnp.int32(env.actions - 1))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(lambda a: (a.shape, a.dtype), state)


def test_a_sticky_action_repeats_the_last_one():
    env = MinAtar("Breakout", sticky=0.999)
    state, step = env.reset(jax.random.key(0)), jax.jit(env.step)
    for key in jax.random.split(jax.random.key(1), 4):
        state, _ = step(key, state, jnp.int32(1))
    assert int(state.game._pos) == 4  # the game starts with the action "do nothing", which is repeated


def test_a_padded_game_has_empty_channels_and_all_actions():
    plain, padded = MinAtar("Breakout", sticky=0.0), MinAtar("Breakout", sticky=0.0, padded=True)
    assert padded.observation_shape == (10, 10, 10) and padded.actions == 6
    states, steps = (
        [each.reset(jax.random.key(0)) for each in (plain, padded)],
        [jax.jit(plain.step), jax.jit(padded.step)],
    )
    # MinAtar's actions are: nothing, left, up, right, down, fire. Breakout needs nothing, left and right.
    for key, action in zip(jax.random.split(jax.random.key(1), 12), [2, 1, 0, 2, 2, 1] * 2, strict=True):
        for number, taken in enumerate((action, [0, 1, 3][action])):
            states[number], outcome = steps[number](key, states[number], jnp.int32(taken))
        assert (outcome.observation == padded.observe(states[1])).all()
        seen = np.asarray(outcome.observation)
        assert (seen[..., :4] == np.asarray(plain.observe(states[0]))).all() and not seen[..., 4:].any()
        assert int(states[0].game._pos) == int(states[1].game._pos)


def test_the_time_limit_truncates_and_restarts():
    env = MinAtar("Asterix", time_limit=3)
    state, ends = env.reset(jax.random.key(0)), []
    step = jax.jit(lambda key, state: step_or_restart(env, key, state, jnp.int32(0)))
    for key in jax.random.split(jax.random.key(1), 6):
        state, outcome = step(key, state)
        ends.append((bool(outcome.terminal), bool(outcome.truncated)))
    assert ends == [(False, False), (False, False), (False, True)] * 2
    assert int(state.elapsed) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"game": "Pong"}, "unknown MinAtar game"), ({"sticky": 1.0}, "sticky"), ({"time_limit": 0}, "time_limit")],
)
def test_refuses_what_it_cannot_play(arguments, message):
    with pytest.raises(ValueError, match=message):
        MinAtar(**arguments)


def test_says_how_to_install_a_missing_pgx(monkeypatch):
    monkeypatch.setattr("dormant.rl.envs.minatar.import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(ImportError, match=r"pip install 'dormant\[minatar\]'"):
        MinAtar("Freeway", sticky=0.123).reset(jax.random.key(0))
