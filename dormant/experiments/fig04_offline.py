"""Figure 4: neurons fall dormant on fixed data too, and less so with fixed targets."""

from dormant.lab.spec import Experiment

EXPERIMENT = Experiment(
    name="fig04",
    title="Dormant neurons without new data, and without moving targets",
    designs={},
    published=("DemonAttack", "Asterix"),
    awaits="offline training from logged transitions",
)
