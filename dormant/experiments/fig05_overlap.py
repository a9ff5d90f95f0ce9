"""Figure 5: neurons that fell dormant stay dormant."""

from dormant.lab.spec import Experiment

EXPERIMENT = Experiment(
    name="fig05",
    title="Dormant neurons remain dormant",
    designs={},
    published=("DemonAttack", "Asterix"),
    awaits="the overlap of dormant sets",
)
