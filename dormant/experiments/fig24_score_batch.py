"""Figure 24 of the appendix: on how many states neurons are scored makes no difference."""

from dataclasses import replace

from dormant.experiments.benches import MANY_NEURONS, ONE, Bench, atari, atari_bench, minatar, smoke
from dormant.lab.design import Arm, Claim, Experiment, Panel, Quantity

STATES = (32, 64, 256, 1024)


def arms(bench: Bench) -> tuple[Arm, ...]:
    """ReDo on score batches of four sizes."""
    redo = bench.dqn(intervention=bench.redo())
    return tuple(Arm(f"ReDo, {states} states", replace(redo, score_batch=states)) for states in STATES)


def no_different(direction, smallest: float) -> Claim:
    """One half of the claim that two shares are alike."""
    statement = f"1,024 states find a share of dormant neurons (τ = 0.1) not 5 points {direction} than 32 states do"
    opposite = "higher" if direction == "lower" else "lower"
    quantity = Quantity("dormant/0.1/all", "mean", after=0.5)
    return Claim(statement, quantity, "ReDo, 1024 states", "ReDo, 32 states", opposite, smallest)


EXPERIMENT = Experiment(
    name="fig24",
    title="Size of the score batch",
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
    # The paper calls the shares the same; our sources have no numbers.
    claims=(no_different("lower", -MANY_NEURONS), no_different("higher", MANY_NEURONS)),
)
