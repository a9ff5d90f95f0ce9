"""Figure 10d: ReDo with DrQ(eps) on Atari 100k at replay ratios 1, 2, 4 and 8."""

from dormant.lab.spec import Experiment

EXPERIMENT = Experiment(
    name="fig10d",
    title="ReDo with DrQ(eps)",
    designs={},
    published=(" drq_eps atari100k",),
    awaits="the agent DrQ(eps)",
)
