"""Recycles neurons of a module in place: draws fresh weights, writes them, and resets the optimizer's state."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as distributed
from jaxtyping import Bool
from torch import Tensor, nn

from ..settings import Renewal, layers_within, one_of
from .execution import named_leaves, plain, plain_name, storage
from .measuring import RUNS, check_arguments, entry_sums, measure
from .optimizers import Optimizers, check_held, check_known, forget_, optimizer_list
from .wiring import NeuronLayer, Wiring

Init = Callable[[], nn.Module]
Masks = Mapping[str, Bool[Tensor, " neurons"]]


@dataclass(frozen=True, eq=False)
class Learner:
    """A module, its optimizers and its wiring.

    `init` is a function that builds a fresh module, from which fresh weights are taken. If it is None, fresh weights
    come from the method `reset_parameters()` of each layer.
    """

    module: nn.Module
    optimizers: list[torch.optim.Optimizer]
    wiring: Wiring
    init: Init | None = None

    @property
    def leaves(self) -> dict[str, Tensor]:
        """All parameters and buffers, by their names in the module inside all wrappers."""
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
    """Recycles the dormant neurons of a module in place. Returns the number of recycled neurons per recyclable layer.

    Recycled neurons get fresh incoming weights and biases, and outgoing weights of zero. The optimizer's moments of
    these weights are reset to those of a new weight, which are zero except for Adagrad. With `tau=0`, the outputs of
    the module on these inputs do not change at all, unless a normalisation couples the neurons (see
    `NeuronLayer.coupled_by`). Call `recycle_` between gradient steps.

    - `init`: a function that builds a fresh module, from which fresh weights are taken. By default,
      `reset_parameters()` of a copy of each layer draws them. Pass `init` if your network does not use torch's default
      initialisation. Weights are drawn from torch's global generator, but only if there are neurons to recycle.
    - `step_count`: torch has one step count of Adam per parameter tensor. "keep" does not change it, so the first
      update of a fresh weight is larger than a usual update. "restart" sets the count to zero for every tensor with a
      recycled entry. This also affects the other entries of the tensor.
    - `layers`: the names of the layers to recycle. None recycles all layers that can be recycled safely.
    - `coupled`: "recycle" or "skip" the layers whose neurons are coupled by a normalisation.

    A neuron is recycled only if it is dormant in evaluation mode, in training mode, and for several random seeds. For
    example, a neuron before a BatchNorm may be active only in training mode, and a neuron of a noisy network only for
    some random numbers. Dropout alone does not make a neuron dormant. Frozen parameters, layers with NaN or infinite
    activations, and buffers other than the running statistics of BatchNorms never change.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> _ = nn.init.constant_(net[0].bias, -100.0)
    >>> from dormant.torch import trace
    >>> recycle_(net, trace(net, torch.zeros(1, 3)), torch.zeros(8, 3), tau=0.0)
    {'0': 4}

    Raises ValueError if fresh weights can't be drawn, if a parameter is missing from the optimizer or was frozen after
    the trace, or if the optimizer has unknown state. In all of these cases nothing has changed. Raises TypeError if an
    argument has the wrong type.
    Source: Sokar et al. 2023, algorithm 1. timoklein/redo sets the step counts to zero at every check, even if no
    neuron is dormant.
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
    """Returns masks of the neurons that are dormant in evaluation mode, in training mode, and for all seeds in `RUNS`.

    Layers that these inputs do not compute are missing from the result.
    """
    found = measure(learner.module, learner.wiring, *inputs, tau=tau).masks
    masks = {layer.name: found[layer.name] for layer in layers if layer.name in found}
    return _dormant_in_all_runs(learner.module, learner.wiring, inputs, masks, tau)


def _dormant_in_all_runs(
    module: nn.Module, wiring: Wiring, inputs: tuple[object, ...], masks: dict[str, Tensor], tau: float
) -> dict[str, Tensor]:
    """Returns the masks after removing the neurons that are active in training mode or with other random numbers."""
    for training, seed in RUNS:
        if not _any(masks):
            return masks
        scores = wiring.scores(module, *inputs, training=training, seed=seed)
        masks = {name: mask & (scores[name] <= tau) if name in scores else mask for name, mask in masks.items()}
    return masks


def _any(masks: Mapping[str, Tensor]) -> bool:
    return any(bool(mask.any()) for mask in masks.values())


