"""A ring of agent steps on the host, from which steps are drawn uniformly. A step is one row of numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Float32, Int64, UInt32
from numpy import ndarray

from .files import checksum, claim_ring, opener, refuse_changed, save_due

NUMBER_BYTES = np.dtype(np.float32).itemsize


class StepRing(NamedTuple):
    """The arrays of a ring: one row of numbers per agent step, one checksum per row, and the owner's number."""

    steps: Float32[ndarray, "slots numbers"]
    checksums: UInt32[ndarray, " slots"]
    owner: UInt32[ndarray, "1"]


class Steps(NamedTuple):
    """A batch of agent steps, with standard normal noise.

    SAC uses `noise_tm1` to draw actions for `observation_tm1`, and `noise_t` to draw actions for `observation_t`.
    """

    observation_tm1: Float[Array, "batch observation"]
    action_tm1: Float[Array, "batch actions"]
    reward_t: Float[Array, " batch"]
    discount_t: Float[Array, " batch"]
    observation_t: Float[Array, "batch observation"]
    noise_tm1: Float[Array, "batch actions"]
    noise_t: Float[Array, "batch actions"]


@dataclass(frozen=True)
class StepReplay:
    """The settings of a ring of the last `capacity` agent steps, with continuous observations and actions.

    A row holds the observation before the step, its action, its reward, its discount (0 at a termination, gamma
    elsewhere) and the observation after it. A truncated episode is therefore bootstrapped from its true last
    observation. `observations` and `actions` are the lengths of one observation and of one action. The ring stores
    `slack` extra steps, so that steps added after a checkpoint do not overwrite steps that the checkpoint needs.

    >>> StepReplay(1_000, observations=11, actions=3).layout
    '11,000 steps x 112 bytes'

    Raises ValueError for a size below 1.
    """

    capacity: int
    observations: int
    actions: int
    slack: int = 10_000

    def __post_init__(self) -> None:
        for name in ("capacity", "observations", "actions", "slack"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")

    @property
    def slots(self) -> int:
        """The number of agent steps that the ring stores."""
        return self.capacity + self.slack

    @property
    def numbers(self) -> int:
        """The length of a row."""
        return 2 * self.observations + self.actions + 2

    @property
    def bytes(self) -> int:
        """The size of one ring in bytes."""
        return self.slots * self._row_bytes

    @property
    def layout(self) -> str:
        """A text that explains the size of a ring."""
        return f"{self.slots:,} steps x {self._row_bytes:,} bytes"

    @property
    def _row_bytes(self) -> int:
        return (self.numbers + 1) * NUMBER_BYTES  # a row and its checksum

    def open(self, folder: Path, added: int, owner: int | None = None) -> StepRing:
        """Opens a ring whose arrays are files in a folder. Creates a new ring if `added` is 0.

        Returns the ring with its first `added` steps; later steps in the files are ignored. `owner` identifies the run
        and seed of the ring. If `owner` is None, a ring of any owner is accepted.

        Raises DamagedRing if the files are damaged or hold another ring. Also raises it if later steps have overwritten
        steps that can be drawn. Raises OSError if a file is missing or the disk is full.
        """
        folder.mkdir(parents=True, exist_ok=True)
        arrange = opener(added)
        fields = (((self.slots, self.numbers), np.float32), ((self.slots,), np.uint32), ((1,), np.uint32))
        files = [folder / f"{name}.npy" for name in StepRing._fields]
        ring = StepRing(*(arrange(file, *field) for file, field in zip(files, fields, strict=True)))
        claim_ring(ring.owner, owner, added, folder)
        kept = range(max(added - self.capacity, 0), added)
        found = (checksum(int(ring.owner[0]), step, ring.steps[step % self.slots]) for step in kept)
        refuse_changed(ring.checksums, kept, found, "step", folder)
        return ring

    def init(self) -> StepRing:
        """Returns an empty ring in memory."""
        row, owner = np.zeros((self.slots, self.numbers), np.float32), np.zeros(1, np.uint32)
        return StepRing(row, np.zeros(self.slots, np.uint32), owner)

    def add(self, ring: StepRing, added: int, *columns: Any) -> None:
        """Adds one agent step in place, after `added` steps. In a full ring, the new step replaces the oldest step.

        The columns are: the observation before the step, the action, the reward, the discount, and the observation
        after the step.
        """
        row = ring.steps[added % self.slots]
        np.concatenate([np.atleast_1d(column) for column in columns], out=row, casting="same_kind")
        ring.checksums[added % self.slots] = checksum(int(ring.owner[0]), added, row)

    def rows(self, ring: StepRing, added: int, uniform: Float[ndarray, "*draws"]) -> Float32[ndarray, "*draws numbers"]:
        """Draws rows of stored steps with the random numbers `uniform` in [0, 1). The number 0 draws the oldest step.

        Raises ValueError if no step was added yet.
        """
        return np.take(ring.steps, self._drawn(added, uniform) % self.slots, axis=0)

    def drawn_before(self, added: int, uniform: Float[ndarray, "*draws"], there: int) -> bool:
        """Whether `rows(ring, added, uniform)` would read only steps with numbers below `there`.

        If so, the host can draw rows before it plays step `there`.

        >>> StepReplay(100, 1, 1).drawn_before(50, np.array([0.1, 0.9]), there=49)
        True
        """
        return bool((self._drawn(added, uniform) < there).all())

    def inputs(self, rows: Float[Array, "*draws numbers"]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Returns the observations and the actions in the given rows. These are the inputs of the networks."""
        return rows[..., : self.observations], rows[..., self.observations : self.observations + self.actions]

    def batch(self, rows: Float[Array, "*draws numbers"], noise: Float[Array, "two *draws actions"]) -> Steps:
        """Splits rows into the fields of a batch, and adds the noise. Returns the batch."""
        observation, action = self.inputs(rows)
        rest = rows[..., self.observations + self.actions :]
        return Steps(observation, action, rest[..., 0], rest[..., 1], rest[..., 2:], noise[0], noise[1])

    def save_due(self, added: int, saved: int, steps: int) -> bool:
        """Whether `steps` more agent steps would overwrite steps that the last checkpoint needs.

        >>> replay = StepReplay(100, observations=1, actions=1, slack=10)
        >>> replay.save_due(added=507, saved=500, steps=3), replay.save_due(added=507, saved=500, steps=4)
        (False, True)
        """
        return save_due(self, added, saved, steps)

    def _drawn(self, added: int, uniform: Float[ndarray, "*draws"]) -> Int64[ndarray, "*draws"]:
        """The numbers of the drawn steps."""
        held = min(added, self.capacity)
        if held < 1:
            raise ValueError("nothing can be drawn yet: no step was added.")
        return added - held + np.minimum((uniform * held).astype(np.int64), held - 1)
