"""Table 7 of the appendix: with ReDo the features of the penultimate layer have a higher effective rank."""

from dormant.lab.spec import Experiment

EXPERIMENT = Experiment(
    name="table7",
    title="Effective rank",
    designs={},
    awaits="the rank of activations among the metrics of a run",
)
