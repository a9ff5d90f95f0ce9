"""Makes JAX strict in every test here, shares compiled code, and checks types in all of dormant."""

import atexit
import ctypes
import ctypes.util
import gc
import os
import shutil
import tempfile
from pathlib import Path

# Compiling is most of a test's time. Programs that tests start inherit these.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiles in half of the time
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA reports a false error for code that it loads from a cache
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the workers of a session find it there
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax
import psutil
import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

install_import_hook("dormant", "beartype.beartype")  # before anything of dormant is imported

# Two devices, so that two seeds are shared out to them, and one or three are not.
jax.config.update("jax_num_cpu_devices", 2)

# A first example compiles, so its time says nothing; fixed examples make a failure one that everybody can repeat.
settings.register_profile("dormant", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dormant")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Makes JAX strict in a test and its fixtures: JAX compiles again for another strictness.

    Not in doctests, which stand outside this folder: their code is a user's, who may rely on broadcasting.
    """
    if Path(__file__).parent not in item.path.parents:
        return (yield)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        return (yield)


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
