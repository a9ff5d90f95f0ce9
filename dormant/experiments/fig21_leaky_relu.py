"""Figure 21 of the appendix: leaky ReLU makes somewhat fewer neurons dormant."""

from dormant.lab.spec import Experiment

EXPERIMENT = Experiment(
    name="fig21",
    title="Leaky ReLU",
    designs={},
    awaits="networks with another activation than ReLU",
)
