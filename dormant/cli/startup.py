"""What is decided before JAX computes anything: cores, threads, and where compiled code is kept."""

import os
from pathlib import Path

import jax


def cores() -> tuple[int, ...]:
    """The cores this process may use, in order."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has no such call
    return tuple(sorted(affinity(0))) if affinity else tuple(range(os.cpu_count() or 1))


def pin(core: int) -> None:
    """Keeps this process on one core, where the system can do that, and XLA in one thread.

    Raises ValueError if the process may not use that core.
    """
    if core not in cores():
        raise ValueError(f"--core {core} is not available; this process may use {', '.join(map(str, cores()))}.")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()


def keep_compiled_code() -> None:
    """Lets a resumed run load what an earlier one compiled, unless the user has chosen a place for it."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(caches / "dormant"))
