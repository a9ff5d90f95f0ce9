"""`dormant doctor`: prints which packages are installed and which device training will use."""

import os
import platform
from dataclasses import dataclass

import jax
from rich.console import Console
from rich.table import Table

from dormant.lab.machine import cores, revision, version
from dormant.packages import extras, fault_of
from dormant.rl.envs.minatar import MinAtar


@dataclass(frozen=True)
class Doctor:
    """Print which packages are installed and which device training will use."""


def doctor() -> int:
    """Prints the report. Returns 0 if training can run here, 1 if not."""
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
    for extra, packages in extras().items():
        install = f"dormant\\[{extra}]" if extra else "dormant"
        for package in packages:
            table.add_row(extra or "core", package, version(package) or f"missing: pip install '{install}'")
    return table


def _machine() -> Table:
    table = Table("machine", "", title="This machine")
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
    except Exception as error:  # a broken installation can raise anything
        return f"{type(error).__name__}: {error}"
    return ""
