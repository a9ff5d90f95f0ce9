"""Minari data sets as transitions: the only file that imports minari (the extra `minari`)."""

from importlib import import_module
from typing import Any

import numpy as np

from .transitions import Transitions


def read(name: str) -> Transitions:
    """All steps of a data set that lies in Minari's folder (MINARI_DATASETS_PATH), nothing being downloaded.

    An episode's observations are one more than its steps, so a truncated one keeps its last. An episode that was cut
    off without either mark counts as truncated. Raises ValueError if minari or the data set is not there, or if its
    observations are no arrays or its actions are not numbers of a finite set.
    """
    episodes = list(_loaded(name).iterate_episodes())
    if not episodes or not all(len(each.rewards) for each in episodes):
        raise ValueError(f"the Minari data set {name!r} has no steps.")
    _check(name, episodes[0])
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
    observations, actions = episode.observations, np.asarray(episode.actions)
    if not isinstance(observations, np.ndarray) or actions.ndim != 1 or actions.dtype.kind not in "iu":
        raise ValueError(
            f"the Minari data set {name!r} must have arrays as observations and numbered actions, got "
            f"{type(observations).__name__} and actions {actions.dtype}{list(actions.shape[1:])}."
        )
