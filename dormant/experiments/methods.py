"""The methods that `dormant compare` compares, each with three candidate settings."""

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
LEARNING_RATES = (0.5, 1.0, 2.0)  # relative to the bench's learning rate
STRENGTHS = (1e-5, 1e-4, 1e-3)
DECAYS = (WEIGHT_DECAY / 10, WEIGHT_DECAY, 10 * WEIGHT_DECAY)
Candidates = dict[str, Any]  # name of a setting -> training


@dataclass(frozen=True)
class Method:
    """A method: its name in tables, and a function that returns its candidates on a bench."""

    title: str
    candidates: Callable[[Bench], Candidates]


def _by_intervention(setting: str, values: Sequence[float], intervention: Callable[[Bench, Any], Any]) -> Callable:
    """Candidates that differ in one setting of the intervention."""
    return lambda bench: {f"{setting} {each:g}": bench.dqn(intervention=intervention(bench, each)) for each in values}


def _by_agent(setting: str, values: Sequence[float], change: Callable[[Any], dict[str, Any]]) -> Callable:
    """Candidates that differ in one setting of the agent."""
    return lambda bench: {f"{setting} {each:g}": bench.dqn(**change(each)) for each in values}


def _by_learning_rate(change: Callable[[Any], dict[str, Any]]) -> Callable[[Bench], Candidates]:
    """Candidates with other learning rates, for a method without a setting of its own."""

    def candidates(bench: Bench) -> Candidates:
        plain = bench.dqn().agent
        rates = [times * plain.learning_rate for times in LEARNING_RATES]
        return {f"learning rate {each:g}": bench.dqn(learning_rate=each, **change(plain.network)) for each in rates}

    return candidates


def _by_period(of: str, times: Sequence[float], intervention: Callable[[int], Any]) -> Callable:
    """Candidates with other periods: multiples of the bench's period named `of`."""

    def candidates(bench: Bench) -> Candidates:
        periods = [max(1, round(each * getattr(bench, of))) for each in times]
        return {f"period {each}": bench.dqn(intervention=intervention(each)) for each in periods}

    return candidates


def _recycled(period: int, number: Any, score: Any = "activation") -> Every:
    return Every(period, Recycle(score, number))


METHODS: Mapping[str, Method] = {
    "redo": Method("ReDo", _by_intervention("τ", (0.0, 0.025, 0.1), lambda bench, tau: bench.redo(tau))),
    "gap": Method(
        "ReDo, largest gap", _by_period("redo_period", (0.5, 1.0, 2.0), lambda each: _recycled(each, how_many.Gap()))
    ),
    "regrama": Method(
        "ReGraMa",
        _by_intervention(
            "τ", (0.01, 0.025, 0.1), lambda bench, tau: _recycled(bench.redo_period, how_many.Dormant(tau), "gradient")
        ),
    ),
    "continual-backprop": Method(
        "Continual backprop", _by_intervention("rate", (1e-5, 1e-4, 1e-3), lambda _, rate: ContinualBackprop(rate))
    ),
    "shrink-perturb": Method(
        "Shrink and perturb",
        _by_intervention("keep", (0.5, 0.8, 0.95), lambda bench, keep: Every(bench.reset_period, ShrinkPerturb(keep))),
    ),
    "reset": Method("Reset", _by_period("reset_period", (1.0, 2.0, 5.0), lambda each: Every(each, Reset(("dense",))))),
    "reset-optimizer": Method(
        "Optimizer reset", _by_period("reset_period", (0.1, 1.0, 5.0), lambda each: Every(each, ResetOptimizer()))
    ),
    "hare-tortoise": Method(
        "Hare and tortoise", _by_period("reset_period", (0.1, 1.0, 5.0), lambda each: HareTortoise(period=each))
    ),
    "clip-weights": Method(
        "Weight clipping", _by_intervention("factor", (1.0, 2.0, 4.0), lambda _, each: ClipWeights(each))
    ),
    "weight-decay": Method("Weight decay", _by_agent("strength", DECAYS, lambda each: {"weight_decay": each})),
    "l2-init": Method("L2 init", _by_agent("strength", STRENGTHS, lambda each: {"regulariser": L2Init(each)})),
    "parseval": Method("Parseval", _by_agent("strength", STRENGTHS, lambda each: {"regulariser": Parseval(each)})),
    "spectral": Method("Spectral", _by_agent("strength", STRENGTHS, lambda each: {"regulariser": Spectral(each)})),
    "layer-norm": Method(
        "LayerNorm", _by_learning_rate(lambda network: {"network": replace(network, layer_norm=True)})
    ),
    "crelu": Method("CReLU", _by_learning_rate(lambda network: {"network": replace(network, activation="crelu")})),
}
_PLAIN = Method(PLAIN, _by_learning_rate(lambda _: {}))


def candidates(name: str, bench: Bench) -> Candidates:
    """The three candidates of a method, or of the plain agent."""
    return (METHODS.get(name) or _PLAIN).candidates(bench)


def title(name: str) -> str:
    """The name of a method in tables."""
    return (METHODS.get(name) or _PLAIN).title
