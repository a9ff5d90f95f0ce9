"""Compares our Atari adapter with Gymnasium's wrappers, and restored games with uninterrupted games."""

import sys

import ale_py
import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from numpy.testing import assert_array_equal

from dormant.rl.envs import atari
from dormant.rl.envs.atari import ATARI_100K_GAMES, DQN_GAMES, SCORES, Atari, AtariGames, human_normalised
from dormant.rl.replay.frames import FrameReplay

gymnasium.register_envs(ale_py)


def oracle(game, life_loss=False):
    env = gymnasium.make(f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0.0, full_action_space=False)
    env = AtariPreprocessing(env, noop_max=0, frame_skip=4, terminal_on_life_loss=life_loss)
    return FrameStackObservation(env, 4, padding_type="zero")


def channels_last(stack):
    return np.moveaxis(stack, 0, -1)


def random_actions(spec, steps, games=1, seed=0):
    return np.random.default_rng(seed).integers(0, spec.actions, (steps, games))


def played(games, actions):
    """Plays the actions. Returns the outcome and the next observation per step."""
    return [(games.step(action), games.observations) for action in actions]


def assert_alike(ours, theirs):
    for (outcome, observation), (outcome_too, observation_too) in zip(ours, theirs, strict=True):
        for leaf, leaf_too in zip(outcome, outcome_too, strict=True):
            assert_array_equal(leaf, leaf_too)
        assert_array_equal(observation, observation_too)


def assert_same_state(state, state_too):
    for leaf, leaf_too in zip(state, state_too, strict=True):
        assert_array_equal(leaf, leaf_too)


@pytest.mark.parametrize("game", ["Pong", "Breakout", "DemonAttack"])
def test_frames_and_rewards_are_those_of_gymnasium(game):
    spec = Atari(game, sticky=0.0)
    games, env, ends = AtariGames(spec, seeds=[0]), oracle(game), 0
    assert_array_equal(games.observations[0], channels_last(env.reset(seed=0)[0]))
    for action in random_actions(spec, 300):
        outcome = games.step(action)
        stack, reward, over, _, _ = env.step(action[0])
        assert_array_equal(outcome.frame[0], stack[-1])
        assert (outcome.reward[0], outcome.terminal[0], outcome.restarted[0]) == (reward, over, over)
        ends += over
        assert_array_equal(games.observations[0], channels_last(env.reset()[0] if over else stack))
    assert ends or game != "Breakout"


def test_a_lost_life_ends_the_return_but_not_the_game():
    spec = Atari("Breakout", sticky=0.0, life_loss=True)
    games, env = AtariGames(spec, seeds=[0]), oracle("Breakout", life_loss=True)
    env.reset(seed=0)
    lost = restarts = 0
    for action in random_actions(spec, 300):
        outcome = games.step(action)
        stack, reward, terminal, _, _ = env.step(action[0])
        restarted = env.unwrapped.ale.game_over()
        assert_array_equal(outcome.frame[0], stack[-1])
        assert (outcome.reward[0], outcome.terminal[0], outcome.restarted[0]) == (reward, terminal, restarted)
        if terminal:
            assert not games.observations[0, ..., :3].any()
        if restarted:
            env.reset()
        lost, restarts = lost + terminal, restarts + restarted
    assert lost == 5 * restarts + lost % 5
    assert restarts > 0


def test_the_time_limit_truncates_and_starts_anew():
    spec = Atari("Pong", sticky=0.0, time_limit=3)
    steps = played(AtariGames(spec, seeds=[0]), np.zeros((7, 1), int))
    assert [bool(outcome.truncated[0]) for outcome, _ in steps] == [False, False, True] * 2 + [False]
    assert [bool(outcome.restarted[0]) for outcome, _ in steps] == [False, False, True] * 2 + [False]
    assert not any(outcome.terminal[0] for outcome, _ in steps)
    first = AtariGames(spec, seeds=[0]).observations
    assert_array_equal(steps[2][1], first)
    assert (steps[2][0].frame != first[..., -1]).any()


