"""The released code of ReDo (dopamine/labs/redo) as an intervention on PyTorch modules."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from ..settings import checked_tau
from .optimizers import check_held, check_known
from .recycling import (
    Learner,
    check_writable,
    dormant_masks,
    entries_of,
    fresh_values,
    plain,
    recyclable,
    same_on_every_process,
    write_,
)
from .renewing import counted
from .schedule import Counts, Inputs, State
from .wiring import NeuronLayer, Wiring

Owners = dict[str, Int[Tensor, "..."]]


@dataclass(frozen=True)
class ReDoAsPublished:
    """Recycles neurons like the released code of ReDo (dopamine/labs/redo). `redo_as_published` explains the fields."""

    tau: float
    misaligned_flatten: bool
    next_recorded_layer: bool
    xavier: bool
    keep_bias_moments: bool
    unrecorded: tuple[str, ...]

    def __post_init__(self) -> None:
        checked_tau(self.tau)

    def init(self, module: nn.Module) -> State:
        del module
        return {"recycled": {}}

    def check(self, learner: Learner) -> None:
        check_writable(learner, self.layers(learner.wiring))
        leaves = learner.leaves
        read = {name: leaves[name] for owners in self.outgoing(learner).values() for name in owners if name in leaves}
        check_held(learner.optimizers, {name: leaf for name, leaf in read.items() if isinstance(leaf, nn.Parameter)})

    def layers(self, wiring: Wiring) -> list[NeuronLayer]:
        """Returns the recorded layers that can be recycled."""
        return [layer for layer in recyclable(wiring, None, "recycle") if layer in self.recorded(wiring)]

    def recorded(self, wiring: Wiring) -> list[NeuronLayer]:
        """Returns the layers whose activations the reference code records."""
        return [
            layer for layer in wiring.layers if not {layer.name, layer.name.rpartition(".")[2]} & {*self.unrecorded}
        ]

    def outgoing(self, learner: Learner) -> dict[str, Owners]:
        """Returns, for each layer to recycle, the outgoing weights according to the reference code.

        The result has one dictionary per layer, in the format of `NeuronLayer.outgoing`.
        """
        recorded = self.recorded(learner.wiring)
        successors = dict(zip((layer.name for layer in recorded), [*recorded[1:], None], strict=True))
        return {
            layer.name: dict(layer.outgoing)
            if (after := successors[layer.name]) is None
            else self._into(layer, after, learner)
            for layer in self.layers(learner.wiring)
        }

    def _into(self, layer: NeuronLayer, successor: NeuronLayer, learner: Learner) -> Owners:
        leaves = learner.leaves
        kernel = next(name for name in successor.incoming if leaves[name].ndim > 1)
        columns = leaves[kernel].shape[1]
        only_next = self.next_recorded_layer
        known = {name: owners for name, owners in layer.outgoing.items() if name == kernel or not only_next}
        wrong = self.misaligned_flatten if kernel in layer.outgoing else only_next
        if wrong and columns % layer.width == 0 and (self.misaligned_flatten or columns == layer.width):
            owners = misaligned(columns, layer.width, layer.outgoing.get(kernel))
            known[kernel] = owners.reshape(1, columns, *(1,) * (leaves[kernel].ndim - 2))
        return known or dict(layer.outgoing)

    @torch.no_grad()
    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> Counts:
        del steps
        layers = self.layers(learner.wiring)
        check_writable(learner, layers)
        masks = dormant_masks(learner, layers, inputs(), self.tau)
        same_on_every_process(learner.module, masks.values())
        counts = {name: int(mask.sum()) for name, mask in masks.items()}
        if any(counts.values()):
            self._renew_(learner, masks)
        return counted(state, counts)

    def _renew_(self, learner: Learner, masks: Mapping[str, Bool[Tensor, " neurons"]]) -> None:
        leaves = {name: leaf for name, leaf in learner.leaves.items() if isinstance(leaf, nn.Parameter)}
        fed = {name: hit for name, hit in entries_of(learner, masks, "incoming").items() if name in leaves}
        read = _hit(leaves, self.outgoing(learner), masks)
        hit = {name: [side[name] for side in (fed, read) if name in side] for name in {**fed, **read}}
        hit = {name: torch.stack(torch.broadcast_tensors(*sides)).any(0) for name, sides in hit.items()}
        check_known(learner.optimizers, {name: leaves[name] for name in hit})
        drawn = {name: leaves[name] for name in fed}
        fresh = _xavier(drawn) if self.xavier else fresh_values(plain(learner.module), drawn, learner.init)
        donor = {name: fresh[name] if name in fresh else torch.zeros_like(leaves[name]) for name in hit}
        donor = {name: new.masked_fill(read[name], 0) if name in read else new for name, new in donor.items()}
        for name, entries in hit.items():
            kept = self.keep_bias_moments and leaves[name].ndim == 1
            write_(learner, {name: entries}, donor, "keep" if kept else "fresh", "keep")


def misaligned(columns: int, width: int, owners: Int[Tensor, "..."] | None) -> Int[Tensor, " columns"]:
    """Returns the index of the neuron to which the reference code assigns each column of a kernel after a flatten.

    The reference code flattens a map with channels last, so neighbouring columns belong to different channels. But it
    repeats the dormant flag of each channel over neighbouring columns. This function finds the position that each
    column would have with channels last, so that the same weights are set to zero as in the reference code. `owners`
    holds the channel of each column. If it is None, the map is flattened with channels first, as in torch.

    >>> misaligned(6, 3, None).tolist()
    [0, 1, 0, 2, 1, 2]
    """
    places = columns // width
    right = torch.arange(columns) // places if owners is None else owners.flatten().cpu()
    # The position of each column within its channel.
    order = torch.stack([(right[:column] == right[column]).sum() for column in range(columns)])
    return (order * width + right) // places


def _hit(
    leaves: Mapping[str, Tensor], owners: Mapping[str, Owners], masks: Mapping[str, Bool[Tensor, " neurons"]]
) -> dict[str, Tensor]:
    """Returns one mask per parameter, which selects the entries that belong to a masked neuron.

    `owners` holds, for each layer and parameter, the neuron to which each entry belongs.
    """
    hits: dict[str, Tensor] = {}
    for layer, mask in masks.items():
        for name, owner in owners[layer].items():
            dormant = nn.functional.pad(mask.to(leaves[name].device), (0, 1))  # the last element, at index -1, is False
            hit = dormant[owner.to(leaves[name].device)]
            if bool(hit.any()):
                hits[name] = hits[name] | hit if name in hits else hit
    return hits


def _xavier(leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns Xavier-uniform kernels and zero biases with the shapes of `leaves`."""
    return {
        name: nn.init.xavier_uniform_(torch.empty_like(leaf)) if leaf.ndim > 1 else torch.zeros_like(leaf)
        for name, leaf in leaves.items()
    }


