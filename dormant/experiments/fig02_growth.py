"""Figure 2: the fraction of dormant neurons grows while DQN learns."""

from dormant.experiments.benches import MANY_NEURONS, THREE, Bench, atari, atari_bench, minatar, smoke
from dormant.lab.design import Arm, Claim, Experiment, Panel, Quantity


def at_ratio(ratio: float):
    """DQN, the only arm."""

    def arms(bench: Bench) -> tuple[Arm, ...]:
        return (Arm("DQN", bench.dqn(ratio)),)

    return arms


EXPERIMENT = Experiment(
    name="fig02",
    title="The share of dormant neurons grows while DQN learns",
    designs={
        "smoke": smoke(at_ratio(1.0)),
        "laptop": minatar(at_ratio(1.0), THREE, 5, "Atari, and runs of 6.25 million gradient steps."),
        # The figure's axis ends at 6.25 million gradient steps, which are 100 million frames at replay ratio 0.25.
        "paper": atari(at_ratio(0.25), atari_bench(100), ("DemonAttack", "Asterix")),
    },
    panels=(
        Panel("Dormant neurons (τ = 0)", "dormant/0/all", "gradient_steps"),
        Panel("Dormant neurons (τ = 0.1)", "dormant/0.1/all", "gradient_steps"),
    ),
    claims=(
        # In the paper the fraction rises by 13 points on both games after the first log point.
        Claim(
            "A trained DQN has more dormant neurons (τ = 0) than a new one",
            Quantity("dormant/0/all"),
            "DQN",
            None,
            "higher",
            MANY_NEURONS,
        ),
        Claim(
            "A trained DQN has more dormant neurons (τ = 0.1) than a new one",
            Quantity("dormant/0.1/all"),
            "DQN",
            None,
            "higher",
            MANY_NEURONS,
        ),
    ),
    published=("DemonAttack tau=0", "Asterix tau=0"),
    settings="On MinAtar the replay ratio is 1. At the paper's 0.25, so short a run has only 50,000 gradient steps.",
)
