"""A ring of frames on the host, from which n-step transitions are drawn uniformly."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, SupportsFloat, SupportsInt

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64, PyTree, UInt8, UInt32
from numpy import ndarray

from .device import Batch
from .files import checksum, claim_ring, opener, refuse_changed, save_due


class FrameRing(NamedTuple):
    """The arrays of a ring, in memory or in mapped files. Frames have numbers, called places: 0, 1, 2 and so on.

    The axis `places` has one entry per frame, and the axis `slots` one entry per agent step. `place` is the place of
    the frame before the step. The observation before the step stacks this frame and the `age` frames before it.
    `discount` is 0 at a termination and gamma elsewhere. `last` is True at the end of an episode, by termination or by
    truncation. Every frame and every step has a checksum. `owner` identifies the run and seed of the ring.
    """

    frames: UInt8[ndarray, "places height width"]
    place: Int64[ndarray, " slots"]
    age: UInt8[ndarray, " slots"]
    action: UInt8[ndarray, " slots"]
    reward: Float32[ndarray, " slots"]
    discount: Float32[ndarray, " slots"]
    last: Bool[ndarray, " slots"]
    frame_checksums: UInt32[ndarray, " places"]
    step_checksums: UInt32[ndarray, " slots"]
    owner: UInt32[ndarray, "1"]


class Stacks(NamedTuple):
    """Observations in a ring. An observation stacks the frame at `place` in `frames` and the `age` frames before it."""

    place: Int32[ndarray, "*draws"]
    age: UInt8[ndarray, "*draws"]


class Drawn(NamedTuple):
    """n-step transitions as in `Batch`, with `Stacks` instead of observations."""

    before: Stacks
    action_tm1: UInt8[ndarray, "*draws"]
    return_t: Float32[ndarray, "*draws"]
    discount_t: Float32[ndarray, "*draws"]
    after: Stacks


COLUMNS = struct.Struct("=qBBff?")  # packs the fields `place` to `last` of a step into bytes, for its checksum


@dataclass(frozen=True)
class FrameReplay:
    """The settings of a ring of the last `capacity` agent steps. The ring stores each frame once.

    An observation stacks the last `stack` frames, newest last. At the start of an episode, missing frames are zeros. An
    n-step return stops at the end of its episode. At a truncation, the ring also stores the episode's last frame, and
    the episode is bootstrapped from it. After a termination, nothing is bootstrapped: `discount_t` is 0, and
    `observation_t` is just the observation before the last action.

    The ring stores `slack` extra agent steps, so that steps added after a checkpoint do not overwrite steps that the
    checkpoint needs. Therefore a checkpoint stores the number of added steps and not the steps themselves. At most one
    episode per `time_limit` agent steps may be truncated.

    >>> replay = FrameReplay(capacity=1_000_000)
    >>> replay.bytes / replay.capacity
    7154.13...

    Raises ValueError for a size below 1. `Replay` is the corresponding ring on the device.
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
        """The number of agent steps that the ring stores."""
        return self.capacity + self.slack

    @property
    def places(self) -> int:
        """The number of frames that the ring stores.

        This is one per step, one more per truncation, and a few for the oldest and the newest observation.
        """
        return self.slots + self.slots // self.time_limit + self.stack + 2

    @property
    def bytes(self) -> int:
        """The size of one ring in bytes."""
        return sum(np.dtype(dtype).itemsize * int(np.prod(shape)) for shape, dtype in self._fields())

    @property
    def layout(self) -> str:
        """A text that explains the size of a ring.

        >>> FrameReplay(1_000).layout
        '11,006 frames x 7,060 bytes + 11,000 steps x 23 bytes'
        """
        frame = int(np.prod(self.frame_shape))
        frame += np.dtype(np.uint32).itemsize  # its checksum
        step = (self.bytes - self.places * frame) // self.slots
        return f"{self.places:,} frames x {frame:,} bytes + {self.slots:,} steps x {step} bytes"

    def init(self) -> FrameRing:
        """Returns an empty ring in memory."""
        return FrameRing(*(np.zeros(shape, dtype) for shape, dtype in self._fields()))

    def open(self, folder: Path, added: int, owner: int | None = None) -> FrameRing:
        """Opens a ring whose arrays are files in a folder. Creates a new ring if `added` is 0.

        Returns the ring with its first `added` steps; later steps in the files are ignored. `owner` identifies the run
        and seed of the ring. If `owner` is None, a ring of any owner is accepted.

        Raises DamagedRing if the files are damaged or hold another ring. Also raises it if later steps have overwritten
        steps that can be drawn. Raises OSError if a file is missing or the disk is full.
        """
        folder.mkdir(parents=True, exist_ok=True)
        arrange = opener(added)
        files = [folder / f"{name}.npy" for name in FrameRing._fields]
        ring = FrameRing(*(arrange(file, *field) for file, field in zip(files, self._fields(), strict=True)))
        claim_ring(ring.owner, owner, added, folder)
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
        """Adds one agent step in place, after `added` steps. In a full ring, the new step replaces the oldest step.

        Raises ValueError if episodes are truncated more often than once per `time_limit` steps.
        """
        place, age = self._next(ring, added)
        self._check_room(ring, added, place)
        self._write_frame(ring, place, frame_tm1)
        if float(discount_t) > 0:
            self._write_frame(ring, place + 1, frame_t)
        step = (place, age, int(action_tm1), float(reward_t), float(discount_t), bool(last_t))
        for kept, value in zip(ring[1:7], step, strict=True):
            kept[added % self.slots] = value
        ring.step_checksums[added % self.slots] = checksum(int(ring.owner[0]), added, COLUMNS.pack(*step))

    def _write_frame(self, ring: FrameRing, place: int, frame: UInt8[ndarray, "height width"]) -> None:
        kept = ring.frames[place % self.places]
        kept[...] = frame
        ring.frame_checksums[place % self.places] = checksum(int(ring.owner[0]), place, kept)

    def sample(self, ring: FrameRing, added: int, uniform: Float[ndarray, "*draws"]) -> Batch:
        """Draws n-step transitions with the random numbers `uniform` in [0, 1). 0 draws the oldest transition.

        Returns NumPy arrays. Raises ValueError if fewer than `n_step` steps were added.
        """
        drawn = self.draw(ring, added, uniform)
        # `Batch` is annotated with JAX arrays, but these are NumPy arrays. Pyright accepts both for a PyTree.
        before: PyTree = self._observations(ring, drawn.before)
        after: PyTree = self._observations(ring, drawn.after)
        leaves: PyTree = (before, drawn.action_tm1.astype(np.int32), drawn.return_t, drawn.discount_t, after)
        return Batch(*leaves)

    def draw(self, ring: FrameRing, added: int, uniform: Float[ndarray, "*draws"]) -> Drawn:
        """Draws the same transitions as `sample`, with the places of frames instead of observations.

        Raises the same error as `sample`.
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
        after = self._stacks(ring, final, ring.discount[final % self.slots] > 0)
        return Drawn(self._stacks(ring, first, 0), ring.action[first % self.slots], return_t, discount_t, after)

    def states(
        self, ring: FrameRing, added: int, uniform: Float[ndarray, "*draws"]
    ) -> UInt8[ndarray, "*draws_height_width_stack"]:
        """Draws stored observations with the random numbers `uniform` in [0, 1)."""
        return self._observations(ring, self.draw_states(ring, added, uniform))

    def draw_states(self, ring: FrameRing, added: int, uniform: Float[ndarray, "*draws"]) -> Stacks:
        """Draws the same observations as `states`. Returns the places of their frames."""
        return self._stacks(ring, self._starts(added, uniform), 0)

    def newest(self, ring: FrameRing, added: int) -> Stacks:
        """The observation before the next agent step. Its newest frame is not stored yet."""
        place, age = self._next(ring, added)
        return Stacks(np.array(place % self.places, np.int32), np.array(age, np.uint8))

    def truncated(self, ring: FrameRing, added: int) -> bool:
        """Whether the newest step was truncated. If so, the place before `newest` holds the episode's last frame."""
        slot = (added - 1) % self.slots
        return added > 0 and bool(ring.last[slot]) and bool(ring.discount[slot] > 0)

    def drawn_before(self, added: int, uniform: Float[ndarray, "*draws"], there: int) -> bool:
        """Whether `sample(ring, added, uniform)` would read only steps with numbers below `there`.

        If so, the host can sample before it plays step `there`.

        >>> FrameReplay(capacity=100).drawn_before(50, np.array([0.1, 0.9]), there=49)
        True
        """
        return bool((self._starts(added, uniform) + self.n_step <= there).all())

    def save_due(self, added: int, saved: int, steps: int) -> bool:
        """Whether `steps` more agent steps would overwrite steps that the last checkpoint needs.

        >>> replay = FrameReplay(capacity=100, slack=10)
        >>> replay.save_due(added=507, saved=500, steps=3), replay.save_due(added=507, saved=500, steps=4)
        (False, True)
        """
        return save_due(self, added, saved, steps)

    def _fields(self) -> tuple[tuple[tuple[int, ...], type], ...]:
        """The shape and dtype of each array of a `FrameRing`."""
        types = (np.int64, np.uint8, np.uint8, np.float32, np.float32, np.bool_)
        return (
            ((self.places, *self.frame_shape), np.uint8),
            *(((self.slots,), kind) for kind in types),
            ((self.places,), np.uint32),
            ((self.slots,), np.uint32),
            ((1,), np.uint32),
        )

    def _next(self, ring: FrameRing, added: int) -> tuple[int, int]:
        """Returns the `place` and the `age` of the next step (see `FrameRing`)."""
        if added == 0:
            return 0, 0
        slot = (added - 1) % self.slots
        last, place, age = bool(ring.last[slot]), int(ring.place[slot]), int(ring.age[slot])
        return place + 1 + self.truncated(ring, added), 0 if last else min(age + 1, self.stack - 1)

    def _starts(self, added: int, uniform: Float[ndarray, "*draws"]) -> Int64[ndarray, "*draws"]:
        """The numbers of the steps at which the drawn transitions start."""
        held = min(added, self.capacity)
        number = held - self.n_step + 1
        if number < 1:
            raise ValueError(f"nothing can be drawn yet: n_step={self.n_step}, and {added} steps were added.")
        offset = np.minimum((np.asarray(uniform, np.float64) * number).astype(np.int64), number - 1)
        return added - held + offset

    def _stacks(self, ring: FrameRing, step: Int64[ndarray, "*draws"], ahead: int | Bool[ndarray, "*draws"]) -> Stacks:
        """Returns the observations before the given steps. Where `ahead` is 1, returns those after the steps."""
        place, age = ring.place[step % self.slots] + ahead, ring.age[step % self.slots] + ahead
        return Stacks((place % self.places).astype(np.int32), age.astype(np.uint8))

    def _observations(self, ring: FrameRing, stacks: Stacks) -> UInt8[ndarray, "*draws_height_width_stack"]:
        place, age = stacks
        stacked = np.empty((*place.shape, *self.frame_shape, self.stack), np.uint8)
        # Reuses one array for all frames, because allocating new memory pages takes longer than copying the frames.
        frames = np.empty((*place.shape, *self.frame_shape), np.uint8)
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
                f"no frame fits: more than one episode in time_limit={self.time_limit} steps was truncated, "
                "and each truncation stores an extra frame. Set time_limit to the time limit of the environment."
            )

    def _check_whole(self, ring: FrameRing, added: int, folder: Path) -> None:
        """Raises DamagedRing if a step or a frame that can be drawn does not match its checksum."""
        owner, kept = int(ring.owner[0]), range(max(added - self.capacity, 0), added)
        found = (checksum(owner, step, COLUMNS.pack(*self._step(ring, step))) for step in kept)
        refuse_changed(ring.step_checksums, kept, found, "step", folder)
        if kept:
            places = self._places(ring, kept)
            found = (checksum(owner, place, ring.frames[place % self.places]) for place in places)
            refuse_changed(ring.frame_checksums, places, found, "frame", folder)

    def _step(self, ring: FrameRing, step: int) -> Iterator[SupportsInt]:
        return (column[step % self.slots].item() for column in ring[1:7])

    def _places(self, ring: FrameRing, kept: range) -> range:
        """The places of all frames in the observations before and after the given steps."""
        first, last = kept[0] % self.slots, kept[-1] % self.slots
        # The frame after the newest step is stored only if the target bootstraps from it.
        after = int(ring.place[last]) + 1 + bool(ring.discount[last] > 0)
        return range(int(ring.place[first]) - int(ring.age[first]), after)