def redo_as_published(
    tau: float = 0.1,
    *,
    misaligned_flatten: bool = True,
    next_recorded_layer: bool = True,
    xavier: bool = True,
    keep_bias_moments: bool = True,
    unrecorded: tuple[str, ...] = ("Conv_4",),
) -> ReDoAsPublished:
    """Returns ReDo with four quirks of the released code. Each argument switches one quirk on or off.

    - `misaligned_flatten`: between a convolution and a dense layer, the wrong weights are set to zero. The code repeats
      each channel's dormant flag over neighbouring rows of the dense kernel. But neighbouring rows belong to different
      channels, because the map is flattened with channels last. We set the same weights to zero, even if the module
      flattens with channels first.
    - `next_recorded_layer`: the code records the activations of layers. It takes the incoming weights of the next
      recorded layer as a layer's outgoing weights. Layers in `unrecorded` are not recorded, such as the last
      convolution of an IMPALA stack. `unrecorded` contains full names of layers, or their last parts. The default is
      the name in the released code.
    - `xavier`: fresh weights are Xavier uniform and fresh biases are zero, whatever the initialiser of the layer is.
    - `keep_bias_moments`: Adam's moments of biases are not reset.

    >>> redo_as_published(0.1).misaligned_flatten
    True

    Raises ValueError for a negative tau.
    Source: google/dopamine, dopamine/labs/redo/weight_recyclers.py and networks.py at revision 5873f54.
    """
    return ReDoAsPublished(tau, misaligned_flatten, next_recorded_layer, xavier, keep_bias_moments, unrecorded)
