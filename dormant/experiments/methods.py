"""Methods against dormant neurons, each with three settings of its own to choose from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dormant import (
    ClipWeights,
    ContinualBackprop,
    Every,
    HareTortoise,
    Recycle,
    Reset,
    ResetOptimizer,
    ShrinkPerturb,
    how_many,
)
from dormant.experiments.benches import WEIGHT_DECAY, Bench
from dormant.regularisers import L2Init, Parseval, Spectral

PLAIN = "DQN"
LEARNING_RATES = (0.5, 1.0, 2.0)  # times the bench's
STRENGTHS = (1e-5, 1e-4, 1e-3)
DECAYS = (WEIGHT_DECAY / 10, WEIGHT_DECAY, 10 * WEIGHT_DECAY)
Candidates = dict[str, Any]  # what a setting is called -> the training


@dataclass(frozen=True)
class Method:
    """What is compared: its name in tables, and its candidates."""

    title: str
    candidates: Callable[[Bench], Candidates]


def _acting(setting: str, values: Sequence[float], intervention: Callable[[Bench, Any], Any]) -> Callable:
    """Candidates that differ in one setting of an intervention."""
    return lambda bench: {f"{setting} {each:g}": bench.dqn(intervention=intervention(bench, each)) for each in values}


def _of_agent(setting: str, values: Sequence[float], change: Callable[[Any], dict[str, Any]]) -> Callable:
    """Candidates that differ in one setting of the agent."""
    return lambda bench: {f"{setting} {each:g}": bench.dqn(**change(each)) for each in values}


def _at_learning_rates(change: Callable[[Any], dict[str, Any]]) -> Callable[[Bench], Candidates]:
    """Candidates of what has no setting of its own: other learning rates."""

    def candidates(bench: Bench) -> Candidates:
        plain = bench.dqn().agent
        rates = [times * plain.learning_rate for times in LEARNING_RATES]
        return {f"learning rate {each:g}": bench.dqn(learning_rate=each, **change(plain.network)) for each in rates}

    return candidates


def _at_periods(of: str, times: Sequence[float], intervention: Callable[[int], Any]) -> Callable:
    """Candidates that act at other periods: so many times the bench's, which is called `of`."""

    def candidates(bench: Bench) -> Candidates:
        periods = [max(1, round(each * getattr(bench, of))) for each in times]
        return {f"period {each}": bench.dqn(intervention=intervention(each)) for each in periods}

    return candidates


def _recycled(period: int, number: Any, score: Any = "activation") -> Every:
    return Every(period, Recycle(score, number))


METHODS: Mapping[str, Method] = {
    "redo": Method("ReDo", _acting("τ", (0.0, 0.025, 0.1), lambda bench, tau: bench.redo(tau))),
    "gap": Method(
        "ReDo, largest gap", _at_periods("redo_period", (0.5, 1.0, 2.0), lambda each: _recycled(each, how_many.Gap()))
    ),
    "regrama": Method(
        "ReGraMa",
        _acting(
            "τ", (0.01, 0.025, 0.1), lambda bench, tau: _recycled(bench.redo_period, how_many.Dormant(tau), "gradient")
        ),
    ),
    "cbp": Method("Continual backprop", _acting("rate", (1e-5, 1e-4, 1e-3), lambda _, rate: ContinualBackprop(rate))),
    "shrink_perturb": Method(
        "Shrink and perturb",
        _acting("keep", (0.5, 0.8, 0.95), lambda bench, keep: Every(bench.reset_period, ShrinkPerturb(keep))),
    ),
    "reset": Method("Reset", _at_periods("reset_period", (1.0, 2.0, 5.0), lambda each: Every(each, Reset(("dense",))))),
    "reset_optimizer": Method(
        "Optimizer reset", _at_periods("reset_period", (0.1, 1.0, 5.0), lambda each: Every(each, ResetOptimizer()))
    ),
    "hare_tortoise": Method(
        "Hare and tortoise", _at_periods("reset_period", (0.1, 1.0, 5.0), lambda each: HareTortoise(period=each))
    ),
    "clip_weights": Method("Weight clipping", _acting("factor", (1.0, 2.0, 4.0), lambda _, each: ClipWeights(each))),
    "weight_decay": Method("Weight decay", _of_agent("strength", DECAYS, lambda each: {"weight_decay": each})),
    "l2_init": Method("L2 init", _of_agent("strength", STRENGTHS, lambda each: {"regulariser": L2Init(each)})),
    "parseval": Method("Parseval", _of_agent("strength", STRENGTHS, lambda each: {"regulariser": Parseval(each)})),
    "spectral": Method("Spectral", _of_agent("strength", STRENGTHS, lambda each: {"regulariser": Spectral(each)})),
    "layer_norm": Method(
        "LayerNorm", _at_learning_rates(lambda network: {"network": replace(network, layer_norm=True)})
    ),
    "crelu": Method("CReLU", _at_learning_rates(lambda network: {"network": replace(network, activation="crelu")})),
}
_PLAIN = Method(PLAIN, _at_learning_rates(lambda _: {}))


def candidates(name: str, bench: Bench) -> Candidates:
    """The three trainings that a method, or the plain agent, chooses from."""
    return (METHODS.get(name) or _PLAIN).candidates(bench)


def title(name: str) -> str:
    """What a method is called in tables."""
    return (METHODS.get(name) or _PLAIN).title
