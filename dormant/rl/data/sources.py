"""Sources of transitions for offline training: one of our runs, Dopamine's published files, or a Minari data set."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..agents.dqn import DQN
from ..device import DeviceTraining
from ..envs import Environment
from ..envs.atari import Atari
from ..replay.device import Replay, ReplayState
from . import dopamine, transitions

Needs = tuple[DeviceTraining, ...]
Memory = Replay | dopamine.FrameMemory
Arrays = PyTree[Array]  # a `ReplayState` for a `Replay`, a `FrameLog` for a `FrameMemory`
Playable = Environment | Atari


class FinishedRun(NamedTuple):
    """The last state of a finished run, the folder of its replay files, and the owner number in these files."""

    state: Any
    replay: Path
    owner: int = 0


@runtime_checkable
class Data(Protocol):
    """Opened data. `at` returns arrays with a leading axis of seeds, and `memory` draws batches from these arrays."""

    @property
    def memory(self) -> Memory: ...
    @property
    def steps(self) -> int: ...
    def at(self, gradient_steps: int) -> Arrays: ...


@dataclass(frozen=True, eq=False)
class Fixed:
    """Data whose arrays do not change during the run."""

    memory: Replay
    arrays: ReplayState

    @property
    def steps(self) -> int:
        """The number of transitions per seed."""
        return self.memory.capacity

    def at(self, gradient_steps: int) -> ReplayState:
        """Returns the arrays, which do not depend on the number of gradient steps."""
        del gradient_steps
        return self.arrays


@dataclass(frozen=True)
class OwnReplay:
    """The final replay of one of our DQN runs. The run has the environment and the seeds of the offline training.

    `open` also writes one file per seed for other programs. `dormant.rl.data.transitions` describes the format.
    """

    training: DeviceTraining = field(default_factory=DeviceTraining)

    def needs(self, env: Playable, seeds: tuple[int, ...]) -> Needs:
        """The training that must be finished first."""
        return (replace(self.training, env=env, seeds=seeds),)

    def open(self, agent: DQN, env: Playable, seeds: tuple[int, ...], folder: Path, *earlier: FinishedRun) -> Fixed:
        """Returns the replay of the run's final state. Writes the replay to the folder if its files do not exist yet.

        Raises ValueError if an existing file is damaged or differs from the final replay.
        """
        state, replay, logged = earlier[0].state, replace(self.training, env=env).replay, []
        for lane, seed in enumerate(seeds):
            ring, added = jax.tree.map(lambda x, n=lane: x[n], (state.replay, state.agent_steps))
            logged.append(transitions.of_ring(replay, ring, int(added)))
            _keep(folder / f"seed{seed}.npz", logged[-1])
        return _fixed(agent, env, logged)


def _keep(file: Path, steps: transitions.Transitions) -> None:
    """Writes the steps to the file if it does not exist. Raises ValueError if an existing file holds other steps."""
    if not file.exists():
        transitions.write(file, steps)
    elif not all(map(np.array_equal, steps, transitions.read(file))):
        raise ValueError(f"{file} holds the replay of another run; delete it, and it is written again.")


@dataclass(frozen=True)
class TransitionFiles:
    """Files of transitions, one per seed (`seed0.npz` and so on), in a folder that the user names."""

    path: Path | None = field(default=None, compare=False)

    def needs(self, env: Playable, seeds: tuple[int, ...]) -> Needs:
        """Returns an empty tuple, because the data does not come from one of our runs."""
        del env, seeds
        return ()

    def open(self, agent: DQN, env: Playable, seeds: tuple[int, ...], folder: Path, *earlier: FinishedRun) -> Fixed:
        """Reads the files. Raises ValueError if one is missing, damaged, or from a different environment."""
        del folder, earlier
        return _fixed(agent, env, [transitions.read(given(self.path) / f"seed{seed}.npz") for seed in seeds])


@dataclass(frozen=True)
class Minari:
    """A Minari data set. All seeds use the same data set."""

    name: str

    def needs(self, env: Playable, seeds: tuple[int, ...]) -> Needs:
        """Returns an empty tuple, because the data does not come from one of our runs."""
        del env, seeds
        return ()

    def open(self, agent: DQN, env: Playable, seeds: tuple[int, ...], folder: Path, *earlier: FinishedRun) -> Fixed:
        """Reads the data set. Raises ValueError if it is missing or from a different environment."""
        del folder, earlier
        return _fixed(agent, env, [transitions.read_minari(self.name)] * len(seeds))


Part = tuple[int, ...]  # for each seed, the number N of its current part of the log


@dataclass(frozen=True)
class DopamineReplay:
    """The published replay of DQN on a game. It has `parts` parts. One random part per seed is in memory at a time.

    After every `every` gradient steps, each seed draws a new part. `path` is a folder with one subfolder per game.
    Seed k reads run k + 1 of the game. `rows` keeps only the first rows of each part. A whole part takes 7 GB.

    Source: Agarwal, Schuurmans and Norouzi 2020. Their code batch_rl/fixed_replay loads one of 50 parts per iteration,
    and an iteration has 62,500 gradient steps.
    """

    path: Path | None = field(default=None, compare=False)
    parts: int = 50
    every: int = 62_500
    rows: int | None = None

    def needs(self, env: Playable, seeds: tuple[int, ...]) -> Needs:
        """Returns an empty tuple, because the data does not come from one of our runs."""
        del env, seeds
        return ()

    def open(self, agent: DQN, env: Playable, seeds: tuple[int, ...], folder: Path, *earlier: FinishedRun) -> "Parts":
        """Returns the parts without reading them. Raises ValueError if the folder of the game is missing."""
        del folder, earlier
        if not isinstance(env, Atari):
            raise ValueError(f"DQN-replay holds Atari games only, got the environment {env}.")
        game = given(self.path) / env.game
        if not game.is_dir():
            raise ValueError(f"there is no {game}; --data must be the folder of DQN-replay, with a subfolder per game.")
        return Parts(self, game, agent.gamma, seeds)


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of a game's log. One part per seed is in memory at a time."""

    source: DopamineReplay
    game: Path
    gamma: float
    seeds: tuple[int, ...]
    steps: int = 0  # not used, because each part has its own number of steps
    memory: dopamine.FrameMemory = field(default_factory=dopamine.FrameMemory)

    def at(self, gradient_steps: int) -> dopamine.FrameLog:
        """Returns the parts for this gradient step, one random part per seed. Reads them if they are not in memory.

        The choice of a part depends only on the seed and on the gradient step.
        """
        visit = gradient_steps // self.source.every
        part = tuple(int(np.random.default_rng([seed, visit]).integers(self.source.parts)) for seed in self.seeds)
        if part not in self._read:
            self._read.clear()
            logs = [self._log(seed, number) for seed, number in zip(self.seeds, part, strict=True)]
            self._read[part] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *logs)
        return self._read[part]

    @cached_property
    def _read(self) -> dict[Part, dopamine.FrameLog]:
        return {}

    def _log(self, seed: int, part: int) -> dopamine.FrameLog:
        folder = self.game / str(seed + 1) / "replay_logs"
        return dopamine.read(folder, part, self.gamma, self.memory.stack, self.source.rows)


Source = OwnReplay | TransitionFiles | Minari | DopamineReplay


def _fixed(agent: DQN, env: Playable, logged: list[transitions.Transitions]) -> Fixed:
    for each in logged:
        shape, actions = each.observation.shape[1:], int(each.action.max()) + 1
        if shape != tuple(env.observation_shape) or actions > env.actions:
            raise ValueError(
                f"the data comes from a different environment. Its observations have shape {shape}, and it has at "
                f"least {actions} actions. The environment has observations of shape {tuple(env.observation_shape)} "
                f"and {env.actions} actions."
            )
    rings = [transitions.ring_of(each, agent.gamma, agent.n_step) for each in logged]
    return Fixed(rings[0][0], transitions.joined([ring for _, ring in rings]))


def given(path: Path | None) -> Path:
    """Returns the folder that the user named. Raises ValueError if it is None or does not exist."""
    if path is None:
        raise ValueError("no folder of the data set was named; name it with --data.")
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}; name the folder of the data set with --data.")
    return path
