"""Rules that set how many neurons of each layer to recycle: a threshold, a share, or a gap between scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..settings import THRESHOLD, check_gap, check_number, check_share, checked_tau

Scores = Mapping[str, Float[Tensor, " neurons"]]


@runtime_checkable
class Number(Protocol):
    """A rule that sets how many neurons of each layer to recycle.

    `count` returns the number of neurons to recycle per layer. Its arguments are the scores of each layer, and how
    often the intervention has acted so far (`recyclings`). The number is 0 for a layer with NaN scores, which come from
    NaN or infinite activations.
    """

    def count(self, scores: Scores, recyclings: int) -> dict[str, int]: ...


@dataclass(frozen=True)
class Dormant:
    """Recycles the tau-dormant neurons. A neuron is tau-dormant if its score is at most tau.

    >>> Dormant(0.1).count({"dense": torch.tensor([0.0, 0.1, 2.9])}, 0)
    {'dense': 2}

    Source: Sokar et al. 2023, definition 3.1.
    """

    tau: float = 0.1

    def __post_init__(self) -> None:
        checked_tau(self.tau)

    def count(self, scores: Scores, recyclings: int) -> dict[str, int]:
        del recyclings
        return {name: int((values <= self.tau).sum()) for name, values in scores.items()}


@dataclass(frozen=True)
class Share:
    """Recycles a share of each layer's neurons, but at least one neuron. With `recyclings`, the share decays to zero.

    The n-th recycling then uses the share `share` * cos(pi/2 * n / `recyclings`). From n = `recyclings` on, no neuron
    is recycled.

    >>> [Share(0.5, recyclings=3).count({"dense": torch.ones(20)}, n)["dense"] for n in range(3)]
    [9, 5, 0]

    Raises ValueError if the share is outside of (0, 1] or `recyclings` is below 1.
    Source: Sokar et al. 2023, figure 15. If several scores equal the threshold, the reference code recycles all of
    these neurons. We recycle exactly the share.
    """

    share: float = 0.1
    recyclings: int | None = None

    def __post_init__(self) -> None:
        check_share(self.share, self.recyclings)

    def count(self, scores: Scores, recyclings: int) -> dict[str, int]:
        share, over = self.share, False
        if self.recyclings is not None:
            share = float(np.float32(share) * np.cos(np.float32(np.pi / 2 * (recyclings + 1) / self.recyclings)))
            over = recyclings + 1 >= self.recyclings
        return {
            name: 0 if over or bool(values.isnan().any()) else max(1, round(share * len(values)))
            for name, values in scores.items()
        }


@dataclass(frozen=True)
class PooledShare:
    """Recycles a `share` of the neurons of all layers together, those with the lowest scores.

    The threshold is the `share` quantile of all scores, but at most `highest`. No neuron is recycled if every score is
    above `highest`.

    >>> scores = {"conv": torch.tensor([0.9, 1.1]), "dense": torch.tensor([0.0, 0.1, 0.2, 3.7])}
    >>> PooledShare(0.33).count(scores, 0)
    {'conv': 0, 'dense': 2}

    Raises ValueError if the share is outside of (0, 1] or `highest` is negative.
    Source: ours. Sokar et al. 2023 leave an adaptive threshold to future work.
    """

    share: float = 0.05
    highest: float = 0.5

    def __post_init__(self) -> None:
        check_share(self.share)
        check_number("highest", self.highest, THRESHOLD)

    def count(self, scores: Scores, recyclings: int) -> dict[str, int]:
        del recyclings
        if not scores:
            return {}
        pooled = torch.cat(list(scores.values())).sort().values  # sorts NaN to the end
        tau = pooled[max(1, round(self.share * len(pooled))) - 1].clamp(max=self.highest)
        return {name: int((values <= tau).sum()) for name, values in scores.items()}


@dataclass(frozen=True)
class Gap:
    """Recycles the neurons below the widest gap in the sorted scores of a layer, or none if no gap is wide enough.

    The gap between two neighbouring scores is the larger score divided by the smaller score. Scores below `floor` are
    first raised to `floor`. A gap is wide enough if it is at least `least`. Gaps whose smaller score is above `highest`
    are ignored.

    >>> scores = {"dense": torch.tensor([0.01, 0.02, 0.4, 0.8, 3.77])}
    >>> Gap().count(scores, 0), Gap(least=30.0).count(scores, 0)
    ({'dense': 2}, {'dense': 0})

    Raises ValueError unless `least` is above 1, `floor` is above 0 and `highest` is at least 0.
    Source: ours. Sokar et al. 2023 leave an adaptive threshold to future work.
    """

    least: float = 4.0
    highest: float = 0.5
    floor: float = 1e-3

    def __post_init__(self) -> None:
        check_gap(self.least, self.highest, self.floor)

    def count(self, scores: Scores, recyclings: int) -> dict[str, int]:
        del recyclings
        return {name: self._below(values.sort().values) for name, values in scores.items()}

    def _below(self, ordered: Float[Tensor, " neurons"]) -> int:
        if len(ordered) < 2 or bool(ordered.isnan().any()):
            return 0
        raised = ordered.clamp(min=self.floor)
        gaps = torch.where(ordered[:-1] <= self.highest, raised[1:] / raised[:-1], 1.0)
        widest = int(gaps.argmax())
        return widest + 1 if gaps[widest] >= self.least else 0
