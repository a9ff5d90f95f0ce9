"""Measure a module's dormant neurons, and recycle them in place."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as distributed
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .execution import plain
from .tracing import trace
from .wiring import Wiring

Optimizers = torch.optim.Optimizer | Iterable[torch.optim.Optimizer]
Init = Callable[[], nn.Module]

# What an optimizer knows of one entry: Adam and AdamW, SGD with momentum, RMSprop, Adamax, Adagrad, Adadelta.
MOMENTS = frozenset(
    (
        *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg"),
        *("grad_avg", "exp_inf", "sum", "acc_delta"),
    )
)


@dataclass(frozen=True, eq=False)
class Report:
    """Each layer's neuron scores and dormant masks, and the fraction of all neurons that is dormant."""

    tau: float
    scores: Mapping[str, Float[Tensor, " neurons"]]
    masks: Mapping[str, Bool[Tensor, " neurons"]]

    @property
    def fraction(self) -> float:
        """Dormant neurons of all layers, divided by the neurons of all layers."""
        neurons = sum(mask.numel() for mask in self.masks.values())
        if neurons == 0:
            raise ValueError("the module has no neurons: no layer of it is read by the weights of another.")
        return sum(int(mask.sum()) for mask in self.masks.values()) / neurons

    def __str__(self) -> str:
        rows = [("layer", "neurons", f"dormant (tau={self.tau:g})")]
        rows += [(name, str(mask.numel()), str(int(mask.sum()))) for name, mask in self.masks.items()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def measure(module: nn.Module, wiring: Wiring, *inputs: Any, tau: float = 0.1) -> Report:
    """The scores and dormant masks of a module's neurons on a batch of inputs; the output layer is not counted.

    The module runs in evaluation mode and without gradients, and is left as it was.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> _ = nn.init.constant_(net[0].bias, -100.0)
    >>> measure(net, trace(net, torch.zeros(1, 3)), torch.zeros(8, 3), tau=0.0).fraction
    1.0

    Raises ValueError if `tau` is negative.
    Source: Sokar et al. 2023, definition 3.1.
    """
    if not tau >= 0:
        raise ValueError(f"tau must be at least 0, got {tau}; 0 finds only exactly silent neurons, the paper uses 0.1.")
    scores = wiring.scores(module, *inputs)
    return Report(tau, scores, {name: score <= tau for name, score in scores.items()})


def recycle_(
    module: nn.Module,
    wiring: Wiring,
    *inputs: Any,
    tau: float = 0.1,
    optimizer: Optimizers = (),
    init: Init | None = None,
    step_count: Literal["keep", "restart"] = "keep",
    layers: Iterable[str] | None = None,
) -> dict[str, int]:
    """Recycle the module's dormant neurons in place; returns how many of each recyclable layer.

    Incoming weights are drawn afresh, outgoing weights become zero, and the optimizer's moments of both become those
    of new weights (zero, but for Adagrad's initial accumulator), those of biases too. With tau = 0 the module's outputs
    on these inputs stay the same to the last bit, unless a normalisation across neurons couples them (the wiring says
    so). Call it between gradient steps.

    Fresh weights come from a copy of each layer on which `reset_parameters()` was called, or from `init()`, which
    builds a fresh module: pass it if your network does not start from torch's defaults. They are drawn from torch's
    global generator, and only if there is something to recycle.
    torch counts Adam's steps per tensor, not per entry: "keep" leaves the count, so the first update of a fresh weight
    is larger than Adam's usual one; "restart" zeroes the count of every tensor in which something was recycled, for
    the live weights too.
    `layers` limits recycling to the layers with these names.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> _ = nn.init.constant_(net[0].bias, -100.0)
    >>> recycle_(net, trace(net, torch.zeros(1, 3)), torch.zeros(8, 3), tau=0.0)
    {'0': 4}

    Raises ValueError if a layer has no `reset_parameters` and no `init` is given, or if the optimizer is not known.
    Source: Sokar et al. 2023, algorithm 1. timoklein/redo zeroes the step counts at every check, dormant neurons or
    not.
    """
    masks = _chosen(wiring, measure(module, wiring, *inputs, tau=tau), layers)
    _same_on_every_process(module, masks.values())
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    if any(counts.values()):
        optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
        _rewire_(module, wiring, masks, init, optimizers, step_count == "restart")
    return counts


def _chosen(wiring: Wiring, report: Report, layers: Iterable[str] | None) -> dict[str, Bool[Tensor, " neurons"]]:
    known = {layer.name for layer in wiring.layers}
    wanted = known if layers is None else set(layers)
    if missing := wanted - known:
        raise ValueError(f"the wiring has no layers {sorted(missing)}; it has {sorted(known)}.")
    return {
        layer.name: report.masks[layer.name] for layer in wiring.layers if layer.recyclable and layer.name in wanted
    }


@torch.no_grad()
def _rewire_(
    module: nn.Module, wiring: Wiring, masks: Mapping[str, Tensor], init: Init | None, optimizers: Any, restart: bool
) -> None:
    inner = plain(module)
    leaves = {name.replace("_orig_mod.", ""): leaf for name, leaf in _named_leaves(inner)}
    incoming, outgoing = (_hits(wiring, masks, leaves, side) for side in ("incoming", "outgoing"))
    fresh = _fresh(inner, incoming, init)
    _check_known(optimizers, [leaves[name] for name in {*incoming, *outgoing}])
    for name in dict.fromkeys([*incoming, *outgoing]):
        leaf, nowhere = leaves[name], torch.zeros((), dtype=torch.bool, device=leaves[name].device)
        drawn, cut = incoming.get(name, nowhere), outgoing.get(name, nowhere)
        if name in fresh:
            leaf.copy_(torch.where(drawn, fresh[name].to(leaf), leaf))
        leaf.masked_fill_(cut, 0)
        _forget_(optimizers, leaf, drawn | cut, restart)
        _same_on_every_process(module, [leaf])


def _named_leaves(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _hits(wiring: Wiring, masks: Mapping[str, Tensor], leaves: Mapping[str, Tensor], side: str) -> dict[str, Tensor]:
    """For each parameter with a recycled neuron's entries on this side, which entries they are."""
    hits: dict[str, Tensor] = {}
    for layer in wiring.layers:
        if layer.name not in masks or not masks[layer.name].any():
            continue
        entries: Mapping[str, Int[Tensor, ...]] = getattr(layer, side)
        for name, owner in entries.items():
            # One more place at the end, for the entries that -1 says are no neuron's.
            dormant = nn.functional.pad(masks[layer.name].to(leaves[name].device), (0, 1))
            hit = dormant[owner.to(leaves[name].device)]
            hits[name] = hits[name] | hit if name in hits else hit
    return hits


def _fresh(module: nn.Module, names: Iterable[str], init: Init | None) -> dict[str, Tensor]:
    """Newly drawn values of these parameters."""
    if init is not None:
        return {name.replace("_orig_mod.", ""): leaf for name, leaf in _named_leaves(plain(init()))}
    owners = {name.replace("_orig_mod.", "").rpartition(".")[0]: None for name in names}
    parts = {
        part_name.replace("_orig_mod.", ""): part for part_name, part in module.named_modules(remove_duplicate=False)
    }
    redrawn = {owner: _redrawn(owner, parts[owner]) for owner in owners}
    return {
        f"{owner}.{name}".removeprefix("."): leaf
        for owner, part in redrawn.items()
        for name, leaf in _named_leaves(part)
    }


def _redrawn(name: str, part: nn.Module) -> nn.Module:
    if not callable(getattr(part, "reset_parameters", None)):
        raise ValueError(
            f"{name or 'the module'} ({type(part).__name__}) has no reset_parameters(), so its weights cannot be drawn "
            "afresh; pass init=, a function that builds a freshly initialised module of the same kind."
        )
    part = copy.deepcopy(part)
    part.reset_parameters()  # type: ignore[operator]
    return part


def _check_known(optimizers: Any, leaves: list[Tensor]) -> None:
    """Refuse before anything is changed."""
    for optimizer in optimizers:
        for leaf in leaves:
            for name, value in optimizer.state.get(leaf, {}).items():
                per_entry = isinstance(value, Tensor) and value.shape == leaf.shape and name != "step"
                if per_entry and name not in MOMENTS:
                    raise ValueError(
                        f"{type(optimizer).__name__} keeps {name!r} for every weight; what a fresh weight's should be "
                        f"is not known; use an optimizer whose state is among {sorted(MOMENTS)}."
                    )


def _forget_(optimizers: Any, leaf: Tensor, entries: Bool[Tensor, "..."], restart: bool) -> None:
    """Give these entries the moments of a new weight: zero, but for Adagrad's sum."""
    for optimizer in optimizers:
        state = optimizer.state.get(leaf, {})
        for name, value in state.items():
            if name in MOMENTS and isinstance(value, Tensor):
                start = optimizer.defaults.get("initial_accumulator_value", 0) if name == "sum" else 0
                value.masked_fill_(entries.to(value.device), start)
        if restart and "step" in state:
            state["step"] = state["step"] * 0


def _same_on_every_process(module: nn.Module, tensors: Iterable[Tensor]) -> None:
    """Give every process of a distributed module what the first one has."""
    while not isinstance(module, nn.parallel.DistributedDataParallel):
        if not isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            return
        module = inner
    for tensor in tensors:
        distributed.broadcast(tensor, group=module.process_group, group_src=0)


class ReDo:
    """Recycles a module's dormant neurons every `period` gradient steps of your own training loop.

    Call `step` with a batch of the module's inputs after each `optimizer.step()`. It returns how many neurons of each
    layer were recycled, or None when nothing was due. Keep `gradient_steps` in your checkpoint to go on with the same
    schedule.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> redo = ReDo(net, torch.optim.Adam(net.parameters()), tau=0.0, period=2)
    >>> _ = nn.init.constant_(net[0].bias, -100.0)
    >>> [redo.step(torch.zeros(8, 3)) for _ in range(2)]
    [None, {'0': 4}]

    Raises ValueError if `period` is not positive.
    Source: Sokar et al. 2023, algorithm 1: tau = 0.1 and a period of 1,000 gradient steps for DQN, with 64 states to
    score on.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizers,
        tau: float = 0.1,
        period: int = 1_000,
        init: Init | None = None,
        step_count: Literal["keep", "restart"] = "keep",
    ) -> None:
        if period < 1:
            raise ValueError(f"period must be at least 1 gradient step, got {period}.")
        self.module, self.optimizer, self.init, self.step_count = module, optimizer, init, step_count
        self.tau, self.period, self.gradient_steps = tau, period, 0
        self.wiring: Wiring | None = None

    def step(self, *inputs: Any) -> dict[str, int] | None:
        """Count one gradient step, and recycle if it is time."""
        self.gradient_steps += 1
        if self.gradient_steps % self.period:
            return None
        self.wiring = self.wiring or trace(self.module, *inputs)
        options = {"optimizer": self.optimizer, "init": self.init, "step_count": self.step_count}
        return recycle_(self.module, self.wiring, *inputs, tau=self.tau, **options)
