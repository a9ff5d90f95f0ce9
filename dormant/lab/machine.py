"""Functions about this machine: its cores and devices, the cache of compiled code, and the code version."""

import ctypes
import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("dormant", "jax", "jaxlib", "numpy", "optax", "pgx", "orbax-checkpoint")


def cores() -> tuple[int, ...]:
    """The CPU cores that this process may use, in order."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS lacks this call
    return tuple(sorted(affinity(0))) if affinity else tuple(range(os.cpu_count() or 1))


def pin(core: int) -> None:
    """Keeps this process on one core if the system supports it. XLA then uses one thread.

    Raises ValueError if the process may not use that core.
    """
    if core not in cores():
        raise ValueError(f"--core {core} is not available; this process may use {', '.join(map(str, cores()))}.")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def release_memory() -> None:
    """Gives freed memory back to the system. Without this call, glibc keeps the memory that each thread has freed."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # None on other systems
    if trim is not None:
        trim(0)


def accelerated() -> bool:
    """Returns whether JAX uses an accelerator. Turns off preallocation, so that processes can share a GPU's memory."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return jax.default_backend() != "cpu"


def spread_seeds(seeds: int) -> None:
    """Splits the CPU into several JAX devices, so that every core gets an equal share of the seeds.

    For MinAtar's small matrix products, one seed per core is faster than several threads for one seed (LOG.md).
    """
    shares = [count for count in range(1, 4 * len(cores()) + 1) if seeds % count == 0]
    if seeds > 1:
        jax.config.update("jax_num_cpu_devices", next((each for each in shares if each >= len(cores())), shares[-1]))


def keep_compiled_code() -> None:
    """Makes JAX cache compiled code on disk, unless the user has chosen a folder for the cache."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        except RuntimeError:  # the user has no home folder
            return
        jax.config.update("jax_compilation_cache_dir", str(caches / "dormant"))


def compile_quickly() -> None:
    """Halves XLA's compile time. The compiled code is several times slower, so use this only for very short runs.

    XLA reads its flags once, so the process must not have computed anything yet.
    """
    given = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_optimization_level" not in given:
        os.environ["XLA_FLAGS"] = f"{given} --xla_backend_optimization_level=0".strip()


def origin() -> dict[str, Any]:
    """The time, command, code version and device of this process."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "revision": revision(),
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(jax.devices()[0].device_kind),
        "backend": jax.default_backend(),
    }


def version(package: str) -> str | None:
    """Returns the version of an installed package. Returns None if the package is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def revision() -> str:
    """Returns the git revision of dormant's checkout, with "-dirty" if the checkout has changes.

    Returns "unknown" if there is no checkout.
    """
    # Checks that the checkout is dormant's, because an installed copy may lie inside the checkout of another project.
    source = Path(__file__).parents[2]
    if not (source / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return answer.stdout.strip() or "unknown"
