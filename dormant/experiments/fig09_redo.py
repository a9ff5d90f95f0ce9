"""Figure 9: with ReDo few neurons are dormant, and DQN learns more."""

from dormant.experiments.benches import (
    HALF_AS_MANY,
    HIGHER_RETURN,
    THREE,
    Bench,
    atari,
    atari_bench,
    minatar,
    pilot,
    smoke,
)
from dormant.lab.design import Arm, Claim, Experiment, Panel, Quantity


def with_tau(tau: float, ratio: float):
    """DQN, and DQN whose tau-dormant neurons are recycled."""

    def arms(bench: Bench) -> tuple[Arm, ...]:
        return Arm("DQN", bench.dqn(ratio)), Arm("ReDo", bench.dqn(ratio, bench.redo(tau)))

    return arms


small = with_tau(0.1, 1.0)
EXPERIMENT = Experiment(
    name="fig09",
    title="ReDo recycles dormant neurons, and the agent learns more",
    designs={
        "smoke": smoke(small),
        "pilot": pilot(small),
        "laptop": minatar(small, THREE, 5, "Atari's DemonAttack, and runs of 40 million frames."),
        "paper": atari(with_tau(0.025, 0.25), atari_bench(40), ("DemonAttack",)),
    },
    panels=(
        Panel("Dormant neurons (τ = 0.1)", "dormant/0.1/all"),
        Panel("Dormant neurons (τ = 0.025)", "dormant/0.025/all"),
        Panel("Return", "eval_return"),
    ),
    claims=(
        # The paper's fraction falls from 28 % to 2 %. Recycling makes it a saw, so the second half is averaged.
        *(
            Claim(
                f"ReDo at least halves the share of dormant neurons (τ = {tau})",
                Quantity(f"dormant/{tau}/all", "mean", after=0.5),
                "ReDo",
                "DQN",
                "lower",
                HALF_AS_MANY,
                "ratio",
            )
            for tau in ("0.1", "0.025")
        ),
        # The paper's return is about 1.7 times as high.
        Claim(
            "ReDo ends with a higher return than DQN",
            Quantity("eval_return"),
            "ReDo",
            "DQN",
            "higher",
            HIGHER_RETURN,
            "ratio",
        ),
        Claim(
            "ReDo's return is higher over the whole run",
            Quantity("eval_return", "mean"),
            "ReDo",
            "DQN",
            "higher",
            HIGHER_RETURN,
            "ratio",
        ),
    ),
    published=("DemonAttack tau=0.025 replay_ratio=0.25", "DemonAttack replay_ratio=0.25"),
    settings="On MinAtar the replay ratio is 1 and τ is 0.1, not 0.25 and 0.025.",
)
