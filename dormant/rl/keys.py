"""Random keys by what they are for, so that a state holds none and no use of one disturbs another."""

import zlib

import jax
from jaxtyping import Array, Key


def key_of(seed: Array | int, purpose: str, number: Array | int = 0) -> Key[Array, ""]:
    """A key that depends on nothing but its arguments.

    >>> bool((key_of(0, "init") == key_of(0, "init", 0)).all()), bool((key_of(0, "init") == key_of(0, "order")).all())
    (True, False)
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode())), number)
