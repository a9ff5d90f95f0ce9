"""Figure 10b: the same with returns of three steps."""

from dormant.experiments.benches import ATARI_17, THREE, atari, atari_bench, minatar, smoke
from dormant.experiments.replay_ratios import CLAIMS, PANELS, swept
from dormant.lab.design import Experiment

EXPERIMENT = Experiment(
    name="fig10b",
    title="ReDo with 3-step returns",
    designs={
        "smoke": smoke(swept(n_step=3)),
        "laptop": minatar(swept(n_step=3), THREE, 5, "Atari's 17 games, and runs of 10 million frames."),
        "paper": atari(swept(n_step=3), atari_bench(10), ATARI_17),
    },
    panels=PANELS,
    claims=CLAIMS,
    published=(" nature n=3",),
)
