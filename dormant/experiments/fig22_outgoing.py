"""Figure 22 of the appendix: outgoing weights of recycled neurons are better zero than drawn anew."""

from dormant.experiments.benches import HIGHER_RETURN, ONE, Bench, atari, atari_bench, minatar, smoke
from dormant.lab.design import Arm, Claim, Experiment, Panel, Quantity


def arms(bench: Bench) -> tuple[Arm, ...]:
    """ReDo with either kind of outgoing weights."""
    return (
        Arm("ReDo, zero outgoing", bench.dqn(intervention=bench.redo())),
        Arm("ReDo, random outgoing", bench.dqn(intervention=bench.redo(outgoing="fresh"))),
    )


EXPERIMENT = Experiment(
    name="fig22",
    title="Initialisation of outgoing weights",
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
    panels=(Panel("Return", "eval_return"), Panel("Dormant neurons (τ = 0.1)", "dormant/0.1/all")),
    claims=(
        # The paper's curves are clearly apart on three of five games; our sources have no numbers.
        Claim(
            "ReDo's return is higher with zero outgoing weights than with random ones",
            Quantity("eval_return"),
            "ReDo, zero outgoing",
            "ReDo, random outgoing",
            "higher",
            HIGHER_RETURN,
            "ratio",
        ),
    ),
)
