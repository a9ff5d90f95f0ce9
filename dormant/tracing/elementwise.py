"""Rules for element-wise steps: sums, products and non-linearities of neurons and parameters.

A rule returns the results of a step, given its operands (see `rules`). A producer is a kernel that creates neurons.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..reasons import APART, DIRECT, OWN, SILENT, Reason
from .ledger import Ledger, mix
from .program import Step
from .values import NONE, NOT_FOLLOWED, SETS, Ids, Met, Shapes, Value, Why, narrow, no_ids, union

SUMS = "add", "sub", "complex"  # steps whose result is zero where all operands are zero
SCALES = "mul", "div"  # steps whose result is zero where the neurons are zero
# Non-linear steps that map zero to zero. Their slope there is not zero, so that a kernel which was set to zero can be
# trained again. For `round` and `sign`, a network needs a straight-through gradient anyway.
ZERO_TO_ZERO = "sin tan tanh sinh asin asinh atan atanh erf erf_inv expm1 log1p round sign"


def linear(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for steps such as sums and products. A product of two neurons, or a division by a neuron, is non-linear."""
    carriers = [operand for operand in operands if operand.has_neurons]
    bends = (step.name == "mul" and len(carriers) > 1) or (step.name == "div" and operands[1].has_neurons)
    return [elementwise(notes, step, operands, shapes[0], bends)]


