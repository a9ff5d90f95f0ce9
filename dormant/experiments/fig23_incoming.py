"""Figure 23 of the appendix: incoming weights scaled to the norm of the other neurons'."""

from dormant.lab.spec import Experiment

EXPERIMENT = Experiment(
    name="fig23",
    title="Initialisation of incoming weights",
    designs={},
    awaits="a scale of incoming weights in ReDo",
)
