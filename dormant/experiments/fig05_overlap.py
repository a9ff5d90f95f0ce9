"""Figure 5: dormant neurons stay dormant."""

from dormant.experiments.benches import MANY_NEURONS, THREE, atari, atari_bench, minatar, pilot, smoke
from dormant.experiments.fig02_growth import at_ratio
from dormant.lab.design import Claim, Experiment, Panel, Quantity

HISTORIES = {"union": "those ever dormant before", "previous": "those of the log point before"}


def metric(history: str, tau: str) -> str:
    """The overlap metric of the penultimate layer."""
    return f"overlap/{history}/{tau}/dense"


def grows(history: str, tau: str) -> Claim:
    """In the paper by 23 and 31 points."""
    statement = f"The overlap of dormant neurons (τ = {tau}) with {HISTORIES[history]} grows"
    return Claim(statement, Quantity(metric(history, tau)), "DQN", None, "higher", MANY_NEURONS)


EXPERIMENT = Experiment(
    name="fig05",
    title="Dormant neurons remain dormant",
    designs={
        "smoke": smoke(at_ratio(1.0)),
        "pilot": pilot(at_ratio(1.0)),
        "laptop": minatar(at_ratio(1.0), THREE, 5, "Atari, and runs of 6.25 million gradient steps."),
        "paper": atari(at_ratio(0.25), atari_bench(100), ("DemonAttack", "Asterix")),
    },
    panels=(
        Panel("Overlap with all before (τ = 0)", metric("union", "0"), "gradient_steps"),
        Panel("Overlap with all before (τ = 0.1)", metric("union", "0.1"), "gradient_steps"),
        Panel("Overlap with all before, by chance (τ = 0.1)", metric("union-by-chance", "0.1"), "gradient_steps"),
        Panel("Overlap with the log point before (τ = 0.1)", metric("previous", "0.1"), "gradient_steps"),
        Panel(
            "Overlap with the log point before, by chance (τ = 0.1)",
            metric("previous-by-chance", "0.1"),
            "gradient_steps",
        ),
    ),
    claims=tuple(grows(history, tau) for history in HISTORIES for tau in ("0", "0.1")),
    published=("DemonAttack", "Asterix"),
    settings=(
        "The paper does not define its historical set. Both readings are here, each next to the overlap of random sets "
        "of neurons. A log point without dormant neurons has no overlap. The runs are those of figure 2."
    ),
)
