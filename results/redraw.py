"""Draws every committed picture again from the committed data: docs/images/*.png and results/*/*.png.

    python results/redraw.py

Does not draw these pictures:

- the demo's pictures in docs/images, while results/demo has no data of the demo
- the screenshot results/pilot/page.png, which `python results/pilot.py --run-dir runs` makes
- results/pilot/compare.png, because this version lacks the arms of its comparison
"""

import argparse
from pathlib import Path

import breakout
import demo
import drq
import halfcheetah
import pilot
import polars as pl

from dormant.lab.drawing.figure import experiment_figure, save

HERE = Path(__file__).parent
# The commits that made the runs of results/pilot/metrics.parquet. The table does not have them.
A, B, C = "4ab689411dff", "6b9c7faf9f5c", "d6e80eacad34"
REVISIONS = {
    "fig03": (A,),
    "fig04": (B, C),
    "fig05": (A, B),
    "fig06": (A, B, C),
    "fig07": (B,),
    "fig08": (A, B, C),
    "fig09": (B,),
    "fig10a": (B,),
    "fig13": (B,),
}


def pilots_figures() -> None:
    """Draws the experiments of the pilot whose runs are complete."""
    frame = pl.read_parquet(pilot.HERE / "metrics.parquet")
    for experiment in pilot.experiments(HERE):
        if revisions := REVISIONS.get(experiment.name):
            mine = frame.filter(experiment=experiment.name)
            save(experiment_figure(experiment, "pilot", mine, revisions), pilot.HERE / experiment.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    demo.draw(demo.IMAGES)
    breakout.draw().savefig(breakout.HERE / "breakout.png")
    drq.draw().savefig(drq.HERE / "drq.png")
    halfcheetah.draw().savefig(halfcheetah.HERE / "halfcheetah.png")
    pilots_figures()


if __name__ == "__main__":
    main()
