"""Which parameters feed a neuron, which read it, and where its activation can be measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .execution import Recorder, plain, run


@dataclass(frozen=True, eq=False)
class NeuronLayer:
    """One layer of neurons.

    `incoming` and `outgoing` map the name of a parameter (or of a BatchNorm buffer) to an integer tensor that
    broadcasts to its shape and says which neuron each entry belongs to; -1 is none. `reasons` says why the layer is
    measured but not recycled, and is empty where it is recycled. `coupled_by` names normalisations across its neurons.
    """

    name: str
    width: int
    incoming: Mapping[str, Int[Tensor, "..."]]
    outgoing: Mapping[str, Int[Tensor, "..."]]
    reasons: tuple[str, ...]
    coupled_by: tuple[str, ...]
    points: Mapping[int, Int[Tensor, "..."]]  # operation number -> the neuron of each element of its output

    @property
    def recyclable(self) -> bool:
        """Whether re-drawing a silent neuron of the layer is known to be safe."""
        return not self.reasons


@dataclass(frozen=True, eq=False)
class Wiring:
    """The neuron layers of a module, without its output layer. `print(wiring)` is a table of them."""

    layers: tuple[NeuronLayer, ...]
    operations: tuple[str, ...]
    not_followed: Mapping[str, str]  # parameter -> the operation on it that the tracer does not know, or "not used"

    def scores(self, module: nn.Module, *inputs: Any) -> dict[str, Float[Tensor, " neurons"]]:
        """Each layer's neuron scores on the inputs.

        A layer used at several places (a shared layer, CReLU's two halves) gets the largest of each neuron's scores
        there, so that it is dormant only if it is dormant in all of them.
        Raises ValueError if the module ran other operations than when it was traced.
        """
        recorder = Recorder([point for layer in self.layers for point in layer.points])
        run(plain(module), inputs, recorder)
        self._check_same(recorder.names)
        return {layer.name: _layer_scores(layer, recorder.recorded) for layer in self.layers}

    def _check_same(self, names: list[str]) -> None:
        if tuple(names) != self.operations:
            was, now = ((*self.operations, "nothing"), (*names, "nothing"))
            step = next(i for i, (a, b) in enumerate(zip(was, now, strict=False)) if a != b)
            raise ValueError(
                f"the module ran other operations than when it was traced (operation {step} was "
                f"{was[step]} and is now {now[step]}): trace it again with inputs like these."
            )

    def __str__(self) -> str:
        rows = [("layer", "neurons", "incoming", "outgoing", "recycled")]
        rows += [_row(layer) for layer in self.layers]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join(lines + [f"not followed: {name} ({why})" for name, why in self.not_followed.items()])


def _row(layer: NeuronLayer) -> tuple[str, ...]:
    return layer.name, str(layer.width), _names(layer.incoming), _names(layer.outgoing), _verdict(layer)


def _names(entries: Mapping[str, Tensor]) -> str:
    return " ".join(entries) or "-"


def _verdict(layer: NeuronLayer) -> str:
    coupled = f" (coupled by {', '.join(layer.coupled_by)})" if layer.coupled_by else ""
    return "yes" + coupled if layer.recyclable else "no: " + "; ".join(layer.reasons)


def _layer_scores(layer: NeuronLayer, recorded: Mapping[int, Tensor]) -> Float[Tensor, " neurons"]:
    scores = [neuron_scores(recorded[point], neurons, layer.width) for point, neurons in layer.points.items()]
    return torch.stack(scores).amax(0)


def neuron_scores(activations: Tensor, neurons: Int[Tensor, "..."], width: int) -> Float[Tensor, " neurons"]:
    """Mean absolute activation of each neuron, divided by the mean of that over its layer; all 0 in a silent layer.

    `neurons` says which neuron each activation belongs to, and has size 1 along axes that do not matter (-1 is none).

    >>> neuron_scores(torch.tensor([[0.0, 1.0, 3.0], [0.0, -1.0, 1.0]]), torch.tensor([[0, 1, 2]]), 3).tolist()
    [0.0, 1.0, 2.0]

    Source: Sokar et al. 2023, equation 1. The reference code adds 1e-9 to the layer mean; dividing only where
    it is not zero keeps the scores independent of the layer's scale.
    """
    values = activations.to(torch.promote_types(activations.dtype, torch.float32)).abs()
    # Dividing by the largest first keeps the mean of very small or very large activations finite and normal.
    values = values / _or_one(values.amax())
    samples = [axis for axis in range(values.ndim) if neurons.shape[axis] == 1]
    means = values.mean(samples, keepdim=True) if samples else values
    if means.shape != neurons.shape:
        raise ValueError(f"activations of shape {tuple(activations.shape)} do not fit the traced neurons: trace again.")
    owner = neurons.to(values.device).flatten()
    mine = owner >= 0
    total = means.new_zeros(width).index_add(0, owner[mine], means.flatten()[mine])
    elements = torch.bincount(owner[mine], minlength=width)
    magnitude = total / elements.clamp(min=1)
    # Neurons that are not here (they were sliced away) do not count in the mean.
    return magnitude / _or_one(magnitude[elements > 0].mean())


def _or_one(value: Tensor) -> Tensor:
    return torch.where(value > 0, value, torch.ones_like(value))
