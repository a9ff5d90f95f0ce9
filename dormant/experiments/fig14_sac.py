"""Figure 14: ReDo, resets and weight decay with SAC on MuJoCo."""

from dormant.lab.spec import Experiment

EXPERIMENT = Experiment(
    name="fig14",
    title="ReDo with SAC",
    designs={},
    published=("Ant-v2", "HalfCheetah-v2"),
    awaits="the agent SAC",
)
