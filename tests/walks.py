"""A fake training that worker processes can import. Its random walks can crash, be killed or be slow."""

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Place:
    """A placeholder for the environment of a random walk."""

    game: str = "Line"


@dataclass(frozen=True)
class Walker:
    """A placeholder for the agent of a random walk. The table of speeds needs the field `network`."""

    network: str = "none"
    min_replay: int = 0
    replay_capacity: int = 1


@dataclass(frozen=True)
class Walk:
    """One random walk per seed. At agent step `at`, it fails in the way `wrong`. With `marker`, it fails only once."""

    env: Place = field(default_factory=Place)
    agent: Walker = field(default_factory=Walker)
    intervention: str = "none"
    replay_ratio: float = 1.0
    agent_steps: int = 12
    log_period: int = 4
    eval_period: int = 4
    seeds: tuple[int, ...] = (0,)
    wrong: str = ""
    at: int = 8
    marker: str = ""
    seconds: float = 0.0

    def init(self):
        return {"position": jnp.zeros(len(self.seeds)), "steps": jnp.zeros((), jnp.int32)}

    def measure(self, state):
        position = np.asarray(state["position"])
        share = 1 / (1 + position**2)
        scores = np.stack([share, 2 - share], axis=1)
        return {
            "eval_return": 10 + position,
            "train_return": 10 + position,
            "train_episodes": np.ones(len(self.seeds)),
            "dormant/0.1/all": share,
            "dormant/0.1/dense": share,
            "scores/dense": scores,
        }

    def advance(self, state):
        time.sleep(self.seconds)
        keys = [jax.random.fold_in(jax.random.key(seed), int(state["steps"])) for seed in self.seeds]
        steps = state["steps"] + self.log_period
        if self.wrong and int(steps) == self.at and self._first():
            self._go_wrong()
        position = state["position"] + jnp.stack([jax.random.normal(key) for key in keys])
        state = {"position": position, "steps": steps}
        counts = np.full(len(self.seeds), int(steps))
        return state, {"agent_steps": counts, "gradient_steps": counts, **self.measure(state)}

    def _first(self):
        if not self.marker:
            return True
        try:
            Path(self.marker).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _go_wrong(self):
        if self.wrong == "raise":
            raise RuntimeError("the walker\nfell")
        print("the floor gave way", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    def agent_steps_done(self, state):
        return int(state["steps"])
