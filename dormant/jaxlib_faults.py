"""Versions of jaxlib that compute wrong values or crash, and the warning about them."""

import functools
import warnings
from importlib.metadata import version

FAULTS = {
    "0.10.2": "on CPUs it silently computes wrong values: a small product, then a sum, above 32,768 rows "
    "(jax-ml/jax 39103)",
    "0.11.0": "on CPUs it crashes or hangs on a product, then a sum, of arrays with 7 or 8 axes (jax-ml/jax 39257)",
}
RIGHT = "0.10.1"  # has neither fault


def fault_of(jaxlib: str) -> str | None:
    """One line about the known fault of a version of jaxlib, or None if no fault is known.

    >>> print(fault_of("0.10.1"))
    None
    >>> print(fault_of("0.11.0"))
    jaxlib 0.11.0: on CPUs it crashes ... (jax-ml/jax 39257). Install another version: pip install jax==0.10.1
    """
    if jaxlib not in FAULTS:
        return None
    return f"jaxlib {jaxlib}: {FAULTS[jaxlib]}. Install another version: pip install jax=={RIGHT}"


@functools.cache
def warn_once() -> None:
    """Warns about the installed jaxlib if it has a known fault. Only the first call of a process does anything."""
    # Name the caller of `trace`, not this file.
    if fault := fault_of(version("jaxlib")):
        warnings.warn(fault, stacklevel=3)