def test_a_return_that_ends_at_the_time_limit_is_not_truncated():
    actions = random_actions(Atari("Breakout"), 300)
    steps = played(AtariGames(Atari("Breakout", life_loss=True), seeds=[0]), actions)
    lost = next(step for step, (outcome, _) in enumerate(steps, 1) if outcome.terminal[0])
    outcome, _ = played(AtariGames(Atari("Breakout", life_loss=True, time_limit=lost), seeds=[0]), actions[:lost])[-1]
    assert (outcome.terminal[0], outcome.truncated[0], outcome.restarted[0]) == (True, False, True)


@pytest.mark.parametrize("game", ["Breakout", "DemonAttack", "Qbert"])
@pytest.mark.parametrize("options", [{}, {"sticky": 0.0, "noops": 29, "life_loss": True}], ids=["dqn", "drq"])
def test_a_saved_game_goes_on_as_if_it_had_not_been(game, options):
    """Restores the state into games that have a different state. Compares more steps than an episode has."""
    spec = Atari(game, **options)
    actions = random_actions(spec, 300, games=2)
    whole = AtariGames(spec, seeds=[3, 4])
    played(whole, actions[:50])
    saved = whole.save()
    rest = played(whole, actions[50:])
    resumed = AtariGames(spec, seeds=[3, 4])
    played(resumed, actions[:7])
    resumed.restore(saved)
    assert_same_state(resumed.save(), saved)
    assert_alike(played(resumed, actions[50:]), rest)
    assert any(outcome.restarted.any() for outcome, _ in rest) or game != "Breakout"
    assert_same_state(resumed.save(), whole.save())


def test_games_side_by_side_are_games_alone():
    spec = Atari("Breakout")
    actions = random_actions(spec, 60, games=2)
    together = played(AtariGames(spec, seeds=[1, 2]), actions)
    for index, seed in enumerate([1, 2]):
        alone = played(AtariGames(spec, seeds=[seed]), actions[:, [index]])
        assert_alike(alone, [(type(o)(*(leaf[[index]] for leaf in o)), seen[[index]]) for o, seen in together])


def test_streams_and_seeds_differ():
    spec = Atari("Breakout")
    actions = np.repeat(random_actions(spec, 60), 2, axis=1)
    seeds = played(AtariGames(spec, seeds=[1, 2]), actions)[-1][1]
    other = played(AtariGames(spec, seeds=[1, 2], stream=1), actions)[-1][1]
    assert (seeds[0] != seeds[1]).any()
    assert (seeds[0] != other[0]).any()


def test_an_action_sticks_in_a_quarter_of_the_frames():
    """Records the emulator's actions. Each chosen action differs from the previous one, so repeats are visible."""
    games = AtariGames(Atari("Freeway"), seeds=[0])
    game, sent = games._games[0], []
    game._emulator = Spy(game._emulator, sent)
    chosen = np.arange(1_200) % 3
    played(games, chosen[:, None])
    names = [game._actions[action] for action in chosen]
    frames = np.array([action.value for action in sent]).reshape(-1, 4)
    wanted = np.array([action.value for action in names])
    kept = (frames != wanted[:, None]).mean(axis=0)
    # The k-th frame repeats the previous action only if all k random draws repeat it.
    np.testing.assert_allclose(kept, 0.25 ** np.arange(1, 5), atol=0.04)


def test_no_action_sticks_to_the_next_episode():
    """Every episode has one step. If the first frame of an episode is sticky, the emulator must receive action 0."""
    games, sent = AtariGames(Atari("Freeway", time_limit=1), seeds=[0]), []
    games._games[0]._emulator = Spy(games._games[0]._emulator, sent)
    played(games, np.ones((100, 1), int))
    first = np.array([action.value for action in sent]).reshape(-1, 4)[:, 0]
    assert first.tolist().count(0) == pytest.approx(25, abs=15)


