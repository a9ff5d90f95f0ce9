"""A ring of frames on the host, from which n-step transitions are drawn uniformly."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, SupportsFloat, SupportsInt

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from numpy import ndarray

from .mapped import created, opened
from .replay import Batch


class FrameRing(NamedTuple):
    """What a ring holds for each agent step, in memory or in mapped files.

    `place` says how many frames were kept before the one that the step was taken from, `age` how many of them belong to
    its observation. `discount` is 0 at a termination and gamma elsewhere; `last` marks the end of an episode, by
    truncation too.
    """

    frames: UInt8[ndarray, "places height width"]
    place: Int64[ndarray, " slots"]
    age: UInt8[ndarray, " slots"]
    action: UInt8[ndarray, " slots"]
    reward: Float32[ndarray, " slots"]
    discount: Float32[ndarray, " slots"]
    last: Bool[ndarray, " slots"]


@dataclass(frozen=True)
class FrameReplay:
    """A ring of the last `capacity` agent steps, which keeps each frame once.

    An observation is the frame it ends with behind the `stack - 1` frames before, zeros where the episode has none. A
    truncated episode keeps its last frame too and is bootstrapped from it, and an n-step return that meets the end of
    an episode simply stops there. Where the return ends, nothing is bootstrapped, and `observation_t` is the last one
    that was acted from.

    `slack` agent steps more are kept, so that those added after a checkpoint overwrite nothing it needs: a checkpoint
    is then only the number of steps added. No more than one episode in `time_limit` agent steps may be truncated.

    >>> replay = FrameReplay(capacity=1_000_000)
    >>> replay.bytes / replay.capacity
    7146.05...

    Raises ValueError for a size below 1. The counterpart on the device, and the meaning of its fields, is `Replay`.
    """

    capacity: int
    frame_shape: tuple[int, int] = (84, 84)
    stack: int = 4
    n_step: int = 1
    slack: int = 10_000
    time_limit: int = 27_000

    def __post_init__(self) -> None:
        for name in ("capacity", "stack", "n_step", "slack", "time_limit"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.n_step > self.capacity:
            raise ValueError(f"n_step={self.n_step} steps do not fit in a ring of capacity={self.capacity}.")

    @property
    def slots(self) -> int:
        """Agent steps there is room for."""
        return self.capacity + self.slack

    @property
    def places(self) -> int:
        """Frames there is room for: one a step, those after a truncation, and those around the two ends."""
        return self.slots + self.slots // self.time_limit + self.stack + 2

    @property
    def bytes(self) -> int:
        """Size of one ring."""
        return sum(np.dtype(dtype).itemsize * int(np.prod(shape)) for shape, dtype in self._fields())

    @property
    def layout(self) -> str:
        """What that size is made of.

        >>> FrameReplay(1_000).layout
        '11,006 frames x 7,056 bytes + 11,000 steps x 19 bytes'
        """
        frame = int(np.prod(self.frame_shape))
        step = (self.bytes - self.places * frame) // self.slots
        return f"{self.places:,} frames x {frame:,} bytes + {self.slots:,} steps x {step} bytes"

    def init(self) -> FrameRing:
        """An empty ring in memory."""
        return FrameRing(*(np.zeros(shape, dtype) for shape, dtype in self._fields()))

    def open(self, folder: Path, added: int) -> FrameRing:
        """The ring kept in a folder's files as it was when `added` steps had been added; a new one if none had.

        Raises ValueError if the files hold another ring, or later steps in place of some of these, OSError if the disk
        is full.
        """
        folder.mkdir(parents=True, exist_ok=True)
        arrange = created if added == 0 else opened
        files = [folder / f"{name}.npy" for name in FrameRing._fields]
        ring = FrameRing(*(arrange(file, *field) for file, field in zip(files, self._fields(), strict=True)))
        self._check_whole(ring, added, folder)
        return ring

    def add(
        self,
        ring: FrameRing,
        added: int,
        frame_tm1: UInt8[ndarray, "height width"],
        action_tm1: SupportsInt,
        reward_t: SupportsFloat,
        discount_t: SupportsFloat,
        last_t: bool | np.bool_,
        frame_t: UInt8[ndarray, "height width"],
    ) -> None:
        """Adds one agent step in place, over the oldest if the ring is full. `added` steps came before.

        Raises ValueError if episodes are truncated more often than `time_limit` says.
        """
        place, age = self._next(ring, added)
        self._check_room(ring, added, place)
        ring.frames[place % self.places] = frame_tm1
        if float(discount_t) > 0:
            ring.frames[(place + 1) % self.places] = frame_t
        step = (place, age, int(action_tm1), float(reward_t), float(discount_t), last_t)
        for kept, value in zip(ring[1:], step, strict=True):
            kept[added % self.slots] = value

    def sample(self, ring: FrameRing, added: int, uniform: Float[ndarray, "*draws"]) -> Batch:
        """n-step transitions in NumPy arrays, at the places `uniform`, numbers in [0, 1) over the steps that begin one.

        Raises ValueError if there is none yet.
        """
        first = self._starts(added, uniform)
        return_t, discount_t, final = np.zeros(first.shape, np.float32), np.ones(first.shape, np.float32), first
        alive = np.ones(first.shape, bool)
        for step in range(self.n_step):
            slot = (first + step) % self.slots
            return_t += np.where(alive, discount_t * ring.reward[slot], np.float32(0))
            discount_t = np.where(alive, discount_t * ring.discount[slot], discount_t)
            final = np.where(alive, first + step, final)
            alive &= ~ring.last[slot]
        action = ring.action[first % self.slots].astype(np.int32)
        # Any, because a batch of the device's ring holds arrays of JAX.
        before: Any = self._observations(ring, first, 0)
        after: Any = self._observations(ring, final, ring.discount[final % self.slots] > 0)
        leaves: Any = (before, action, return_t, discount_t, after)
        return Batch(*leaves)

    def states(
        self, ring: FrameRing, added: int, uniform: Float[ndarray, "*draws"]
    ) -> UInt8[ndarray, "*draws_height_width_stack"]:
        """Observations at the places `uniform`, numbers in [0, 1)."""
        return self._observations(ring, self._starts(added, uniform), 0)

    def drawn_before(self, added: int, uniform: Float[ndarray, "*draws"], there: int) -> bool:
        """Whether all that is drawn when `added` steps are in the ring is in it when only the first `there` are.

        >>> FrameReplay(capacity=100).drawn_before(50, np.array([0.1, 0.9]), there=49)
        True
        """
        return bool((self._starts(added, uniform) + self.n_step <= there).all())

    def room(self, added: int, saved: int) -> int:
        """How many more steps may be added before a checkpoint, when the last one was made after `saved`.

        >>> FrameReplay(capacity=100, slack=10).room(added=507, saved=500)
        3
        """
        return max(saved - self.capacity, 0) + self.slots - added

    def checkpoint_due(self, added: int, saved: int, steps: int = 1) -> bool:
        """Whether the next steps would overwrite what the last checkpoint needs."""
        return self.room(added, saved) < steps

    def _fields(self) -> tuple[tuple[tuple[int, ...], type], ...]:
        """Shape and type of each array of a ring."""
        types = (np.int64, np.uint8, np.uint8, np.float32, np.float32, np.bool_)
        return (((self.places, *self.frame_shape), np.uint8), *(((self.slots,), kind) for kind in types))

    def _next(self, ring: FrameRing, added: int) -> tuple[int, int]:
        """Place and age of the step that is added next."""
        if added == 0:
            return 0, 0
        slot = (added - 1) % self.slots
        last, place, age = bool(ring.last[slot]), int(ring.place[slot]), int(ring.age[slot])
        kept_one_more = last and bool(ring.discount[slot] > 0)
        return place + 1 + kept_one_more, 0 if last else min(age + 1, self.stack - 1)

    def _starts(self, added: int, uniform: Float[ndarray, "*draws"]) -> Int64[ndarray, "*draws"]:
        """Numbers of the steps from which n steps were recorded, oldest first as `uniform` grows."""
        held = min(added, self.capacity)
        number = held - self.n_step + 1
        if number < 1:
            raise ValueError(f"nothing can be drawn yet: n_step={self.n_step}, and {added} steps were added.")
        offset = np.minimum((np.asarray(uniform, np.float64) * number).astype(np.int64), number - 1)
        return added - held + offset

    def _observations(
        self, ring: FrameRing, step: Int64[ndarray, "*draws"], ahead: int | Bool[ndarray, "*draws"]
    ) -> UInt8[ndarray, "*draws_height_width_stack"]:
        """What was seen at the steps, or after them where `ahead` is 1."""
        place, age = ring.place[step % self.slots] + ahead, ring.age[step % self.slots] + ahead
        stacked = np.empty((*step.shape, *self.frame_shape, self.stack), np.uint8)
        # One array for all of them, because pages fresh from the kernel cost more than what is read into them.
        frames = np.empty((*step.shape, *self.frame_shape), np.uint8)
        for back in range(self.stack):
            np.take(ring.frames, (place - back) % self.places, axis=0, out=frames, mode="clip")
            frames[age < back] = 0
            stacked[..., self.stack - 1 - back] = frames
        return stacked

    def _check_room(self, ring: FrameRing, added: int, place: int) -> None:
        oldest = max(added + 1 - self.slots, 0) % self.slots
        lowest = int(ring.place[oldest]) - int(ring.age[oldest]) if added else 0
        if place + 1 - lowest >= self.places:
            raise ValueError(
                f"more than one episode in time_limit={self.time_limit} steps was truncated, and each keeps a frame "
                "more: there is no place left. Set time_limit to that of the environment."
            )

    def _check_whole(self, ring: FrameRing, added: int, folder: Path) -> None:
        steps = np.arange(max(added - self.capacity, 0), added)
        place = ring.place[steps % self.slots]
        if not (np.isin(np.diff(place), (1, 2)).all() and (place >= steps).all()):
            raise ValueError(
                f"{folder} no longer holds the {steps.size} steps before step {added}: too many were added after them."
            )
