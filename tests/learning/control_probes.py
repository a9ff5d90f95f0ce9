"""An environment with five small decision problems. They have one continuous action and known values.

Each episode has one problem. The observation encodes the problem, so that one network learns all problems.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dormant.rl.envs import ControlOutcome

GAMMA = 0.5
BEST = 0.5  # the best action if the reward depends on the action; times the sign if the reward also depends on the sign


class Probe(NamedTuple):
    """One problem. Per (sign, step) in `places`, `values` has the Q values of three actions, `best` the best action."""

    name: str
    length: int
    places: tuple[tuple[float, float], ...]
    values: tuple[tuple[float, float, float], ...]
    best: tuple[float, ...] = ()


ACTIONS = (-0.5, 0.0, 0.5)
PROBES = (
    Probe("constant reward", 1, ((1.0, 0.0),), ((1.0,) * 3,)),
    Probe("reward by observation", 1, ((-1.0, 0.0), (1.0, 0.0)), ((-1.0,) * 3, (1.0,) * 3)),
    Probe("reward two steps on", 2, ((1.0, 0.0), (1.0, 1.0)), ((GAMMA,) * 3, (1.0,) * 3)),
    Probe("reward by action", 1, ((1.0, 0.0),), ((0.0, 0.75, 1.0),), (BEST,)),
    Probe("reward by both", 1, ((-1.0, 0.0), (1.0, 0.0)), ((1.0, 0.75, 0.0), (0.0, 0.75, 1.0)), (-BEST, BEST)),
)


def observation(probe, sign, step):
    """Returns an observation: the one-hot problem, the sign, and the step. The reward may depend on the sign."""
    return np.array([*(np.arange(len(PROBES)) == probe), sign, step], np.float32)


def reward(probe, sign, action, last):
    return {
        0: 1.0,
        1: sign,
        2: float(last),
        3: 1.0 - (action - BEST) ** 2,
        4: 1.0 - (action - BEST * sign) ** 2,
    }[probe]


@dataclass(frozen=True)
class ControlProbes:
    """The environment with all problems. Episodes terminate after one or two steps and are never truncated."""

    observations = len(PROBES) + 2
    actions = 1

    def begin(self, seeds, stream=0):
        return ProbeBodies(seeds, stream)


class ProbeBodies:
    def __init__(self, seeds, stream):
        self._keys = [(seed, stream) for seed in seeds]
        self._episode, self._step = (np.zeros(len(seeds), np.int32) for _ in range(2))

    def _posed(self, body):
        """Returns the problem and the sign of an episode. They depend only on seed, stream and episode number."""
        counter = [0, int(self._episode[body]), 0, 0]
        draw = np.random.Generator(np.random.Philox(key=self._keys[body], counter=counter))
        probe, sign = int(draw.integers(len(PROBES))), float(draw.choice([-1.0, 1.0]))
        return probe, sign if probe in (1, 4) else 1.0

    @property
    def observations(self):
        return np.stack([observation(*self._posed(body), step) for body, step in enumerate(self._step)])

    def step(self, actions):
        self._step += 1
        rewards, after, over = [], [], []
        for body, action in enumerate(actions):
            probe, sign = self._posed(body)
            last = self._step[body] >= PROBES[probe].length
            rewards.append(reward(probe, sign, float(action[0]), last))
            after.append(observation(probe, sign, self._step[body]))
            over.append(last)
        self._episode[over] += 1
        self._step[over] = 0
        terminal = np.array(over)
        return ControlOutcome(np.stack(after), np.float32(rewards), terminal, np.zeros_like(terminal))

    def save(self):
        return self._episode.copy(), self._step.copy()

    def restore(self, state):
        self._episode, self._step = (np.array(leaf) for leaf in state)
