"""Figure 21 of the appendix: leaky ReLU makes somewhat fewer neurons dormant."""

from dataclasses import replace

from dormant.experiments.benches import MANY_NEURONS, ONE, SOME_NEURONS, Bench, atari, atari_bench, minatar, smoke
from dormant.lab.design import Arm, Claim, Experiment, Panel, Quantity


def arms(bench: Bench) -> tuple[Arm, ...]:
    """DQN with either activation."""
    plain = bench.dqn()
    network = replace(plain.agent.network, activation="leaky_relu")
    leaky = replace(plain, agent=replace(plain.agent, network=network))
    return Arm("DQN, ReLU", plain), Arm("DQN, leaky ReLU", leaky)


EXPERIMENT = Experiment(
    name="fig21",
    title="Leaky ReLU",
    designs={
        "smoke": smoke(arms),
        "laptop": minatar(arms, ONE, 5, "Four of the paper's five games, Atari, and runs of 10 million frames."),
        "paper": atari(
            arms,
            atari_bench(10),
            ("Asterix", "Breakout", "DemonAttack"),
            "Two of the five games, whose names our sources do not have.",
        ),
    },
    panels=(Panel("Dormant neurons (τ = 0.1)", "dormant/0.1/all"), Panel("Return", "eval_return")),
    claims=(
        # The paper's decrease is mild, and the phenomenon persists; our sources have no numbers.
        Claim(
            "Leaky ReLU makes fewer neurons dormant (τ = 0.1)",
            Quantity("dormant/0.1/all", "mean", after=0.5),
            "DQN, leaky ReLU",
            "DQN, ReLU",
            "lower",
            -SOME_NEURONS,
        ),
        Claim(
            "With leaky ReLU, too, a trained DQN has more dormant neurons (τ = 0.1) than a new one",
            Quantity("dormant/0.1/all"),
            "DQN, leaky ReLU",
            None,
            "higher",
            MANY_NEURONS,
        ),
    ),
    settings="The slope below zero is the paper's 0.01. Our sources do not say at which replay ratio; here it is 1.",
)
