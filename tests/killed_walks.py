"""A fake training for the tests of run folders: one random walk per seed. Tests can kill it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dormant.lab.runs import runner


@dataclass(frozen=True)
class Walk:
    """A fake training with one random walk per seed. The state has positions, keys and the number of agent steps."""

    agent_steps: int = 40
    log_period: int = 4
    seeds: tuple[int, ...] = (3, 5)
    size: float = 1.0

    def init(self):
        return {
            "key": jax.vmap(jax.random.key)(jnp.array(self.seeds)),
            "position": jnp.zeros(len(self.seeds)),
            "steps": jnp.zeros((), jnp.int32),
        }

    def measure(self, state):
        position = np.asarray(state["position"])
        scores = np.stack([position, position + 1], axis=1)
        return {"dormant/0.1/dense": position / 10, "dormant/0.1/all": position, "scores/dense": scores}

    def advance(self, state):
        keys = jax.vmap(jax.random.split)(state["key"])
        position = state["position"] + self.size * jax.vmap(jax.random.normal)(keys[:, 0])
        state = {"key": keys[:, 1], "position": position, "steps": state["steps"] + self.log_period}
        steps = np.full(len(self.seeds), int(state["steps"]))
        returns = np.asarray(position) if steps[0] % 8 == 0 else np.ma.masked_all(len(self.seeds))
        return state, {"agent_steps": steps, "eval_return": returns, **self.measure(state)}

    def agent_steps_done(self, state):
        return int(state["steps"])


class Killed(BaseException):
    """Simulates a kill. The library must not catch this exception."""


def kill_at(agent_steps):
    def progress(done):
        if done >= agent_steps:
            raise Killed

    return progress


def files(folder):
    return {file.name: file.read_bytes() for file in (folder.metrics, folder.scores)}


def last_state(folder, training):
    return runner.last_state(training, folder)


def killed(path, agent_steps):
    with pytest.raises(Killed):
        runner.run(Walk(), path, kill_at(agent_steps), 0.0)
    return sorted((path / "checkpoint").iterdir(), key=lambda folder: int(folder.name))
