"""What each kind of primitive does to the neurons and parameters inside its operands."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from .ledger import Ledger
from .movement import MOVES, concatenate
from .program import Step, TraceError
from .values import NONE, Ids, Part, Value, narrow, no_ids, plain, varies

Shapes = Sequence[tuple[int, ...]]
Rule = Callable[[Ledger, Step, Sequence[Value], Shapes], list[Value]]


def refuse(step: Step, why: str) -> TraceError:
    place = f" in {step.scope}" if step.scope else ""
    return TraceError(
        f"cannot trace the primitive '{step.name}'{place}: {why}. See docs/extending.md for adding a rule."
    )


def linear(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Sums, differences, products and quotients: linear in a neuron unless it meets itself or stands below the line."""
    carriers = [operand for operand in operands if operand.has_neurons]
    bends = (step.name == "mul" and len(carriers) > 1) or (step.name == "div" and operands[1].has_neurons)
    return [_elementwise(notes, step, operands, shapes[0], bends)]


def nonlinear(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Any other function applied to each element: its result is the neuron's activation until a later one."""
    return [_elementwise(notes, step, operands, shape, bends=True) for shape in shapes]


def _elementwise(notes: Ledger, step: Step, operands: Sequence[Value], shape: tuple[int, ...], bends: bool) -> Value:
    operands = [_aligned(operand, len(shape)) for operand in operands]
    numbers = [number for number, operand in zip(step.operands, operands, strict=True) if operand.has_neurons]
    carriers = [operand for operand in operands if operand.has_neurons]
    others = [operand for operand in operands if not operand.has_neurons]
    if not carriers:
        return _without_neurons(step, operands, shape, bends)
    pairs = combinations(zip(numbers, carriers, strict=True), 2)
    if any([_relate(notes, step, first, second) for first, second in pairs]):
        return mix(notes, step, operands, [shape])[0]
    neurons = notes.current(np.maximum.reduce(np.broadcast_arrays(*(carrier.neurons for carrier in carriers))))
    active = any(carrier.activated for carrier in carriers)
    offset = frozenset().union(*(carrier.offset for carrier in carriers))
    sites = frozenset().union(*(carrier.sites for carrier in carriers))
    if step.name in ("add", "sub") and active:
        offset |= {_describe(notes, other) for other in others if not other.is_zero}
    for other in others:
        _join(notes, step, neurons, other)
    if bends or (active and len(carriers) > 1):
        active, offset, sites = True, frozenset(), frozenset(step.results[:1])
        notes.neurons_at[step.results[0]] = neurons
    strays = frozenset().union(*(other.mixed for other in others)) if (neurons == NONE).any() else frozenset()
    mixed = frozenset().union(strays, *(carrier.mixed for carrier in carriers))
    return Value(shape, neurons, (), False, True, mixed, sites, active, offset)


def _aligned(value: Value, rank: int) -> Value:
    """A scalar operand as a value of the result's rank."""
    if len(value.shape) == rank:
        return value
    ones = (1,) * rank
    parts = tuple(Part(leaf, ids.reshape(ones)) for leaf, ids in value.parts)
    return replace(value, shape=ones, neurons=value.neurons.reshape(ones), parts=parts)


def _without_neurons(step: Step, operands: Sequence[Value], shape: tuple[int, ...], bends: bool) -> Value:
    parts = tuple(part for operand in operands for part in operand.parts)
    kernels = [operand for operand in operands if operand.is_kernel]
    stays = {"add": len(kernels) == len(operands), "sub": len(kernels) == len(operands), "mul": len(kernels) == 1}
    stays |= {"div": len(kernels) == 1 and operands[0].is_kernel}
    is_kernel = bool(kernels) and not bends and stays.get(step.name, len(operands) == 1)
    mixed = frozenset().union(*(operand.mixed for operand in operands))
    return Value(shape, no_ids(shape), parts, is_kernel, any(operand.from_input for operand in operands), mixed)


def _describe(notes: Ledger, other: Value) -> str:
    if other.parts:
        return " + ".join(notes.leaf_names[part.leaf] for part in other.parts)
    return f"a normalisation with {notes.names(other.mixed)}" if other.mixed else "a sum with other values"


def _join(notes: Ledger, step: Step, neurons: Ids, other: Value) -> None:
    """A value without neurons meets neurons: parameters become incoming entries, statistics couple the neurons."""
    for part in other.parts:
        notes.note_use(part, neurons, None, np.broadcast_shapes(neurons.shape, part.entries.shape))
    owners = notes.producers_of(neurons)
    own = other.mixed & owners
    notes.couple(own, step.scope.rpartition("/")[2] or "a reduction over neurons")
    notes.blame(other.mixed - own, f"meets {notes.names(owners)} without weights of its own")
    for producer in other.mixed - own:
        notes.follows[producer] |= owners


def _relate(notes: Ledger, step: Step, one: tuple[int, Value], two: tuple[int, Value]) -> bool:
    """Two values with neurons meet: the same neurons, or different ones that become one neuron or are not recycled.

    True if neurons of one kernel meet each other, so that the result is none of them.
    """
    (_, first), (_, second) = one, two
    a, b = np.broadcast_arrays(notes.current(first.neurons), notes.current(second.neurons))
    differ = (a >= 0) & (b >= 0) & (a != b)
    if not differ.any():
        return False
    pairs = np.unique(np.stack([a[differ], b[differ]], axis=-1), axis=0)
    owners = [notes.producers_of(column) for column in pairs.T]
    if _are_one_neuron(notes, step, first, second, pairs, owners[0] | owners[1]):
        notes.merge(pairs)
        return False
    verb = {"add": "summed", "sub": "summed", "mul": "multiplied"}.get(step.name, f"combined by '{step.name}'")
    for (number, value), mine, theirs in ((one, *owners), (two, *owners[::-1])):
        others = (theirs - mine) or theirs
        notes.blame(mine, f"{verb} with {notes.names(others)}")
        notes.note_resort(number, value)
        for producer in mine:
            notes.follows[producer] |= others
    return bool(owners[0] & owners[1])


def _are_one_neuron(notes: Ledger, step: Step, first: Value, second: Value, pairs: Ids, owners: set[int]) -> bool:
    """Gated pairs, and several kernels summed before their non-linearity and read nowhere else, act as one neuron."""
    matched = all(len(np.unique(column)) == len(pairs) for column in pairs.T)
    if not matched or step.name not in ("add", "sub", "mul"):
        return False
    before = not (first.activated or second.activated or owners & notes.read)
    return step.name == "mul" or before


def move(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Reshape, transpose, slice, gather and so on: ids move with their elements."""
    value, *others = operands
    indices = [other.constant for other in others] if step.name != "pad" else []
    if any(index is None for index in indices):
        return mix(notes, step, operands, shapes)
    change = MOVES[step.name]
    parts = tuple(Part(leaf, change(step, ids, value.shape, indices)) for leaf, ids in value.parts)
    moved = value.with_ids(shapes[0], change(step, value.neurons, value.shape, indices), parts)
    if step.name == "pad" and not others[0].is_zero:
        moved = replace(moved, is_kernel=False, offset=moved.offset | ({"padding"} if moved.activated else frozenset()))
    return [moved]


def join_ends(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Concatenation: every element keeps its neuron, its parameter entry and the place where it is measured."""
    settled = [_settled(notes, number, value) for number, value in zip(step.operands, operands, strict=True)]
    extents = [value.shape for value in settled]
    neurons = concatenate(step, [value.neurons for value in settled], extents)
    parts = []
    for index, value in enumerate(settled):
        for part in value.parts:
            ids = [part.entries if i == index else no_ids(other.shape) for i, other in enumerate(settled)]
            parts.append(Part(part.leaf, concatenate(step, ids, extents)))
    union = {
        name: frozenset().union(*(getattr(value, name) for value in settled)) for name in ("mixed", "sites", "offset")
    }
    kernel = all(value.is_kernel or value.is_zero for value in settled) and bool(parts)
    fed = any(value.from_input for value in settled)
    active = any(value.activated for value in settled)
    return [
        Value(shapes[0], neurons, tuple(parts), kernel, fed, union["mixed"], union["sites"], active, union["offset"])
    ]


def _settled(notes: Ledger, number: int, value: Value) -> Value:
    """Neurons without a non-linearity are measured where they are, before they are joined to others."""
    if not value.has_neurons or value.sites:
        return value
    notes.neurons_at.setdefault(number, value.neurons)
    return replace(value, sites=frozenset({number}))


def split(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Split and unstack: every piece keeps the ids of its elements."""
    (value,) = operands
    axis, drop = step.settings["axis"], step.name == "unstack"
    sizes = [1] * len(shapes) if drop else [shape[axis] for shape in shapes]
    starts = np.cumsum([0, *sizes[:-1]])

    def piece(ids: Ids, start: int, size: int) -> Ids:
        taken = ids if ids.shape[axis] == 1 else narrow(ids.take(range(start, start + size), axis))
        return taken.squeeze(axis) if drop else taken

    pieces = []
    for shape, start, size in zip(shapes, starts.tolist(), sizes, strict=True):
        parts = tuple(Part(leaf, piece(ids, start, size)) for leaf, ids in value.parts)
        pieces.append(value.with_ids(shape, piece(value.neurons, start, size), parts))
    return pieces


def stack(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """A concatenation along a new axis."""
    axis = step.settings["axis"]
    raised = []
    for number, operand in zip(step.operands, operands, strict=True):
        value = _settled(notes, number, operand)
        parts = tuple(Part(leaf, np.expand_dims(ids, axis)) for leaf, ids in value.parts)
        shape = (*value.shape[:axis], 1, *value.shape[axis:])
        raised.append(replace(value, shape=shape, neurons=np.expand_dims(value.neurons, axis), parts=parts))
    return join_ends(notes, step._replace(settings={"dimension": axis}), raised, shapes)


def reduce(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """A sum or maximum along axes on which neurons do not change keeps them; along others it mixes them."""
    (value,) = operands
    axes = tuple(step.settings["axes"])
    if any(varies(ids, axes) for ids in (value.neurons, *(part.entries for part in value.parts))):
        return mix(notes, step, operands, shapes)
    parts = tuple(Part(leaf, ids.squeeze(axes)) for leaf, ids in value.parts)
    return [replace(value.with_ids(shapes[0], value.neurons.squeeze(axes), parts), is_kernel=False)]


def slide(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Pooling windows and cumulative sums along axes on which neurons do not change keep them."""
    value = operands[0]
    if value.parts or varies(value.neurons, _window_axes(step, len(value.shape))):
        return mix(notes, step, operands, shapes)
    return [value.with_ids(shapes[0], value.neurons, ())]


def _window_axes(step: Step, rank: int) -> list[int]:
    if "axis" in step.settings:
        return [step.settings["axis"]]
    lengths, strides = step.settings["window_dimensions"], step.settings["window_strides"]
    padding = step.settings["padding"]
    return [axis for axis in range(rank) if lengths[axis] > 1 or strides[axis] > 1 or any(padding[axis])]


def mix(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Neurons do not keep apart here: later values only say that these producers are in them."""
    mixed = set().union(*(operand.mixed for operand in operands))
    for number, operand in zip(step.operands, operands, strict=True):
        if operand.has_neurons:
            mixed |= notes.producers_of(operand.neurons)
            notes.note_resort(number, operand)
        notes.note_elsewhere(operand.parts, f"computed with in '{step.name}'")
    fed = any(operand.from_input for operand in operands)
    return [plain(shape, from_input=fed, mixed=frozenset(mixed)) for shape in shapes]


def pass_on(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Barriers and annotations: every result is its operand."""
    return [value.with_ids(value.shape, value.neurons, value.parts) for value in operands]


LINEAR = "add sub mul div neg convert_element_type copy copy_p reduce_precision real add_any stop_gradient"
NONLINEAR = (
    "max min abs sign exp exp2 expm1 log log1p log2 tanh logistic sin cos tan sinh cosh asin acos atan asinh acosh "
    "atanh atan2 sqrt rsqrt cbrt square integer_pow pow erf erfc erf_inv lgamma digamma select_n clamp floor ceil "
    "round rem nextafter is_finite eq ne lt le gt ge and or xor not shift_left shift_right_logical "
    "shift_right_arithmetic imag conj complex"
)
MIXING = "argmax argmin sort top_k approx_top_k reduce_and reduce_or reduce_xor cumlogsumexp"
REDUCTIONS = "reduce_sum reduce_max reduce_min reduce_prod"
WINDOWS = "reduce_window_sum reduce_window_max reduce_window_min cumsum cumprod cummax cummin"
BARRIERS = "optimization_barrier name sharding_constraint pvary"

RULES: dict[str, Rule] = {
    **dict.fromkeys(LINEAR.split(), linear),
    **dict.fromkeys(NONLINEAR.split(), nonlinear),
    **dict.fromkeys(MIXING.split(), mix),
    **dict.fromkeys(REDUCTIONS.split(), reduce),
    **dict.fromkeys(WINDOWS.split(), slide),
    **dict.fromkeys(BARRIERS.split(), pass_on),
    **dict.fromkeys(MOVES, move),
    "concatenate": join_ends,
    "stack": stack,
    "split": split,
    "unstack": split,
}
