"""Writes docs/speed.md from docs/speed.csv, the speeds of our training loops and of other packages' loops.

    python benchmarks/speed_page.py              writes the page
    python benchmarks/speed_page.py --measure    measures all loops, writes the table, then the page

The benchmarks in `MEASURED` write the table with their option `--record TABLE`. A loop that is measured again replaces
its rows. Measuring needs the packages that are compared; minatar_peers.py says how to install rejax.
"""

import argparse
import csv
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TABLE, PAGE = ROOT / "docs" / "speed.csv", ROOT / "docs" / "speed.md"
MEASURED = ("minatar_update.py", "sac.py", "atari_dqn.py")
OURS, PACKAGE, STAND_IN = "ours", "package", "stand-in"
HEAD = """# Speed

Made by `python benchmarks/speed_page.py` from `docs/speed.csv`. The benchmarks write that table with `--record`.

- A *package* is the real one from PyPI. A *stand-in* is our code that computes as the other one does, because that one
  does not install here: Dopamine needs TensorFlow, and CleanRL is a collection of scripts.
- An agent step is counted with its gradient steps. All rows of a loop share the task, the network, the batch size and
  the replay ratio. They are measured in turn in one run; each number is a median.
- *Ours is* says how many times as fast our loop is. Below 1 the other one is faster.
- The load is the machine's load average at the end of the run. If it is above the number of cores, other programs ran
  beside the benchmark: compare the rows of one loop with each other, and not with other loops.
"""
TAIL = """
## On a GPU

No loop was measured on a GPU with today's code; these rows are open. [Results](results.md#on-a-gpu) has what was
measured on one H100, before the frames of Atari's replay were kept on the device. On a machine with a GPU the same
command measures them.
"""


class Speed(NamedTuple):
    """One row of the table. `kind` is "ours", "package" or "stand-in"."""

    loop: str
    name: str
    kind: str
    agent_steps_per_second: float
    version: str = ""
    command: str = ""
    revision: str = ""
    time: str = ""
    machine: str = ""
    load: str = ""


def record(speeds: Iterable[Speed], table: Path) -> None:
    """Writes speeds into a table, with the command, the revision, the machine and its load.

    Other rows of the same loops are removed.
    """
    from dormant.lab.machine import origin

    made, given = origin(), [word for word in sys.argv[1:] if word not in ("--record", str(table))]
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *given])
    load = f"{os.getloadavg()[0]:.1f}"
    new = [
        speed._replace(
            agent_steps_per_second=float(f"{speed.agent_steps_per_second:.4g}"),
            **{"command": command, "revision": made["revision"], "time": made["time"]},
            **{"machine": machine(made["backend"], made["device"]), "load": load},
        )
        for speed in speeds
    ]
    replaced = {speed.loop for speed in new}
    kept = [row for row in read(table) if row.loop not in replaced]
    rows = sorted([*kept, *new], key=lambda row: row.loop)
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(Speed._fields)
        writer.writerows(rows)


def machine(backend: str, device: str) -> str:
    """The number of cores and the model of the processor, and the accelerator if there is one."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )
    cores = f"{os.cpu_count()} cores, {model}"
    return cores if backend == "cpu" else f"{device}, {cores}"


def read(table: Path = TABLE) -> list[Speed]:
    """The rows of the table. No rows if there is no table."""
    if not table.exists():
        return []
    with table.open(newline="") as stream:
        return [
            Speed(**{**row, "agent_steps_per_second": float(row["agent_steps_per_second"])})
            for row in csv.DictReader(stream)
        ]


def page(speeds: list[Speed]) -> str:
    """The whole page."""
    loops = dict.fromkeys(speed.loop for speed in speeds)
    return HEAD + "".join(section([speed for speed in speeds if speed.loop == loop]) for loop in loops) + TAIL


def section(speeds: list[Speed]) -> str:
    """The heading, the table and the origin of one loop. Its first row of kind "ours" is compared with the others."""
    first = next(speed for speed in speeds if speed.kind == OURS)
    rows = [f"\n## {first.loop}\n", "| | kind | agent steps/s | ours is |", "|---|---|---|---|"]
    for speed in speeds:
        name, rate = f"{speed.name} {speed.version}".strip(), speed.agent_steps_per_second
        ratio = "" if speed is first else f"{first.agent_steps_per_second / rate:.2f} x"
        rows.append(f"| {name} | {speed.kind} | {rate:{',.0f' if rate >= 100 else '.1f'}} | {ratio} |")
    load = f"; load {first.load}" * bool(first.load)
    rows.append(f"\n`{first.command}` at revision {first.revision}, {first.time[:10]}. {first.machine}{load}.")
    return "\n".join(rows) + "\n"


def measure() -> None:
    """Measures all loops and writes their speeds into docs/speed.csv.

    The benchmarks write into a copy. A changed table would make the revision of the next benchmark "-dirty".
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / TABLE.name
        if TABLE.exists():
            shutil.copy(TABLE, copy)
        for benchmark in MEASURED:
            program = Path(__file__).with_name(benchmark)
            subprocess.run([sys.executable, str(program), "--record", str(copy)], check=True)
        shutil.copy(copy, TABLE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure all loops first")
    if parser.parse_args().measure:
        measure()
    PAGE.write_text(page(read()))


if __name__ == "__main__":
    main()
