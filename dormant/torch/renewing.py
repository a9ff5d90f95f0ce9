"""Interventions that recycle or remove neurons of a module: `ReDo`, `Recycle`, `ContinualBackprop`, `Prune`."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..settings import (
    Renewal,
    check_continual_backprop,
    check_recycle,
    check_recycling,
    check_whole,
    checked_tau,
)
from .how_many import Dormant, Number, Scores
from .measuring import contributions, first_moments, gradient_scores, lasting_scores, utilities
from .optimizers import Optimizers
from .recycling import (
    Init,
    Learner,
    check_writable,
    dormant_masks,
    entries_of,
    recyclable,
    renew_,
    same_on_every_process,
    write_,
)
from .schedule import Counts, Every, Inputs, Intervening, State, with_intervention
from .wiring import NeuronLayer, neuron_scores


@dataclass(frozen=True)
class ReDo:
    """Recycles the tau-dormant neurons of every layer that can be recycled safely, in the same way as `recycle_`.

    - `outgoing`: "zero", or "fresh" to also draw the outgoing weights from the initialiser (the paper's figure 22).
    - `moments`: "fresh" gives recycled weights the optimizer state of a new weight (zero moments for Adam). "keep" does
      not change their state.
    - `step_count`: "keep" does not change Adam's step counts, as in the paper. "restart" sets the count to zero for
      every tensor with a recycled entry. This also affects the other entries of the tensor.
    - `coupled`: "recycle" or "skip" the layers whose neurons are coupled by a normalisation.
    - `layers`: names of the layers to recycle, or of submodules. None recycles all layers that can be recycled safely.
    - `incoming`: "fresh" uses the weights from the initialiser. "scaled" scales each incoming vector to the mean length
      of the vectors of the layer's other neurons (the paper's figure 23).

    >>> ReDo(tau=0.025).tau
    0.025

    Raises ValueError for a negative tau or an unknown option. When training starts, raises ValueError for a layer that
    does not exist or that can't be recycled safely.

    In earlier versions, `ReDo(module, optimizer, tau, period, ...)` applied ReDo to a module. This call still works. It
    returns `with_intervention(module, optimizer, Every(period, ReDo(tau, ...)))`.
    Source: Sokar et al. 2023, algorithm 1. docs/differences.md lists the differences from the reference.
    """

    tau: float = 0.1
    outgoing: Literal["zero", "fresh"] = "zero"
    moments: Literal["fresh", "keep"] = "fresh"
    step_count: Literal["keep", "restart"] = "keep"
    coupled: Literal["recycle", "skip"] = "recycle"
    layers: tuple[str, ...] | None = None
    incoming: Literal["fresh", "scaled"] = "fresh"

    def __new__(cls, *arguments: Any, **options: Any) -> "ReDo | Intervening":
        if arguments and not isinstance(arguments[0], int | float | str):
            return _with_redo(*arguments, **options)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        checked_tau(self.tau)
        check_recycling(self.renewal, self.coupled, self.layers)

    @property
    def renewal(self) -> Renewal:
        """The options for the new weights and their optimizer state."""
        return Renewal(self.outgoing, self.incoming, self.moments, self.step_count)

    def init(self, module: nn.Module) -> State:
        del module
        return {"recycled": {}}

    def check(self, learner: Learner) -> None:
        check_writable(learner, recyclable(learner.wiring, self.layers, self.coupled))

    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> Counts:
        del steps
        layers = recyclable(learner.wiring, self.layers, self.coupled)
        check_writable(learner, layers)
        return counted(state, renew_(learner, dormant_masks(learner, layers, inputs(), self.tau), self.renewal))


def _with_redo(
    module: nn.Module,
    optimizer: Optimizers = (),
    tau: float = 0.1,
    period: int = 1_000,
    init: Init | None = None,
    step_count: Literal["keep", "restart"] = "keep",
    coupled: Literal["recycle", "skip"] = "recycle",
) -> Intervening:
    """Returns what `ReDo(module, ...)` returned in earlier versions, in which ReDo was the only intervention."""
    return with_intervention(module, optimizer, Every(period, ReDo(tau, step_count=step_count, coupled=coupled)), init)


def counted(state: State, counts: Counts) -> Counts:
    """Adds `counts` to the totals in `state["recycled"]`. Returns `counts`."""
    for name, count in counts.items():
        state["recycled"][name] = state["recycled"].get(name, 0) + count
    return counts


Score = Literal["activation", "gradient", "contribution", "utility"]


@dataclass(frozen=True)
class Recycle:
    """Recycles neurons by any score, in every layer that can be recycled safely.

    - `score`: "activation" is the score of ReDo. "gradient" is the mean absolute first moment of the incoming weights,
      from the optimizer's state (ReGraMa). "contribution" and "utility" are the utilities of continual backprop. Each
      score is divided by its mean over the layer.
    - `number`: the rule that sets how many neurons to recycle: `Dormant`, `Share`, `PooledShare` or `Gap`.
    - `order`: "lowest" recycles the neurons with the lowest scores. For control experiments, "highest" and "random"
      recycle the same number of neurons, but those with the highest scores, or random neurons.
    - `at_most`: the largest number of neurons to recycle per layer and call. None sets no limit.
    - `renewal`: the options for the new weights and their optimizer state.
    - `coupled` and `layers`: as in `ReDo`.

    >>> regrama = Recycle("gradient", Dormant(tau=0.01))
    >>> Recycle(number=Dormant(0.1), order="random").at_most is None
    True

    Raises ValueError for an unknown option or `at_most` below 1. When training starts, raises ValueError for a layer
    that does not exist or can't be recycled, and if the score is "gradient" but the optimizer keeps no first moments.
    Source: Sokar et al. 2023, figures 15 and 25. "gradient" follows Liu et al. 2025 (ReGraMa), who use the gradient of
    the last batch. We use the running average of the gradient, which is available in any training loop.
    """

    score: Score = "activation"
    number: Number = Dormant()  # noqa: RUF009 (immutable, so it may be shared)
    order: Literal["lowest", "highest", "random"] = "lowest"
    at_most: int | None = None
    renewal: Renewal = Renewal()  # noqa: RUF009
    coupled: Literal["recycle", "skip"] = "recycle"
    layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_recycle(self.score, self.number, self.order, self.at_most, Number)
        check_recycling(self.renewal, self.coupled, self.layers)

    def init(self, module: nn.Module) -> State:
        del module
        return {"recyclings": 0, "recycled": {}}

    def check(self, learner: Learner) -> None:
        layers = recyclable(learner.wiring, self.layers, self.coupled)
        check_writable(learner, layers)
        if self.score == "gradient":
            first_moments(learner.module, learner.optimizers, [name for layer in layers for name in layer.incoming])

    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> Counts:
        del steps
        layers = recyclable(learner.wiring, self.layers, self.coupled)
        check_writable(learner, layers)
        found = self._scores(learner, layers, inputs)
        scores = {layer.name: found[layer.name] for layer in layers if layer.name in found}
        masks = {}
        for name, number in self.number.count(scores, state["recyclings"]).items():
            number = number if self.at_most is None else min(number, self.at_most)
            number = 0 if bool(scores[name].isnan().any()) else number
            masks[name] = lowest(_ranked(scores[name], self.order), number)
        state["recyclings"] += 1
        return counted(state, renew_(learner, masks, self.renewal))

    def _scores(self, learner: Learner, layers: list[NeuronLayer], inputs: Inputs) -> Scores:
        module, wiring = learner.module, learner.wiring
        match self.score:
            case "activation":
                return lasting_scores(module, wiring, *inputs())
            case "gradient":
                names = [name for layer in layers for name in layer.incoming]
                return gradient_scores(wiring, first_moments(module, learner.optimizers, names))
            case "contribution":
                found = contributions(module, wiring, *inputs())
            case "utility":
                found = utilities(module, wiring, *inputs())
        return {
            name: neuron_scores(each[None], torch.arange(len(each))[None], len(each)) for name, each in found.items()
        }


def _ranked(scores: Float[Tensor, " neurons"], order: str) -> Float[Tensor, " neurons"]:
    """Returns one value per neuron, so that the neurons to recycle first have the lowest values."""
    match order:
        case "highest":
            return -scores
        case "random":
            return torch.rand(len(scores)).to(scores)
        case _:
            return scores


def lowest(values: Float[Tensor, " neurons"], number: int) -> Bool[Tensor, " neurons"]:
    """Returns a mask of the `number` neurons with the lowest values. If values are equal, the earlier neuron is taken.

    >>> lowest(torch.tensor([3.0, 1.0, 1.0]), 1).tolist()
    [False, True, False]
    """
    mask = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    mask[values.argsort(stable=True)[:number]] = True
    return mask


@dataclass(frozen=True)
class ContinualBackprop:
    """Replaces the mature neurons with the lowest utilities, a share `replacement_rate` of them per update.

    A neuron is mature if it is older than `maturity` updates. The utility of a neuron is an exponential average over
    updates: average <- decay * average + (1 - decay) * utility. The average starts at zero, and is divided by 1 -
    decay^age to correct for this. `utility` is "contribution" or "overall" (see `dormant.metrics`). If the share is
    less than one neuron, it is summed over updates until it reaches one neuron. Apply this intervention at every
    gradient step, not within `Every`. Each step then costs a forward pass of the score batch, which the tracer
    observes.

    >>> ContinualBackprop(maturity=1_000).replacement_rate
    0.0001

    Raises ValueError for an unknown option, and for a rate, decay or maturity outside its range. When training starts,
    raises ValueError for a layer that does not exist or that can't be recycled safely.
    Source: Dohare et al. 2024, "Loss of plasticity in deep continual learning". The released code also adds the mean
    contribution of a replaced neuron to the bias of the next layer. We do not. We compute utilities on the score batch.
    """

    every_step: ClassVar[bool] = True
    replacement_rate: float = 1e-4
    maturity: int = 100
    decay: float = 0.99
    utility: Literal["contribution", "overall"] = "contribution"
    renewal: Renewal = Renewal()  # noqa: RUF009 (immutable)
    coupled: Literal["recycle", "skip"] = "recycle"
    layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_continual_backprop(self.replacement_rate, self.maturity, self.decay, self.utility)
        check_recycling(self.renewal, self.coupled, self.layers)

    def init(self, module: nn.Module) -> State:
        del module
        return {"layers": {}, "recycled": {}}

    def check(self, learner: Learner) -> None:
        check_writable(learner, recyclable(learner.wiring, self.layers, self.coupled))

    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> Counts | None:
        del steps
        measure = contributions if self.utility == "contribution" else utilities
        now = measure(learner.module, learner.wiring, *inputs())
        masks = {}
        for layer in recyclable(learner.wiring, self.layers, self.coupled):
            if layer.name in now:
                same_on_every_process(learner.module, [now[layer.name]])
                one = state["layers"].setdefault(layer.name, unused(now[layer.name]))
                masks[layer.name] = self.choose_(one, now[layer.name])
        if not any(bool(mask.any()) for mask in masks.values()):
            return None
        check_writable(learner, [learner.wiring[name] for name in masks])
        return counted(state, renew_(learner, masks, self.renewal))

    def choose_(self, layer: State, utility: Float[Tensor, " neurons"]) -> Bool[Tensor, " neurons"]:
        """Updates the state of a layer with new utilities. Returns a mask of the neurons to replace.

        If a utility is NaN, the state does not change and no neuron is replaced.
        """
        if bool(utility.isnan().any()):
            return torch.zeros(len(utility), dtype=torch.bool, device=utility.device)
        running, age = layer["utility"].to(utility), layer["age"].to(utility.device) + 1
        running = self.decay * running + (1 - self.decay) * utility
        corrected = running / (1 - self.decay ** age.to(running.dtype))
        mature = age > self.maturity
        owed = layer["owed"] + self.replacement_rate * mature.sum().float().cpu()
        number = min(int(owed), int(mature.sum()))
        mask = lowest(torch.where(mature, corrected, torch.inf), number)
        layer |= {"utility": running.masked_fill(mask, 0), "age": age.masked_fill(mask, 0), "owed": owed - number}
        return mask


def unused(utility: Float[Tensor, " neurons"]) -> State:
    """Returns the initial state of a layer in `ContinualBackprop`.

    It holds the utility and the age of each neuron, and how many neurons are still due to be replaced (`owed`). All are
    zero.
    """
    age = torch.zeros(len(utility), dtype=torch.int32, device=utility.device)
    return {"utility": torch.zeros_like(utility), "age": age, "owed": torch.zeros(())}


@dataclass(frozen=True)
class Prune:
    """Removes tau-dormant neurons. Their outgoing weights are zero for the rest of training.

    Every `period` gradient steps, the neurons that are dormant are removed. At every step, the outgoing weights of all
    removed neurons are set to zero. Apply this intervention at every gradient step, not within `Every`.

    >>> Prune(tau=0.0, period=1_000)
    Prune(tau=0.0, period=1000)

    Raises ValueError for a negative tau or a period below 1.
    Source: Sokar et al. 2023, figure 6. The paper does not state how often or how it removes neurons. We chose both.
    """

    every_step: ClassVar[bool] = True
    tau: float = 0.0
    period: int = 1_000

    def __post_init__(self) -> None:
        checked_tau(self.tau)
        check_whole("period", self.period)

    def init(self, module: nn.Module) -> State:
        del module
        return {"gradient_steps": 0, "gone": {}}

    def check(self, learner: Learner) -> None:
        check_writable(learner, recyclable(learner.wiring, None, "recycle"))

    @torch.no_grad()
    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> None:
        before = state["gradient_steps"]
        state["gradient_steps"] += steps
        if before // self.period < state["gradient_steps"] // self.period:
            found = dormant_masks(learner, recyclable(learner.wiring, None, "recycle"), inputs(), self.tau)
            same_on_every_process(learner.module, found.values())
            for name, mask in found.items():
                state["gone"][name] = state["gone"][name].to(mask.device) | mask if name in state["gone"] else mask
        if any(bool(mask.any()) for mask in state["gone"].values()):
            cut = entries_of(learner, state["gone"], "outgoing")
            zeros = {name: torch.zeros_like(learner.leaves[name]) for name in cut}
            write_(learner, cut, zeros, "fresh", "keep")
