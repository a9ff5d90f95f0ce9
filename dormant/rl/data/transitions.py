"""Logged transitions: our file format, Minari's data sets, and conversions from and to a replay ring.

A file is an .npz archive, which `numpy.load` opens. Its arrays have one entry per agent step, oldest first. Each seed
has its own file.

    observation       the observation before the step, in the environment's shape and dtype
    action            the number of the action
    reward            the reward that the agent learned from, clipped if the agent clips rewards
    terminal          whether the return ends here, so that nothing is bootstrapped
    last              whether the episode ends here, by termination or by truncation
    next_observation  the observation after the step, before any reset
"""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Integer, Shaped
from numpy import ndarray

from dormant.files import UnreadableFile, read_arrays, replacing

from ..replay.device import Replay, ReplayState


class Transitions(NamedTuple):
    """Agent steps of one data set, oldest first. The fields are the arrays of a file (see above)."""

    observation: Shaped[ndarray, "steps *shape"]
    action: Integer[ndarray, " steps"]
    reward: Float32[ndarray, " steps"]
    terminal: Bool[ndarray, " steps"]
    last: Bool[ndarray, " steps"]
    next_observation: Shaped[ndarray, "steps *shape"]


def write(file: Path, transitions: Transitions) -> None:
    """Writes the file atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as part, part.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **transitions._asdict())


def read(file: Path) -> Transitions:
    """Reads a file. Raises ValueError if it cannot be read, or if an array is missing or has a wrong length or type."""
    try:
        found = read_arrays(file)
    except (OSError, UnreadableFile) as error:
        reason = error if isinstance(error, UnreadableFile) else f"{file} cannot be read: {error.strerror}."
        raise ValueError(f"{reason} Expected an .npz file of transitions.") from None
    lacking = [name for name in Transitions._fields if name not in found]
    if lacking:
        raise ValueError(f"{file} lacks {', '.join(lacking)}; expected {', '.join(Transitions._fields)}.")
    lengths = {name: found[name].shape[0] if found[name].ndim else 0 for name in Transitions._fields}
    if len(set(lengths.values())) > 1 or not lengths["action"]:
        raise ValueError(f"{file} must hold at least one entry, and equally many in each array, got {lengths}.")
    _check_types(file, found)
    return Transitions(**{name: found[name] for name in Transitions._fields})


def _check_types(file: Path, found: dict[str, ndarray]) -> None:
    """Raises ValueError if an array has a wrong type or a wrong number of axes."""
    before, after = found["observation"], found["next_observation"]
    if before.shape != after.shape or before.dtype != after.dtype or before.dtype.kind not in "biuf":
        arrays = f"{before.dtype}{before.shape} and {after.dtype}{after.shape}"
        raise ValueError(
            f"{file}: observation and next_observation must be numbers of equal shape and type, got {arrays}."
        )
    for name, kinds in {"action": "iu", "reward": "biuf", "terminal": "b", "last": "b"}.items():
        if found[name].ndim != 1 or found[name].dtype.kind not in kinds:
            raise ValueError(
                f"{file}: {name} has {found[name].dtype}{found[name].shape}; expected one number per step."
            )
    for name in ("observation", "reward", "next_observation"):
        if found[name].dtype.kind == "f" and not np.isfinite(found[name]).all():
            raise ValueError(f"{file}: {name} has NaN or infinite numbers.")


def of_ring(replay: Replay, ring: ReplayState, added: int) -> Transitions:
    """Returns the steps in the ring of one seed, oldest first. `added` is the number of steps added to the ring."""
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
    """Returns the settings and the arrays of a full ring that holds these transitions in the same order.

    Raises ValueError for actions outside 0 to 255.

    >>> steps = Transitions(*[np.zeros((3, 2), bool), np.array([0, 1, 1]), np.ones(3, np.float32)],
    ...                     *[np.array([False, False, True])] * 2, np.ones((3, 2), bool))
    >>> replay, ring = ring_of(steps, gamma=0.5)
    >>> replay.capacity, ring.discount.tolist()
    (3, [0.5, 0.5, 0.0])
    """
    if transitions.action.min() < 0 or transitions.action.max() > 255:
        found = f"{transitions.action.min()} to {transitions.action.max()}"
        raise ValueError(f"actions must lie between 0 and 255, got {found}.")
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
    """Joins the rings of several seeds along a new leading axis of seeds. Raises ValueError if their lengths differ."""
    lengths = {len(ring.action) for ring in rings}
    if len(lengths) > 1:
        raise ValueError(f"the data of all seeds must have equally many steps, got {sorted(lengths)}.")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rings)


def read_minari(name: str) -> Transitions:
    """Reads all steps of a data set in Minari's folder (MINARI_DATASETS_PATH). Downloads nothing.

    An episode has one more observation than it has steps, so the last observation of a truncated episode is known. An
    episode that ends without a termination is treated as truncated.

    Raises ValueError if minari or the data set is missing, if an observation is not an array, or if actions are not
    integers.
    """
    episodes = list(_loaded(name).iterate_episodes())
    if not episodes or not all(len(each.rewards) for each in episodes):
        raise ValueError(f"the Minari data set {name!r} has no steps.")
    for episode in episodes:
        _check(name, episode)
    ends = [np.arange(1, len(each.rewards) + 1) == len(each.rewards) for each in episodes]
    terminal = [np.asarray(each.terminations, bool) for each in episodes]
    return Transitions(
        np.concatenate([each.observations[:-1] for each in episodes]),
        np.concatenate([np.asarray(each.actions) for each in episodes]),
        np.concatenate([np.asarray(each.rewards, np.float32) for each in episodes]),
        np.concatenate(terminal),
        np.concatenate(ends),
        np.concatenate([each.observations[1:] for each in episodes]),
    )


def _loaded(name: str) -> Any:
    try:
        return import_module("minari").load_dataset(name, download=False)
    except ImportError as error:
        raise ValueError(f"reading {name!r} needs minari ({error}): pip install 'dormant[minari]'.") from None
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"there is no Minari data set {name!r} in its folder ({error}); `minari download {name}` gets it."
        ) from None


def _check(name: str, episode: Any) -> None:
    """Raises ValueError if the episode cannot be read as transitions. The message names the episode."""
    place = f"episode {episode.id} of the Minari data set {name!r}"
    observations, actions = episode.observations, np.asarray(episode.actions)
    if not isinstance(observations, np.ndarray) or actions.ndim != 1 or actions.dtype.kind not in "iu":
        raise ValueError(
            f"{place} must have arrays as observations and numbered actions, got "
            f"{type(observations).__name__} and actions {actions.dtype}{list(actions.shape[1:])}."
        )
    steps = len(episode.rewards)
    if len(observations) != steps + 1:
        raise ValueError(
            f"{place} has {steps} steps and {len(observations)} observations; expected one more observation than "
            "steps. Its collector left one out, so observations cannot be matched to steps."
        )
    lengths = {len(each) for each in (actions, episode.terminations, episode.truncations)}
    if lengths != {steps}:
        raise ValueError(f"{place} has {steps} rewards, but {sorted(lengths)} actions and terminations.")
    if not np.isfinite(np.asarray(episode.rewards, float)).all():
        raise ValueError(f"{place} has rewards that are NaN or infinite.")
