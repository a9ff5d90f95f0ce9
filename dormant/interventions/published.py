"""ReDo as the reference code released it, quirks included, so that the effect of each can be measured."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..scores import checked_tau
from ..surgery import Learner, Recycled, count, fresh, graft, recyclable
from ..wiring import Entries, Network, NeuronLayer, Wiring, by_path, entry_mask


@dataclass(frozen=True)
class ReDoAsPublished:
    """Recycles as dopamine/labs/redo does; see `redo_as_published`."""

    tau: float
    misaligned_flatten: bool
    next_recorded_layer: bool
    xavier: bool
    keep_bias_moments: bool
    unrecorded: tuple[str, ...]

    def __post_init__(self) -> None:
        checked_tau(self.tau)

    def init(self, learner: Learner, network: Network) -> Recycled:
        safe = recyclable(network, learner.params, None, "recycle")
        layers = [layer for layer in self.recorded(network.wiring) if layer in safe]
        return Recycled({layer.name: jnp.zeros((), jnp.int32) for layer in layers})

    def recorded(self, wiring: Wiring) -> list[NeuronLayer]:
        """The layers whose activations the reference records."""
        return [layer for layer in wiring.layers if layer.name.rpartition("/")[2] not in self.unrecorded]

    def outgoing(self, wiring: Wiring, shapes: dict[str, tuple[int, ...]]) -> dict[str, Entries]:
        """The entries that the reference zeroes for each recycled layer."""
        recorded = self.recorded(wiring)
        entries = {}
        for layer, successor in zip(recorded, [*recorded[1:], None], strict=True):
            entries[layer.name] = layer.outgoing if successor is None else self._into(layer, successor, shapes)
        return {layer.name: entries[layer.name] for layer in recorded if layer.recyclable}

    def _into(self, layer: NeuronLayer, successor: NeuronLayer, shapes: dict[str, tuple[int, ...]]) -> Entries:
        kernel = next(path for path in successor.incoming if len(shapes[path]) > 1)
        rows = shapes[kernel][-2]
        only_next = self.next_recorded_layer
        known = {path: ids for path, ids in layer.outgoing.items() if path == kernel or not only_next}
        wrong = self.misaligned_flatten if kernel in layer.outgoing else only_next
        if wrong and rows % layer.width == 0 and (self.misaligned_flatten or rows == layer.width):
            flags = np.repeat(np.arange(layer.width), rows // layer.width)
            known |= {kernel: flags.reshape((1,) * (len(shapes[kernel]) - 2) + (rows, 1))}
        return known or layer.outgoing

    def update(
        self, key: Array, learner: Learner, state: Recycled, network: Network, *inputs: PyTree
    ) -> tuple[Learner, Recycled]:
        wiring = network.wiring
        dormant = wiring.dormant(learner.params, *inputs, tau=self.tau)
        masks = {name: dormant[name] for name in state.counts}
        shapes = {path: leaf.shape for path, leaf in by_path(learner.params).items()}
        fed = entry_mask(learner.params, {name: wiring[name].incoming for name in masks}, masks)
        outgoing = self.outgoing(wiring, shapes)
        read = entry_mask(learner.params, {name: outgoing[name] for name in masks}, masks)
        donor = _xavier(key, learner.params) if self.xavier else fresh(network, key, learner)
        donor = jax.tree.map(lambda hit, new: jnp.where(hit, jnp.zeros_like(new), new), read, donor)
        hit = jax.tree.map(jnp.logical_or, fed, read)
        forget = jax.tree.map(lambda one, leaf: one & (leaf.ndim > 1), hit, learner.params)
        forget = forget if self.keep_bias_moments else hit
        return graft(learner, hit, donor, network.tx, forget=forget), count(state, masks)


def _xavier(key: Array, params: PyTree[Array]) -> PyTree[Array]:
    """Xavier-uniform kernels and zero biases, whatever the network's own initialisers are."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    draw = jax.nn.initializers.xavier_uniform()
    fresh_leaves = [
        draw(one, leaf.shape, leaf.dtype) if leaf.ndim > 1 else jnp.zeros_like(leaf)
        for one, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, fresh_leaves)


def redo_as_published(
    tau: float = 0.1,
    *,
    misaligned_flatten: bool = True,
    next_recorded_layer: bool = True,
    xavier: bool = True,
    keep_bias_moments: bool = True,
    unrecorded: tuple[str, ...] = ("Conv_4",),
) -> ReDoAsPublished:
    """ReDo with four quirks of the released code, each of which can be switched off.

    - `misaligned_flatten`: each channel's flag is repeated over neighbouring rows of the dense kernel, though a
      flattened channels-last map has the channel vary fastest, so mostly other channels' rows are zeroed.
    - `next_recorded_layer`: a layer is silenced in whatever layer was recorded next; `unrecorded` names those that
      never are (the last convolution of an IMPALA stack), so a residual block's last hidden layer cuts into the stream.
    - `xavier`: fresh weights are Xavier uniform, biases zero, whatever the layer's own initialiser.
    - `keep_bias_moments`: Adam's moments of biases stay.

    >>> redo_as_published(0.1).misaligned_flatten
    True

    Source: google/dopamine, dopamine/labs/redo/weight_recyclers.py and networks.py at revision 5873f54.
    """
    return ReDoAsPublished(tau, misaligned_flatten, next_recorded_layer, xavier, keep_bias_moments, unrecorded)
