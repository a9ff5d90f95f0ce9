"""Pytest setup: JAX is strict, compiled code is shared between workers, and beartype checks all of dormant."""

import atexit
import ctypes
import ctypes.util
import fcntl
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import typing
from pathlib import Path

# Compilation takes most of a test's time, and these flags make it much faster. Subprocesses inherit them. Without
# fusion emitters, XLA rounds seeds trained together differently from seeds trained alone; see `pytest_pyfunc_call`.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_use_fusion_emitters=false",
)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # PyTorch's second thread only waits for small networks, but uses a core
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides a wrong error message of XLA about cached code
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # shared by all workers of a session
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax
import jaxtyping
import psutil
import pytest
from beartype import BeartypeConf, beartype
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook, jaxtyped

gc.disable()  # until pytest has collected all tests, because garbage collection took a fifth of that time


def quickly_jaxtyped(*, typechecker):
    """Returns a decorator that applies `jaxtyping.jaxtyped` only to classes and to functions with shapes.

    `jaxtyped` takes most of a traced function's time. Functions without shapes need only the type checker. Functions
    inside functions are not checked, because each definition of an inner function would compile a checker.
    """

    def decorate(checked):
        if "<locals>" in checked.__qualname__:
            return checked
        if isinstance(checked, type) or any(map(has_shapes, checked.__annotations__.values())):
            return jaxtyped(checked, typechecker=typechecker)
        return beartype(conf=BeartypeConf(violation_type=TypeError))(checked)

    return decorate


def has_shapes(annotation):
    shaped = isinstance(annotation, type) and issubclass(annotation, (jaxtyping.AbstractArray, jaxtyping.PyTree))
    return shaped or any(map(has_shapes, typing.get_args(annotation)))


jaxtyping.jaxtyped = quickly_jaxtyped  # the import hook below calls the function by this name
install_import_hook("dormant", "beartype.beartype")  # must come before any module of dormant is imported

# Tests need two devices to cover both cases: two seeds are spread over devices, but one or three seeds are not.
jax.config.update("jax_num_cpu_devices", 2)

# No deadline, because the first example compiles. Fixed examples make failures reproducible.
settings.register_profile("dormant", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dormant")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Keeps the process small, and makes JAX strict in a test and in its fixtures.

    JAX recompiles functions if the strictness changes. Doctests are outside this folder and are not strict, because
    users may rely on broadcasting.
    """
    drop_compiled_code_of_a_large_process()
    if Path(__file__).parent not in item.path.parents:
        return (yield)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        return (yield)


NOT_FUSING = "--xla_cpu_use_fusion_emitters=false"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Runs a test marked `fusing_compiler` in a new process. XLA fuses operations there, as it does for users."""
    if pyfuncitem.get_closest_marker("fusing_compiler") is None or NOT_FUSING not in os.environ["XLA_FLAGS"]:
        return None
    said = said_while_fusing(pyfuncitem)
    assert f"PASSED {pyfuncitem.nodeid}\n" in said, said
    return True


def said_while_fusing(pyfuncitem):
    """Returns the output of one process that runs all tests of the session with the mark, as a start takes seconds.

    The first test with the mark starts the process. The others, also those of other workers, wait for its output.
    """
    base = pyfuncitem._request.getfixturevalue("tmp_path_factory").getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    output = shared / "fusing.txt"
    with (shared / "fusing.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not output.exists():
            tests = [each.nodeid for each in pyfuncitem.session.items if each.get_closest_marker("fusing_compiler")]
            command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-rpfE", *tests]
            environment = os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace(NOT_FUSING, "")}
            root = pyfuncitem.config.rootpath
            ran = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
            output.write_text(ran.stdout + ran.stderr)
    return output.read_text()


def pytest_collection_finish():
    """Exempts all objects that exist before the first test from garbage collection, and makes collections rarer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)  # tracing makes many objects that live as long as the program
    gc.enable()


LARGEST_RESIDENT_SET = 9 << 28  # bytes that a worker may keep between two tests: 2.4 GB


def drop_compiled_code_of_a_large_process():
    """Frees compiled code if the process is large. Otherwise, JAX would keep about 5 GB per worker."""
    if psutil.Process().memory_info().rss > LARGEST_RESIDENT_SET:
        jax.clear_caches()
        gc.collect()
        trim = getattr(ctypes.CDLL(ctypes.util.find_library("c")), "malloc_trim", None)  # exists in glibc only
        if trim is not None:
            trim(0)
