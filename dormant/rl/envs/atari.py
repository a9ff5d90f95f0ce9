"""Atari games from ale-py, and the scores of random play and of a human. Only this file imports ale-py (GPL-2.0).

"The paper" is Sokar et al. 2023, which introduced ReDo.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Integer, UInt8
from numpy import ndarray

from dormant.hints import suggestion

from . import side_by_side

# Game -> score of random play, score of a human. Source: rliable for the games of Atari 100k, dqn_zoo for the rest.
SCORES = {
    "Alien": (227.8, 7127.7),
    "Amidar": (5.8, 1719.5),
    "Assault": (222.4, 742.0),
    "Asterix": (210.0, 8503.3),
    "BankHeist": (14.2, 753.1),
    "BattleZone": (2360.0, 37187.5),
    "BeamRider": (363.9, 16926.5),
    "Boxing": (0.1, 12.1),
    "Breakout": (1.7, 30.5),
    "ChopperCommand": (811.0, 7387.8),
    "CrazyClimber": (10780.5, 35829.4),
    "DemonAttack": (152.1, 1971.0),
    "DoubleDunk": (-18.6, -16.4),
    "Enduro": (0.0, 860.5),
    "Freeway": (0.0, 29.6),
    "Frostbite": (65.2, 4334.7),
    "Gopher": (257.6, 2412.5),
    "Hero": (1027.0, 30826.4),
    "IceHockey": (-11.2, 0.9),
    "Jamesbond": (29.0, 302.8),
    "Kangaroo": (52.0, 3035.0),
    "Krull": (1598.0, 2665.5),
    "KungFuMaster": (258.5, 22736.3),
    "MsPacman": (307.3, 6951.6),
    "Pong": (-20.7, 14.6),
    "PrivateEye": (24.9, 69571.3),
    "Qbert": (163.9, 13455.0),
    "RoadRunner": (11.5, 7845.0),
    "Seaquest": (68.4, 42054.7),
    "SpaceInvaders": (148.0, 1668.7),
    "UpNDown": (533.4, 11693.2),
    "WizardOfWor": (563.5, 4756.5),
    "YarsRevenge": (3092.9, 54576.9),
    "Zaxxon": (32.5, 9173.3),
}

# The 17 games on which the paper trains DQN.
DQN_GAMES = (
    *("Asterix", "BeamRider", "Breakout", "DemonAttack", "DoubleDunk", "Enduro", "IceHockey", "Jamesbond", "MsPacman"),
    *("Pong", "Qbert", "RoadRunner", "Seaquest", "SpaceInvaders", "WizardOfWor", "YarsRevenge", "Zaxxon"),
)
_NOT_OF_100K = {
    "BeamRider",
    "DoubleDunk",
    "Enduro",
    "IceHockey",
    "SpaceInvaders",
    "WizardOfWor",
    "YarsRevenge",
    "Zaxxon",
}
# The 26 games of the Atari 100k benchmark, on which the paper trains DrQ.
ATARI_100K_GAMES = tuple(game for game in SCORES if game not in _NOT_OF_100K)


def human_normalised(game: str, score: float | Float[ndarray, "*shape"]) -> float | Float[ndarray, "*shape"]:
    """The human-normalised score: 0 for random play, 1 for a human.

    >>> human_normalised("Pong", -20.7), human_normalised("Pong", 14.6)
    (0.0, 1.0)

    Raises ValueError for an unknown game. The message suggests similar names.
    """
    random, human = SCORES[known_game(game)]
    return (score - random) / (human - random)


def known_game(game: str) -> str:
    """Returns the game's name. Raises ValueError for an unknown game. The message suggests similar names.

    >>> known_game("DemonAttck")
    Traceback (most recent call last):
    ValueError: unknown Atari game 'DemonAttck'; did you mean DemonAttack?

    Without a similar name, the message lists all games.
    """
    if game in SCORES:
        return game
    raise ValueError(f"unknown Atari game {game!r}; {suggestion(game, SCORES)}")


FRAME_SKIP = 4
SIDE = 84
STACK = 4
# Bytes reserved for an emulator state. The longest state of the games above has 14,463 bytes.
EMULATOR_BYTES = 16_384


@dataclass(frozen=True)
class Atari:
    """One Atari game with its minimal action set, preprocessed as for DQN.

    An agent step is four frames of the emulator. The agent sees one frame per agent step: the pixelwise maximum of the
    last two emulator frames, in grey, resized to 84 x 84. An observation stacks the last four frames that the agent has
    seen, newest last. At the start of an episode, missing frames are zeros.

    - `sticky`: probability, per emulator frame, that the last action is repeated instead of the chosen action.
    - `time_limit`: agent steps after which an episode is truncated.
    - `noops`: an episode starts with a random number of emulator frames without action. `noops` is the largest number.
    - `life_loss`: whether losing a life ends the return. The game continues.

    >>> Atari("Pong").observation_shape
    (84, 84, 4)

    Raises ValueError for an unknown game, ImportError at its first use if ale-py or OpenCV is not installed.
    Source: Dopamine's AtariPreprocessing, Bellemare et al. 2013, Machado et al. 2018. DrQ is trained and evaluated with
    `sticky=0.0, noops=29, life_loss=True`.
    """

    game: str = "DemonAttack"
    sticky: float = 0.25
    time_limit: int = 27_000
    noops: int = 0
    life_loss: bool = False

    def __post_init__(self) -> None:
        known_game(self.game)
        if not 0 <= self.sticky < 1:
            raise ValueError(f"sticky must be a probability below 1, got {self.sticky}; the paper's DQN has 0.25.")
        if self.time_limit < 1:
            raise ValueError(f"time_limit must be at least 1 agent step, got {self.time_limit}.")
        if self.noops < 0:
            raise ValueError(f"noops must be at least 0 frames, got {self.noops}; 0 starts without no-ops.")

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        return (SIDE, SIDE, STACK)

    @property
    def observation_dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    @property
    def actions(self) -> int:
        return _number_of_actions(self.game)


class AtariOutcome(NamedTuple):
    """The outcome of one agent step in each game.

    - `frame`: the frame after the action, before any restart.
    - `terminal`: the return ends, so nothing is bootstrapped.
    - `truncated`: the episode ends, but the return does not.
    - `restarted`: a new game has begun. A lost life does not begin a new game.
    """

    frame: UInt8[ndarray, "*games height width"]
    reward: Float32[ndarray, "*games"]
    terminal: Bool[ndarray, "*games"]
    truncated: Bool[ndarray, "*games"]
    restarted: Bool[ndarray, "*games"]


class AtariState(NamedTuple):
    """The complete state of a game, with a leading axis of games if there are several."""

    emulator: UInt8[ndarray, "*games bytes"]
    emulator_length: Int32[ndarray, "*games"]
    screens: UInt8[ndarray, "*games 2 rows columns"]
    observation: UInt8[ndarray, "*games height width stack"]
    last_action: Int32[ndarray, "*games"]
    elapsed: Int32[ndarray, "*games"]
    lives: Int32[ndarray, "*games"]
    draws: Int32[ndarray, "*games"]


class AtariGames:
    """One emulator per seed. All emulators run the same Atari game, and they do not influence each other.

    Two games with equal `seed`, `stream` and actions take exactly equal steps. Training and evaluation use different
    values of `stream`, so that their random numbers are independent.

    >>> games = AtariGames(Atari("Pong"), seeds=[0, 1])
    >>> outcome = games.step(np.array([0, 2]))
    >>> games.observations.shape, outcome.reward
    ((2, 84, 84, 4), array([0., 0.], dtype=float32))

    The games are stepped one after another, because ale-py holds the interpreter's lock while it emulates. Stepping
    overlaps with computations on the device.
    """

    def __init__(self, spec: Atari, seeds: Sequence[int], stream: int = 0) -> None:
        self.spec = spec
        self._games = [AtariGame(spec, seed, stream) for seed in seeds]

    @property
    def observations(self) -> UInt8[ndarray, "games height width stack"]:
        """The current observations. After the end of an episode, this is the first observation of the next episode."""
        return side_by_side([game.observation for game in self._games])

    def step(self, actions: Integer[ndarray, " games"]) -> AtariOutcome:
        """Takes one agent step in each game and restarts ended games. Returns the outcome before any restart."""
        outcomes = [game.step(int(action)) for game, action in zip(self._games, actions, strict=True)]
        return AtariOutcome(*map(side_by_side, zip(*outcomes, strict=True)))

    def save(self) -> AtariState:
        """Returns a copy of the state of all games."""
        return AtariState(*map(np.stack, zip(*[game.save() for game in self._games], strict=True)))

    def restore(self, state: AtariState) -> None:
        """Restores a saved state exactly. The same actions then lead to the same steps as after `save`."""
        for index, game in enumerate(self._games):
            game.restore(AtariState(*[np.asarray(leaf)[index] for leaf in state]))

    def screen(self, game: int) -> UInt8[ndarray, "rows columns 3"]:
        """Returns the screen of a game in colour, for videos."""
        return self._games[game].screen()


class AtariGame:
    """One game of `AtariGames`, with its emulator."""

    def __init__(self, spec: Atari, seed: int, stream: int = 0) -> None:
        self.spec, self._key = spec, (seed, stream)
        self._emulator = _emulator(spec.game, seed)
        self._actions = self._emulator.getMinimalActionSet()
        self._screens = np.zeros((2, *self._emulator.getScreenDims()), np.uint8)
        self._draws = 0
        self._restart()

    def step(self, action: int) -> AtariOutcome:
        """Takes one agent step and restarts an ended game. Returns the outcome before any restart."""
        if not 0 <= action < len(self._actions):
            raise ValueError(f"{self.spec.game} has actions 0 to {len(self._actions) - 1}, got {action}.")
        reward, terminal = self._play(action)
        self._elapsed += 1
        late = self._elapsed >= self.spec.time_limit
        restarted = self._emulator.game_over() or late
        frame = self._look()
        if restarted:
            self._restart()
        else:
            self._show(frame, first=terminal)
        flags = (terminal, late and not terminal, restarted)
        return AtariOutcome(frame, np.array(reward, np.float32), *(np.array(flag) for flag in flags))

    def save(self) -> AtariState:
        """Returns a copy of the state."""
        state = np.frombuffer(self._emulator.cloneState(include_rng=True).serialize(), np.uint8)
        if state.size > EMULATOR_BYTES:
            raise ValueError(
                f"the emulator's state has {state.size} bytes, expected at most {EMULATOR_BYTES}: increase "
                "EMULATOR_BYTES."
            )
        padded = np.pad(state, (0, EMULATOR_BYTES - state.size))
        counters = (state.size, self._last_action, self._elapsed, self._lives, self._draws)
        length, last_action, elapsed, lives, draws = (np.array(count, np.int32) for count in counters)
        return AtariState(
            padded, length, self._screens.copy(), self.observation.copy(), last_action, elapsed, lives, draws
        )

    def restore(self, state: AtariState) -> None:
        """Restores a saved state exactly. The same actions then lead to the same steps as after `save`."""
        emulator = state.emulator[: int(state.emulator_length)].tobytes()
        self._emulator.restoreState(_ale().ALEState(emulator))
        self._screens[:], self.observation = state.screens, np.array(state.observation)
        self._last_action, self._elapsed = int(state.last_action), int(state.elapsed)
        self._lives, self._draws = int(state.lives), int(state.draws)

    def screen(self) -> UInt8[ndarray, "rows columns 3"]:
        """Returns the screen in colour."""
        return self._emulator.getScreenRGB()

    def _play(self, action: int) -> tuple[float, bool]:
        """Plays four frames, or fewer if the return ends. Returns the reward and whether the return ended."""
        reward = 0.0
        for frame, uniform in enumerate(self._uniforms()):
            # This class draws the sticky actions, because the emulator would draw different ones after `restore`.
            if uniform >= self.spec.sticky:
                self._last_action = action
            reward += self._emulator.act(self._actions[self._last_action])
            if self._return_ended():
                return reward, True
            if frame >= FRAME_SKIP - 2:
                self._emulator.getScreenGrayscale(self._screens[FRAME_SKIP - 1 - frame])
        return reward, False

    def _return_ended(self) -> bool:
        before, self._lives = self._lives, self._emulator.lives()
        return self._emulator.game_over() or (self.spec.life_loss and self._lives < before)

    def _look(self) -> UInt8[ndarray, "height width"]:
        """Returns the agent's frame: the maximum of two screens, resized.

        If the step ended early, one or both screens can be from the previous step, as in Dopamine.
        """
        # Takes the maximum, because many games draw some objects only in every second frame.
        np.maximum(*self._screens, out=self._screens[0])
        cv2 = _cv2()
        return cv2.resize(self._screens[0], (SIDE, SIDE), interpolation=cv2.INTER_AREA)

    def _show(self, frame: UInt8[ndarray, "height width"], first: bool) -> None:
        before = np.zeros((SIDE, SIDE, STACK), np.uint8) if first else self.observation
        self.observation = np.concatenate([before[..., 1:], frame[..., None]], axis=-1)

    def _restart(self) -> None:
        self._emulator.reset_game()
        for _ in range(int(self._uniforms()[0] * (self.spec.noops + 1))):
            self._emulator.act(self._actions[0])
            if self._emulator.game_over():
                self._emulator.reset_game()
        self._last_action, self._elapsed, self._lives = 0, 0, self._emulator.lives()
        self._emulator.getScreenGrayscale(self._screens[0])
        self._screens[1] = 0
        self._show(self._look(), first=True)

    def _uniforms(self) -> Float[ndarray, " frames"]:
        """Draws random numbers that depend only on the key and on the number of earlier draws."""
        self._draws += 1
        return np.random.Generator(np.random.Philox(key=self._key, counter=[0, self._draws, 0, 0])).random(FRAME_SKIP)


def _emulator(game: str, seed: int) -> Any:
    ale_py = _ale()
    emulator = ale_py.ALEInterface()
    emulator.setInt("random_seed", seed % 2**31)
    emulator.setFloat("repeat_action_probability", 0.0)
    emulator.loadROM(ale_py.roms.get_rom_path(re.sub(r"(?<!^)(?=[A-Z])", "_", game).lower()))
    return emulator


@cache
def _number_of_actions(game: str) -> int:
    return len(_emulator(game, 0).getMinimalActionSet())


@cache
def _ale() -> ModuleType:
    try:
        import ale_py
        import ale_py.roms
    except ImportError as error:
        raise ImportError(f"Atari games need ale-py ({error}): pip install 'dormant[atari]'") from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    return ale_py


@cache
def _cv2() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise ImportError(f"Atari games need OpenCV ({error}): pip install 'dormant[atari]'") from error
    # Uses one thread. For such small images one thread is faster than several, and other cores stay free for training.
    cv2.setNumThreads(1)
    return cv2
