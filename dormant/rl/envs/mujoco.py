"""MuJoCo's locomotion tasks from Gymnasium. Only this file imports Gymnasium (the extra `mujoco`).

A body is one simulated robot. "The paper" is Sokar et al. 2023, which introduced ReDo.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8
from numpy import ndarray

from dormant.hints import suggestion

from . import ControlOutcome, side_by_side

TASKS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5")


@dataclass(frozen=True)
class MuJoCo:
    """One of Gymnasium's locomotion tasks. An episode is truncated after `time_limit` agent steps.

    Actions lie between -1 and 1. They are scaled to the range of the task, for example to [-0.4, 0.4] for Humanoid.

    >>> MuJoCo("Hopper-v5").observations, MuJoCo("Hopper-v5").actions
    (11, 3)

    Raises ValueError for an unknown task, ImportError at its first use if Gymnasium or MuJoCo is not installed.
    Source: the paper uses the `-v2` tasks of OpenAI Gym. docs/differences.md lists how the `-v5` tasks differ from the
    `-v2` tasks.
    """

    task: str = "HalfCheetah-v5"
    time_limit: int = 1_000

    def __post_init__(self) -> None:
        known_task(self.task)
        if self.time_limit < 1:
            raise ValueError(f"time_limit must be at least 1 agent step, got {self.time_limit}.")

    @property
    def observations(self) -> int:
        return _sizes(self.task)[0]

    @property
    def actions(self) -> int:
        return _sizes(self.task)[1]

    def begin(self, seeds: Sequence[int], stream: int = 0) -> "MuJoCoBodies":
        """One body per seed, each at the start of an episode."""
        return MuJoCoBodies(self, seeds, stream)


def known_task(task: str) -> str:
    """Returns the task's name. Raises ValueError for an unknown task. The message suggests similar names.

    >>> known_task("Hoper-v5")
    Traceback (most recent call last):
    ValueError: unknown MuJoCo task 'Hoper-v5'; did you mean Hopper-v5?
    """
    if task not in TASKS:
        raise ValueError(f"unknown MuJoCo task {task!r}; {suggestion(task, TASKS)}")
    return task


class MuJoCoState(NamedTuple):
    """The complete state of a body, with a leading axis of bodies if there are several.

    `physics` holds bytes: first MuJoCo's integration state, then the body positions that rewards depend on.
    """

    physics: UInt8[ndarray, "*bodies bytes"]
    observation: Float32[ndarray, "*bodies observation"]
    elapsed: Int32[ndarray, "*bodies"]
    episodes: Int32[ndarray, "*bodies"]


class MuJoCoBodies:
    """Bodies with the same task, one per seed. The bodies do not influence each other.

    Two bodies with equal `seed`, `stream` and actions take exactly equal steps.

    >>> bodies = MuJoCo("Hopper-v5").begin(seeds=[0, 1])
    >>> outcome = bodies.step(np.zeros((2, 3)))
    >>> bodies.observations.shape, outcome.terminal
    ((2, 11), array([False, False]))
    """

    def __init__(self, spec: MuJoCo, seeds: Sequence[int], stream: int = 0) -> None:
        self._bodies = [MuJoCoBody(spec, seed, stream) for seed in seeds]

    @property
    def observations(self) -> Float32[ndarray, "bodies observation"]:
        """The current observations. After the end of an episode, this is the first observation of the next episode."""
        return side_by_side([body.observation for body in self._bodies])

    def step(self, actions: Float[ndarray, "bodies actions"]) -> ControlOutcome:
        """Takes one agent step with each body and restarts ended episodes. Returns the outcome before any restart."""
        outcomes = [body.step(action) for body, action in zip(self._bodies, actions, strict=True)]
        observation, *others = zip(*outcomes, strict=True)
        return ControlOutcome(np.stack(observation), *map(np.array, others))

    def save(self) -> MuJoCoState:
        """Returns a copy of the state of all bodies."""
        return MuJoCoState(*map(np.stack, zip(*[body.save() for body in self._bodies], strict=True)))

    def restore(self, state: MuJoCoState) -> None:
        """Restores a saved state exactly. The same actions then lead to the same steps as after `save`."""
        for index, body in enumerate(self._bodies):
            body.restore(MuJoCoState(*[np.asarray(leaf)[index] for leaf in state]))


class MuJoCoBody:
    """One body of `MuJoCoBodies`: a Gymnasium task and its random numbers."""

    def __init__(self, spec: MuJoCo, seed: int, stream: int = 0) -> None:
        self.spec, self._key, self._episodes = spec, (seed, stream), 0
        self._task, self._mujoco = _task(spec.task), _packages()[1]
        self._strongest = self._task.action_space.high  # the lower bound is its negative in every task
        self._kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        self._restart()

    def step(self, action: Float[ndarray, " actions"]) -> tuple[Float32[ndarray, " observation"], np.float32, Any, Any]:
        """Takes one agent step and restarts an ended episode. Returns the fields of `ControlOutcome`."""
        observation, reward, terminal, _, _ = self._task.step(np.asarray(action, np.float32) * self._strongest)
        self._elapsed += 1
        late = self._elapsed >= self.spec.time_limit
        self.observation = after = observation.astype(np.float32)
        if terminal or late:
            self._restart()
        return after, np.float32(reward), bool(terminal), bool(late and not terminal)

    def save(self) -> MuJoCoState:
        """Returns a copy of the state."""
        counters = (np.array(count, np.int32) for count in (self._elapsed, self._episodes))
        return MuJoCoState(self._physics().view(np.uint8), self.observation.copy(), *counters)

    def restore(self, state: MuJoCoState) -> None:
        """Restores a saved state exactly. The same actions then lead to the same steps as after `save`."""
        data, physics = self._task.data, np.frombuffer(state.physics.tobytes())
        ends = np.cumsum([self._size, data.xpos.size])
        integrated, places, centres = np.split(physics, ends)
        self._mujoco.mj_setState(self._task.model, data, integrated, self._kind)
        # Also restores the body positions. The rewards of Ant and Humanoid compare the positions before and after a
        # step, and MuJoCo recomputes them only in a step.
        data.xpos[:], data.xipos[:] = places.reshape(data.xpos.shape), centres.reshape(data.xipos.shape)
        self.observation = np.array(state.observation)
        self._elapsed, self._episodes = int(state.elapsed), int(state.episodes)

    @property
    def _size(self) -> int:
        return self._mujoco.mj_stateSize(self._task.model, self._kind)

    def _physics(self) -> Float[ndarray, " numbers"]:
        data, state = self._task.data, np.empty(self._size)
        self._mujoco.mj_getState(self._task.model, data, state, self._kind)
        return np.concatenate([state, data.xpos.ravel(), data.xipos.ravel()])

    def _restart(self) -> None:
        # The random numbers depend only on the key and on the number of episodes so far.
        self._task.np_random = np.random.Generator(np.random.Philox(key=self._key, counter=[0, self._episodes, 0, 0]))
        observation, _ = self._task.reset()
        self.observation = observation.astype(np.float32)
        self._elapsed, self._episodes = 0, self._episodes + 1


def _task(name: str) -> Any:
    gymnasium, mujoco = _packages()
    with _quiet(mujoco):
        # Removes Gymnasium's wrappers: this file applies the time limit itself, and no wrapper needs to check the task.
        return gymnasium.make(name, disable_env_checker=True).unwrapped


@contextmanager
def _quiet(mujoco: ModuleType) -> Iterator[None]:
    """Silences a warning about HalfCheetah's old model. MuJoCo would print it and write it to a log file."""
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda _: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


@cache
def _sizes(name: str) -> tuple[int, int]:
    task = _task(name)
    return task.observation_space.shape[0], task.action_space.shape[0]


@cache
def _packages() -> tuple[ModuleType, ModuleType]:
    try:
        # MuJoCo comes first, because Gymnasium raises a different error if MuJoCo is missing.
        mujoco, gymnasium = map(import_module, ("mujoco", "gymnasium"))
        import_module("gymnasium.envs.mujoco")
    except ImportError as error:
        raise ImportError(f"MuJoCo's tasks need gymnasium[mujoco] ({error}): pip install 'dormant[mujoco]'") from error
    return gymnasium, mujoco
