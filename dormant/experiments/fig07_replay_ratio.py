"""Figure 7: at higher replay ratios more neurons become dormant and less is learnt."""

from itertools import pairwise

from dormant.experiments.benches import (
    LOWER_RETURN,
    MANY_NEURONS,
    RATIOS,
    SOME_NEURONS,
    THREE,
    Bench,
    atari,
    atari_bench,
    minatar,
    pilot,
    smoke,
)
from dormant.lab.design import Arm, Claim, Experiment, Panel, Quantity


def arms(bench: Bench) -> tuple[Arm, ...]:
    """DQN at four replay ratios."""
    return tuple(Arm(named(ratio), bench.dqn(ratio)) for ratio in RATIOS)


def named(ratio: float) -> str:
    """The name of an arm."""
    return f"DQN, RR {ratio:g}"


def more_dormant(high: float, low: float, tau: str, smallest: float) -> Claim:
    """The claim that the higher replay ratio ends with more dormant neurons."""
    statement = f"More neurons are dormant (τ = {tau}) at replay ratio {high:g} than at {low:g}"
    return Claim(statement, Quantity(f"dormant/{tau}/all"), named(high), named(low), "higher", smallest)


EXPERIMENT = Experiment(
    name="fig07",
    title="Higher replay ratios make more neurons dormant",
    designs={
        "smoke": smoke(arms),
        "pilot": pilot(arms),
        "laptop": minatar(arms, THREE, 5, "Atari's DemonAttack, and runs of 40 million frames."),
        "paper": atari(arms, atari_bench(40), ("DemonAttack",)),
    },
    panels=(
        Panel("Dormant neurons (τ = 0)", "dormant/0/all"),
        Panel("Dormant neurons (τ = 0.1)", "dormant/0.1/all"),
        Panel("Dormant neurons (τ = 0.1), by gradient steps", "dormant/0.1/all", "gradient_steps"),
        Panel("Return", "eval_return"),
    ),
    claims=(
        # The paper's end points are 9, 24, 38 and 48 %: 39 points between the ends, 10 to 15 between neighbours.
        more_dormant(2.0, 0.25, "0", MANY_NEURONS),
        more_dormant(2.0, 0.25, "0.1", MANY_NEURONS),
        *(more_dormant(high, low, "0.1", SOME_NEURONS) for low, high in pairwise(RATIOS)),
        # The paper's return falls from about 4,000 to 910.
        Claim(
            "The return is lower at replay ratio 2 than at 0.25",
            Quantity("eval_return"),
            named(2.0),
            named(0.25),
            "lower",
            LOWER_RETURN,
            "ratio",
        ),
    ),
    published=tuple(f"DemonAttack replay_ratio={ratio:g}" for ratio in RATIOS),
)
