"""Makes JAX strict in every test here, and jaxtyping before anything of dormant is imported."""

import ctypes
import ctypes.util
import gc

import jax
import psutil
import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

install_import_hook("dormant", "beartype.beartype")

# Two devices, so that two seeds are shared out to them, and one or three are not.
jax.config.update("jax_num_cpu_devices", 2)

# A first example compiles, so its time says nothing; fixed examples make a failure one that everybody can repeat.
settings.register_profile("dormant", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dormant")


@pytest.fixture(autouse=True)
def strict_jax():
    """Not for doctests, which stand outside this folder: their code is a user's, who may rely on broadcasting."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


LARGEST_RESIDENT_SET = 1 << 30  # bytes a worker may keep from one file of tests to the next


@pytest.fixture(autouse=True, scope="module")
def compiled_code_is_dropped():
    """JAX keeps all code that it compiled, which over the whole suite is 5 GB a worker; nothing reuses it."""
    yield
    if psutil.Process().memory_info().rss > LARGEST_RESIDENT_SET:
        jax.clear_caches()
        gc.collect()
        trim = getattr(ctypes.CDLL(ctypes.util.find_library("c")), "malloc_trim", None)  # glibc's; others need none
        if trim is not None:
            trim(0)
