"""Renews neurons of a module in place: draws fresh weights, writes them, and resets the optimizer's state."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as distributed
from jaxtyping import Bool
from torch import Tensor, nn

from ..settings import Renewal, one_of
from .execution import named_leaves, plain, plain_name, storage
from .measuring import RUNS, check_arguments, entry_sums, measure
from .optimizers import Optimizers, check_held, check_known, forget_, optimizer_list
from .wiring import NeuronLayer, Wiring

Init = Callable[[], nn.Module]
Masks = Mapping[str, Bool[Tensor, " neurons"]]


@dataclass(frozen=True, eq=False)
class Learner:
    """A module, the optimizers that train it, its wiring, and the function that builds a fresh module.

    Without `init`, fresh weights come from each layer's `reset_parameters()`.
    """

    module: nn.Module
    optimizers: list[torch.optim.Optimizer]
    wiring: Wiring
    init: Init | None = None

    @property
    def leaves(self) -> dict[str, Tensor]:
        """The parameters and buffers by name, without the prefixes of wrappers."""
        return named_leaves(plain(self.module))


def recycle_(
    module: nn.Module,
    wiring: Wiring,
    *inputs: object,
    tau: float = 0.1,
    optimizer: Optimizers = (),
    init: Init | None = None,
    step_count: Literal["keep", "restart"] = "keep",
    layers: Iterable[str] | None = None,
    coupled: Literal["recycle", "skip"] = "recycle",
) -> dict[str, int]:
    """Recycles the module's dormant neurons in place; returns the number of recycled neurons per recyclable layer.

    Incoming weights and biases are drawn afresh, and outgoing weights become zero. The optimizer's moments of these
    entries are reset to the moments of a new weight: zero, or Adagrad's initial accumulator. With tau = 0, recycling
    does not change a bit of the module's outputs on these inputs, unless a normalisation couples the neurons (see
    `NeuronLayer.coupled_by`). Call `recycle_` between gradient steps.

    Fresh weights come from `reset_parameters()`, called on a copy of each layer, or from `init()`, which builds a fresh
    module: pass `init` if your network does not start from torch's defaults. The weights are drawn from torch's global
    generator, but only if there are neurons to recycle.
    torch counts Adam's steps per tensor, not per entry. `step_count="keep"` does not change the count, so the first
    update of a fresh weight is larger than Adam's usual update. `"restart"` zeroes the count of every tensor with a
    recycled entry, which also affects the entries that are not recycled.
    A neuron that is dormant in evaluation mode is not recycled if it fires in training mode (before a BatchNorm) or
    with other random numbers (in a noisy network). Dropout alone does not make a neuron dormant, because evaluation
    mode turns dropout off. If forward uses dropout even in evaluation mode, one of the scoring runs keeps every neuron.
    `coupled="skip"` skips layers whose neurons are coupled by a normalisation.
    `layers` limits recycling to the layers with these names. Frozen parameters, layers with non-finite activations and
    buffers (except a BatchNorm's running statistics) are never changed.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> _ = nn.init.constant_(net[0].bias, -100.0)
    >>> from dormant.torch import trace
    >>> recycle_(net, trace(net, torch.zeros(1, 3)), torch.zeros(8, 3), tau=0.0)
    {'0': 4}

    Raises ValueError, before anything changes, if fresh weights can't be drawn, if the optimizer does not hold a
    parameter or has unknown state, or if a parameter was frozen after the trace. Raises TypeError if an argument has
    the wrong type.
    Source: Sokar et al. 2023, algorithm 1. timoklein/redo zeroes the step counts at every check, even without dormant
    neurons.
    """
    renewal = Renewal(step_count=step_count)
    one_of("coupled", coupled, ("recycle", "skip"))
    check_arguments(module, wiring)
    check_init(init)
    learner = Learner(module, optimizer_list(optimizer), wiring, init)
    chosen = [layer for layer in _chosen(wiring, layers) if coupled == "recycle" or not layer.coupled_by]
    check_writable(learner, chosen)
    return renew_(learner, dormant_masks(learner, chosen, inputs, tau), renewal)


def dormant_masks(learner: Learner, layers: Iterable[NeuronLayer], inputs: tuple[object, ...], tau: float) -> Masks:
    """Returns masks of the neurons of these layers that are dormant in both modes and with any random numbers.

    The result lacks layers that these inputs do not compute.
    """
    found = measure(learner.module, learner.wiring, *inputs, tau=tau).masks
    masks = {layer.name: found[layer.name] for layer in layers if layer.name in found}
    return _dormant_elsewhere(learner.module, learner.wiring, inputs, masks, tau)


def _dormant_elsewhere(
    module: nn.Module, wiring: Wiring, inputs: tuple[object, ...], masks: dict[str, Tensor], tau: float
) -> dict[str, Tensor]:
    """Returns the masks without neurons that fire in training mode or with other random numbers."""
    for training, seed in RUNS:
        if not _any(masks):
            return masks
        scores = wiring.scores(module, *inputs, training=training, seed=seed)
        masks = {name: mask & (scores[name] <= tau) if name in scores else mask for name, mask in masks.items()}
    return masks


def _any(masks: Mapping[str, Tensor]) -> bool:
    return any(bool(mask.any()) for mask in masks.values())


def _chosen(wiring: Wiring, layers: Iterable[str] | None) -> list[NeuronLayer]:
    """Returns the layers to recycle: all recyclable layers, or the recyclable ones among `layers`."""
    known = {layer.name for layer in wiring.layers}
    if isinstance(layers, str):
        raise TypeError(f"layers must be a list of names, got the text {layers!r}: layers=[{layers!r}].")
    wanted = known if layers is None else set(layers)
    if missing := wanted - known:
        raise ValueError(f"the wiring has no layers {sorted(missing)}; it has {sorted(known)}.")
    return [layer for layer in wiring.layers if layer.recyclable and layer.name in wanted]


def recyclable(wiring: Wiring, names: tuple[str, ...] | None, coupled: Literal["recycle", "skip"]) -> list[NeuronLayer]:
    """Returns the layers that can be recycled, or those among them that `names` lists by layer or by submodule.

    Raises ValueError if a name does not exist or names a layer that can't be recycled.
    """
    layers = {layer.name: layer for layer in wiring.layers}
    for name in names or ():
        if name in layers and layers[name].reasons:
            raise ValueError(f"layer {name!r} can't be recycled: {'; '.join(layers[name].reasons)}.")
        if not any(layer == name or layer.startswith(f"{name}.") for layer in layers):
            raise ValueError(f"no layer is called {name!r}, or begins with {name + '.'!r}; the layers are {[*layers]}.")
    wanted = [
        layer
        for layer in wiring.layers
        if names is None or any(layer.name == name or layer.name.startswith(f"{name}.") for name in names)
    ]
    return [layer for layer in wanted if layer.recyclable and not (layer.coupled_by and coupled == "skip")]


def check_writable(learner: Learner, layers: Iterable[NeuronLayer]) -> None:
    """Checks that every parameter of these layers still requires gradients, and that the given optimizers hold it."""
    leaves = learner.leaves
    touched = {name: leaves[name] for layer in layers for name in (*layer.incoming, *layer.outgoing) if name in leaves}
    touched = {name: leaf for name, leaf in touched.items() if isinstance(leaf, nn.Parameter)}
    for name, leaf in touched.items():
        if not leaf.requires_grad:
            raise ValueError(f"{name} is frozen (requires_grad=False) and was not when it was traced: trace again.")
    check_held(learner.optimizers, touched)


@torch.no_grad()
def renew_(learner: Learner, masks: Masks, renewal: Renewal) -> dict[str, int]:
    """Renews the masked neurons in place, and returns their number per layer.

    All processes of a distributed module use the masks and fresh weights of rank 0. Raises ValueError, before anything
    changes, if fresh weights can't be drawn or the optimizer has unknown state.
    """
    same_on_every_process(learner.module, masks.values())
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    if not any(counts.values()):
        return counts
    leaves = learner.leaves
    incoming, outgoing = entries_of(learner, masks, "incoming"), entries_of(learner, masks, "outgoing")
    drawn = {**incoming, **(outgoing if renewal.outgoing == "fresh" else {})}
    fresh = fresh_values(plain(learner.module), {name: leaves[name] for name in drawn}, learner.init)
    if renewal.incoming == "scaled":
        fresh |= _scaled(fresh, leaves, [learner.wiring[name] for name, count in counts.items() if count], masks)
    hit = {name: [side[name] for side in (incoming, outgoing) if name in side] for name in {**incoming, **outgoing}}
    write_(
        learner,
        {name: torch.stack(torch.broadcast_tensors(*each)).any(0) for name, each in hit.items()},
        {name: _donor(name, leaves[name], fresh, outgoing, renewal) for name in hit},
        renewal.moments,
        renewal.step_count,
    )
    return counts


def _donor(
    name: str, leaf: Tensor, fresh: Mapping[str, Tensor], outgoing: Mapping[str, Tensor], renewal: Renewal
) -> Tensor:
    """Returns the fresh weights of a parameter, with zeros where it reads a recycled neuron."""
    donor = fresh[name].to(leaf) if name in fresh else torch.zeros_like(leaf)
    cut = renewal.outgoing == "zero" and name in outgoing
    return donor.masked_fill(outgoing[name], 0) if cut else donor


@torch.no_grad()
def write_(
    learner: Learner,
    hit: Mapping[str, Bool[Tensor, "..."]],
    donor: Mapping[str, Tensor],
    moments: Literal["fresh", "keep"],
    step_count: Literal["keep", "restart"],
) -> None:
    """Overwrites the masked entries of these parameters in place by the donor's entries. Resets their optimizer state.

    Raises ValueError, before anything changes, if the optimizer has unknown state.
    """
    leaves = learner.leaves
    if (moments, step_count) != ("keep", "keep"):
        check_known(learner.optimizers, {name: leaves[name] for name in hit})
    for name, entries in hit.items():
        leaf = leaves[name]
        leaf.copy_(torch.where(entries, donor[name].to(leaf), leaf))
        same_on_every_process(learner.module, [leaf])
        forgotten = entries if moments == "fresh" else torch.zeros_like(entries)
        forget_(learner.optimizers, leaf, forgotten, step_count == "restart")


def _scaled(
    fresh: Mapping[str, Tensor], leaves: Mapping[str, Tensor], layers: Iterable[NeuronLayer], masks: Masks
) -> dict[str, Tensor]:
    """Returns fresh kernels with incoming vectors scaled to the mean vector length of the layer's kept neurons."""
    scaled: dict[str, Tensor] = {}
    for layer in layers:
        for name, owners in layer.incoming.items():
            if name not in fresh or leaves[name].ndim < 2:  # skips biases and the scales of normalisations
                continue
            new = scaled.get(name, fresh[name].to(leaves[name]))
            before, after = (entry_sums(each.square(), owners, layer.width).sqrt() for each in (leaves[name], new))
            kept = ~masks[layer.name].to(before.device)
            wanted = (before * kept).sum() / kept.sum().clamp(min=1)
            unscaled = ~kept.any() | (after == 0)
            factor = torch.where(unscaled, 1.0, wanted / torch.where(after == 0, 1.0, after))
            owners = owners.to(new.device)
            scaled[name] = new * torch.where(owners >= 0, factor[owners.clamp(min=0)], 1.0)
    return scaled


def entries_of(learner: Learner, masks: Masks, side: Literal["incoming", "outgoing"]) -> dict[str, Tensor]:
    """Returns, per parameter, a mask of the entries that belong to masked neurons on this side."""
    leaves, hits = learner.leaves, dict[str, Tensor]()
    for layer in learner.wiring.layers:
        if layer.name not in masks or not masks[layer.name].any():
            continue
        for name, owner in (layer.incoming if side == "incoming" else layer.outgoing).items():
            # Pads the mask with False at the end, which index -1 selects for entries that belong to no neuron.
            dormant = nn.functional.pad(masks[layer.name].to(leaves[name].device), (0, 1))
            hit = dormant[owner.to(leaves[name].device)]
            if bool(hit.any()):
                hits[name] = hits[name] | hit if name in hits else hit
    return hits


def same_on_every_process(module: nn.Module, tensors: Iterable[Tensor]) -> None:
    """Broadcasts the tensors from rank 0 to all processes of a distributed module."""
    while not isinstance(module, nn.parallel.DistributedDataParallel):
        if not isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            return
        module = inner
    for tensor in tensors:
        distributed.broadcast(tensor, group=module.process_group, group_src=0)


def fresh_values(module: nn.Module, leaves: Mapping[str, Tensor], init: Init | None) -> dict[str, Tensor]:
    """Returns newly drawn values for the parameters and buffers in `leaves`, by name.

    >>> net = nn.Linear(3, 4)
    >>> fresh_values(net, {"weight": net.weight}, None)["weight"].shape
    torch.Size([4, 3])

    Raises ValueError if a value can't be drawn; the message names the parameter.
    """
    if init is not None:
        return _from_init(leaves, init)
    parts = {plain_name(name): part for name, part in module.named_modules(remove_duplicate=False)}
    fresh: dict[str, Tensor] = {}
    for owner in dict.fromkeys(name.rpartition(".")[0] for name in leaves):
        wanted = [name for name in leaves if name.rpartition(".")[0] == owner]
        redrawn = _redrawn(owner, parts[owner], [name.rpartition(".")[2] for name in wanted])
        fresh |= {name: redrawn[name.rpartition(".")[2]] for name in wanted}
    return fresh


def check_init(init: object) -> None:
    """Raises TypeError unless `init` is None or a function that can build a module."""
    if isinstance(init, nn.Module) or not (init is None or callable(init)):
        raise TypeError(
            f"init must be a function that builds a fresh module at every call, got a {type(init).__name__}: "
            "init=lambda: Network(...)."
        )


def _from_init(leaves: Mapping[str, Tensor], init: Init) -> dict[str, Tensor]:
    built = init()
    if not isinstance(built, nn.Module):
        raise TypeError(f"init() must build a torch.nn.Module, got a {type(built).__name__}.")
    fresh = named_leaves(plain(built))
    for name, leaf in leaves.items():
        if name not in fresh or fresh[name].shape != leaf.shape:
            found = f"has the shape {tuple(fresh[name].shape)}" if name in fresh else "is missing"
            raise ValueError(
                f"init() built a {type(built).__name__} in which {name} {found}; expected {tuple(leaf.shape)}, as in "
                "the module. init must build the same kind of module."
            )
        if storage(fresh[name]) == storage(leaf):
            raise ValueError(f"init() returned the module's own {name}; it must build a fresh module at every call.")
    return {name: fresh[name].detach() for name in leaves}


def _redrawn(name: str, part: nn.Module, wanted: list[str]) -> dict[str, Tensor]:
    """Returns fresh values of the `wanted` parameters of a submodule, drawn in a copy of the submodule."""
    title = f"{name or 'the module'} ({type(part).__name__})"
    cure = "pass init=, a function that builds a freshly initialised module of the same kind."
    # nn.MultiheadAttention has `_reset_parameters` with an underscore, so both names are tried.
    reset = next((way for way in ("reset_parameters", "_reset_parameters") if callable(getattr(part, way, None))), None)
    if reset is None:
        raise ValueError(f"{title} has no reset_parameters(), so its weights cannot be drawn afresh; {cure}")
    try:
        part = copy.deepcopy(part)
    except RuntimeError as error:
        raise ValueError(f"{title} can't be copied ({error}), so its weights cannot be drawn afresh; {cure}") from error
    leaves = {leaf: tensor for leaf, tensor in named_leaves(part).items() if leaf in wanted}
    with torch.no_grad():
        for leaf in leaves.values():
            if leaf.is_floating_point() or leaf.is_complex():
                leaf.fill_(math.nan)
        getattr(part, reset)()
    leaves = {leaf: tensor.detach() for leaf, tensor in named_leaves(part).items() if leaf in wanted}
    for leaf, tensor in leaves.items():
        if bool(tensor.isnan().any()):
            raise ValueError(f"{reset}() of {title} does not draw {leaf} afresh; {cure}")
    return leaves
