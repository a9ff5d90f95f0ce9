"""Figure 3: supervised learning makes neurons dormant only if its labels change."""

from dormant.lab.spec import Experiment

EXPERIMENT = Experiment(
    name="fig03",
    title="Shuffled labels make neurons dormant, fixed ones do not",
    designs={},
    published=("cifar10",),
    awaits="supervised training with fixed and shuffled labels",
)
