"""Dopamine's logged replay: reads the published DQN-replay files and draws transitions from their frames.

The log of a run has numbered parts. Each part N has the files `$store$_observation_ckpt.N.gz`,
`$store$_action_ckpt.N.gz`, `$store$_reward_ckpt.N.gz`, `$store$_terminal_ckpt.N.gz` and `add_count_ckpt.N.gz`. The
files are gzipped NumPy arrays.

Source: google/dopamine, dopamine/replay_memory/circular_replay_buffer.py. The files were written by
google-research/batch_rl, logged_replay_buffer.py. That code writes a part when all slots of the buffer but one are
filled. The slot to fill next is `add_count` modulo the capacity. Only the rows before this slot belong to the part,
because the later rows still hold steps of the previous part.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from numpy import ndarray

from dormant.files import UnreadableFile, read_array

from ..replay.device import Batch

PREFIX = "$store$_"


class FrameLog(NamedTuple):
    """One part of a log. It has one row per step, and one row per blank frame before an episode.

    `discount` is 0 at a termination and gamma elsewhere. The first `number` entries of `steps` are the rows that may be
    drawn. Logs of several seeds have a leading axis of seeds.
    """

    frames: UInt8[Array, "*seeds rows height width"]
    action: UInt8[Array, "*seeds rows"]
    reward: Float[Array, "*seeds rows"]
    discount: Float[Array, "*seeds rows"]
    steps: Int[Array, "*seeds rows"]
    number: Int[Array, "*seeds"]


@dataclass(frozen=True)
class FrameMemory:
    """Draws batches from a log. An observation stacks `stack` frames, newest last, as in the logged run."""

    stack: int = 4

    def sample(self, log: FrameLog, added: Int[Array, ""], uniform: Float[Array, " batch"]) -> Batch:
        """Draws one-step transitions with the random numbers `uniform` in [0, 1).

        Ignores `added`, because a log does not grow.
        """
        rows = self._rows(log, uniform)
        return Batch(
            self._stacked(log, rows),
            log.action[rows].astype(jnp.int32),
            log.reward[rows],
            log.discount[rows],
            self._stacked(log, rows + 1),
        )

    def states(
        self, log: FrameLog, added: Int[Array, ""], uniform: Float[Array, " states"]
    ) -> UInt8[Array, "states height width stack"]:
        """Draws observations with the random numbers `uniform` in [0, 1)."""
        return self._stacked(log, self._rows(log, uniform))

    def unpack(self, packed: UInt8[Array, "*more"]) -> UInt8[Array, "*more"]:
        """Returns the argument, because a log's observations are not packed."""
        return packed

    def _rows(self, log: FrameLog, uniform: Array) -> Int[Array, " rows"]:
        place = (uniform * log.number.astype(jnp.float32)).astype(jnp.int32)
        return log.steps[jnp.minimum(place, log.number - 1)]

    def _stacked(self, log: FrameLog, rows: Int[Array, " rows"]) -> UInt8[Array, "rows height width stack"]:
        return jnp.stack([log.frames[rows - back] for back in reversed(range(self.stack))], axis=-1)


def read(folder: Path, part: int, gamma: float, stack: int = 4, rows: int | None = None) -> FrameLog:
    """Reads one part of a log. If `rows` is given, reads only the first `rows` rows.

    Blank frames precede each episode, so a stack never crosses the start of an episode. A step may be drawn if none of
    the `stack - 1` rows before it is terminal, and if the log has the next step. These files do not mark truncations,
    so the last step before a truncation is drawn like any other step.

    Raises ValueError if a file is missing or damaged, or if the files have different lengths.
    """
    columns = {name: _array(folder, PREFIX + name, part) for name in ("observation", "action", "reward", "terminal")}
    count, shapes = _array(folder, "add_count", part), {name: column.shape for name, column in columns.items()}
    capacity = shapes["action"][0] if shapes["action"] else 0
    frames_fit = len(shapes["observation"]) == 3 and columns["observation"].dtype == np.uint8
    rest_fits = all(shapes[name] == (capacity,) for name in ("action", "reward", "terminal"))
    if not (capacity and frames_fit and rest_fits and shapes["observation"][0] == capacity):
        raise ValueError(
            f"part {part} in {folder} must hold frames of uint8, and equally many rows in each file, got {shapes}."
        )
    if count.size != 1 or count.dtype.kind not in "iu" or int(count.item()) < 0:
        raise ValueError(f"part {part} in {folder}: add_count must be one number, got {count.dtype}{count.shape}.")
    held = min(int(count.item()) % capacity or capacity, rows or capacity)
    frames, action, reward, terminal = (column[:held] for column in columns.values())
    if not (np.isfinite(reward).all() and action.min() >= 0 and action.max() <= 255):
        raise ValueError(f"part {part} in {folder} must hold finite rewards, and actions between 0 and 255.")
    discount = np.where(terminal.astype(bool), np.float32(0), np.float32(gamma))
    steps = drawable(terminal, stack)
    if not len(steps):
        raise ValueError(f"part {part} in {folder} has no step that may be drawn, of {held} rows.")
    return FrameLog(
        jnp.asarray(frames),
        jnp.asarray(action, jnp.uint8),
        jnp.asarray(reward, jnp.float32),
        jnp.asarray(discount),
        jnp.asarray(np.pad(steps, (0, held - len(steps))), jnp.int32),
        jnp.asarray(len(steps), jnp.int32),
    )


def drawable(terminal: ndarray, stack: int) -> ndarray:
    """The rows of the steps that may be drawn. These have a whole stack of frames and a next step.

    >>> drawable(np.array([0, 0, 0, 1, 0, 0, 0, 0]), stack=2).tolist()
    [1, 2, 3, 5, 6]
    """
    over = terminal.astype(bool)
    found = np.arange(stack - 1, len(over) - 1)
    for back in range(1, stack):
        found = found[~over[found - back]]
    return found


def _array(folder: Path, name: str, part: int) -> ndarray:
    file = folder / f"{name}_ckpt.{part}.gz"
    try:
        found = read_array(file)
    except FileNotFoundError:
        raise ValueError(f"there is no {file}; expected part {part} of a logged DQN replay.") from None
    except UnreadableFile as error:
        raise ValueError(f"{file} is damaged; download it again ({error})") from None
    if found.dtype.kind not in "biuf":
        raise ValueError(f"{file} must hold numbers, got {found.dtype}; download it again.")
    return found
