"""Rules that set how many neurons of each layer to recycle: a threshold, a share, or a gap between scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..scores import dormant_mask
from ..settings import THRESHOLD, check_gap, check_number, check_share, checked_tau

Scores = Mapping[str, Float[Array, " neurons"]]
Counts = dict[str, Int[Array, ""]]


@runtime_checkable
class Number(Protocol):
    """A rule that sets how many neurons of each layer to recycle.

    `count` returns the number of neurons to recycle per layer. Its arguments are the scores of each layer, and how
    often the intervention has acted so far (`recyclings`). The number is 0 for a layer with NaN scores, which come from
    NaN or infinite activations.
    """

    def count(self, scores: Scores, recyclings: Int[Array, ""]) -> Counts: ...


@dataclass(frozen=True)
class Dormant:
    """Recycles the tau-dormant neurons. A neuron is tau-dormant if its score is at most tau.

    >>> int(Dormant(0.1).count({"dense": jnp.array([0.0, 0.1, 2.9])}, jnp.array(0))["dense"])
    2

    Source: Sokar et al. 2023, definition 3.1.
    """

    tau: float = 0.1

    def __post_init__(self) -> None:
        checked_tau(self.tau)

    def count(self, scores: Scores, recyclings: Int[Array, ""]) -> Counts:
        del recyclings
        return {name: dormant_mask(values, self.tau).sum(dtype=jnp.int32) for name, values in scores.items()}


@dataclass(frozen=True)
class Share:
    """Recycles a share of each layer's neurons, but at least one neuron. With `recyclings`, the share decays to zero.

    The n-th recycling then uses the share `share` * cos(pi/2 * n / `recyclings`). From n = `recyclings` on, no neuron
    is recycled.

    >>> scores = {"dense": jnp.ones(20)}
    >>> [int(Share(0.5, recyclings=3).count(scores, jnp.array(n))["dense"]) for n in range(3)]
    [9, 5, 0]

    Raises ValueError if the share is outside of (0, 1] or `recyclings` is below 1.
    Source: Sokar et al. 2023, figure 15; dopamine/labs/redo/weight_recyclers.py. If several
    scores equal the threshold, the reference code recycles all of these neurons. We recycle exactly the share.
    """

    share: float = 0.1
    recyclings: int | None = None

    def __post_init__(self) -> None:
        check_share(self.share, self.recyclings)

    def count(self, scores: Scores, recyclings: Int[Array, ""]) -> Counts:
        length = self.recyclings
        if length is None:
            fixed = {name: max(1, round(self.share * len(values))) for name, values in scores.items()}
            return {name: jnp.where(_known(scores[name]), number, 0) for name, number in fixed.items()}
        now = recyclings + 1
        share = self.share * jnp.cos(jnp.pi / 2 * now.astype(jnp.float32) / length)
        at_least_one = {name: jnp.maximum(1, jnp.round(share * len(values))) for name, values in scores.items()}
        due = {name: _known(scores[name]) & (now < length) for name in scores}
        return {name: jnp.where(due[name], number, 0).astype(jnp.int32) for name, number in at_least_one.items()}


@dataclass(frozen=True)
class PooledShare:
    """Recycles a `share` of the neurons of all layers together, those with the lowest scores.

    The threshold is the `share` quantile of all scores, but at most `highest`. Layers with lower scores therefore have
    more neurons recycled. No neuron is recycled if every score is above `highest`.

    >>> scores = {"conv": jnp.array([0.9, 1.1]), "dense": jnp.array([0.0, 0.1, 0.2, 3.7])}
    >>> {name: int(count) for name, count in PooledShare(0.33).count(scores, jnp.array(0)).items()}
    {'conv': 0, 'dense': 2}

    Raises ValueError if the share is outside of (0, 1] or `highest` is negative.
    Source: ours. Sokar et al. 2023 leave an adaptive threshold to future work.
    """

    share: float = 0.05
    highest: float = 0.5

    def __post_init__(self) -> None:
        check_share(self.share)
        check_number("highest", self.highest, THRESHOLD)

    def count(self, scores: Scores, recyclings: Int[Array, ""]) -> Counts:
        del recyclings
        if not scores:
            return {}
        pooled = jnp.sort(jnp.concatenate(list(scores.values())))
        tau = jnp.minimum(pooled[max(1, round(self.share * len(pooled))) - 1], self.highest)
        return {name: (values <= tau).sum(dtype=jnp.int32) for name, values in scores.items()}


@dataclass(frozen=True)
class Gap:
    """Recycles the neurons below the widest gap in the sorted scores of a layer, or none if no gap is wide enough.

    The gap between two neighbouring scores is the larger score divided by the smaller score. Scores below `floor` are
    first raised to `floor`. A gap is wide enough if it is at least `least`. Gaps whose smaller score is above `highest`
    are ignored.

    >>> scores = {"dense": jnp.array([0.01, 0.02, 0.4, 0.8, 3.77])}
    >>> int(Gap().count(scores, jnp.array(0))["dense"]), int(Gap(least=30.0).count(scores, jnp.array(0))["dense"])
    (2, 0)

    Raises ValueError unless `least` is above 1, `floor` is above 0 and `highest` is at least 0.
    Source: ours. Sokar et al. 2023 leave an adaptive threshold to future work.
    """

    least: float = 4.0
    highest: float = 0.5
    floor: float = 1e-3

    def __post_init__(self) -> None:
        check_gap(self.least, self.highest, self.floor)

    def count(self, scores: Scores, recyclings: Int[Array, ""]) -> Counts:
        del recyclings
        return {name: self._below(jnp.sort(values)) for name, values in scores.items()}

    def _below(self, ordered: Float[Array, " neurons"]) -> Int[Array, ""]:
        if len(ordered) < 2:
            return jnp.zeros((), jnp.int32)
        low, high = jnp.maximum(ordered[:-1], self.floor), jnp.maximum(ordered[1:], self.floor)
        gaps = jnp.where(ordered[:-1] <= self.highest, high / low, 1.0)
        widest = jnp.argmax(gaps)
        return jnp.where(gaps[widest] >= self.least, widest + 1, 0).astype(jnp.int32)


def _known(scores: Float[Array, " neurons"]) -> Bool[Array, ""]:
    """Whether no score of a layer is NaN."""
    return ~jnp.isnan(scores).any()
