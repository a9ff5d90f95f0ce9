"""Six small decision problems with known values."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from dormant.rl.envs import Outcome

GAMMA = 0.5


@dataclass(frozen=True)
class Probe:
    """A problem with episodes of `length` steps. `values` has the true Q values of both actions, per observation in
    `places`."""

    name: str
    length: int
    random_sign: bool  # True: the observation is a random sign, +1 or -1. False: it is the number of the step
    reward_by: str  # "constant", "observation", "end", "action" or "both"
    places: tuple[float, ...]
    values: tuple[tuple[float, float], ...]
    truncated: bool = False  # True: episodes are truncated, so the last step is bootstrapped

    observation_shape = (1,)
    observation_dtype = np.dtype(np.float32)
    actions = 2

    def reset(self, key):
        sign = 2.0 * jax.random.bernoulli(key).astype(jnp.float32) - 1.0
        return {"step": jnp.zeros((), jnp.int32), "sign": sign}

    def observe(self, state):
        return (state["sign"] if self.random_sign else state["step"].astype(jnp.float32))[None]

    def step(self, key, state, action):
        after = {**state, "step": state["step"] + 1}
        over = after["step"] >= self.length
        reward = self._reward(state, action, over).astype(jnp.float32)
        return after, Outcome(self.observe(after), reward, over & (not self.truncated), over & self.truncated)

    def _reward(self, state, action, terminal):
        sign, chosen = state["sign"], 2.0 * action.astype(jnp.float32) - 1.0
        return {
            "constant": jnp.ones(()),
            "observation": sign,
            "end": terminal,
            "action": chosen,
            "both": sign * chosen,
        }[self.reward_by]


@dataclass(frozen=True)
class Pictured:
    """A probe with images as observations. All pixels of an image are equal, so shifts do not change the image."""

    probe: Probe

    observation_shape = (4, 4, 1)
    observation_dtype = np.dtype(np.float32)
    actions = 2

    def reset(self, key):
        return self.probe.reset(key)

    def observe(self, state):
        return jnp.full(self.observation_shape, self.probe.observe(state)[0])

    def step(self, key, state, action):
        state, outcome = self.probe.step(key, state, action)
        return state, outcome._replace(observation=self.observe(state))


PROBES = (
    Probe("constant reward", 1, False, "constant", (0.0,), ((1.0, 1.0),)),
    Probe("reward by observation", 1, True, "observation", (-1.0, 1.0), ((-1.0, -1.0), (1.0, 1.0))),
    Probe("reward two steps on", 2, False, "end", (0.0, 1.0), ((GAMMA, GAMMA), (1.0, 1.0))),
    Probe("reward by action", 1, False, "action", (0.0,), ((-1.0, 1.0),)),
    Probe("reward by both", 1, True, "both", (-1.0, 1.0), ((1.0, -1.0), (-1.0, 1.0))),
    # The truncation does not change the observation, so the value is 1 + GAMMA + GAMMA**2 + ...
    Probe("cut off", 1, True, "constant", (-1.0, 1.0), ((1 / (1 - GAMMA),) * 2,) * 2, truncated=True),
)
