"""Figure 15 (and 25): recycling the neurons of lowest score, of highest, of lowest utility, or any."""

from dormant.lab.spec import Experiment

EXPERIMENT = Experiment(
    name="fig15",
    title="Which neurons to recycle",
    designs={},
    awaits="a schedule that recycles a share of the neurons by rank, with other scores",
)
