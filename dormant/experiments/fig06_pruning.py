"""Figure 6: pruning dormant neurons does not lower the return."""

from dormant.experiments.benches import LOWER_RETURN, TWO, Bench, atari, atari_bench, minatar, pilot, smoke
from dormant.lab.design import Arm, Claim, Experiment, Panel, Quantity


def at_ratio(ratio: float):
    """DQN, and DQN whose silent neurons are pruned."""

    def arms(bench: Bench) -> tuple[Arm, ...]:
        return Arm("DQN", bench.dqn(ratio)), Arm("Pruned", bench.dqn(ratio, bench.prune()))

    return arms


EXPERIMENT = Experiment(
    name="fig06",
    title="Pruning dormant neurons does no harm",
    designs={
        "smoke": smoke(at_ratio(1.0)),
        "pilot": pilot(at_ratio(1.0)),
        "laptop": minatar(at_ratio(1.0), TWO, 5, "Atari, and runs of 40 million frames."),
        "paper": atari(at_ratio(0.25), atari_bench(40), ("DemonAttack", "Asterix")),
    },
    panels=(Panel("Return", "eval_return"), Panel("Dormant neurons (τ = 0)", "dormant/0/all")),
    claims=(
        # The paper's pruned agents keep 95 % and 94 % of the return.
        Claim(
            "A pruned agent keeps the return of one that is not",
            Quantity("eval_return"),
            "Pruned",
            "DQN",
            "higher",
            LOWER_RETURN,
            "ratio",
        ),
        Claim(
            "Over the whole run, too",
            Quantity("eval_return", "mean"),
            "Pruned",
            "DQN",
            "higher",
            LOWER_RETURN,
            "ratio",
        ),
    ),
    settings=(
        "The paper does not say how often it checks for dormant neurons; we check every 1,000 gradient steps. "
        "On MinAtar the replay ratio is 1, not 0.25."
    ),
)
