"""The wiring of a module (which parameters feed and read each neuron), and the scores of its neurons."""

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
    """A layer of neurons, with the parameter entries that feed each neuron and the entries that read it.

    `incoming` and `outgoing` map the name of a parameter (or of a BatchNorm buffer) to an integer tensor that
    broadcasts to the parameter's shape. It holds the index of the neuron to which each entry belongs, or -1. `reasons`
    lists why the layer can't be recycled, and is empty if it can. `coupled_by` names the normalisations through which
    the neurons influence one another.
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
    """A layer's activations in one operation's output.

    `neurons` holds the neuron of each element (-1 for none), with size 1 along axes on which it is constant.
    """

    layer: str
    neurons: Int[Tensor, "..."]
    values: Tensor


@dataclass(frozen=True, eq=False)
class Wiring:
    """The neuron layers of a module, in the order of computation. `outputs` names the output layers.

    `not_followed` maps each parameter that the tracer does not follow to the reason: an operation, "not used", or
    "only used in training mode". `print(wiring)` shows a table of 120 columns.
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
        """Returns the scores of each layer's neurons on the inputs, by default in evaluation mode.

        `training=True` scores in training mode instead, and returns an empty result if the module computes the same in
        both modes. An integer `seed` seeds the random numbers, and returns an empty result if the module draws none.
        With `seed="lowest"` or `"highest"`, uniform random numbers are the lowest or highest of their range, and
        dropout keeps every neuron.

        A neuron that is read several times (a shared layer, CReLU's two halves) has one score per read and gets the
        largest, so it is dormant only if it is dormant at every read. A layer with a NaN or infinite activation has
        only NaN scores; a RuntimeWarning names the layer once. A layer has no scores if the inputs take a branch
        without it. Raises ValueError if the batch is empty, or if the module's wiring on these inputs differs from the
        traced wiring.
        """
        check_batch(inputs)
        widths = {layer.name: layer.width for layer in self.layers}
        found: dict[str, list[Tensor]] = {}
        for name, neurons, values in self.measure(module, inputs, training, seed):
            if name not in widths or int(neurons.max()) >= widths[name]:  # these inputs take a branch without it
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
    """Returns each neuron's mean absolute activation, divided by the layer's mean. In a silent layer all scores are 0.

    `neurons` holds the neuron of each activation (-1 for none), with size 1 along the axes over which the mean is
    taken. A neuron that is not silent never scores 0, however small its activations are. If an activation is not
    finite, all scores are NaN.

    >>> neuron_scores(torch.tensor([[0.0, 1.0, 3.0], [0.0, -1.0, 1.0]]), torch.tensor([[0, 1, 2]]), 3).tolist()
    [0.0, 1.0, 2.0]

    Source: Sokar et al. 2023, equation 1. The reference code adds 1e-9 to the layer mean. We divide by the mean itself
    unless it is zero, so that scores do not depend on the layer's scale.
    """
    values = magnitudes(activations)
    owner = neurons.to(values.device).flatten()
    mine = owner >= 0
    samples = [axis for axis in range(values.ndim) if neurons.shape[axis] == 1]
    largest = values.amax() if values.numel() else values.new_zeros(())
    # Dividing by the largest value first avoids overflow and underflow in the mean.
    means = _mean(values / _or_one(largest), samples).flatten()
    present = _mean((values != 0).to(values.dtype), samples).flatten()
    total = means.new_zeros(width).index_add(0, owner[mine], means[mine])
    nonzero = means.new_zeros(width).index_add(0, owner[mine], present[mine]) > 0
    elements = torch.bincount(owner[mine], minlength=width)
    magnitude = total / elements.clamp(min=1)
    # The mean ignores neurons without an activation in this tensor, because a slice may have removed them.
    scores = magnitude / _or_one(magnitude[elements > 0].mean())
    scores = torch.where(nonzero, scores.clamp(min=torch.finfo(scores.dtype).tiny), scores)
    finite = _mean(values.isfinite().to(values.dtype), samples).flatten()[mine]
    return scores if bool((finite == 1).all()) else torch.full_like(scores, torch.nan)


def magnitudes(activations: Tensor) -> Float[Tensor, "..."]:
    """Returns absolute values in single precision or higher."""
    if activations.dtype is torch.complex32:
        activations = activations.to(torch.complex64)
    values = activations if activations.is_complex() or activations.is_floating_point() else activations.float()
    values = values.abs()
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _mean(values: Tensor, axes: list[int]) -> Tensor:
    return values.mean(axes, keepdim=True) if axes else values


def _or_one(value: Tensor) -> Tensor:
    return torch.where(value > 0, value, torch.ones_like(value))