class Spy:
    """Wraps an emulator. Appends each action that the emulator receives to `sent`."""

    def __init__(self, emulator, sent):
        self.emulator, self.sent = emulator, sent

    def __getattr__(self, name):
        return getattr(self.emulator, name)

    def act(self, action):
        self.sent.append(action)
        return self.emulator.act(action)


def test_an_episode_begins_after_none_to_29_frames():
    sent = []
    games = AtariGames(Atari("Freeway", sticky=0.0, noops=29), seeds=[0])
    game = games._games[0]
    game._emulator = Spy(game._emulator, sent)
    counts = []
    for _ in range(150):
        sent.clear()
        game._restart()
        assert not any(action.value for action in sent)
        counts.append(len(sent))
    assert (min(counts), max(counts)) == (0, 29)


@pytest.mark.parametrize("options", [{}, {"life_loss": True, "time_limit": 60}], ids=["dqn", "lives"])
def test_the_ring_rebuilds_what_was_seen(options):
    """Compares every observation of the last 300 steps. These steps include lost lives, truncations and new games."""
    spec = Atari("Breakout", **options)
    games, replay = AtariGames(spec, seeds=[0]), FrameReplay(300, slack=10, time_limit=60)
    ring, before, after = replay.init(), [], []
    for step, action in enumerate(random_actions(spec, 450)):
        seen, outcome = games.observations[0], games.step(action)
        terminal, frame = outcome.terminal[0], outcome.frame[0]
        discount, last = 0.0 if terminal else 0.99, terminal | outcome.truncated[0]
        replay.add(ring, step, seen[..., -1], action[0], outcome.reward[0], discount, last, frame)
        before.append(seen)
        after.append(seen if terminal else np.concatenate([seen[..., 1:], frame[..., None]], axis=-1))
    batch = replay.sample(ring, 450, (np.arange(300) + 0.5) / 300)
    assert_array_equal(batch.observation_tm1, before[-300:])
    assert_array_equal(batch.observation_t, after[-300:])
    assert (batch.discount_t == 0).any()


def test_a_screen_has_colours():
    assert AtariGames(Atari("Pong"), seeds=[0]).screen(0).shape == (210, 160, 3)


def test_the_games_are_those_of_the_paper():
    assert (len(DQN_GAMES), len(ATARI_100K_GAMES), len(SCORES)) == (17, 26, 34)
    assert set(DQN_GAMES) | set(ATARI_100K_GAMES) == set(SCORES)
    assert [Atari(game).actions for game in ("Pong", "UpNDown", "Zaxxon")] == [6, 6, 18]
    assert human_normalised("DoubleDunk", -17.5) == pytest.approx(0.5)
    assert human_normalised("Freeway", np.array([0.0, 29.6])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": "demon_attack"}, "did you mean DemonAttack?"),
        ({"game": "Pnog"}, "did you mean Pong?"),
        ({"game": "Chess1234"}, "expected one of Alien, Amidar"),
        ({"sticky": 1.0}, "sticky must be a probability below 1, got 1.0"),
        ({"time_limit": 0}, "time_limit must be at least 1 agent step, got 0"),
        ({"noops": -1}, "noops must be at least 0 frames, got -1"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        Atari(**options)


def test_an_action_outside_the_set_is_refused():
    with pytest.raises(ValueError, match="Pong has actions 0 to 5, got 6"):
        AtariGames(Atari("Pong"), seeds=[0]).step(np.array([6]))


@pytest.mark.parametrize("package", ["ale_py", "cv2"])
def test_a_missing_package_says_what_to_install(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    atari._ale.cache_clear()
    atari._cv2.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'dormant\[atari\]'"):
        AtariGames(Atari("Pong"), seeds=[0])
    monkeypatch.undo()
    atari._ale.cache_clear()
    atari._cv2.cache_clear()
