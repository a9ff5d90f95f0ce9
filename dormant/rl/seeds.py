"""Several seeds side by side: shared out to the devices, and on each mapped together, or one by one if it is a CPU."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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


def over_devices(function: Callable[..., Any], seeds: int) -> Callable[..., Any]:
    """A function of trees with a leading axis of seeds, of which each device computes an equal share."""
    axis = PartitionSpec("seeds")
    if devices(seeds) == 1:
        return function
    # Nothing passes between seeds, so there is nothing that a check of replication could find.
    return jax.shard_map(function, mesh=_mesh(seeds), in_specs=axis, out_specs=axis, check_vma=False)


def share_out(tree: Any, seeds: int) -> Any:
    """The tree with each seed where `over_devices` computes it."""
    return tree if devices(seeds) == 1 else jax.device_put(tree, NamedSharding(_mesh(seeds), PartitionSpec("seeds")))


def devices(seeds: int) -> int:
    """Over how many devices that many seeds are spread: as many as can have equal shares.

    >>> devices(1)
    1
    """
    return max(count for count in range(1, jax.device_count() + 1) if seeds % count == 0)


def _mesh(seeds: int) -> Mesh:
    return Mesh(np.array(jax.devices()[: devices(seeds)]), ("seeds",))
