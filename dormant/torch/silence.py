"""`SNR`: recycles a neuron that has been silent for longer than it usually is."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from ..settings import Renewal, check_recycling, check_snr, silence_lengths
from .recycling import Learner, check_writable, dormant_masks, recyclable, renew_, same_on_every_process
from .renewing import counted
from .schedule import Counts, Inputs, State


@dataclass(frozen=True)
class SNR:
    """Recycles a neuron whose silence is longer than a quantile of its own past silences (self-normalised resets).

    A neuron is silent at a gradient step if it is zero on the whole score batch. A silence is a sequence of such steps.
    A neuron is recycled when its silence reaches the neuron's limit. All limits start at `most` / 2. Every `period`
    gradient steps, the limits change: the new limit is the `quantile` of the neuron's silences in these steps, if that
    is lower than the old limit. Otherwise, the limit is multiplied by `growth`. A limit stays within `least` and
    `most`, and does not change if the neuron was never silent. `renewal`, `coupled` and `layers` work as in `Recycle`.
    Apply this intervention at every gradient step, not within `Every`. Each step costs a forward pass of the score
    batch.

    >>> SNR(quantile=0.95).most
    20000

    Raises ValueError for a number outside its range or an unknown option. When training starts, raises ValueError for a
    layer that does not exist or that can't be recycled safely.
    Source: Farias and Jozefiak 2025, "Self-normalized resets for plasticity in continual learning";
    src/algorithms/snr.py at ajozefiak/SelfNormalizedResets 8b84f0c. Differences: they measure silences in samples, we
    in gradient steps. They count silences of each length; to save memory, we use about four bins per doubling of the
    length. They set the limit of a neuron that was never silent to `least`. They change limits after a number of tasks.
    In their code, a neuron that is negative on the whole batch is also silent.
    """

    every_step: ClassVar[bool] = True
    quantile: float = 0.98
    period: int = 10_000
    growth: float = 2.0
    least: int = 100
    most: int = 20_000
    renewal: Renewal = Renewal()  # noqa: RUF009 (immutable)
    coupled: Literal["recycle", "skip"] = "recycle"
    layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_snr(self.quantile, self.period, self.growth, self.least, self.most)
        check_recycling(self.renewal, self.coupled, self.layers)

    def init(self, module: nn.Module) -> State:
        del module
        return {"gradient_steps": 0, "layers": {}, "recycled": {}}

    def check(self, learner: Learner) -> None:
        check_writable(learner, recyclable(learner.wiring, self.layers, self.coupled))

    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> Counts | None:
        before = state["gradient_steps"]
        state["gradient_steps"] += steps
        layers = recyclable(learner.wiring, self.layers, self.coupled)
        silent = dormant_masks(learner, layers, inputs(), tau=0.0)
        same_on_every_process(learner.module, silent.values())
        masks = {}
        for name, mask in silent.items():
            one = state["layers"].setdefault(name, self.unheard(mask))
            masks[name] = self.listen_(one, mask, steps)
            if before // self.period < state["gradient_steps"] // self.period:
                self.adapt_(one)
        if not any(bool(mask.any()) for mask in masks.values()):
            return None
        check_writable(learner, layers)
        return counted(state, renew_(learner, masks, self.renewal))

    def unheard(self, mask: Bool[Tensor, " neurons"]) -> State:
        """Returns the initial state of a layer.

        `age` is the length of the present silence of each neuron, `past` counts its past silences in bins of lengths,
        and `limit` is the length at which it is recycled.
        """
        zero = torch.zeros(len(mask), dtype=torch.int32, device=mask.device)
        past = torch.zeros(len(mask), len(silence_lengths(self.most)), dtype=torch.int32, device=mask.device)
        return {"age": zero, "past": past, "limit": torch.full_like(zero, max(self.least, self.most // 2))}

    def _lengths(self, like: Tensor) -> Int[Tensor, " bins"]:
        return torch.tensor(silence_lengths(self.most), dtype=torch.int32, device=like.device)

    def listen_(self, layer: State, silent: Bool[Tensor, " neurons"], steps: int) -> Bool[Tensor, " neurons"]:
        """Updates a layer's state after `steps` gradient steps. Returns a mask of the neurons to recycle.

        `silent` is a mask of the neurons that are silent now.
        """
        old, past, limit = (layer[name].to(silent.device) for name in ("age", "past", "limit"))
        age = old + steps
        mask = silent & (age >= limit)
        length = torch.where(silent, age, old)
        over = (mask | ~silent) & (length > 0)
        place = (torch.searchsorted(self._lengths(age), length, right=True) - 1).clamp(min=0)
        past = past.scatter_add(1, place[:, None], over[:, None].to(past))
        layer |= {"age": torch.where(silent & ~mask, age, 0), "past": past, "limit": limit}
        return mask

    def adapt_(self, layer: State) -> None:
        """Updates the limits of a layer in place. The counts of past silences start again at 0."""
        past, limit = layer["past"], layer["limit"]
        total = past.sum(1)
        enough = past.cumsum(1).float() >= self.quantile * total[:, None].float()
        shortest = self._lengths(past)[enough.int().argmax(1)]
        new = torch.where(shortest < limit, shortest, (self.growth * limit.float()).clamp(max=self.most).int())
        new = torch.where(total > 0, new.clamp(self.least, self.most), limit)
        layer |= {"past": torch.zeros_like(past), "limit": new}
