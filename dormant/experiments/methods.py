"""The methods of `dormant compare`: how each trains an agent, and the ranges of its hyperparameters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from dormant import (
    FIRE,
    SNR,
    SWR,
    UPGD,
    ClipWeights,
    ContinualBackprop,
    DrM,
    Every,
    HareTortoise,
    Intervention,
    NaP,
    Recycle,
    Reset,
    ResetOptimizer,
    ShrinkPerturb,
    SoftShrinkPerturb,
    WarmUp,
    how_many,
)
from dormant.experiments.benches import NOTHING, Bench, Changes
from dormant.interventions.how_many import Number
from dormant.interventions.recycle import Score
from dormant.lab import Trainable
from dormant.regularisers import CChain, L2Init, Parseval, Spectral

PLAIN = "DQN"
DRAWING_SEED = 0
# Settings are drawn from a lattice with a random shift, because a few independent draws would leave large gaps. The
# lattice is the R sequence in three dimensions (Roberts 2018): its steps are powers of the root of x^4 = x + 1.
LATTICE = 1.2207440846057596 ** -np.arange(1.0, 4.0)
Unit = Literal["", "steps", "redo_period", "reset_period", "learning_rate"]


@dataclass(frozen=True)
class Range:
    """A hyperparameter that is drawn uniformly on a logarithmic scale between two bounds.

    If `unit` is a period or the learning rate, the bounds are multiples of the bench's period or learning rate. Values
    have three significant digits. Periods and steps are whole numbers.

    >>> from dormant.experiments.benches import MINATAR
    >>> Range("τ", 0.001, 0.1).value(0.5, MINATAR), Range("period", 0.1, 10.0, "redo_period").value(0.5, MINATAR)
    (0.01, 1000)

    Raises ValueError unless 0 < low < high.
    """

    name: str
    low: float
    high: float
    unit: Unit = ""

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError(f"expected 0 < low < high, got {self.low} and {self.high}.")

    def value(self, share: float, bench: Bench) -> int | float:
        """The value at a fraction of the way from the lower to the upper bound, on a logarithmic scale."""
        value = float(f"{self.low * (self.high / self.low) ** share * self._unit(bench):.3g}")
        return value if self.unit in ("", "learning_rate") else max(1, round(value))

    def _unit(self, bench: Bench) -> float:
        match self.unit:
            case "" | "steps":
                return 1.0
            case "learning_rate":
                return bench.dqn().agent.learning_rate
            case _:
                return float(getattr(bench, self.unit))


@dataclass(frozen=True)
class Method:
    """A method: its name in tables, its ranges, and a function that takes a bench and a value per range.

    The function returns a training.

    A method with `variant_of` is also compared with the method of that name.
    """

    title: str
    ranges: tuple[Range, ...]
    training: Callable[..., Trainable]
    variant_of: str | None = None


LEARNING_RATE = Range("learning rate", 0.25, 4.0, "learning_rate")
TAU, NARROW_TAU = Range("τ", 0.005, 0.25), Range("τ", 0.001, 0.25)
OFTEN = Range("period", 0.2, 5.0, "redo_period")
SELDOM = Range("period", 0.2, 5.0, "reset_period")
STRENGTH = Range("strength", 1e-6, 1e-2)


def _by_intervention(title: str, *ranges: Range, variant_of: str | None = None):
    """Returns a decorator for a function that takes a bench and values and returns an intervention.

    The decorator returns a method whose agent uses this intervention.
    """

    def method(intervention: Callable[..., Intervention]) -> Method:
        def training(bench: Bench, *values: int | float) -> Trainable:
            return bench.dqn(intervention=intervention(bench, *values))

        return Method(title, ranges, training, variant_of)

    return method


def _by_agent(title: str, *ranges: Range):
    """Returns a decorator for a function that takes values and returns changed fields of the agent.

    The decorator returns a method whose agent has these fields.
    """

    def method(changes: Callable[..., Changes]) -> Method:
        return Method(title, ranges, lambda bench, *values: bench.dqn(**changes(*values)))

    return method


def _by_network(title: str, intervention: Intervention = NOTHING, **changes: bool | str) -> Method:
    """A method that changes the network. It has no hyperparameter of its own, so its learning rate is drawn."""

    def training(bench: Bench, learning_rate: float) -> Trainable:
        network = replace(bench.dqn().agent.network, **changes)
        return bench.dqn(intervention=intervention, learning_rate=learning_rate, network=network)

    return Method(title, (LEARNING_RATE,), training)


def _recycled(period: int, number: Number, score: Score = "activation") -> Every:
    return Every(period, Recycle(score, number))


def _redo(title: str, **options: str) -> Method:
    """ReDo, optionally with other settings for the new weights and their optimizer state."""

    def intervention(bench: Bench, tau: float, period: int) -> Intervention:
        return Every(period, bench.redo(tau, **options).what)

    return _by_intervention(title, TAU, OFTEN, variant_of="redo" if options else None)(intervention)


def _cosine(bench: Bench, share: float, period: int) -> Intervention:
    recyclings = max(1, bench.dqn().agent_steps // period)
    return _recycled(period, how_many.Share(share, recyclings))


# "1 - keep" and "1 - quantile" are drawn on a logarithmic scale, because methods differ near keep = 1 and quantile = 1.
MIXED = Range("1 - keep", 0.02, 0.8)
METHODS: Mapping[str, Method] = {
    "redo": _redo("ReDo"),
    "regrama": _by_intervention("ReGraMa", NARROW_TAU, OFTEN)(
        lambda _, tau, period: _recycled(period, how_many.Dormant(tau), "gradient")
    ),
    "continual-backprop": _by_intervention("Continual backprop", Range("rate", 1e-6, 1e-3))(
        lambda _, rate: ContinualBackprop(rate)
    ),
    "snr": _by_intervention("SNR", Range("1 - quantile", 0.005, 0.2))(lambda _, rest: SNR(1 - rest)),
    "shrink-perturb": _by_intervention("Shrink and perturb", MIXED, SELDOM)(
        lambda _, rest, period: Every(period, ShrinkPerturb(1 - rest))
    ),
    "soft-shrink-perturb": _by_intervention("Soft shrink and perturb", Range("rate", 1e-7, 1e-4))(
        lambda _, rate: SoftShrinkPerturb(rate)
    ),
    "reset": _by_intervention("Reset", SELDOM)(lambda _, period: Every(period, Reset(("dense",)))),
    "reset-optimizer": _by_intervention("Optimizer reset", Range("period", 0.05, 5.0, "reset_period"))(
        lambda _, period: Every(period, ResetOptimizer())
    ),
    "hare-tortoise": _by_intervention("Hare and tortoise", Range("period", 0.05, 5.0, "reset_period"))(
        lambda _, period: HareTortoise(period=period)
    ),
    "drm": _by_intervention("DrM", Range("1 - most", 0.02, 0.5), SELDOM)(
        lambda _, rest, period: Every(period, DrM(most=1 - rest))
    ),
    "fire": _by_intervention("FIRE", SELDOM)(lambda _, period: Every(period, FIRE())),
    "swr": _by_intervention("SWR", Range("factor", 1e-6, 1e-2), OFTEN)(
        lambda _, factor, period: Every(period, SWR(factor=factor))
    ),
    "clip-weights": _by_intervention("Weight clipping", Range("factor", 0.5, 8.0))(
        lambda _, factor: ClipWeights(factor)
    ),
    "weight-decay": _by_agent("Weight decay", Range("strength", 1e-7, 1e-3))(lambda each: {"weight_decay": each}),
    "l2-init": _by_agent("L2 init", STRENGTH)(lambda each: {"regulariser": L2Init(each)}),
    "parseval": _by_agent("Parseval", STRENGTH)(lambda each: {"regulariser": Parseval(each)}),
    "spectral": _by_agent("Spectral", STRENGTH)(lambda each: {"regulariser": Spectral(each)}),
    "c-chain": _by_agent("C-CHAIN", Range("share", 0.003, 0.3))(lambda each: {"regulariser": CChain(each)}),
    "upgd": _by_agent("UPGD", Range("noise", 1e-4, 1e-1))(lambda each: {"upgd": UPGD(noise=each)}),
    "layer-norm": _by_network("LayerNorm", layer_norm=True),
    "nap": _by_network("NaP", Every(1, NaP()), layer_norm=True),
    "crelu": _by_network("CReLU", activation="crelu"),
    "gap-head": _by_network("GAP head", gap=True),
    # The paper's open questions: thresholds that adapt.
    "gap": _by_intervention("ReDo, largest gap", Range("least", 1.5, 20.0), OFTEN, variant_of="redo")(
        lambda _, least, period: _recycled(period, how_many.Gap(least))
    ),
    "share": _by_intervention("ReDo, share", Range("share", 0.005, 0.3), OFTEN, variant_of="redo")(
        lambda _, share, period: _recycled(period, how_many.Share(share))
    ),
    "share-cosine": _by_intervention("ReDo, share on a cosine", Range("share", 0.005, 0.3), OFTEN, variant_of="redo")(
        _cosine
    ),
    "pooled-share": _by_intervention("ReDo, pooled share", Range("share", 0.005, 0.3), OFTEN, variant_of="redo")(
        lambda _, share, period: _recycled(period, how_many.PooledShare(share))
    ),
    # The paper's open questions: initialisation and optimisation of recycled weights.
    "redo-scaled": _redo("ReDo, scaled", incoming="scaled"),
    "redo-moments": _redo("ReDo, moments kept", moments="keep"),
    "redo-step-count": _redo("ReDo, step count restarted", step_count="restart"),
    "redo-warm-up": _by_intervention(
        "ReDo, warm-up", TAU, OFTEN, Range("warm-up", 10.0, 1_000.0, "steps"), variant_of="redo"
    )(lambda bench, tau, period, steps: WarmUp(Every(period, bench.redo(tau).what), steps)),
}
_PLAIN = Method(PLAIN, (LEARNING_RATE,), lambda bench, rate: bench.dqn(learning_rate=rate))
THRESHOLDS = ("redo", "gap", "share", "share-cosine", "pooled-share")
RENEWALS = ("redo", "redo-scaled", "redo-moments", "redo-step-count", "redo-warm-up")
DEFAULT = (
    *("redo", "regrama", "continual-backprop", "snr", "shrink-perturb", "soft-shrink-perturb", "reset", "fire", "swr"),
    *("l2-init", "c-chain", "layer-norm"),
)
GROUPS: Mapping[str, Sequence[str]] = {
    "default": DEFAULT,
    "thresholds": THRESHOLDS,
    "renewals": RENEWALS,
    "all": tuple(METHODS),
}


def method(name: str) -> Method:
    """The method of a name, or the plain agent."""
    return METHODS.get(name) or _PLAIN


def title(name: str) -> str:
    """The name of a method in tables."""
    return method(name).title


def candidates(name: str, bench: Bench, draws: int) -> dict[str, Trainable]:
    """Maps the text of each drawn setting to a training, for a method or the plain agent.

    All methods use the same random numbers, so methods with equal ranges have equal settings. If `draws` is increased,
    the first settings stay the same.

    >>> from dormant.experiments.benches import MINATAR
    >>> list(candidates("l2-init", MINATAR, 2)) == list(candidates("parseval", MINATAR, 3))[:2]
    True
    """
    shift = np.random.default_rng(DRAWING_SEED).random(len(LATTICE))
    shares = (shift + np.arange(draws)[:, None] * LATTICE) % 1
    return dict(_candidate(method(name), bench, row) for row in shares)


def typical(name: str, bench: Bench) -> Trainable:
    """A method's training in the middle of each of its ranges."""
    return _candidate(method(name), bench, np.full(len(LATTICE), 0.5))[1]


def _candidate(what: Method, bench: Bench, shares: Float[np.ndarray, " ranges"]) -> tuple[str, Trainable]:
    values = [each.value(float(share), bench) for each, share in zip(what.ranges, shares, strict=False)]
    text = ", ".join(f"{each.name} {value:g}" for each, value in zip(what.ranges, values, strict=True))
    return text, what.training(bench, *values)
