"""Figure 8: a network full of dormant neurons learns a new task badly."""

from dormant.lab.spec import Experiment

EXPERIMENT = Experiment(
    name="fig08",
    title="New tasks are harder for a network with dormant neurons",
    designs={},
    published=("DemonAttack",),
    awaits="distillation towards a trained network",
)
