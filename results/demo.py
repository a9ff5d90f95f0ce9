"""Draws the pictures of `dormant demo` and `dormant demo --quick`, and copies their data to results/demo.

    dormant demo
    dormant demo --quick
    python results/demo.py runs/demo

Without a folder, it draws the copied data again.
"""

import argparse
import json
import shutil
from pathlib import Path

from dormant.cli import demo, quick
from dormant.lab.runs.folder import RunFolder

HERE = Path(__file__).parent / "demo"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
QUICK = HERE / "quick.csv"


def keep(runs: Path) -> None:
    """Copies the files that the pictures need to results/demo. Skips a demo that was not run."""
    HERE.mkdir(exist_ok=True)
    if (runs / QUICK.name).exists():
        shutil.copy(runs / QUICK.name, QUICK)
    copies = demo.folders_in(HERE)
    for arm, folder in demo.folders_in(runs).items():
        if folder.done.exists():
            copies[arm].path.mkdir(exist_ok=True)
            for file in (folder.spec, folder.metrics, folder.scores):
                shutil.copy(file, copies[arm].path)


def length(run: RunFolder) -> demo.Length:
    """The length of a copied run."""
    command = json.loads(run.spec.read_text())["command"]
    steps, seeds = (int(command[command.index(flag) + 1]) for flag in ("--steps", "--seeds"))
    return demo.Length(steps, seeds)


def draw(folder: Path) -> None:
    """Draws each demo that has copied data. Writes the pictures to `folder`."""
    if QUICK.exists():
        quick.draw(quick.read(QUICK), folder / "quick.png")
    folders = demo.folders_in(HERE)
    if all(run.spec.exists() for run in folders.values()):
        demo.draw(length(next(iter(folders.values()))), folders, folder / "demo.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="?", help="folder of the demo's runs")
    options = parser.parse_args()
    if options.runs:
        keep(options.runs)
    draw(IMAGES)


if __name__ == "__main__":
    main()
