"""Random keys of a seed, and several seeds side by side: spread over devices, vmapped or one after another."""

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Key

PURPOSES = ("init", "reset", "round", "measure", "evaluate", "rank")


def key_for(seed: Array | int, purpose: str, number: Array | int = 0) -> Key[Array, ""]:
    """A key that depends only on its arguments, so that states hold no keys and no use of a key affects another.

    >>> [bool(key_for(0, "init") == key_for(0, purpose)) for purpose in ("init", "rank")]
    [True, False]
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), PURPOSES.index(purpose)), number)


def key_of(seed: Array | int, purpose: str, number: Array | int = 0) -> Key[Array, ""]:
    """The same for any purpose, as offline and supervised training use it.

    >>> bool((key_of(0, "init") == key_of(0, "init", 0)).all()), bool((key_of(0, "init") == key_of(0, "order")).all())
    (True, False)
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode())), number)


# On CPU, `vmap` turns small matrix products into batched ones, whose gradients XLA transposes in memory. That is slower
# than computing one seed after another. On a CPU each seed is therefore a lane of its own; on an accelerator all seeds
# are one lane, which is vmapped.


def lanes(seeds: int) -> int:
    """The number of lanes in which `seeds` seeds are computed."""
    return seeds if _one_by_one() else 1


def take_seed(tree: Any, lane: int) -> Any:
    """One lane of a tree with a leading axis of seeds."""
    return jax.tree.map(lambda x: x[lane], tree) if _one_by_one() else tree


def join_seeds(trees: list[Any]) -> Any:
    """The tree with a leading axis of seeds that consists of these lanes."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees) if _one_by_one() else trees[0]


def map_seeds(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one seed as a function of one lane."""
    return function if _one_by_one() else jax.vmap(function)


def _one_by_one() -> bool:
    return jax.default_backend() == "cpu"


def over_seeds(seeds: Int[Array, " seeds"], function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of seeds and trees as a function of trees, of which each device computes an equal share."""
    return partial(over_devices(function, len(seeds)), seeds)


def over_devices(function: Callable[..., Any], seeds: int) -> Callable[..., Any]:
    """A function of trees with a leading axis of seeds, of which each device computes an equal share."""
    axis = PartitionSpec("seeds")
    if devices(seeds) == 1:
        return function
    # Seeds exchange nothing, so there is no replication to check.
    return jax.shard_map(function, mesh=_mesh(seeds), in_specs=axis, out_specs=axis, check_vma=False)


def share_out(tree: Any, seeds: int) -> Any:
    """The tree with each seed on the device where `over_devices` computes it."""
    return tree if devices(seeds) == 1 else jax.device_put(tree, NamedSharding(_mesh(seeds), PartitionSpec("seeds")))


def devices(seeds: int) -> int:
    """The number of devices used for `seeds` seeds: the largest that gives every device an equal share.

    >>> devices(1)
    1
    """
    return max(count for count in range(1, jax.device_count() + 1) if seeds % count == 0)


def _mesh(seeds: int) -> Mesh:
    return Mesh(np.array(jax.devices()[: devices(seeds)]), ("seeds",))