def nonlinear(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for non-linear functions. Their result is the activation, unless another non-linearity follows."""
    return [elementwise(notes, step, operands, shape, bends=True) for shape in shapes]


def convert(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Rule for dtype conversions. A conversion to floats is linear. A conversion to integers or Booleans is not."""
    inexact = jnp.issubdtype(step.settings["new_dtype"], jnp.inexact)
    return [elementwise(notes, step, operands, shapes[0], bends=not inexact)]


def elementwise(notes: Ledger, step: Step, operands: Sequence[Value], shape: tuple[int, ...], bends: bool) -> Value:
    """Returns the result of an element-wise step. `bends` is true if the step is non-linear in its neurons."""
    operands = [_aligned(operand, len(shape)) for operand in operands]
    if step.name == "mul":
        operands = _with_gates_mixed(notes, step, operands)
    numbers = [number for number, operand in zip(step.operands, operands, strict=True) if operand.has_neurons]
    carriers = [operand for operand in operands if operand.has_neurons]
    others = [operand for operand in operands if not operand.has_neurons]
    if not carriers:
        return _without_neurons(step, operands, shape, bends)
    same = len({narrow(notes.current(carrier.neurons)).tobytes() for carrier in carriers}) == 1
    pairs = combinations(zip(numbers, carriers, strict=True), 2)
    if any([_relate(notes, step, first, second) for first, second in pairs]):
        return mix(notes, step, operands, [shape])[0]
    neurons = notes.current(np.maximum.reduce(np.broadcast_arrays(*(carrier.neurons for carrier in carriers))))
    active = any(carrier.is_activated for carrier in carriers)
    sites = np.maximum.reduce(np.broadcast_arrays(*(carrier.sites for carrier in carriers)))
    shared = union(carriers, "shared") | _joined(notes, step, neurons, sites, carriers, others)
    offset = union(carriers, "offset") | _offsets(notes, step, neurons, sites, others)
    if bends or (active and len(carriers) > 1):
        sites, offset = np.full((1,) * len(shape), step.results[0]), frozenset()
        kept = _outside(carriers, shared) if bends and same else shared
        notes.dropped |= shared - kept
        shared = kept
        notes.note_site(step.results[0], neurons)
    strays = (neurons == NONE).any()  # whether some elements do not belong to a neuron
    mixed, hidden = (union(operands if strays else carriers, name) for name in ("mixed", "hidden"))
    if strays:
        hidden |= {(part.leaf, step.name) for operand in operands for part in operand.parts}
    met = union(operands, "met") | _met(notes, neurons, operands)
    facts = {"mixed": mixed, "hidden": hidden, "offset": offset, "shared": shared, "met": met}
    return Value(shape, neurons, sites, from_input=True, **facts)


def _with_gates_mixed(notes: Ledger, step: Step, operands: list[Value]) -> list[Value]:
    """Returns the two operands of a product. If one is a gate that several neurons of the other share, it is a mix.

    A silent neuron stays silent if a gate scales it, so only the gate's own neurons can't be recycled.
    """
    ids = [notes.current(operand.neurons) for operand in operands]
    a, b = (one.ravel() for one in np.broadcast_arrays(*ids))
    pairs = np.unique(np.stack([a, b], axis=-1), axis=0)
    if (pairs < 0).any() or notes.producers_of(a) & notes.producers_of(b):
        return operands
    repeated = [len(np.unique(column)) < len(column) for column in pairs.T]
    if sum(repeated) != 1:
        return operands
    gate = repeated.index(True)
    return [gate_of(notes, step, side, each) if side == gate else each for side, each in enumerate(operands)]


def gate_of(notes: Ledger, step: Step, side: int, value: Value) -> Value:
    """Returns operand number `side` of a step as a value that mixes its neurons."""
    return mix(notes, step._replace(operands=step.operands[side : side + 1]), [value], [value.shape])[0]


def _outside(carriers: Sequence[Value], shared: Why) -> Why:
    """Returns the reasons in `shared` that hold for all operands whose neurons have not passed a non-linearity.

    `shared` holds reasons why incoming weights can't be redrawn. Reasons that hold for only some operands are dropped.
    For example, PReLU combines the neurons with a copy that is multiplied by a learned slope. The slope is in only one
    of the two operands. It is therefore part of the activation and does not feed the neurons.
    """
    raw = [carrier.shared for carrier in carriers if not carrier.is_activated]
    return shared.intersection(*raw) if raw and len(carriers) > 1 else shared


def _aligned(operand: Value, rank: int) -> Value:
    """Returns the operand with `rank` axes, like the result of the step. Only scalars are changed."""
    if len(operand.shape) == rank:
        return operand
    ones = (1,) * rank
    return replace(operand.moved(ones, lambda ids: ids.reshape(ones)), constant=operand.constant)


def _without_neurons(step: Step, operands: Sequence[Value], shape: tuple[int, ...], bends: bool) -> Value:
    kernels = [operand for operand in operands if operand.is_kernel]
    is_kernel = bool(kernels) and _stays_a_kernel(step, operands) and (not bends or _maps_zero_to_zero(step, operands))
    is_kernel = is_kernel or (step.name == "select_n" and _is_masked_kernel(operands))
    fed = any(operand.from_input for operand in operands)
    sets: dict[str, Any] = {name: union(operands, name) for name in SETS}
    scaled = _scaled(step, kernels) if is_kernel else None
    ordered = operands if scaled is None else sorted(operands, key=lambda operand: operand is not scaled)
    parts = tuple(part for operand in ordered for part in operand.parts)
    factors = frozenset(part.leaf for part in parts)
    for operand in operands if scaled is None else [scaled]:
        factors -= _zeroed(operand)
    return Value(shape, no_ids(shape), no_ids(shape), parts, is_kernel, fed, factors=factors, **sets)


def _zeroed(kernel: Value) -> set[int]:
    """Returns the parameters that must be zero for the kernel to be zero."""
    return {part.leaf for part in kernel.parts} - kernel.factors


def _scaled(step: Step, kernels: Sequence[Value]) -> Value | None:
    """Returns the kernel that a product or quotient scales, or None for other steps.

    Of two kernels, it is the one with more entries. The result is zero where this kernel is zero. The parameters of the
    other one must not be zero there, because the kernel would get no gradient.
    """
    if step.name != "mul":
        return kernels[0] if step.name == "div" else None
    return max(kernels, key=lambda kernel: max(part.entries.size for part in kernel.parts))


def _maps_zero_to_zero(step: Step, operands: Sequence[Value]) -> bool:
    """Whether a non-linear step maps a kernel's zeros to zeros, with a slope there. A step function has none."""
    if step.name in ZERO_TO_ZERO.split():
        return not operands[0].from_input
    bounds = [operand.constant for operand in operands if operand.constant is not None]
    if step.name not in ("max", "min") or len(bounds) != 1:
        return False
    bound = np.asarray(bounds[0].value)
    return bool((bound < 0 if step.name == "max" else bound > 0).all())


def _stays_a_kernel(step: Step, operands: Sequence[Value]) -> bool:
    """Whether the result is a kernel, given that an operand is one. A kernel is zero where its parameters are zero."""
    if step.name in SUMS:
        return all(operand.is_kernel or operand.is_zero for operand in operands)
    if step.name == "div":
        return operands[0].is_kernel
    if step.name == "mul":  # a product of a kernel and itself has no slope at zero
        leaves = [leaf for operand in operands if operand.is_kernel for leaf in _zeroed(operand)]
        return len(leaves) == len(set(leaves))
    return step.name in ("max", "min") or len(operands) == 1


def _is_masked_kernel(operands: Sequence[Value]) -> bool:
    """Whether `select_n` chooses between kernels and zeros, with a mask that does not depend on parameters."""
    which, *cases = operands
    learned = which.parts or which.mixed or which.hidden
    return not learned and all(case.is_kernel or case.is_zero for case in cases) and any(case.parts for case in cases)


def _offsets(notes: Ledger, step: Step, neurons: Ids, sites: Ids, others: Sequence[Value]) -> Why:
    """Returns the reasons why silent neurons are no longer zero: a step adds a value after their activation."""
    if step.name not in SUMS or not (sites >= 0).any():
        return frozenset()
    ids, places = np.broadcast_arrays(neurons, sites)
    owners = notes.producers_of(np.where(places >= 0, ids, NONE))
    added = [_describe(notes, other) for other in others if not other.is_zero]
    return frozenset(
        (owner, Reason(f"not zero when silent: {what} follows its activation", SILENT))
        for owner in owners
        for what in added
    )


def _describe(notes: Ledger, other: Value) -> str:
    if other.parts:
        return " + ".join(notes.leaf_names[part.leaf] for part in other.parts)
    return f"a normalisation with {notes.names(other.mixed)}" if other.mixed else "a sum with other values"


def _joined(
    notes: Ledger, step: Step, neurons: Ids, sites: Ids, carriers: Sequence[Value], others: Sequence[Value]
) -> Why:
    """Records the parameters in the operands as incoming weights of the neurons.

    Returns the reasons why some of these weights can't be redrawn for a single neuron.
    """
    ids, places = np.broadcast_arrays(neurons, sites)
    # The ids of the neurons whose activation is still to come, and of the neurons that have passed it.
    before, after = (np.where(places < 0, ids, NONE), np.where(places < 0, NONE, ids))
    # A product after the activation does not feed the neuron, because a silent neuron stays silent. A sum does, because
    # another non-linearity may follow.
    fed = notes.producers_of(before if step.name in SCALES else ids)
    found: set[tuple[int, Reason]] = set()
    for operand in [*others, *carriers]:
        for part in operand.parts:
            shape = np.broadcast_shapes(neurons.shape, part.entries.shape)
            if not notes.note_use(part, neurons, None, shape):
                what = Reason(f"several neurons share {notes.leaf_names[part.leaf]}, which feeds them", OWN)
                found |= {(owner, what) for owner in fed}
                notes.blame(operand.mixed & notes.producers_of(after), what)
        for leaf in operand.chosen:
            what = Reason(f"an index chooses which part of {notes.leaf_names[leaf]} feeds it", OWN)
            found |= {(owner, what) for owner in fed}
    unfollowed = [*others, *carriers] if len(carriers) > 1 else others
    for what in sorted(frozenset().union(*(notes.hidden(operand) for operand in unfollowed))):
        found |= {(owner, Reason(f"{what} feeds it in a way that is not followed", DIRECT)) for owner in fed}
    for foreign in filter(None, (operand.mixed - notes.producers_of(neurons) for operand in unfollowed)):
        what = Reason(f"{notes.names(foreign)} feed it without weights of their own", APART)
        found |= {(owner, what) for owner in fed}
    for other in others:
        _meet(notes, step, neurons, other, union(carriers, "met"))
    return frozenset(found)


def _met(notes: Ledger, neurons: Ids, operands: Sequence[Value]) -> frozenset[Met]:
    """Returns the parameters that these operands contain, each with the bytes of its entries (see `Value.met`)."""
    found = {(leaf, NOT_FOLLOWED) for operand in operands if not operand.has_neurons for leaf, _ in operand.hidden}
    for part in (part for operand in operands for part in operand.parts):
        shape = np.broadcast_shapes(neurons.shape, part.entries.shape)
        follows = notes.in_leaf(part, neurons, shape) is not None
        found.add((part.leaf, narrow(part.entries).tobytes() if follows else NOT_FOLLOWED))
    return frozenset(found)


def _meet(notes: Ledger, step: Step, neurons: Ids, other: Value, known: frozenset[Met]) -> None:
    """Records that a step combines neurons with a value that mixes neurons, such as their mean.

    `other` is this value. If it mixes only these neurons, it couples them. If it also contains neurons of other
    producers, or parameters that are not in `known`, the layers are not recycled, because these neurons and parameters
    affect the layer without a kernel in between.
    """
    if not other.mixed:
        return
    owners = notes.producers_of(neurons)
    own, foreign = other.mixed & owners, other.mixed - owners
    notes.couple(own, step.scope.rpartition("/")[2] or "a reduction over neurons")
    lost = {leaf for leaf, entries in other.met if entries == NOT_FOLLOWED or (leaf, entries) not in known}
    for leaf in sorted(lost | {leaf for leaf, _ in other.hidden}):
        notes.blame(
            own, Reason(f"{notes.leaf_names[leaf]} feeds it through a mix of its neurons, which is not followed", APART)
        )
    if foreign:
        notes.blame(own, Reason(f"{notes.names(foreign)} feed it through a mix of its neurons", APART))
    notes.blame(foreign, Reason(f"is combined with {notes.names(owners)} without weights of its own", APART))
    for producer in foreign:
        notes.follows[producer] |= owners


def _relate(notes: Ledger, step: Step, one: tuple[int, Value], two: tuple[int, Value]) -> bool:
    """Compares the neurons of two operands. Returns True if the step mixes different neurons of one kernel.

    `one` and `two` are pairs of a value's index and the value. Different neurons in the same element are merged if they
    act as one neuron. Otherwise, a reason not to recycle them is added.
    """
    (_, first), (_, second) = one, two
    a, b = np.broadcast_arrays(notes.current(first.neurons), notes.current(second.neurons))
    differ = (a >= 0) & (b >= 0) & (a != b)
    if not differ.any():
        return False
    pairs = np.unique(np.stack([a[differ], b[differ]], axis=-1), axis=0)
    owners = [notes.producers_of(column) for column in pairs.T]
    if _are_one_neuron(notes, step, pairs, *owners):
        notes.merge(pairs)
        return False
    verb = {"add": "summed", "sub": "summed", "mul": "multiplied"}.get(step.name, f"combined by '{step.name}'")
    for (number, value), mine, theirs in ((one, *owners), (two, *owners[::-1])):
        others = (theirs - mine) or theirs
        notes.blame(mine, Reason(f"{verb} with {notes.names(others)}", APART))
        notes.note_resort(number, value)
        for producer in mine:
            notes.follows[producer] |= others
    return bool(owners[0] & owners[1])


def _are_one_neuron(notes: Ledger, step: Step, pairs: Ids, first: set[int], second: set[int]) -> bool:
    """Whether the two neurons of each pair act as one neuron.

    They do if the step multiplies them, or if it sums them before a kernel reads one of them. Each neuron must be in
    one pair only. For example, the sum of a layer and a shifted copy of it puts each neuron into two pairs, so it mixes
    the neurons.
    """
    if len(np.unique(pairs)) != pairs.size or step.name not in (*SUMS, "mul"):
        return False
    return step.name in ("mul", "complex") or not (first == second or (first | second) & notes.read)
