"""The paper's appendix: figures 21 to 24 and table 7."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from dormant.experiments.benches import (
    HIGHER_RANK,
    HIGHER_RETURN,
    LOWER_RETURN,
    MANY_NEURONS,
    ONE,
    SOME_NEURONS,
    Arms,
    Bench,
    atari,
    atari_bench,
    minatar,
    pilot,
    smoke,
)
from dormant.lab.design import Arm, Claim, Design, Experiment, Panel, Quantity, Scale

RETURN, DORMANT = Panel("Return", "eval_return"), Panel("Dormant neurons (τ = 0.1)", "dormant/0.1/all")
FRESH, SCALED = "ReDo, fresh incoming", "ReDo, scaled incoming"
SCORED_STATES = (32, 64, 256, 1024)
RANKED_STATES = 2_048  # four times the neurons of the paper's layer


def five_games(arms: Arms) -> Mapping[Scale, Design]:
    """The designs of a figure with five Atari games, of which our sources name three."""
    return {
        "smoke": smoke(arms),
        "laptop": minatar(arms, ONE, 5, "Four of the paper's five games, Atari, and runs of 10 million frames."),
        "paper": atari(
            arms,
            atari_bench(10),
            ("Asterix", "Breakout", "DemonAttack"),
            "Two of the five games, whose names our sources do not have.",
        ),
    }


def activations(bench: Bench) -> tuple[Arm, ...]:
    """DQN with either activation."""
    plain = bench.dqn()
    network = replace(plain.agent.network, activation="leaky_relu")
    leaky = replace(plain, agent=replace(plain.agent, network=network))
    return Arm("DQN, ReLU", plain), Arm("DQN, leaky ReLU", leaky)


LEAKY_RELU = Experiment(
    name="fig21",
    title="Leaky ReLU",
    designs=five_games(activations),
    panels=(DORMANT, RETURN),
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


def outgoing(bench: Bench) -> tuple[Arm, ...]:
    """ReDo with either kind of outgoing weights."""
    return (
        Arm("ReDo, zero outgoing", bench.dqn(intervention=bench.redo())),
        Arm("ReDo, random outgoing", bench.dqn(intervention=bench.redo(outgoing="fresh"))),
    )


OUTGOING = Experiment(
    name="fig22",
    title="Initialisation of outgoing weights",
    designs=five_games(outgoing),
    panels=(RETURN, DORMANT),
    claims=(
        # The paper's curves are clearly apart on three of five games; our sources have no numbers.
        Claim(
            "ReDo's return is higher with zero outgoing weights than with random ones",
            Quantity("eval_return"),
            *("ReDo, zero outgoing", "ReDo, random outgoing", "higher", HIGHER_RETURN, "ratio"),
        ),
    ),
)


def incoming(bench: Bench) -> tuple[Arm, ...]:
    """ReDo with either kind of incoming weights."""
    return (
        Arm(FRESH, bench.dqn(intervention=bench.redo())),
        Arm(SCALED, bench.dqn(intervention=bench.redo(incoming="scaled"))),
    )


def no_worse(arm: str, against: str) -> Claim:
    """One half of the claim that two returns are alike."""
    statement = f"The return of {arm} is not a tenth lower than that of {against}"
    return Claim(statement, Quantity("eval_return"), arm, against, "higher", LOWER_RETURN, "ratio")


INCOMING = Experiment(
    name="fig23",
    title="Initialisation of incoming weights",
    designs=five_games(incoming),
    panels=(RETURN, DORMANT),
    # The paper calls the returns similar; our sources have no numbers.
    claims=(no_worse(SCALED, FRESH), no_worse(FRESH, SCALED)),
)


def score_batches(bench: Bench) -> tuple[Arm, ...]:
    """ReDo with score batches of four sizes."""
    redo = bench.dqn(intervention=bench.redo())
    return tuple(Arm(f"ReDo, {states} states", replace(redo, score_batch=states)) for states in SCORED_STATES)


def no_different(direction: Literal["higher", "lower"], smallest: float) -> Claim:
    """One half of the claim that two fractions are alike."""
    statement = f"1,024 states find a share of dormant neurons (τ = 0.1) not 5 points {direction} than 32 states do"
    opposite = "higher" if direction == "lower" else "lower"
    quantity = Quantity("dormant/0.1/all", "mean", after=0.5)
    return Claim(statement, quantity, "ReDo, 1024 states", "ReDo, 32 states", opposite, smallest)


SCORE_BATCH = Experiment(
    name="fig24",
    title="Size of the score batch",
    designs=five_games(score_batches),
    panels=(DORMANT, RETURN),
    # The paper calls the fractions the same; our sources have no numbers.
    claims=(no_different("lower", -MANY_NEURONS), no_different("higher", MANY_NEURONS)),
)


def ranked(bench: Bench) -> tuple[Arm, ...]:
    """DQN and ReDo, with the rank of their features measured."""
    plain, redo = bench.dqn(), bench.dqn(intervention=bench.redo())
    return Arm("DQN", replace(plain, rank_batch=RANKED_STATES)), Arm("ReDo", replace(redo, rank_batch=RANKED_STATES))


EFFECTIVE_RANK = Experiment(
    name="table7",
    title="Effective rank",
    designs={
        "smoke": smoke(ranked),
        "pilot": pilot(ranked),
        "laptop": minatar(ranked, ONE, 5, "Atari's DemonAttack, and runs of 10 million frames."),
        "paper": atari(ranked, atari_bench(10), ("DemonAttack",)),
    },
    panels=(Panel("Effective rank of the penultimate layer", "srank"), RETURN),
    claims=(
        # In the paper 470.8 and 449.2 of 512.
        Claim(
            "The penultimate layer's effective rank is higher with ReDo than without",
            Quantity("srank"),
            *("ReDo", "DQN", "higher", HIGHER_RANK, "ratio"),
        ),
    ),
    settings=(
        "The rank is the srank of Kumar et al. with delta = 0.01, on 2,048 states of the replay. Our sources do not "
        "have the paper's definition and states."
    ),
)
