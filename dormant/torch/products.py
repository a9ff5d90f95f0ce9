"""Operations that multiply a value by a weight."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from .arithmetic import add
from .calls import Call, unknown
from .labels import Entries, Label, Neurons
from .readers import add_parameter, contraction, convolution, per_channel

if TYPE_CHECKING:
    from .tracing import Tracer


def matrix_product(tracer: "Tracer", call: Call) -> Any:
    """A value times a weight, either way round; a value times a value mixes neurons."""
    return _product(tracer, call, *call.args[:2])


def matrix_product_plus(tracer: "Tracer", call: Call) -> Any:
    """The same, plus a bias."""
    product = _product(tracer, call, *call.args[1:3])
    if call.kwargs.get("alpha", 1) != 1 or call.kwargs.get("beta", 1) != 1 or not isinstance(product, Neurons):
        return unknown(tracer, call)
    bias = tracer.label(call.args[0])
    return add(tracer, call, product, bias)


def _product(tracer: "Tracer", call: Call, left: Tensor, right: Tensor) -> Any:
    a, b = tracer.label(left), tracer.label(right)
    if isinstance(b, Entries) and not isinstance(a, Entries):
        return contraction(tracer, a, b, left.shape)
    if isinstance(a, Entries) and not isinstance(b, Entries):
        label = contraction(tracer, _transposed(b), Entries(a.labels.mT), right.mT.shape)
        return _transposed(label)
    return unknown(tracer, call, f"multiplied by a matrix that is not a parameter (aten.{call.name})")


def _transposed(label: Label) -> Any:
    return Neurons(label.labels.mT, label.stages) if isinstance(label, Neurons) else label


def convolved(tracer: "Tracer", call: Call) -> Any:
    """A convolution, transposed, grouped or neither, with a weight."""
    value, weight, bias, _, _, _, transposed, _, groups = call.args
    kernel = tracer.label(weight)
    if not isinstance(kernel, Entries) or isinstance(tracer.label(value), Entries):
        return unknown(tracer, call, "convolved with a kernel that is not a parameter")
    label = convolution(tracer, tracer.label(value), kernel, value.shape, call.shape, transposed, groups)
    if isinstance(offset := tracer.label(bias), Entries):
        add_parameter(tracer, per_channel(offset, len(call.shape)), label.labels)
    return label
