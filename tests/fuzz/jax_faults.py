"""Faults of the JAX tracer. Each fault is a wrong function that replaces a function of the tracer."""

from collections.abc import Callable
from typing import Any

import numpy as np

from dormant.tracing.ledger import Ledger
from dormant.tracing.program import Step
from dormant.tracing.values import Ids, Part, Shapes, Value, plain

from .torch_faults import CodeFault


def _merge(notes: Ledger, pairs: Ids) -> None:
    canonical = notes.canonical.copy()
    canonical[pairs.min(axis=1)] = pairs.max(axis=1)
    notes.canonical = canonical


def _in_leaf(notes: Ledger, part: Part, ids: Ids, shape: tuple[int, ...]) -> Ids:
    leaf_shape = notes.leaf_shapes[part.leaf]
    together = np.broadcast_shapes(part.entries.shape, ids.shape)
    entries, owners = np.broadcast_to(part.entries, together).ravel(), np.broadcast_to(ids, together).ravel()
    found = np.full(int(np.prod(leaf_shape)), -1)
    found[entries[entries >= 0]] = owners[entries >= 0]
    return found.reshape(leaf_shape)


def _meet(notes: Ledger, step: Step, neurons: Ids, other: Value, known: object) -> None:
    if other.mixed:
        notes.couple(other.mixed & notes.producers_of(neurons), "a reduction over neurons")


def _mix(notes: Ledger, step: Step, operands: list[Value], shapes: Shapes) -> list[Value]:
    return [plain(shape, from_input=True) for shape in shapes]


def _are_one_neuron(notes: Ledger, step: Step, *_: object) -> bool:
    return step.name in ("add", "sub", "mul")


def _nothing(*_: object) -> frozenset[tuple[int, str]]:
    return frozenset()


def _fault(text: str, wrong: dict[str, Callable[..., Any]]) -> tuple[CodeFault, ...]:
    """Returns a fault. `wrong` maps the module and name of each replaced function to the wrong function."""
    parts = [(*path.split(".", 1), function) for path, function in wrong.items()]
    return tuple(CodeFault(text, f"dormant.tracing.{module}", name, function) for module, name, function in parts)


JAX_FAULTS = {
    "merging forgets earlier merges": _fault(
        "Summing two neurons merges only these two, and not the neurons that were merged with them before.",
        {"ledger.Ledger.merge": _merge, "elementwise._are_one_neuron": _are_one_neuron},
    ),
    "a mix with weights couples": _fault(
        "Neurons that are combined with a weighted sum of their layer are treated as normalised.",
        {"elementwise._meet": _meet, "audit._blame": _nothing},
    ),
    "shared entries never clash": _fault(
        "An entry that feeds several neurons belongs to one of them.", {"ledger.Ledger.in_leaf": _in_leaf}
    ),
    "any kernel is zero with its parameter": _fault(
        "A computed kernel is treated as zero where its parameter is zero.", {"kernels._check_reading": _nothing}
    ),
    "a shift after an activation is forgotten": _fault(
        "A silent neuron is treated as 0 although it is shifted after its activation.",
        {"elementwise._offsets": _nothing},
    ),
    "mixed neurons are forgotten": _fault(
        "An operation mixes neurons, and its result is treated as independent of them.",
        {f"{module}.mix": _mix for module in ("rules", "kernels", "movement", "elementwise")}
        | {"audit._blame": _nothing},
    ),
}
