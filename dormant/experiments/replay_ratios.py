"""What figures 10a to 10d have in common: an agent with and without ReDo at four replay ratios."""

from functools import partial
from typing import Any

from dormant.experiments.benches import HIGHER_RETURN, LOWER_RETURN, RATIOS, Arms, Bench
from dormant.lab.design import Arm, Claim, Panel, Quantity

PANELS = (
    Panel("Return at the end", "eval_return", "replay_ratio"),
    Panel("Dormant neurons (τ = 0.1) at the end", "dormant/0.1/all", "replay_ratio"),
    Panel("Return", "eval_return"),
    Panel("Dormant neurons (τ = 0.1)", "dormant/0.1/all"),
)


def swept(
    taus: dict[float, float] | None = None, ratios: tuple[float, ...] = RATIOS, name: str = "DQN", **agent: Any
) -> Arms:
    """The bench's agent, and ReDo, at each replay ratio; `taus` are thresholds other than 0.1, by replay ratio."""
    return partial(_arms, taus or {}, ratios, name, agent)


def _arms(
    taus: dict[float, float], ratios: tuple[float, ...], name: str, agent: dict[str, Any], bench: Bench
) -> tuple[Arm, ...]:
    plain = [Arm(f"{name}, RR {ratio:g}", bench.dqn(ratio, **agent)) for ratio in ratios]
    redo = [Arm(f"ReDo, RR {ratio:g}", bench.dqn(ratio, bench.redo(taus.get(ratio, 0.1)), **agent)) for ratio in ratios]
    return (*plain, *redo)


def compared(statement: str, arm: str, against: str, direction: Any, smallest: float) -> Claim:
    """A claim about the quotient of two returns at the end."""
    return Claim(statement, Quantity("eval_return"), arm, against, direction, smallest, "ratio")


# In the paper's panels a, b and c ReDo has 2.1, 1.3 and 1.7 times DQN's return at replay ratio 1, and 6.1, 1.6 and 2.4
# times at 2; at 0.25 it has 0.97 to 1.05 times. DQN falls from 0.25 to 2 to 0.22, 0.52 and 0.27 of its return.
CLAIMS = (
    compared(
        "DQN's return is lower at replay ratio 2 than at 0.25", "DQN, RR 2", "DQN, RR 0.25", "lower", LOWER_RETURN
    ),
    compared(
        "ReDo's return is higher than DQN's at replay ratio 1", "ReDo, RR 1", "DQN, RR 1", "higher", HIGHER_RETURN
    ),
    compared(
        "ReDo's return is higher than DQN's at replay ratio 2", "ReDo, RR 2", "DQN, RR 2", "higher", HIGHER_RETURN
    ),
    compared("ReDo does no harm at replay ratio 0.25", "ReDo, RR 0.25", "DQN, RR 0.25", "higher", LOWER_RETURN),
)
