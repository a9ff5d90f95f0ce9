"""Figure 23 of the appendix: incoming weights scaled to the norm of the other neurons'."""

from dormant.experiments.benches import LOWER_RETURN, ONE, Bench, atari, atari_bench, minatar, smoke
from dormant.lab.design import Arm, Claim, Experiment, Panel, Quantity

FRESH, SCALED = "ReDo, fresh incoming", "ReDo, scaled incoming"


def arms(bench: Bench) -> tuple[Arm, ...]:
    """ReDo with either kind of incoming weights."""
    return (
        Arm(FRESH, bench.dqn(intervention=bench.redo())),
        Arm(SCALED, bench.dqn(intervention=bench.redo(incoming="scaled"))),
    )


def no_worse(arm: str, against: str) -> Claim:
    """One half of the claim that two returns are alike."""
    statement = f"The return of {arm} is not a tenth lower than that of {against}"
    return Claim(statement, Quantity("eval_return"), arm, against, "higher", LOWER_RETURN, "ratio")


EXPERIMENT = Experiment(
    name="fig23",
    title="Initialisation of incoming weights",
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
    # The paper calls the returns similar; our sources have no numbers.
    claims=(no_worse(SCALED, FRESH), no_worse(FRESH, SCALED)),
)
