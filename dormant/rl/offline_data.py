"""Where offline training's transitions come from: a DQN of ours, Dopamine's published files, or a Minari data set."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from . import dopamine_files, minari_files, transitions
from .agents.dqn import DQN
from .ended import Ended
from .loops import DeviceTraining
from .replay import Replay

Needs = tuple[DeviceTraining, ...]


@runtime_checkable
class Data(Protocol):
    """Opened data: how batches are drawn from arrays, and which these are at a gradient step, with an axis of seeds."""

    @property
    def memory(self) -> Replay | dopamine_files.FrameMemory: ...
    @property
    def steps(self) -> int: ...
    def at(self, gradient_steps: int) -> Any: ...


@dataclass(frozen=True, eq=False)
class Fixed:
    """The same arrays throughout."""

    memory: Replay
    arrays: Any

    @property
    def steps(self) -> int:
        """How many transitions each seed has."""
        return self.memory.capacity

    def at(self, gradient_steps: int) -> Any:
        """The arrays."""
        del gradient_steps
        return self.arrays


@dataclass(frozen=True)
class OwnReplay:
    """What a DQN of ours holds in its replay at its end; its environment and seeds are those of who asks.

    It is written to a file for each seed, whose format `dormant.rl.transitions` describes, and read from there.
    """

    training: DeviceTraining = field(default_factory=DeviceTraining)

    def needs(self, env: Any, seeds: tuple[int, ...]) -> Needs:
        """The run that has to be there."""
        return (replace(self.training, env=env, seeds=seeds),)

    def open(self, agent: DQN, env: Any, seeds: tuple[int, ...], folder: Path, *earlier: Ended) -> Fixed:
        """The files in a folder, made from the run's last state if they are not there yet."""
        files = [folder / f"seed{seed}.npz" for seed in seeds]
        for lane, file in enumerate(files):
            if not file.exists():
                state = earlier[0].state
                ring, added = jax.tree.map(lambda x, n=lane: x[n], (state.replay, state.agent_steps))
                replay = replace(self.training, env=env).replay
                transitions.write(file, transitions.of_ring(replay, ring, int(added)))
        return _fixed(agent, env, [transitions.read(file) for file in files])


@dataclass(frozen=True)
class TransitionFiles:
    """Files in our format, `seed0.npz` and so on, in a folder of the user's."""

    path: Path | None = field(default=None, compare=False)

    def needs(self, env: Any, seeds: tuple[int, ...]) -> Needs:
        """No run."""
        del env, seeds
        return ()

    def open(self, agent: DQN, env: Any, seeds: tuple[int, ...], folder: Path, *earlier: Ended) -> Fixed:
        """The files. Raises ValueError for one that is missing, damaged, or of another environment."""
        del folder, earlier
        return _fixed(agent, env, [transitions.read(given(self.path) / f"seed{seed}.npz") for seed in seeds])


@dataclass(frozen=True)
class Minari:
    """A Minari data set, the same for every seed."""

    name: str

    def needs(self, env: Any, seeds: tuple[int, ...]) -> Needs:
        """No run."""
        del env, seeds
        return ()

    def open(self, agent: DQN, env: Any, seeds: tuple[int, ...], folder: Path, *earlier: Ended) -> Fixed:
        """The data set. Raises ValueError if it is not there, or of another environment."""
        del folder, earlier
        return _fixed(agent, env, [minari_files.read(self.name)] * len(seeds))


Part = tuple[int, ...]  # which file of each seed


@dataclass(frozen=True)
class DopamineReplay:
    """The published replay of DQN on a game, one of its `parts` at a time, drawn anew every so many gradient steps.

    `path` is the folder that holds a folder for each game, in which run k + 1 stands for seed k. `rows` keeps only the
    first of each part; all are 7 GB.

    Source: Agarwal, Schuurmans and Norouzi 2020; batch_rl/fixed_replay loads one of 50 parts at each iteration of
    250,000 steps, which are 62,500 gradient steps.
    """

    path: Path | None = field(default=None, compare=False)
    parts: int = 50
    every: int = 62_500
    rows: int | None = None

    def needs(self, env: Any, seeds: tuple[int, ...]) -> Needs:
        """No run."""
        del env, seeds
        return ()

    def open(self, agent: DQN, env: Any, seeds: tuple[int, ...], folder: Path, *earlier: Ended) -> "Parts":
        """The parts. Raises ValueError if the folder is missing."""
        del folder, earlier
        game = given(self.path) / env.game
        if not game.is_dir():
            raise ValueError(f"there is no {game}; --data must name the folder of DQN-replay that holds one a game.")
        return Parts(self, game, agent.gamma, seeds)


@dataclass(frozen=True, eq=False)
class Parts:
    """Files of which one for each seed is read at a time."""

    source: DopamineReplay
    game: Path
    gamma: float
    seeds: tuple[int, ...]
    steps: int = 0  # each part has its own
    memory: dopamine_files.FrameMemory = field(default_factory=dopamine_files.FrameMemory)

    def at(self, gradient_steps: int) -> dopamine_files.FrameLog:
        """The parts in force at a gradient step, by a random choice that depends on nothing but seed and step."""
        visit = gradient_steps // self.source.every
        part = tuple(int(np.random.default_rng([seed, visit]).integers(self.source.parts)) for seed in self.seeds)
        if part not in self._read:
            self._read.clear()
            logs = [self._log(seed, number) for seed, number in zip(self.seeds, part, strict=True)]
            self._read[part] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *logs)
        return self._read[part]

    @cached_property
    def _read(self) -> dict[Part, dopamine_files.FrameLog]:
        return {}

    def _log(self, seed: int, part: int) -> dopamine_files.FrameLog:
        folder = self.game / str(seed + 1) / "replay_logs"
        return dopamine_files.read(folder, part, self.gamma, self.memory.stack, self.source.rows)


Source = OwnReplay | TransitionFiles | Minari | DopamineReplay


def _fixed(agent: DQN, env: Any, logged: list[transitions.Transitions]) -> Fixed:
    for each in logged:
        shape, actions = each.observation.shape[1:], int(each.action.max()) + 1
        if shape != tuple(env.observation_shape) or actions > env.actions:
            raise ValueError(
                f"the data has observations {shape} and at least {actions} actions, the environment has "
                f"{tuple(env.observation_shape)} and {env.actions}: they are of another one."
            )
    rings = [transitions.ring_of(each, agent.gamma, agent.n_step) for each in logged]
    return Fixed(rings[0][0], transitions.joined([ring for _, ring in rings]))


def given(path: Path | None) -> Path:
    """The folder of the user's. Raises ValueError if none was named, or there is none of that name."""
    if path is None:
        raise ValueError("the data set's folder was not named; give it with --data.")
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}; name that of the data set with --data.")
    return path