def _chosen(wiring: Wiring, layers: Iterable[str] | None) -> list[NeuronLayer]:
    """Returns the recyclable layers. If `layers` is given, returns only those whose names it contains."""
    known = {layer.name for layer in wiring.layers}
    if isinstance(layers, str):
        raise TypeError(f"layers must be a list of names, got the text {layers!r}; write layers=[{layers!r}].")
    wanted = known if layers is None else set(layers)
    if missing := wanted - known:
        raise ValueError(f"the wiring has no layers {sorted(missing)}; it has {sorted(known)}.")
    return [layer for layer in wiring.layers if layer.recyclable and layer.name in wanted]


def recyclable(wiring: Wiring, names: tuple[str, ...] | None, coupled: Literal["recycle", "skip"]) -> list[NeuronLayer]:
    """Returns the layers to recycle: all layers that can be recycled, or only those in `names` if it is given.

    `names` contains names of layers or of submodules. If `coupled` is "skip", layers whose neurons are coupled are left
    out. Raises ValueError if a name does not exist, or if it is the name of a layer that can't be recycled.
    """
    layers = {layer.name: layer for layer in wiring.layers}
    wanted = [layers[name] for name in layers_within(names, list(layers), ".")]
    for name in names or ():
        if name in layers and layers[name].reasons:
            raise ValueError(f"layer {name!r} can't be recycled: {'; '.join(layers[name].reasons)}.")
    return [layer for layer in wanted if layer.recyclable and not (layer.coupled_by and coupled == "skip")]


def check_writable(learner: Learner, layers: Iterable[NeuronLayer]) -> None:
    """Raises ValueError if a parameter of these layers is frozen, or is missing from the learner's optimizers."""
    leaves = learner.leaves
    touched = {name: leaves[name] for layer in layers for name in (*layer.incoming, *layer.outgoing) if name in leaves}
    touched = {name: leaf for name, leaf in touched.items() if isinstance(leaf, nn.Parameter)}
    for name, leaf in touched.items():
        if not leaf.requires_grad:
            raise ValueError(
                f"{name} is frozen (requires_grad=False), but was not at the time of the trace: trace the module again."
            )
    check_held(learner.optimizers, touched)


@torch.no_grad()
def renew_(learner: Learner, masks: Masks, renewal: Renewal) -> dict[str, int]:
    """Replaces the weights of the masked neurons in place. Returns the number of these neurons per layer.

    All processes of a distributed module use the masks and the fresh weights of rank 0. Raises ValueError before any
    change if fresh weights can't be drawn, or if the optimizer has unknown state.
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
    """Returns the new values of a parameter. With `outgoing="zero"`, entries that read recycled neurons are zero."""
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
    """Overwrites the masked entries of parameters by those of `donor`, in place, and resets their optimizer state.

    `hit` maps the names of parameters to masks. Raises ValueError before any change if the optimizer has unknown state.
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
    """Returns fresh kernels after scaling them.

    Each incoming vector gets the mean length of the incoming vectors of the layer's neurons that are not masked.
    """
    scaled: dict[str, Tensor] = {}
    for layer in layers:
        for name, owners in layer.incoming.items():
            if name not in fresh or leaves[name].ndim < 2:  # biases and the scales of normalisations
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
    """Returns one mask per parameter, which selects the incoming or outgoing entries of the masked neurons."""
    leaves, hits = learner.leaves, dict[str, Tensor]()
    for layer in learner.wiring.layers:
        if layer.name not in masks or not masks[layer.name].any():
            continue
        for name, owner in (layer.incoming if side == "incoming" else layer.outgoing).items():
            # Entries that belong to no neuron have index -1, which selects the False at the end of the padded mask.
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
    """Returns a dictionary from the names of the parameters and buffers in `leaves` to newly drawn values.

    >>> net = nn.Linear(3, 4)
    >>> fresh_values(net, {"weight": net.weight}, None)["weight"].shape
    torch.Size([4, 3])

    Raises ValueError if a value can't be drawn. The message names the parameter.
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
    """Raises TypeError if `init` is not None and not a function."""
    if isinstance(init, nn.Module) or not (init is None or callable(init)):
        raise TypeError(
            f"init must be a function that builds a fresh module at every call, got a {type(init).__name__}; write "
            "for instance init=lambda: Network(...)."
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
    """Returns fresh values of the `wanted` parameters of a submodule. They are drawn in a copy of the submodule."""
    title = f"{name or 'the module'} ({type(part).__name__})"
    cure = "pass init=, a function that builds a freshly initialised module of the same kind."
    # Both names are tried, because nn.MultiheadAttention calls the method `_reset_parameters`.
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
