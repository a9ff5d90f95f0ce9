"""Measures a module's dormant neurons, and recycles them in place."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as distributed
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..reasons import table
from .drawing import Init, check_init, fresh_values
from .execution import Seed, named_leaves, plain
from .optimizers import Optimizers, check_held, check_known, forget_, optimizer_list
from .tracing import trace
from .wiring import NeuronLayer, Wiring

# Seeds of the runs that check whether a dormant neuron fires with other random numbers.
SEEDS: tuple[Seed, ...] = (0, 1, 2, 3, "lowest", "highest")


@dataclass(frozen=True, eq=False)
class Report:
    """Each layer's neuron scores and dormant masks, and the fraction of all neurons that is dormant.

    `left_out` names the layers that were not computed, because the inputs take another branch.
    """

    tau: float
    scores: Mapping[str, Float[Tensor, " neurons"]]
    masks: Mapping[str, Bool[Tensor, " neurons"]]
    left_out: tuple[str, ...] = ()

    @property
    def fraction(self) -> float:
        """The number of dormant neurons, divided by the number of neurons; layers that are left out do not count.

        NaN if an activation is not finite, or if every layer is left out. Raises ValueError if the module has no
        neurons.
        """
        fractions = self.fractions
        if not fractions and self.left_out:
            return math.nan
        if not fractions:
            raise ValueError("the module has no neurons: no weight of a layer reads another layer.")
        if any(math.isnan(fraction) for fraction in fractions.values()):
            return math.nan
        return sum(int(mask.sum()) for mask in self.masks.values()) / sum(map(len, self.masks.values()))

    @property
    def fractions(self) -> dict[str, float]:
        """The dormant fraction of each layer; NaN for a layer with activations that are not finite."""
        return {
            name: math.nan if bool(self.scores[name].isnan().any()) else int(mask.sum()) / len(mask)
            for name, mask in self.masks.items()
        }

    def __str__(self) -> str:
        rows = [("layer", "neurons", f"dormant (tau={self.tau:g})")]
        for name, fraction in self.fractions.items():
            mask = self.masks[name]
            rows.append((name, str(len(mask)), "nan" if math.isnan(fraction) else str(int(mask.sum()))))
        rows += [(name, "-", "not computed: these inputs take another branch") for name in self.left_out]
        return "\n".join(table(rows))


def checked_tau(tau: float) -> float:
    """Returns `tau`; raises ValueError if it is negative or NaN."""
    if not tau >= 0:
        raise ValueError(f"tau must be at least 0, got {tau}; 0 finds only exactly silent neurons, the paper uses 0.1.")
    return tau


def measure(module: nn.Module, wiring: Wiring, *inputs: Any, tau: float = 0.1) -> Report:
    """Returns the scores and dormant masks of a module's neurons on a batch of inputs, without output layers.

    The module runs in evaluation mode without gradients; its state is restored afterwards. A layer with a non-finite
    activation has NaN as its scores and its dormant fraction, and no dormant neurons. A warning names such a layer
    once.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> _ = nn.init.constant_(net[0].bias, -100.0)
    >>> measure(net, trace(net, torch.zeros(1, 3)), torch.zeros(8, 3), tau=0.0).fraction
    1.0

    Raises ValueError if `tau` is negative, TypeError if `module` or `wiring` has the wrong type.
    Source: Sokar et al. 2023, definition 3.1.
    """
    checked_tau(tau)
    _check_arguments(module, wiring)
    scores = wiring.scores(module, *inputs)
    left_out = tuple(layer.name for layer in wiring.layers if layer.name not in scores)
    return Report(tau, scores, {name: score <= tau for name, score in scores.items()}, left_out)


def recycle_(
    module: nn.Module,
    wiring: Wiring,
    *inputs: Any,
    tau: float = 0.1,
    optimizer: Optimizers = (),
    init: Init | None = None,
    step_count: Literal["keep", "restart"] = "keep",
    layers: Iterable[str] | None = None,
    coupled: Literal["recycle", "skip"] = "recycle",
) -> dict[str, int]:
    """Recycles the module's dormant neurons in place; returns the number of recycled neurons per recyclable layer.

    Incoming weights and biases are drawn afresh, and outgoing weights become zero. The optimizer's moments of these
    entries are reset to those of a new weight: zero, or Adagrad's initial accumulator. With tau = 0, the module's
    outputs on these inputs stay bitwise the same, unless a normalisation couples the neurons (see
    `NeuronLayer.coupled_by`). Call `recycle_` between gradient steps.

    Fresh weights come from `reset_parameters()`, called on a copy of each layer, or from `init()`, which builds a fresh
    module: pass `init` if your network does not start from torch's defaults. The weights are drawn from torch's global
    generator, and only if there are neurons to recycle.
    torch counts Adam's steps per tensor, not per entry. `step_count="keep"` leaves the count, so the first update of a
    fresh weight is larger than Adam's usual one. `"restart"` zeroes the count of every tensor with a recycled entry,
    also for its other entries.
    A neuron that is dormant in evaluation mode but fires in training mode (before a BatchNorm) or with other random
    numbers (in a noisy network) is not recycled. Dropout alone does not make a neuron dormant: evaluation mode turns
    dropout off, and if forward uses dropout even then, one of the scoring runs keeps every neuron.
    `coupled="skip"` skips layers whose neurons are coupled by a normalisation.
    `layers` limits recycling to the layers with these names. Frozen parameters, layers with non-finite activations and
    buffers (except a BatchNorm's running statistics) are never changed.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> _ = nn.init.constant_(net[0].bias, -100.0)
    >>> recycle_(net, trace(net, torch.zeros(1, 3)), torch.zeros(8, 3), tau=0.0)
    {'0': 4}

    Raises ValueError, before anything is changed, if fresh weights can't be drawn, if the optimizer does not hold a
    parameter or has unknown state, or if a parameter was frozen after the trace. Raises TypeError if an argument has
    the wrong type.
    Source: Sokar et al. 2023, algorithm 1. timoklein/redo zeroes the step counts at every check, even without dormant
    neurons.
    """
    _check_options(step_count, coupled)
    _check_arguments(module, wiring)
    check_init(init)
    chosen = [layer for layer in _chosen(wiring, layers) if coupled == "recycle" or not layer.coupled_by]
    optimizers = optimizer_list(optimizer)
    leaves = named_leaves(plain(module))
    _check_writable(leaves, chosen, optimizers)
    report = measure(module, wiring, *inputs, tau=tau)
    masks = {layer.name: report.masks[layer.name] for layer in chosen if layer.name in report.masks}
    masks = _dormant_elsewhere(module, wiring, inputs, masks, tau)
    _same_on_every_process(module, masks.values())
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    if _any(masks):
        _rewire_(module, wiring, masks, init, optimizers, step_count == "restart")
    return counts


def _dormant_elsewhere(
    module: nn.Module, wiring: Wiring, inputs: tuple[Any, ...], masks: dict[str, Tensor], tau: float
) -> dict[str, Tensor]:
    """Returns the masks without neurons that fire in training mode or with other random numbers."""
    runs: list[tuple[bool, Seed]] = [(True, None), *((mode, seed) for seed in SEEDS for mode in (False, True))]
    for training, seed in runs:
        if not _any(masks):
            return masks
        scores = wiring.scores(module, *inputs, training=training, seed=seed)
        masks = {name: mask & (scores[name] <= tau) if name in scores else mask for name, mask in masks.items()}
    return masks


def _any(masks: Mapping[str, Tensor]) -> bool:
    return any(bool(mask.any()) for mask in masks.values())


def _check_arguments(module: object, wiring: object) -> None:
    for place, value, kind in (("first", module, nn.Module), ("second", wiring, Wiring)):
        if not isinstance(value, kind):
            raise TypeError(
                f"expected a {kind.__name__} as the {place} argument, got a {type(value).__name__}: "
                "wiring = trace(module, *inputs), and then measure(module, wiring, *inputs) or "
                "recycle_(module, wiring, *inputs)."
            )


def _check_options(step_count: str, coupled: str) -> None:
    for name, value, known in (
        ("step_count", step_count, ("keep", "restart")),
        ("coupled", coupled, ("recycle", "skip")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be {known[0]!r} or {known[1]!r}, got {value!r}.")


def _chosen(wiring: Wiring, layers: Iterable[str] | None) -> list[NeuronLayer]:
    """Returns the layers to recycle: all recyclable layers, or the recyclable ones among `layers`."""
    known = {layer.name for layer in wiring.layers}
    if isinstance(layers, str):
        raise TypeError(f"layers must be a list of names, got the text {layers!r}: layers=[{layers!r}].")
    wanted = known if layers is None else set(layers)
    if missing := wanted - known:
        raise ValueError(f"the wiring has no layers {sorted(missing)}; it has {sorted(known)}.")
    return [layer for layer in wiring.layers if layer.recyclable and layer.name in wanted]


def _check_writable(
    leaves: Mapping[str, Tensor], layers: Iterable[NeuronLayer], optimizers: list[torch.optim.Optimizer]
) -> None:
    """Checks that every parameter of these layers still requires gradients, and that the given optimizers hold it."""
    touched = {name: leaves[name] for layer in layers for name in (*layer.incoming, *layer.outgoing) if name in leaves}
    touched = {name: leaf for name, leaf in touched.items() if isinstance(leaf, nn.Parameter)}
    for name, leaf in touched.items():
        if not leaf.requires_grad:
            raise ValueError(f"{name} is frozen (requires_grad=False) and was not when it was traced: trace again.")
    check_held(optimizers, touched)


@torch.no_grad()
def _rewire_(
    module: nn.Module,
    wiring: Wiring,
    masks: Mapping[str, Tensor],
    init: Init | None,
    optimizers: list[torch.optim.Optimizer],
    restart: bool,
) -> None:
    inner = plain(module)
    leaves = named_leaves(inner)
    incoming, outgoing = (_hits(wiring, masks, leaves, side) for side in ("incoming", "outgoing"))
    fresh = fresh_values(inner, {name: leaves[name] for name in incoming}, init)
    check_known(optimizers, {name: leaves[name] for name in (*incoming, *outgoing)})
    for name in dict.fromkeys([*incoming, *outgoing]):
        leaf, nowhere = leaves[name], torch.zeros((), dtype=torch.bool, device=leaves[name].device)
        drawn, cut = incoming.get(name, nowhere), outgoing.get(name, nowhere)
        if name in incoming:
            leaf.copy_(torch.where(drawn, fresh[name].to(leaf), leaf))
        leaf.masked_fill_(cut, 0)
        forget_(optimizers, leaf, drawn | cut, restart)
        _same_on_every_process(module, [leaf])


def _hits(wiring: Wiring, masks: Mapping[str, Tensor], leaves: Mapping[str, Tensor], side: str) -> dict[str, Tensor]:
    """Returns, per parameter, a mask of the entries that belong to recycled neurons on this side."""
    hits: dict[str, Tensor] = {}
    for layer in wiring.layers:
        if layer.name not in masks or not masks[layer.name].any():
            continue
        entries: Mapping[str, Int[Tensor, ...]] = getattr(layer, side)
        for name, owner in entries.items():
            # Padded with False at the end, for entries that belong to no neuron (index -1).
            dormant = nn.functional.pad(masks[layer.name].to(leaves[name].device), (0, 1))
            hit = dormant[owner.to(leaves[name].device)]
            if bool(hit.any()):
                hits[name] = hits[name] | hit if name in hits else hit
    return hits


def _same_on_every_process(module: nn.Module, tensors: Iterable[Tensor]) -> None:
    """Broadcasts the tensors from rank 0 to all processes of a distributed module."""
    while not isinstance(module, nn.parallel.DistributedDataParallel):
        if not isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            return
        module = inner
    for tensor in tensors:
        distributed.broadcast(tensor, group=module.process_group, group_src=0)


class ReDo:
    """Recycles a module's dormant neurons every `period` gradient steps of your own training loop.

    Call `step` with a batch of the module's inputs after each `optimizer.step()`. It returns the number of recycled
    neurons per layer every `period` steps, and None on other steps. Save `gradient_steps` in your checkpoint to resume
    the schedule.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> redo = ReDo(net, torch.optim.Adam(net.parameters()), tau=0.0, period=2)
    >>> _ = nn.init.constant_(net[0].bias, -100.0)
    >>> [redo.step(torch.zeros(8, 3)) for _ in range(2)]
    [None, {'0': 4}]

    Raises ValueError if `period` is not positive or `tau` is negative, TypeError if an argument has the wrong type.
    Source: Sokar et al. 2023, algorithm 1: tau = 0.1 and a period of 1,000 gradient steps for DQN, scored on 64
    states.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizers,
        tau: float = 0.1,
        period: int = 1_000,
        init: Init | None = None,
        step_count: Literal["keep", "restart"] = "keep",
        coupled: Literal["recycle", "skip"] = "recycle",
    ) -> None:
        if period < 1:
            raise ValueError(f"period must be at least 1 gradient step, got {period}.")
        checked_tau(tau)
        _check_options(step_count, coupled)
        check_init(init)
        optimizer_list(optimizer)
        if not isinstance(module, nn.Module):
            raise TypeError(f"expected a torch.nn.Module as the first argument, got a {type(module).__name__}.")
        self.coupled: Literal["recycle", "skip"] = coupled
        self.module, self.optimizer, self.init, self.step_count = module, optimizer, init, step_count
        self.tau, self.period, self.gradient_steps = tau, period, 0
        self.wiring: Wiring | None = None

    def step(self, *inputs: Any) -> dict[str, int] | None:
        """Counts one gradient step. Recycles and returns counts every `period` steps; else returns None."""
        self.gradient_steps += 1
        if self.gradient_steps % self.period:
            return None
        self.wiring = self.wiring or trace(self.module, *inputs)
        options = {
            "optimizer": self.optimizer,
            "init": self.init,
            "step_count": self.step_count,
            "coupled": self.coupled,
        }
        return recycle_(self.module, self.wiring, *inputs, tau=self.tau, **options)
