"""Augmentation of training batches by random shifts and a random intensity, as DrQ needs it."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Shaped

from ..replay.device import Batch


class Noise(NamedTuple):
    """The random numbers of an augmented batch, separate for the observations before and after a transition."""

    offset_tm1: Int[Array, "*steps batch 2"]
    offset_t: Int[Array, "*steps batch 2"]
    factor_tm1: Float[Array, "*steps batch"]
    factor_t: Float[Array, "*steps batch"]


@dataclass(frozen=True)
class Augmentation:
    """Shifts each image by up to `pad` cells either way and scales it by about `intensity`. Both default to nothing.

    Only training batches are augmented. Neurons are scored and actions chosen on the observations as they are.

    >>> noise = Augmentation(pad=4, intensity=0.05).draw(jax.random.key(0), 1, 32)
    >>> noise.offset_tm1.shape, bool(jnp.all((noise.factor_tm1 >= 0.9) & (noise.factor_tm1 <= 1.1)))
    ((1, 32, 2), True)

    Raises ValueError for a negative number.
    Source: Kostrikov et al. 2020 and Schwarzer et al. 2021; dopamine/labs/atari_100k/atari_100k_rainbow_agent.py, whose
    offsets leave out the last one, so that images never move the whole way up or left. Ours include it.
    """

    pad: int = 0
    intensity: float = 0.0

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError(f"pad must be a number of cells, got {self.pad}; 0 shifts nothing.")
        if not 0 <= self.intensity < 0.5:
            raise ValueError(f"intensity must lie in [0, 0.5), got {self.intensity}; 0 scales nothing.")

    def draw(self, key: Key[Array, ""], steps: int, batch: int) -> Noise | tuple[()]:
        """The noise of `steps` batches, or an empty tuple if there is nothing to augment."""
        if self == NOTHING:
            return ()
        shift, scale = jax.random.split(key)
        offsets = jax.random.randint(shift, (2, steps, batch, 2), 0, 2 * self.pad + 1)
        normal = jnp.clip(jax.random.normal(scale, (2, steps, batch)), -2.0, 2.0)
        return Noise(*offsets, *(1.0 + self.intensity * normal))

    def augmented(self, batch: Batch) -> Batch:
        """The batch with its noise applied to its observations, which become floats.

        Raises ValueError if the batch has no noise, or if `pad` is set and observations are not images.
        """
        if self == NOTHING:
            return batch
        noise = batch.noise
        if not isinstance(noise, Noise):
            raise ValueError(f"{self} needs a batch with its noise, from draw; the batch has noise={noise!r}.")
        shape = batch.observation_tm1.shape[1:]
        if self.pad and len(shape) != 3:
            raise ValueError(
                f"pad={self.pad} shifts images of height, width and channels, but observations have shape {shape}; "
                "set pad to 0."
            )
        before = self._image(batch.observation_tm1, noise.offset_tm1, noise.factor_tm1)
        after = self._image(batch.observation_t, noise.offset_t, noise.factor_t)
        return batch._replace(observation_tm1=before, observation_t=after)

    def _image(self, images: Any, offset: Array, factor: Array) -> Array:
        moved = shifted(images, offset, self.pad) if self.pad else images
        return scaled(moved, factor)


NOTHING = Augmentation()


def shifted(
    images: Shaped[Array, "batch height width channels"], offset: Int[Array, "batch 2"], pad: int
) -> Shaped[Array, "batch height width channels"]:
    """Each image cropped from a copy with its edges repeated `pad` times. The offset (pad, pad) changes nothing.

    >>> row = jnp.arange(4).reshape(1, 1, 4, 1)
    >>> [shifted(row, jnp.array([[1, column]]), 1).ravel().tolist() for column in range(3)]
    [[0, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 3]]

    """
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")

    def crop(image: Array, offset: Array) -> Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), images.shape[1:])

    return jax.vmap(crop)(padded, offset)


def scaled(observations: Shaped[Array, "batch *shape"], factor: Float[Array, " batch"]) -> Float[Array, "batch *shape"]:
    """Each observation as floats, times its factor.

    >>> scaled(jnp.array([[2], [4]]), jnp.array([1.0, 0.5])).tolist()
    [[2.0], [2.0]]
    """
    ones = (1,) * (observations.ndim - 1)
    return observations.astype(jnp.float32) * factor.reshape(-1, *ones)
