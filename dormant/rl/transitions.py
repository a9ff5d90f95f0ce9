"""Logged transitions: what a data set for offline training holds, our file of them, and the ring they are drawn from.

A file is an .npz archive of NumPy's, which `numpy.load` opens, of arrays with one entry for each agent step, oldest
first; several seeds have a file each.

    observation       what the agent saw before the step, in the environment's own shape and type
    action            the number of its action
    reward            the reward as the agent learnt from it, clipped if it clips
    terminal          whether the return ends here, so that nothing is bootstrapped
    last              whether the episode ends here, by truncation too
    next_observation  what was seen after the step, before any reset
"""

import os
import zipfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Integer, Shaped
from numpy import ndarray

from .replay import Replay, ReplayState


class Transitions(NamedTuple):
    """Agent steps of one data set, oldest first; the fields are those of its file."""

    observation: Shaped[ndarray, "steps *shape"]
    action: Integer[ndarray, " steps"]
    reward: Float32[ndarray, " steps"]
    terminal: Bool[ndarray, " steps"]
    last: Bool[ndarray, " steps"]
    next_observation: Shaped[ndarray, "steps *shape"]


def write(file: Path, transitions: Transitions) -> None:
    """Writes the file so that it is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    with part.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **transitions._asdict())
    os.replace(part, file)


def read(file: Path) -> Transitions:
    """The transitions in a file. Raises ValueError if it cannot be read, or lacks an array, or its arrays don't fit."""
    try:
        with np.load(file) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} cannot be read ({error}); expected an .npz file of transitions.") from None
    lacking = [name for name in Transitions._fields if name not in found]
    if lacking:
        raise ValueError(f"{file} lacks {', '.join(lacking)}; expected {', '.join(Transitions._fields)}.")
    lengths = {name: len(found[name]) for name in Transitions._fields}
    if len(set(lengths.values())) > 1 or not lengths["action"]:
        raise ValueError(f"{file} must hold as many entries of each array, and some, got {lengths}.")
    return Transitions(**{name: found[name] for name in Transitions._fields})


def of_ring(replay: Replay, ring: ReplayState, added: int) -> Transitions:
    """What a ring of one seed holds after so many agent steps."""
    held = min(added, replay.capacity)
    slots = np.arange(added - held, added) % replay.capacity
    pairs = np.asarray(replay.unpack(jnp.asarray(ring.observations[slots]))).astype(replay.observation_dtype)
    discount = np.asarray(ring.discount)[slots]
    return Transitions(
        pairs[:, 0],
        np.asarray(ring.action)[slots],
        np.asarray(ring.reward)[slots],
        discount == 0,
        np.asarray(ring.last)[slots],
        pairs[:, 1],
    )


def ring_of(transitions: Transitions, gamma: float, n_step: int = 1) -> tuple[Replay, ReplayState]:
    """A full ring that holds just these transitions, in this order. Raises ValueError for actions above 255.

    >>> steps = Transitions(*[np.zeros((3, 2), bool), np.array([0, 1, 1]), np.ones(3, np.float32)],
    ...                     *[np.array([False, False, True])] * 2, np.ones((3, 2), bool))
    >>> replay, ring = ring_of(steps, gamma=0.5)
    >>> replay.capacity, ring.discount.tolist()
    (3, [0.5, 0.5, 0.0])
    """
    if transitions.action.min() < 0 or transitions.action.max() > 255:
        raise ValueError(f"actions must lie between 0 and 255, got up to {transitions.action.max()}.")
    shape, dtype = transitions.observation.shape[1:], transitions.observation.dtype
    replay = Replay(len(transitions.action), shape, dtype, n_step)
    pairs = np.stack([transitions.observation, transitions.next_observation], axis=1)
    discount = np.where(transitions.terminal, 0.0, gamma)
    return replay, ReplayState(
        replay.pack(jnp.asarray(pairs)),
        jnp.asarray(transitions.action, jnp.uint8),
        jnp.asarray(transitions.reward, jnp.float32),
        jnp.asarray(discount, jnp.float32),
        jnp.asarray(transitions.last, bool),
    )


def joined(rings: list[ReplayState]) -> ReplayState:
    """Rings of several seeds as one with an axis of them. Raises ValueError if they differ in length."""
    lengths = {len(ring.action) for ring in rings}
    if len(lengths) > 1:
        raise ValueError(f"the data of all seeds must have as many steps, got {sorted(lengths)}.")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rings)
