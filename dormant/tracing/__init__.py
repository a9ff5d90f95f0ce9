"""Traces JAX functions. `trace` applies a rule to each step of a function's jaxpr. The rules follow every neuron."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import core
from jaxtyping import Array, Bool, PyTree

from .. import hints
from ..settings import described
from ..wiring import Activation, Wiring, by_path, paths
from .audit import audit
from .kernels import convolution, is_dense, product, sums_of_products
from .layers import Found, Site, collect
from .ledger import Ledger, mix
from .program import LONGEST_UNROLLED, Program, Step, evaluate, flat_program, trained_inputs
from .program import TraceError as TraceError
from .rules import RULES
from .values import Constant, Ids, Part, Value, numbered, plain

# A step on constants is computed only when its result is needed, by recursion over the steps before it. A chain of this
# many steps is computed at once, because longer chains would exceed Python's recursion limit.
MOST_DEFERRED = 100
LARGEST_CONSTANT = 1 << 20  # number of elements; larger constants are not computed while tracing
WITHOUT_INPUTS = (
    "got no inputs: expected trace(apply, params, *inputs), where apply(params, *inputs) runs the network. If your "
    "module holds its parameters, split it first. In Flax NNX: graph, params = nnx.split(module); apply = lambda "
    "params, x: nnx.merge(graph, params)(x). In Equinox: params, static = eqx.partition(module, eqx.is_inexact_array); "
    "apply = lambda params, x: jax.vmap(eqx.combine(params, static))(x)."
)


def trace(apply: Callable[..., Any], params: PyTree, *inputs: PyTree) -> Wiring:
    """Returns the wiring of `apply(params, *inputs)`: its layers, and the parameters that feed and read each layer.

    The function is traced with the shapes of the example inputs. Later inputs may have another batch size. Output
    layers are not in `layers`, because no kernel reads them. Print the wiring to see why a layer can't be recycled.

    >>> params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, "head": {"kernel": jnp.ones((3, 1))}}
    >>> def apply(params, x):
    ...     hidden = jax.nn.relu(x @ params["dense"]["kernel"] + params["dense"]["bias"])
    ...     return hidden @ params["head"]["kernel"]
    >>> print(trace(apply, params, jnp.ones((1, 2))))
    layer  neurons  fed by                    read by      recycled
    dense  3        dense/bias, dense/kernel  head/kernel  yes
    output layers, not measured: head

    If the tracer does not know an operation, it assumes that the operation mixes the neurons in its inputs. The layers
    of these neurons are never recycled, and some are not measured. The wiring lists the parameters of the operation as
    not followed.

    Raises TraceError if the function has no layer of neurons, and TypeError if `apply` is not a function.
    """
    hints.warn_once()
    if not callable(apply):
        raise TypeError(f"the function comes first: write trace(apply, params, *inputs); got {described(apply)}.")
    cache: dict[Any, tuple[Program, Found]] = {}
    found = _traced(apply, params, inputs, cache)[1]

    def measure(params: PyTree, *inputs: PyTree) -> list[Activation]:
        traced, now = _traced(apply, params, inputs, cache)
        _check_same(found, now)
        wanted = {site.value for site in (*now.sites, *now.made)}
        values = evaluate(traced, jax.tree.leaves((params, inputs)), wanted)
        finite = _finite(now, values, by_path(params))
        if not all(values[site.value].size for site in now.sites):
            shapes = [np.shape(leaf) for leaf in jax.tree.leaves(inputs)]
            raise ValueError(f"expected at least one sample, got an empty batch: the inputs have shapes {shapes}.")
        measured = [_activation(site, values[site.value]) for site in now.sites]
        return [one._replace(values=_or_nan(one.values, finite[one.layer])) for one in measured]

    return Wiring(found.layers, found.outputs, measure, found.not_followed)


def _traced(
    apply: Callable[..., Any], params: PyTree, inputs: Sequence[Any], cache: dict[Any, tuple[Program, Found]]
) -> tuple[Program, Found]:
    leaves, structure = jax.tree.flatten((params, tuple(inputs)))
    key = (structure, tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves))
    if key in cache:
        return cache[key]
    try:
        traced = flat_program(apply, params, *inputs)
    except Exception as error:  # the network's own code may raise anything
        given = ", ".join(map(described, (params, *inputs)))
        if not inputs:
            error.add_note(WITHOUT_INPUTS)
        error.add_note(f"apply(params, *inputs) was called with {given}: the parameters come before the inputs.")
        raise
    _check_scans([earlier for earlier, _ in cache.values()], traced)
    found = _analyse(traced, params)
    # A program may hold tracers of an enclosing `jit`. Such a program is not cached, because its tracers are valid in
    # one compilation only.
    if not any(isinstance(constant, core.Tracer) for constant in traced.constants.values()):
        cache[key] = traced, found
    return traced, found


def _analyse(traced: Program, params: PyTree) -> Found:
    leaves = jax.tree.leaves(params)
    notes = Ledger([np.shape(leaf) for leaf in leaves], paths(params))
    values = {number: _constant(value) for number, value in traced.constants.items()}
    for position, number in enumerate(traced.inputs):
        shape = traced.shapes[number]
        is_parameter = position < len(leaves)
        values[number] = _parameter(position, shape) if is_parameter else plain(shape, from_input=True)
    products = sums_of_products(traced)
    merged: dict[int, Step] = {}
    for each in traced.steps:
        number = each.results[0]
        if number in products and is_dense(products[number], [values[operand] for operand in each.operands]):
            values[number] = plain(traced.shapes[number])
            merged[products[number].results[0]] = products[number]
            continue
        step = merged.get(number, each)
        shapes = [traced.shapes[result] for result in step.results]
        results = _apply_rule(notes, step, [values[operand] for operand in step.operands], shapes)
        values.update(zip(step.results, results, strict=True))
    for number in traced.outputs:
        value = values[number]
        notes.returned |= notes.producers_of(value.neurons) | value.mixed
        notes.note_other_use(value.parts, "returned")
    trained = trained_inputs(traced)
    if trained.intersection(traced.inputs[: len(leaves)]):  # false if all outputs are integers, such as actions
        notes.untrained = {leaf for leaf in range(len(leaves)) if traced.inputs[leaf] not in trained}
    audit(notes, traced, values)
    found = collect(notes)
    if not found.layers:
        raise TraceError(_no_layer(traced, params, found))
    return found


def _no_layer(traced: Program, params: PyTree, found: Found) -> str:
    """Returns the error message for a function without neuron layers."""
    inside = [np.shape(value) for value in traced.constants.values() if np.ndim(value) > 1]
    if len(traced.inputs) == len(jax.tree.leaves(params)) and len(traced.inputs) < 2:
        return WITHOUT_INPUTS
    message = (
        "found no neuron layer: expected apply(params, *inputs) with at least two kernels of `params` in a row; "
        f"its output layers are {list(found.outputs)}. Are the parameters the first argument?"
    )
    if found.not_followed:
        message += (
            f" Parameters that the tracer did not follow: {'; '.join(map(': '.join, found.not_followed.items()))}."
        )
    if inside:
        message += f" The function holds arrays of shapes {inside[:4]} that are not in `params`; are they its weights?"
    return message


def _constant(value: Any) -> Value:
    return plain(np.shape(value), constant=None if isinstance(value, core.Tracer) else Constant(lambda: value))


def _parameter(leaf: int, shape: tuple[int, ...]) -> Value:
    return replace(plain(shape), parts=(Part(leaf, numbered(shape)),), is_kernel=True)


def _apply_rule(notes: Ledger, step: Step, operands: list[Value], shapes: list[tuple[int, ...]]) -> list[Value]:
    if all(operand.constant is not None for operand in operands) and sum(map(np.prod, shapes)) <= LARGEST_CONSTANT:
        return _known(step, [operand.constant for operand in operands if operand.constant], shapes)
    operands = [_current(notes, operand) for operand in operands]
    if step.name in KERNEL_RULES:
        return KERNEL_RULES[step.name](notes, step, operands, shapes)
    if step.name in RULES:
        return RULES[step.name](notes, step, operands, shapes)
    return mix(notes, step, operands, shapes)


KERNEL_RULES = {"dot_general": product, "conv_general_dilated": convolution}


def _current(notes: Ledger, value: Value) -> Value:
    return replace(value, neurons=notes.current(value.neurons)) if value.has_neurons else value


def _known(step: Step, operands: Sequence[Constant], shapes: Sequence[tuple[int, ...]]) -> list[Value]:
    """Returns the results of a step whose operands are all constants. Results are computed when they are first used."""

    def compute() -> Sequence[Any]:
        with jax.ensure_compile_time_eval():
            results = step.primitive.bind(*(operand.value for operand in operands), **step.settings)
        return results if step.primitive.multiple_results else [results]

    together = Constant(compute, depth=1 + max((operand.depth for operand in operands), default=0))
    if together.depth % MOST_DEFERRED == 0:
        _ = together.value  # computes the chain now
    numbers = range(len(shapes))
    values = [Constant(lambda number=number: together.value[number], together.depth) for number in numbers]
    return [plain(shape, constant=value) for shape, value in zip(shapes, values, strict=True)]


def _finite(
    found: Found, values: Mapping[int, Array], leaves: Mapping[str, Array | np.ndarray]
) -> dict[str, Bool[Array, ""]]:
    """Returns one Boolean per layer: True if its pre-activations are finite and none of its incoming weights is NaN.

    The activations alone do not suffice, because a non-linearity such as `where(x > 0, x, 0)` hides a NaN.
    """
    finite = {layer.name: jnp.array(True) for layer in found.layers}
    for name, value, neurons in found.made:
        finite[name] &= (jnp.isfinite(values[value]) | jnp.asarray(neurons < 0)).all()
    for layer in found.layers:
        for path, owners in layer.incoming.items():
            finite[layer.name] &= ~(jnp.isnan(jnp.asarray(leaves[path])) & jnp.asarray(owners >= 0)).any()
    return finite


def _or_nan(values: Array, finite: Bool[Array, ""]) -> Array:
    """Returns the activations, or an array of NaN if `finite` is false. Integers are converted to floats."""
    values = values if jnp.issubdtype(values.dtype, jnp.inexact) else values.astype(jnp.float32)
    return jnp.where(finite, values, jnp.asarray(jnp.nan, values.dtype))


def _activation(site: Site, value: Array) -> Activation:
    """Returns the activations at a site as an array [*samples, neurons].

    The sample axes are the axes along which the ids of the neurons are constant.
    """
    same = [axis for axis, length in enumerate(site.neurons.shape) if length == 1]
    across = [axis for axis in range(value.ndim) if axis not in same]
    columns = jnp.transpose(value, (*same, *across)).reshape([value.shape[axis] for axis in same] + [-1])
    present, order = _columns(site)
    if order.shape == (columns.shape[-1], 1) and (order[:, 0] == np.arange(len(order))).all():
        return Activation(site.layer, present, columns)
    picked = jnp.moveaxis(columns[..., order], -1, 0)
    return Activation(site.layer, present, picked)


def _columns(site: Site) -> tuple[Ids, Ids]:
    """Returns the neurons that are measured at a site, and an array [neurons, columns] with the columns of each neuron.

    A neuron with several positions has several columns. If a neuron has fewer columns than other neurons, its columns
    are repeated. This does not change their mean.
    """
    owners = site.neurons.ravel()
    present, counts = np.unique(owners[owners >= 0], return_counts=True)
    order = np.flatnonzero(owners >= 0)[np.argsort(owners[owners >= 0], kind="stable")]
    if (counts == counts[0]).all():
        return present, order.reshape(len(present), -1)
    times = np.lcm.reduce(counts)
    rows = np.split(order, np.cumsum(counts)[:-1])
    return present, np.stack([np.repeat(row, times // len(row)) for row in rows])


def _check_scans(earlier: Sequence[Program], traced: Program) -> None:
    """Raises TraceError if a scan that was unrolled in the first trace is now too long to unroll."""
    scans = [[step for step in program.steps if step.name == "scan"] for program in (*earlier[:1], traced)]
    if len(scans[-1]) > len(scans[0]):
        step = scans[-1][-1]
        length, steps = step.settings["length"], len(step.settings["jaxpr"].jaxpr.eqns)
        raise TraceError(
            f"the 'scan' in {step.scope or 'the function'} now has {length} iterations of {steps} steps. At most "
            f"{LONGEST_UNROLLED} steps of a scan are unrolled to measure its neurons; pass shorter sequences, for "
            "example by cutting these into pieces."
        )


def _check_same(first: Found, second: Found) -> None:
    names = [tuple((layer.name, layer.width) for layer in found.layers) for found in (first, second)]
    if names[0] != names[1]:
        raise TraceError(
            f"the network has different layers for these input shapes: expected {names[0]}, got {names[1]}; trace it "
            "again with inputs of these shapes."
        )
