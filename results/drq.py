"""Draws a run of DrQ(eps) on an Atari game, and copies its data to results/drq.

    dormant train --agent drq --env ALE/MsPacman --replay-ratio 1 --steps 20000 --replay-capacity 20000 \
      --eval-period 10000 --eval-episodes 100 --run-dir runs/drq
    python results/drq.py runs/drq

Without a folder, it draws the copied data again.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dormant.lab.drawing import demo_picture
from dormant.lab.runs.folder import RunFolder, curve, origin_of

HERE = Path(__file__).parent / "drq"
TAU = 0.1
LAYERS = ("conv1", "conv2", "conv3", "dense")


def draw() -> Figure:
    """Draws the copied data."""
    run = RunFolder(HERE)
    length = int(curve(run, "loss").agent_steps[-1])
    caption = f"python results/drq.py; one seed, {length:,} agent steps at replay ratio 1, "
    caption += f"evaluations of 100 episodes; revision {origin_of(run)['revision']}."
    return demo_picture({"DrQ(eps)": run}, TAU, "DrQ(eps) on ALE/MsPacman", caption)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="folder of the run")
    options = parser.parse_args()
    copy = RunFolder(HERE)
    if options.run:
        HERE.mkdir(exist_ok=True)
        folder = RunFolder(options.run)
        for file in (folder.spec, folder.metrics, folder.scores):
            shutil.copy(file, HERE)
    draw().savefig(HERE / "drq.png")
    for name in ("eval_return", f"dormant/{TAU:g}/all", *(f"dormant/{TAU:g}/{layer}" for layer in LAYERS)):
        steps, values = curve(copy, name)
        measured = ~np.isnan(values[0])
        first, last = (f"{values[0][measured][at]:.4g} at {steps[measured][at]:,}" for at in (0, -1))
        print(f"{name}: {first}, {last}")


if __name__ == "__main__":
    main()
