"""Figures 2, 5, 6 and 7: the share of dormant neurons grows while DQN learns, and with the replay ratio."""

from itertools import pairwise

from dormant.experiments.benches import (
    DORMANT,
    LOWER_RETURN,
    MANY_NEURONS,
    RATIOS,
    RETURN,
    SILENT,
    SOME_NEURONS,
    THREE,
    TRAINED,
    TRAINING,
    TWO,
    Arms,
    Bench,
    after_the_dip,
    atari,
    atari_bench,
    dormant_at_end,
    laptop,
    pilot,
    returns,
    smoke,
    some_dormant,
)
from dormant.lab import Arm, Claim, Experiment, Panel, Precondition, Quantity


def plain(ratio: float) -> Arms:
    """Returns a function that builds one arm: DQN at this replay ratio."""

    def arms(bench: Bench) -> tuple[Arm, ...]:
        return (Arm("DQN", bench.dqn(ratio)),)

    return arms


def trained_has_more(tau: str) -> Claim:
    """The claim that the dormant fraction grows after its early dip. In the paper it grows by about 20 points."""
    statement = f"A trained DQN has more dormant neurons (τ = {tau}) than one early in training"
    early = after_the_dip(tau)
    return Claim(statement, dormant_at_end(tau), "DQN", None, "higher", MANY_NEURONS, baseline=early)


FIG02 = Experiment(
    name="fig02",
    title="The share of dormant neurons grows while DQN learns",
    designs={
        "smoke": smoke(plain(1.0)),
        "laptop": laptop(plain(1.0), THREE, "Atari, and runs of 6.25 million gradient steps."),
        # The figure's axis ends at 6.25 million gradient steps, which are 100 million frames at replay ratio 0.25.
        "paper": atari(plain(0.25), atari_bench(100), ("DemonAttack", "Asterix")),
    },
    panels=(
        Panel("Dormant neurons (τ = 0)", "dormant/0/all", "gradient_steps"),
        Panel("Dormant neurons (τ = 0.1)", "dormant/0.1/all", "gradient_steps"),
    ),
    claims=(
        trained_has_more("0"),
        trained_has_more("0.1"),
    ),
    published=("DemonAttack tau=0", "Asterix tau=0"),
    settings="On MinAtar the replay ratio is 1. At the paper's 0.25, so short a run has only 50,000 gradient steps.",
)


HISTORIES = {"union": "those ever dormant before", "previous": "those of the log point before"}


def overlap(history: str, tau: str) -> str:
    """The name of the overlap metric of the penultimate layer."""
    return f"overlap/{history}/{tau}/dense"


def overlap_exceeds_chance(history: str, tau: str) -> Claim:
    """The claim that the overlap is larger than the overlap of random sets of the same sizes.

    In the paper the overlap ends at 68 % and 79 %. Growth of the overlap alone is no evidence: the sets of dormant
    neurons grow, and larger sets overlap more, even if they are random.
    """
    statement = f"The overlap of dormant neurons (τ = {tau}) with {HISTORIES[history]} exceeds chance"
    chance = Quantity(overlap(f"{history}-by-chance", tau))
    requires = (
        Precondition(Quantity(f"dormant/{tau}/dense"), "DQN", least=SOME_NEURONS),
        Precondition(chance, "DQN", most=1 - MANY_NEURONS),
    )
    metric = Quantity(overlap(history, tau))
    return Claim(statement, metric, "DQN", None, "higher", MANY_NEURONS, baseline=chance, requires=requires)


FIG05 = Experiment(
    name="fig05",
    title="Dormant neurons remain dormant",
    designs={
        "smoke": smoke(plain(1.0)),
        "pilot": pilot(plain(1.0)),
        "laptop": laptop(plain(1.0), THREE, "Atari, and runs of 6.25 million gradient steps."),
        "paper": atari(plain(0.25), atari_bench(100), ("DemonAttack", "Asterix")),
    },
    panels=(
        Panel("Overlap with all before (τ = 0)", overlap("union", "0"), "gradient_steps"),
        Panel("Overlap with all before (τ = 0.1)", overlap("union", "0.1"), "gradient_steps"),
        Panel("Overlap with all before, by chance (τ = 0.1)", overlap("union-by-chance", "0.1"), "gradient_steps"),
        Panel("Overlap with the log point before (τ = 0.1)", overlap("previous", "0.1"), "gradient_steps"),
        Panel(
            "Overlap with the log point before, by chance (τ = 0.1)",
            overlap("previous-by-chance", "0.1"),
            "gradient_steps",
        ),
    ),
    claims=tuple(overlap_exceeds_chance(history, tau) for history in HISTORIES for tau in ("0", "0.1")),
    published=("DemonAttack", "Asterix"),
    settings=(
        "The paper does not define the historical set of dormant neurons. We use two definitions, and show each next "
        "to the overlap of random sets of neurons. A log point without dormant neurons has no overlap. The runs are "
        "those of figure 2."
    ),
)


