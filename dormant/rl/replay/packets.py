"""A copy of a ring's frames on the device. Per agent step, the host sends one packet of bytes with the newest frame."""

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

    A packet holds the newest frame with its place, and the places of the frames of `updates` batches of `batch_size`
    transitions and of `updates` times `states` observations. The sampling stays on the host, so all results are
    bit-identical to those of `FrameReplay`.

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
        """The fields of a packet."""
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
        """Size of one packet."""
        return self.layout.itemsize

    @property
    def frame_bytes(self) -> int:
        """Size of the frames of one ring on the device."""
        return self.replay.places * self._pixels

    @property
    def _pixels(self) -> int:
        return int(np.prod(self.replay.frame_shape))

    def upload(self, ring: FrameRing, added: int) -> Frames:
        """The frames of a ring, copied to the device."""
        if added == 0:
            return jnp.zeros((self.replay.places, self._pixels), jnp.uint8)
        # `jnp.array` copies, so that donating the result never touches the file.
        return jnp.array(ring.frames.reshape(self.replay.places, self._pixels))

    def packed(
        self, frames: ndarray, newest: list[Stacks], batches: Sequence[Drawn] = (), inputs: Sequence[Stacks] = ()
    ) -> ndarray:
        """One packet per seed, without start and last. `batches` and `inputs` are empty or have an entry per seed."""
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
        """The fields of a packet. In compiled code."""
        return {name: self._field(packet, name) for name in self.layout.names or ()}

    def _field(self, packet: UInt8[Array, " bytes"], name: str) -> Array:
        dtype, offset = (self.layout.fields or {})[name][:2]
        of_one, shape = dtype.subdtype or (dtype, ())
        raw = packet[offset : offset + dtype.itemsize].reshape(*shape, of_one.itemsize)
        return raw[..., 0] if of_one.itemsize == 1 else jax.lax.bitcast_convert_type(raw, of_one)

    def write(self, frames: Frames, fields: dict[str, Array]) -> Frames:
        """The frames with the packet's newest frame. In compiled code; in place if the frames are donated."""
        return jax.lax.dynamic_update_slice(frames, fields["frame"][None], (fields["newest place"], jnp.int32(0)))

    def observations(
        self, frames: Frames, fields: dict[str, Array], name: str
    ) -> UInt8[Array, "*draws height width stack"]:
        """The observations whose frames the packet names. In compiled code."""
        place, age = fields[f"{name} place"], fields[f"{name} age"]
        newest_last = range(self.replay.stack - 1, -1, -1)
        return jnp.stack([self._frame(frames, place, age, back) for back in newest_last], axis=-1)

    def _frame(self, frames: Frames, place: Int[Array, "*draws"], age: UInt8[Array, "*draws"], back: int) -> Array:
        # A place is at least 0, and the sum avoids the remainder of a negative number.
        taken = frames.at[(place + (self.replay.places - back)) % self.replay.places].get(mode="promise_in_bounds")
        taken = jnp.where((age < back)[..., None], jnp.uint8(0), taken)
        return taken.reshape(*place.shape, *self.replay.frame_shape)

    def batch(self, frames: Frames, fields: dict[str, Array]) -> Batch:
        """The batches of a packet, with a leading axis of gradient steps. In compiled code."""
        before, after = (self.observations(frames, fields, name) for name in ("before", "after"))
        return Batch(before, fields["action_tm1"].astype(jnp.int32), fields["return_t"], fields["discount_t"], after)


def stack_fields(name: str, shape: tuple[int, ...]) -> list[tuple[str, type[np.generic], tuple[int, ...]]]:
    """The fields of a packet for `Stacks` of a shape."""
    return [(f"{name} place", np.int32, shape), (f"{name} age", np.uint8, shape)]


def device_memory() -> int:
    """Free bytes on the device. On a CPU, the available memory of the machine."""
    found = jax.devices()[0].memory_stats() or {}
    return found["bytes_limit"] - found["bytes_in_use"] if "bytes_limit" in found else available_memory()


def device_shortage(packets: Packets, rings: int, memory: int) -> str:
    """A message with the sizes if the frames of `rings` rings do not fit on the device; an empty string if they fit.

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
