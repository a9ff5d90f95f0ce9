"""The command line: `dormant demo`, `train`, `figure`, `compare`, `runs`, `report`, `scan`, `cite` and `doctor`."""

import logging
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import tyro
from rich.console import Console
from rich.table import Table

from dormant.cli import cite, compare, demo, figure, report, runs, scan, train
from dormant.cli.parsing import check_numbers, parsing
from dormant.hints import extras, fault_of
from dormant.lab.machine import cores, revision, version
from dormant.rl.envs.minatar import MinAtar


@dataclass(frozen=True)
class Doctor:
    """Print which packages are installed and which device training will use."""


COMMANDS = {
    "demo": demo.Demo,
    "train": train.TrainMinAtar,
    "figure": figure.Figure,
    "compare": compare.Compare,
    "runs": runs.Runs,
    "report": report.Report,
    "scan": scan.Scan,
    "cite": cite.Cite,
    "doctor": Doctor,
}


def run(arguments: Sequence[str]) -> int:
    """Runs the command that the arguments name. Returns its exit code: 0 done, 1 failed, 2 refused, 130 interrupted."""
    # Starts warnings with the name of the package instead of their level, like the command's error messages.
    logging.basicConfig(format="%(name)s: %(message)s")
    # Hides the stack traces that Orbax and asyncio print for a failed write. Commands report such errors in one line.
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    if list(arguments) == ["--version"]:
        print(version("dormant"))
        return 0
    description = "Measure and cure dormant neurons in deep reinforcement learning. --version prints the version."
    with parsing():
        # The flags of `train` depend on the chosen agent and environment.
        command = (
            train.parse(arguments[1:])
            if list(arguments[:1]) == ["train"]
            else tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="dormant", description=description, args=arguments)
        )
        check_numbers(command)
    match command:
        case demo.Demo():
            return demo.demo(command)
        case train.TrainMinAtar() | train.TrainAtari() | train.TrainControl() | train.TrainLike():
            return train.train(command)
        case figure.Figure():
            return figure.figure(command)
        case compare.Compare():
            return compare.compare(command)
        case runs.Runs():
            return runs.runs(command)
        case report.Report():
            return report.report(command)
        case scan.Scan():
            return scan.scan(command)
        case cite.Cite():
            return cite.cite(command)
        case _:
            return doctor()


def doctor() -> int:
    """Prints the installed packages and the machine's properties. Returns 0 if training can run here, 1 if not."""
    console = Console()
    console.print(_packages())
    console.print(_machine())
    if warning := fault_of(version("jaxlib") or ""):
        console.print(warning, style="yellow", soft_wrap=True)
    fault = _fault_of_minatar()
    console.print(f"MinAtar/Asterix does not run: {fault}" if fault else "MinAtar/Asterix runs.")
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
