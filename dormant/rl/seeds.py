"""Several seeds side by side: mapped together on an accelerator, one after another on CPU."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# On CPU `vmap` turns small matrix products into batched ones, whose gradients XLA transposes in memory: slower for
# several seeds together than one at a time. There a tree with an axis of seeds is taken apart for the length of a
# scan into one lane for each seed; elsewhere all seeds are one lane.


def lanes(seeds: int) -> int:
    """How many lanes that many seeds are computed in."""
    return seeds if _apart() else 1


def take_seed(tree: Any, lane: int) -> Any:
    """A lane of a tree with a leading axis of seeds."""
    return jax.tree.map(lambda x: x[lane], tree) if _apart() else tree


def join_seeds(trees: list[Any]) -> Any:
    """The tree with a leading axis of seeds that has these lanes."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees) if _apart() else trees[0]


def map_seeds(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of one seed as a function of a lane."""
    return function if _apart() else jax.vmap(function)


def _apart() -> bool:
    return jax.default_backend() == "cpu"
