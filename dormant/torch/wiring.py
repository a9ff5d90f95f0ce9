"""Wirings: the parameters that feed and read each neuron of a module. Also computes the scores of neurons."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..reasons import printed_wiring
from .execution import Seed, check_batch


@dataclass(frozen=True, eq=False)
class NeuronLayer:
    """A layer of neurons, with the parameter entries that feed and read each neuron.

    `width` is the number of neurons. `incoming` and `outgoing` map the name of a parameter (or of a BatchNorm buffer)
    to an integer tensor that broadcasts to the parameter's shape. The tensor holds, for each entry, the index of the
    neuron that the entry feeds (`incoming`) or reads (`outgoing`), or -1 if there is none. If the layer can't be
    recycled, `reasons` explains why. `coupled_by` names the normalisations through which the neurons influence one
    another.
    """

    name: str
    width: int
    incoming: Mapping[str, Int[Tensor, "..."]]
    outgoing: Mapping[str, Int[Tensor, "..."]]
    reasons: tuple[str, ...]
    coupled_by: tuple[str, ...]

    @property
    def recyclable(self) -> bool:
        """Whether silent neurons of this layer can be replaced without changing what the network computes."""
        return not self.reasons


class Activation(NamedTuple):
    """The activations of a layer in the output of one operation.

    `neurons` holds the index of the neuron in each element of `values`, or -1 if there is none. It has length 1 along
    axes on which it is constant.
    """

    layer: str
    neurons: Int[Tensor, "..."]
    values: Tensor


@dataclass(frozen=True, eq=False)
class Wiring:
    """The neuron layers of a module, in the order of computation. `outputs` names the output layers.

    `not_followed` maps the names of parameters that the tracer does not follow to the reasons. A reason is the name of
    an operation, "not used", or "only used in training mode". `print(wiring)` shows a table that is 120 columns wide.
    """

    layers: tuple[NeuronLayer, ...]
    outputs: tuple[str, ...]
    not_followed: Mapping[str, str]
    measure: Callable[[nn.Module, tuple[Any, ...], bool, Seed], list[Activation]] = field(repr=False)
    warned: set[str] = field(default_factory=set, repr=False)

    def __getitem__(self, name: str) -> NeuronLayer:
        found = {layer.name: layer for layer in self.layers}
        if name not in found:
            raise KeyError(f"no neuron layer is called {name!r}; the layers are {sorted(found)}.")
        return found[name]

    def scores(
        self, module: nn.Module, *inputs: Any, training: bool = False, seed: Seed = None
    ) -> dict[str, Float[Tensor, " neurons"]]:
        """Returns the scores of each layer's neurons on a batch of inputs.

        The module runs in evaluation mode, or in training mode with `training=True`. If the module computes the same in
        both modes, the result for training mode is empty. An integer `seed` seeds the random numbers. With
        `seed="lowest"` or `"highest"`, all uniform random numbers are the lowest or highest number of their range, and
        dropout keeps every neuron. If the module draws no random numbers, the result for any seed is empty.

        A neuron that is read several times (a shared layer, both halves of CReLU) has several scores. The largest of
        them is returned. Thus the neuron is dormant only if it is dormant at every read. If a layer has a NaN or
        infinite activation, all of its scores are NaN, and a RuntimeWarning names the layer once. A layer is missing
        from the result if the inputs take a branch without it.

        Raises ValueError if the batch is empty, or if these inputs give the module a different wiring than the trace.
        """
        check_batch(inputs)
        widths = {layer.name: layer.width for layer in self.layers}
        found: dict[str, list[Tensor]] = {}
        for name, neurons, values in self.measure(module, inputs, training, seed):
            if name not in widths or int(neurons.max()) >= widths[name]:  # the inputs take a branch without the layer
                continue
            found.setdefault(name, []).append(neuron_scores(values, neurons, widths[name]))
        scores = {name: torch.stack(found[name]).amax(0) for name in widths if name in found}
        self._warn([name for name, score in scores.items() if bool(score.isnan().any())])
        return scores

    def _warn(self, names: Sequence[str]) -> None:
        if new := [name for name in names if name not in self.warned]:
            self.warned.update(new)
            names = ", ".join(map(repr, new))
            message = f"activations of layer {names} are not finite: its scores are NaN, and it is not recycled."
            warnings.warn(message, RuntimeWarning, stacklevel=4)

    def __str__(self) -> str:
        return printed_wiring(self.layers, self.outputs, self.not_followed)


def neuron_scores(activations: Tensor, neurons: Int[Tensor, "..."], width: int) -> Float[Tensor, " neurons"]:
    """Returns the score of each neuron: its mean absolute activation, divided by the mean over the layer.

    `neurons` holds, for each activation, the index of its neuron. It is -1 if the activation belongs to no neuron; such
    activations are ignored. It has length 1 along the axes over which the mean is taken. In a silent layer, all scores
    are 0. Otherwise, only silent neurons and neurons without an activation have score 0, however small the activations
    of other neurons are. If an activation is NaN or infinite, all scores are NaN.

    >>> neuron_scores(torch.tensor([[0.0, 1.0, 3.0], [0.0, -1.0, 1.0]]), torch.tensor([[0, 1, 2]]), 3).tolist()
    [0.0, 1.0, 2.0]

    Source: Sokar et al. 2023, equation 1. The reference code adds 1e-9 to the mean over the layer. We do not, so that
    scores do not depend on the scale of the layer.
    """
    values = magnitudes(activations)
    owner = neurons.to(values.device).flatten()
    mine = owner >= 0
    samples = [axis for axis in range(values.ndim) if neurons.shape[axis] == 1]
    largest = values.amax() if values.numel() else values.new_zeros(())
    # We first divide by the largest value, so that the mean does not overflow or underflow.
    means = _mean(values / _or_one(largest), samples).flatten()
    present = _mean((values != 0).to(values.dtype), samples).flatten()
    total = means.new_zeros(width).index_add(0, owner[mine], means[mine])
    nonzero = means.new_zeros(width).index_add(0, owner[mine], present[mine]) > 0
    elements = torch.bincount(owner[mine], minlength=width)
    magnitude = total / elements.clamp(min=1)
    # The mean over the layer ignores neurons that are not in this tensor, for example because of a slice.
    scores = magnitude / _or_one(magnitude[elements > 0].mean())
    scores = torch.where(nonzero, scores.clamp(min=torch.finfo(scores.dtype).tiny), scores)
    finite = _mean(values.isfinite().to(values.dtype), samples).flatten()[mine]
    return scores if bool((finite == 1).all()) else torch.full_like(scores, torch.nan)


def magnitudes(activations: Tensor) -> Float[Tensor, "..."]:
    """Returns the absolute values of activations, in single or double precision."""
    if activations.dtype is torch.complex32:
        activations = activations.to(torch.complex64)
    values = activations if activations.is_complex() or activations.is_floating_point() else activations.float()
    values = values.abs()
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _mean(values: Tensor, axes: list[int]) -> Tensor:
    return values.mean(axes, keepdim=True) if axes else values


def _or_one(value: Tensor) -> Tensor:
    return torch.where(value > 0, value, torch.ones_like(value))
