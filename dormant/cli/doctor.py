"""`dormant doctor`: what is installed, and on which device it will run."""

import os
import platform
from dataclasses import dataclass

import jax
from rich.console import Console
from rich.table import Table

from dormant.jaxlib_faults import fault_of
from dormant.lab.machine import cores, revision, version
from dormant.rl.envs.minatar import MinAtar

EXTRAS = {
    "core": ("jax", "jaxlib", "numpy", "optax", "jaxtyping"),
    "cli": ("tyro", "rich", "matplotlib", "orbax-checkpoint"),
    "minatar": ("pgx",),
    "atari": ("ale-py", "opencv-python-headless"),
    "mujoco": ("mujoco", "gymnasium"),
    "torch": ("torch",),
    "ray": ("ray",),
    "slurm": ("submitit",),
}


@dataclass(frozen=True)
class Doctor:
    """Say what is installed and on which device training will run."""


def doctor() -> int:
    """Prints the report: 0 if training can run here, 1 if not."""
    console = Console()
    console.print(_packages())
    console.print(_machine())
    if warning := fault_of(version("jaxlib") or ""):
        console.print(warning, style="yellow", soft_wrap=True)
    fault = _fault_of_minatar()
    console.print(f"MinAtar/Asterix does not step: {fault}" if fault else "MinAtar/Asterix steps.")
    return 1 if fault else 0


def _packages() -> Table:
    table = Table("extra", "package", "version", title=f"dormant {version('dormant')}, revision {revision()}")
    for extra, packages in EXTRAS.items():
        for package in packages:
            table.add_row(extra, package, version(package) or f"missing: pip install 'dormant\\[{extra}]'")
    return table


def _machine() -> Table:
    table = Table("machine", "", title="What it runs on")
    table.add_row("python", f"{platform.python_version()}, {platform.platform()}")
    table.add_row("cores", f"{len(cores())} of {os.cpu_count()} usable")
    table.add_row("memory", _memory())
    table.add_row(
        "devices", ", ".join(f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices())
    )
    table.add_row("training runs on", str(jax.devices()[0]))
    return table


def _memory() -> str:
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return "unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"


def _fault_of_minatar() -> str:
    env = MinAtar("Asterix")
    try:
        key = jax.random.key(0)
        env.step(key, env.reset(key), jax.numpy.int32(0))
    except Exception as error:  # whatever is wrong with an installation is what a doctor is asked for
        return f"{type(error).__name__}: {error}"
    return ""
