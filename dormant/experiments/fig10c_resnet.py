"""Figure 10c: the same with the ResNet of IMPALA."""

from dormant.experiments.benches import ATARI_17, atari, atari_bench, smoke_on_atari
from dormant.experiments.replay_ratios import CLAIMS, PANELS, swept
from dormant.lab.design import Experiment
from dormant.rl.atari_networks import ImpalaResNet

EXPERIMENT = Experiment(
    name="fig10c",
    title="ReDo with a residual network",
    designs={
        "smoke": smoke_on_atari(swept()),
        "paper": atari(swept(), atari_bench(10, ImpalaResNet), ATARI_17),
    },
    panels=PANELS,
    claims=CLAIMS,
    published=(" impala n=1",),
    settings="There is no laptop scale: the network is made for Atari's frames, and two cores would take months.",
)