def pruned(ratio: float) -> Arms:
    """Returns a function that builds two arms: DQN, and DQN with pruning of silent neurons."""

    def arms(bench: Bench) -> tuple[Arm, ...]:
        return Arm("DQN", bench.dqn(ratio)), Arm("Pruned", bench.dqn(ratio, bench.prune()))

    return arms


SOMETHING_TO_PRUNE = some_dormant("DQN", dormant_at_end("0"), SOME_NEURONS)
FIG06 = Experiment(
    name="fig06",
    title="Pruning dormant neurons does no harm",
    designs={
        "smoke": smoke(pruned(1.0)),
        "pilot": pilot(pruned(1.0)),
        "laptop": laptop(pruned(1.0), TWO, "Atari, and runs of 40 million frames."),
        "paper": atari(pruned(0.25), atari_bench(40), ("DemonAttack", "Asterix")),
    },
    panels=(RETURN, SILENT),
    claims=(
        # In the paper the pruned agents have 95 % and 94 % of the return.
        *(
            Claim(statement, quantity, "Pruned", "DQN", "higher", LOWER_RETURN, "ratio", requires=SOMETHING_TO_PRUNE)
            for statement, quantity in (
                ("A pruned agent keeps the return of one that is not", TRAINED),
                ("Over the whole run, too", Quantity("train_return", "per episode")),
            )
        ),
    ),
    settings=(
        "The paper does not say how often it checks for dormant neurons; we check every 1,000 gradient steps. "
        "On MinAtar the replay ratio is 1, not 0.25."
    ),
)


def replay_ratios(bench: Bench) -> tuple[Arm, ...]:
    """Four arms: DQN at four replay ratios."""
    return tuple(Arm(named(ratio), bench.dqn(ratio)) for ratio in RATIOS)


def named(ratio: float) -> str:
    """The name of the arm with this replay ratio."""
    return f"DQN, RR {ratio:g}"


def more_dormant(high: float, low: float, tau: str, smallest: float) -> Claim:
    """The claim that runs at replay ratio `high` end with more dormant neurons than runs at `low`."""
    statement = f"More neurons are dormant (τ = {tau}) at replay ratio {high:g} than at {low:g}"
    return Claim(statement, dormant_at_end(tau), named(high), named(low), "higher", smallest)


FIG07 = Experiment(
    name="fig07",
    title="Higher replay ratios make more neurons dormant",
    designs={
        "smoke": smoke(replay_ratios),
        "pilot": pilot(replay_ratios),
        "laptop": laptop(replay_ratios, THREE, "Atari's DemonAttack, and runs of 40 million frames."),
        "paper": atari(replay_ratios, atari_bench(40), ("DemonAttack",)),
    },
    panels=(
        SILENT,
        DORMANT,
        Panel("Dormant neurons (τ = 0.1), by gradient steps", "dormant/0.1/all", "gradient_steps"),
        TRAINING,
        RETURN,
    ),
    claims=(
        # In the paper 9, 24, 38 and 48 % of the neurons end dormant at replay ratios 0.25, 0.5, 1 and 2.
        more_dormant(2.0, 0.25, "0", MANY_NEURONS),
        more_dormant(2.0, 0.25, "0.1", MANY_NEURONS),
        *(more_dormant(high, low, "0.1", SOME_NEURONS) for low, high in pairwise(RATIOS)),
        # In the paper the return is about 4,000 at replay ratio 0.25, and 910 at 2.
        returns("The return is lower at replay ratio 2 than at 0.25", named(2.0), named(0.25), "lower", LOWER_RETURN),
    ),
    published=tuple(f"DemonAttack replay_ratio={ratio:g}" for ratio in RATIOS),
)
