"""A ring of agent steps on the host, a row of numbers each, from which they are drawn uniformly."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Float32
from numpy import ndarray

from .agents.sac import Steps
from .mapped import created, opened

NUMBER = np.dtype(np.float32).itemsize


@dataclass(frozen=True)
class StepReplay:
    """A ring of the last `capacity` agent steps with so many numbers in an observation and in an action.

    A row holds the observation before a step, its action, reward and discount (0 at a termination, gamma elsewhere),
    and the observation after it, so that a truncated episode is bootstrapped from its true last observation. `slack`
    steps more are kept, so that those added after a checkpoint overwrite nothing it needs.

    >>> StepReplay(1_000, observations=11, actions=3).layout
    '11,000 steps x 108 bytes'

    Raises ValueError for a size below 1..
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
        """Agent steps there is room for."""
        return self.capacity + self.slack

    @property
    def numbers(self) -> int:
        """Numbers in a row."""
        return 2 * self.observations + self.actions + 2

    @property
    def bytes(self) -> int:
        """Size of one ring."""
        return self.slots * self.numbers * NUMBER

    @property
    def layout(self) -> str:
        """What that size is made of."""
        return f"{self.slots:,} steps x {self.numbers * NUMBER:,} bytes"

    def open(self, folder: Path, added: int) -> Float32[ndarray, "slots numbers"]:
        """The ring kept in a folder's file as it was when `added` steps had been added; a new one if none had.

        Raises ValueError if the file holds another ring, OSError if there is none or the disk is full.
        """
        folder.mkdir(parents=True, exist_ok=True)
        arrange = created if added == 0 else opened
        return arrange(folder / "steps.npy", (self.slots, self.numbers), np.float32)

    def add(self, ring: Float32[ndarray, "slots numbers"], added: int, *columns: Any) -> None:
        """Adds one agent step in place, over the oldest if the ring is full. `added` steps came before.

        The columns are observation, action, reward, discount and the observation after.
        """
        np.concatenate([np.atleast_1d(column) for column in columns], out=ring[added % self.slots], casting="same_kind")

    def rows(
        self, ring: Float32[ndarray, "slots numbers"], added: int, uniform: Float[ndarray, "*draws"]
    ) -> Float32[ndarray, "*draws numbers"]:
        """Steps at the places `uniform`, numbers in [0, 1) over those held, oldest first.

        Raises ValueError if there is none yet.
        """
        held = min(added, self.capacity)
        if held < 1:
            raise ValueError("nothing can be drawn yet: no step was added.")
        offset = np.minimum((uniform * held).astype(np.int64), held - 1)
        return np.take(ring, (added - held + offset) % self.slots, axis=0)

    def seen(self, rows: Float[Array, "*draws numbers"]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """The observations and actions of rows."""
        return rows[..., : self.observations], rows[..., self.observations : self.observations + self.actions]

    def batch(self, rows: Float[Array, "*draws numbers"], noise: Float[Array, "two *draws actions"]) -> Steps:
        """Rows as a batch, with noise for the actions before and after."""
        observation, action = self.seen(rows)
        rest = rows[..., self.observations + self.actions :]
        return Steps(observation, action, rest[..., 0], rest[..., 1], rest[..., 2:], noise[0], noise[1])

    def save_due(self, added: int, saved: int, steps: int) -> bool:
        """Whether the next steps would overwrite what the last checkpoint needs.

        >>> replay = StepReplay(100, observations=1, actions=1, slack=10)
        >>> replay.save_due(added=507, saved=500, steps=3), replay.save_due(added=507, saved=500, steps=4)
        (False, True)
        """
        return max(saved - self.capacity, 0) + self.slots - added < steps


def no_rows(replay: StepReplay, states: int) -> Array:
    """Rows that say nothing, for steps at which nothing is scored."""
    return jax.numpy.zeros((states, replay.numbers))
