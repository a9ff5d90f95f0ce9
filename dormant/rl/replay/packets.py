"""A copy of a ring's frames on the device. At each agent step, the host sends a packet of bytes with the newest frame.

"Place" is the number of a frame in a ring (see `FrameRing`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8
from numpy import ndarray

from dormant.files import available_memory

from .device import Batch
from .files import OTHER_BYTES
from .frames import Drawn, FrameReplay, FrameRing, Stacks

Frames = UInt8[Array, "places pixels"]


@dataclass(frozen=True)
class Packets:
    """The layout of the packets of one seed, and the functions that use them in compiled code.

    A packet holds the newest frame and its place. It also holds the places of all frames that the gradient steps of a
    round need. A round has `updates` gradient steps. Each needs a batch of `batch_size` transitions, and `states`
    observations on which neurons are scored. The host still draws the samples, so all results are bit-identical to the
    results of `FrameReplay`.

    >>> packets = Packets(FrameReplay(1_000_000), updates=1, batch_size=32, states=64)
    >>> packets.bytes, packets.frame_bytes
    (7994, 7126863408)
    """

    replay: FrameReplay
    updates: int
    batch_size: int
    states: int

    @property
    def layout(self) -> np.dtype:
        """The dtype of a packet, which defines its fields."""
        batch, states = (self.updates, self.batch_size), (self.updates, self.states)
        return np.dtype(
            [
                ("frame", np.uint8, self._pixels),
                *stack_fields("newest", ()),
                *stack_fields("before", batch),
                ("action_tm1", np.uint8, batch),
                ("return_t", np.float32, batch),
                ("discount_t", np.float32, batch),
                *stack_fields("after", batch),
                *stack_fields("states", states),
                ("start", np.int32),
                ("last", np.uint8),
            ]
        )

    @property
    def bytes(self) -> int:
        """The size of one packet in bytes."""
        return self.layout.itemsize

    @property
    def frame_bytes(self) -> int:
        """The size in bytes of one ring's frames on the device."""
        return self.replay.places * self._pixels

    @property
    def _pixels(self) -> int:
        return int(np.prod(self.replay.frame_shape))

    def upload(self, ring: FrameRing, added: int) -> Frames:
        """Copies the frames of a ring to the device. Returns the copy."""
        if added == 0:
            return jnp.zeros((self.replay.places, self._pixels), jnp.uint8)
        # `jnp.array` copies the frames. Donating the result to compiled code therefore never changes the file.
        return jnp.array(ring.frames.reshape(self.replay.places, self._pixels))

    def packed(
        self, frames: ndarray, newest: list[Stacks], batches: Sequence[Drawn] = (), inputs: Sequence[Stacks] = ()
    ) -> ndarray:
        """Returns one packet per seed. The caller sets the fields `start` and `last`.

        `frames` and `newest` have one entry per seed. `batches` and `inputs` are empty or have one entry per seed.
        """
        packets = np.zeros(len(frames), self.layout)
        packets["frame"] = frames.reshape(len(frames), -1)
        stacks = {"newest": newest, "states": inputs}
        stacks |= {name: [getattr(batch, name) for batch in batches] for name in ("before", "after")}
        for name, each in stacks.items():
            for packet, stack in zip(packets, each, strict=False):
                packet[f"{name} place"], packet[f"{name} age"] = stack
        for packet, batch in zip(packets, batches, strict=False):
            for name in ("action_tm1", "return_t", "discount_t"):
                packet[name] = getattr(batch, name)
        return packets

    def opened(self, packet: UInt8[Array, " bytes"]) -> dict[str, Array]:
        """Splits a packet into its fields, in compiled code."""
        return {name: _field(packet, field[0], field[1]) for name, field in (self.layout.fields or {}).items()}

    def write(self, frames: Frames, fields: dict[str, Array]) -> Frames:
        """Writes the packet's newest frame into the frames, in compiled code. Returns the frames.

        The update is in place if the frames are donated.
        """
        return jax.lax.dynamic_update_slice(frames, fields["frame"][None], (fields["newest place"], jnp.int32(0)))

    def observations(
        self, frames: Frames, fields: dict[str, Array], name: str
    ) -> UInt8[Array, "*draws height width stack"]:
        """Gathers the observations of the packet's `name` fields, in compiled code. `name` is for example "states"."""
        place, age = fields[f"{name} place"], fields[f"{name} age"]
        newest_last = range(self.replay.stack - 1, -1, -1)
        return jnp.stack([self._frame(frames, place, age, back) for back in newest_last], axis=-1)

    def _frame(self, frames: Frames, place: Int[Array, "*draws"], age: UInt8[Array, "*draws"], back: int) -> Array:
        # Adds `places`, so that the remainder is not computed from a negative number.
        taken = frames.at[(place + (self.replay.places - back)) % self.replay.places].get(mode="promise_in_bounds")
        taken = jnp.where((age < back)[..., None], jnp.uint8(0), taken)
        return taken.reshape(*place.shape, *self.replay.frame_shape)

    def batch(self, frames: Frames, fields: dict[str, Array]) -> Batch:
        """Gathers the batches of a packet, in compiled code. They have a leading axis of gradient steps."""
        before, after = (self.observations(frames, fields, name) for name in ("before", "after"))
        return Batch(before, fields["action_tm1"].astype(jnp.int32), fields["return_t"], fields["discount_t"], after)


def _field(packet: UInt8[Array, " bytes"], dtype: np.dtype, offset: int) -> Array:
    of_one, shape = dtype.subdtype or (dtype, ())
    raw = packet[offset : offset + dtype.itemsize].reshape(*shape, of_one.itemsize)
    return raw[..., 0] if of_one.itemsize == 1 else jax.lax.bitcast_convert_type(raw, of_one)


def stack_fields(name: str, shape: tuple[int, ...]) -> list[tuple[str, type[np.generic], tuple[int, ...]]]:
    """Returns the dtypes of the two fields that hold `Stacks` of the given shape in a packet."""
    return [(f"{name} place", np.int32, shape), (f"{name} age", np.uint8, shape)]


def device_memory() -> int:
    """The number of free bytes on the device. On a CPU, this is the available memory of the machine."""
    found = jax.devices()[0].memory_stats() or {}
    return found["bytes_limit"] - found["bytes_in_use"] if "bytes_limit" in found else available_memory()


def device_shortage(packets: Packets, rings: int, memory: int) -> str:
    """Returns a message with the sizes if the frames of `rings` rings do not fit on the device.

    Returns an empty string if they fit.

    >>> packets = Packets(FrameReplay(1_000_000), updates=1, batch_size=32, states=64)
    >>> device_shortage(packets, 2, memory=16 * 10**9)
    'the frames of 2 rings take 14.3 GB; with 2.0 GB for other data, that is more than the 16.0 GB free on the device'
    >>> device_shortage(packets, 2, memory=17 * 10**9)
    ''
    """
    needed = rings * packets.frame_bytes
    if needed + OTHER_BYTES <= memory:
        return ""
    size, other, free = (f"{each / 1e9:.1f} GB" for each in (needed, OTHER_BYTES, memory))
    what = f"the frames of {rings} ring{'s' * (rings > 1)} take {size}"
    return f"{what}; with {other} for other data, that is more than the {free} free on the device"
