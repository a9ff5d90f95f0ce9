"""Compares the frame replay with a plain list of episodes, on random sequences of steps, saves and kills."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from dormant.rl.replay.frames import FrameReplay

GAMMA = 0.5
# The event at each step. Usually the episode goes on. "terminal" and "truncated" end the episode. "saved" saves a
# checkpoint. "killed" kills the run, and the run then resumes from its last checkpoint.
LIVES = st.lists(
    st.sampled_from(["goes on"] * 6 + ["terminal", "truncated", "killed", "saved"]), min_size=1, max_size=60
)


class Episodes:
    """A reference replay. It keeps all steps, and with each step the frames of its episode so far."""

    def __init__(self, replay):
        self.replay, self.steps, self.frames = replay, [], []

    def add(self, frame, reward, kind, frame_t):
        self.frames = [*self.frames, frame]
        self.steps.append((self.frames, reward, kind, frame_t))
        if kind != "goes on":
            self.frames = []

    def stack(self, frames):
        return ([0] * self.replay.stack + frames)[-self.replay.stack :]

    def transition(self, first):
        return_t, discount = 0.0, 1.0
        for frames, reward, kind, frame_t in self.steps[first : first + self.replay.n_step]:
            return_t += discount * reward
            discount *= 0.0 if kind == "terminal" else GAMMA
            after = frames if kind == "terminal" else [*frames, frame_t]
            if kind != "goes on":
                break
        return self.stack(self.steps[first][0]), return_t, discount, self.stack(after)

    def transitions(self):
        held = min(len(self.steps), self.replay.capacity)
        firsts = range(len(self.steps) - held, len(self.steps) - self.replay.n_step + 1)
        return [self.transition(first) for first in firsts]


def assert_alike(replay, ring, episodes):
    wanted = episodes.transitions()
    if not wanted:
        return
    batch = replay.sample(ring, len(episodes.steps), (np.arange(len(wanted)) + 0.5) / len(wanted))
    before, return_t, discount_t, after = (np.array(column) for column in zip(*wanted, strict=True))
    assert_array_equal(batch.observation_tm1[:, 0, 0], before)
    assert_array_equal(batch.observation_t[:, 0, 0], after)
    assert_allclose(batch.return_t, return_t, rtol=1e-6)
    assert_allclose(batch.discount_t, discount_t)


@given(
    kinds=LIVES,
    capacity=st.integers(4, 12),
    n_step=st.integers(1, 4),
    stack=st.integers(1, 5),
    slack=st.integers(1, 6),
)
def test_a_ring_holds_what_a_list_of_episodes_does(kinds, capacity, n_step, stack, slack):
    replay = FrameReplay(capacity, (1, 1), stack, n_step, slack, time_limit=1)
    ring, episodes, saved, number = replay.init(), Episodes(replay), 0, 0
    copies = [(list(episodes.steps), list(episodes.frames))]
    for kind in kinds:
        if kind == "killed":
            episodes.steps, episodes.frames = list(copies[-1][0]), list(copies[-1][1])
        elif kind == "saved" or replay.save_due(len(episodes.steps), saved, 1):
            saved = len(episodes.steps)
            copies.append((list(episodes.steps), list(episodes.frames)))
        if kind in ("killed", "saved"):
            assert_alike(replay, ring, episodes)
            continue
        number += 1
        before, after = 2 * number % 251 + 1, (2 * number + (2 if kind == "goes on" else 1)) % 251 + 1
        discount, last = 0.0 if kind == "terminal" else GAMMA, kind != "goes on"
        frames = [np.full((1, 1), value, np.uint8) for value in (before, after)]
        # Within an episode, a step starts from the last frame of the previous step. This is also true after a resume.
        if episodes.frames and episodes.steps:
            frames[0][:] = before = episodes.steps[-1][3]
        replay.add(ring, len(episodes.steps), frames[0], 0, float(number), discount, last, frames[1])
        episodes.add(before, float(number), kind, after)
    assert_alike(replay, ring, episodes)
