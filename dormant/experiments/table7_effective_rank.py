"""Table 7 of the appendix: with ReDo the features of the penultimate layer have a higher effective rank."""

from dataclasses import replace

from dormant.experiments.benches import HIGHER_RANK, ONE, Bench, atari, atari_bench, minatar, pilot, smoke
from dormant.lab.design import Arm, Claim, Experiment, Panel, Quantity

STATES = 2_048  # four for each neuron of the paper's layer


def arms(bench: Bench) -> tuple[Arm, ...]:
    """DQN and ReDo, with the rank of their features measured."""
    plain, redo = bench.dqn(), bench.dqn(intervention=bench.redo())
    return Arm("DQN", replace(plain, rank_batch=STATES)), Arm("ReDo", replace(redo, rank_batch=STATES))


EXPERIMENT = Experiment(
    name="table7",
    title="Effective rank",
    designs={
        "smoke": smoke(arms),
        "pilot": pilot(arms),
        "laptop": minatar(arms, ONE, 5, "Atari's DemonAttack, and runs of 10 million frames."),
        "paper": atari(arms, atari_bench(10), ("DemonAttack",)),
    },
    panels=(Panel("Effective rank of the penultimate layer", "srank"), Panel("Return", "eval_return")),
    claims=(
        # In the paper 470.8 and 449.2 of 512.
        Claim(
            "The penultimate layer's effective rank is higher with ReDo than without",
            Quantity("srank"),
            "ReDo",
            "DQN",
            "higher",
            HIGHER_RANK,
            "ratio",
        ),
    ),
    settings=(
        "The rank is the srank of Kumar et al. with delta = 0.01, on 2,048 states of the replay; which definition and "
        "which states the paper takes our sources do not say."
    ),
)
