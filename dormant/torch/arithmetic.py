"""Elementwise operations: activations, biases and scales, sums and products of neurons, normalisations."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .calls import Call, unknown
from .labels import (
    OTHER,
    ZERO,
    Entries,
    Label,
    Neurons,
    Stage,
    Stages,
    after_affine,
    after_nonlinearity,
    collapse,
    compact,
    join,
)
from .readers import add_parameter, per_channel

if TYPE_CHECKING:
    from .tracing import Tracer


def nonlinearity(tracer: "Tracer", call: Call) -> Any:
    """An elementwise function of one value: what it gives is the activation."""
    value, *others = tracer.tensors(call.args, call.kwargs)
    label = tracer.label(value)
    if not isinstance(label, Neurons) or any(map(tracer.label, others)) or label.labels.shape != call.shape:
        return unknown(tracer, call)
    return Neurons(no_zeros(label.labels), after_nonlinearity(label.stages, tracer.step))


def no_zeros(ids: Tensor) -> Tensor:
    return torch.where(ids == ZERO, OTHER, ids)


def plus(tracer: "Tracer", call: Call) -> Any:
    """Neurons plus a bias, a constant, or the values of other neurons."""
    return add(tracer, call, tracer.label(call.args[0]), tracer.label(call.args[1]))


def add(tracer: "Tracer", call: Call, left: Label, right: Label) -> Any:
    """The label of a sum."""
    if isinstance(left, Neurons) and isinstance(right, Neurons):
        return _sum_of_neurons(tracer, call, left, right)
    neurons, other = (left, right) if isinstance(left, Neurons) else (right, left)
    if not isinstance(neurons, Neurons):
        return unknown(tracer, call)
    ids = no_zeros(neurons.labels).expand(call.shape)
    if isinstance(other, Entries):
        add_parameter(tracer, other, ids)
    return Neurons(ids, after_affine(neurons.stages, tracer.step, f"aten.{call.name} after the activation"))


def _sum_of_neurons(tracer: "Tracer", call: Call, left: Neurons, right: Neurons) -> Any:
    a, b = (no_zeros(label.labels).expand(call.shape) for label in (left, right))
    if bool((a < 0).all()) or bool((b < 0).all()):
        offset = f"aten.{call.name} after the activation"
        return Neurons(torch.maximum(a, b), after_affine(join([left, right]), tracer.step, offset))
    if torch.equal(a, b):
        return Neurons(a, after_nonlinearity(join([left, right]), tracer.step))
    return _stream(tracer, a, b, join([left, right]))


def _stream(tracer: "Tracer", a: Tensor, b: Tensor, stages: Stages) -> Neurons:
    """A residual stream: neurons of its own, made by several producers, and none of them to be recycled."""
    producers = [tracer.layers[index].name for index in sorted({*tracer.layers_of(a), *tracer.layers_of(b)})]
    span = int(max(a.max(), b.max())) + 2
    pairs = compact((a + 1) * span + (b + 1))
    ids = torch.where(pairs > 0, tracer.new_layer(_stream_name(producers), pairs), OTHER).expand(a.shape)
    reason = f"summed: {' + '.join(producers)}"
    tracer.refuse(ids, reason)
    (layer,) = tracer.layers_of(ids)
    # A part that was not activated before the sum is measured in the sum.
    parts = {
        index: Stage(stage.points if stage.active or stage.broken else frozenset(), broken=stage.broken or reason)
        for index, stage in stages.items()
    }
    return Neurons(ids, {**parts, layer: Stage(frozenset([tracer.step]))})


def _stream_name(producers: list[str]) -> str:
    first, *between, last = (name for producer in producers for name in producer.split("+"))
    return "+".join([first, *["..."][: len(between)], last])


def times(tracer: "Tracer", call: Call) -> Any:
    """Neurons times a scale, a constant, or (a gate) the values of other neurons."""
    left, right = (tracer.label(value) for value in call.args[:2])
    if isinstance(left, Neurons) and isinstance(right, Neurons):
        return _product_of_neurons(tracer, call, left, right)
    neurons, other = (left, right) if isinstance(left, Neurons) else (right, left)
    if not isinstance(neurons, Neurons) or (call.name == "div" and neurons is right):
        return unknown(tracer, call)
    ids = neurons.labels.expand(call.shape)
    if isinstance(other, Entries):
        add_parameter(tracer, other, ids)
    return Neurons(ids, after_affine(neurons.stages, tracer.step))


def negated(tracer: "Tracer", call: Call) -> Any:
    """Neurons times -1."""
    label = tracer.label(call.args[0])
    if not isinstance(label, Neurons):
        return unknown(tracer, call)
    return Neurons(label.labels, after_affine(label.stages, tracer.step))


def _product_of_neurons(tracer: "Tracer", call: Call, left: Neurons, right: Neurons) -> Any:
    a, b = (label.labels.expand(call.shape) for label in (left, right))
    if call.name == "mul" and torch.equal(a, b):
        return Neurons(no_zeros(a), after_nonlinearity(join([left, right]), tracer.step))
    if bool((b < 0).all()) or (call.name == "mul" and bool((a < 0).all())):
        return Neurons(torch.maximum(a, b), after_affine(join([left, right]), tracer.step))
    return unknown(tracer, call, f"multiplied by other neurons (a gate, aten.{call.name})")


def layer_norm(tracer: "Tracer", call: Call) -> Any:
    """Normalisation over the last axes, with a scale and an offset for each of them."""
    value, shape, weight, bias = call.args[:4]
    axes = tuple(range(-len(shape), 0))
    return _normalised(tracer, call, value, (weight, bias), "layer_norm", axes)


def group_norm(tracer: "Tracer", call: Call) -> Any:
    """Normalisation over groups of channels and their positions."""
    value, weight, bias = call.args[:3]
    return _normalised(tracer, call, value, (weight, bias), "group_norm", tuple(range(1, value.ndim)))


def batch_norm(tracer: "Tracer", call: Call) -> Any:
    """Normalisation of each channel by itself; its running statistics belong to the neuron too."""
    return _normalised(tracer, call, call.args[0], call.args[1:5], "batch_norm", ())


def _normalised(tracer: "Tracer", call: Call, value: Tensor, leaves: Any, name: str, axes: tuple[int, ...]) -> Any:
    label = tracer.label(value)
    if not isinstance(label, Neurons):
        return unknown(tracer, call)
    ids = no_zeros(label.labels)
    for leaf in leaves:
        if isinstance(entries := tracer.label(leaf), Entries):
            add_parameter(tracer, entries if name == "layer_norm" else per_channel(entries, ids.ndim), ids)
    couples = bool(axes) and bool(collapse(ids, axes)[1].any())
    stages = after_affine(label.stages, tracer.step, f"{name} after the activation", name if couples else None)
    return Neurons(ids, stages)


def prelu(tracer: "Tracer", call: Call) -> Any:
    """A nonlinearity with a slope, which belongs to the neuron if it has its own."""
    label, slope = (tracer.label(value) for value in call.args[:2])
    if not isinstance(label, Neurons) or isinstance(slope, Neurons):
        return unknown(tracer, call)
    if isinstance(slope, Entries):
        add_parameter(tracer, slope, label.labels)
    return Neurons(no_zeros(label.labels), after_nonlinearity(label.stages, tracer.step))
