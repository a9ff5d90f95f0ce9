"""What the tracer does with a step in which neurons can't be told apart, or that no rule knows."""

from collections.abc import Sequence

from .ledger import Ledger
from .program import Step
from .values import Value, plain, union

Shapes = Sequence[tuple[int, ...]]


def mix(notes: Ledger, step: Step, operands: Sequence[Value], shapes: Shapes) -> list[Value]:
    """Mixes neurons and parameters. Later values record only which layers and parameters contributed."""
    mixed = set(union(operands, "mixed"))
    hidden = set(union(operands, "hidden"))
    for number, operand in zip(step.operands, operands, strict=True):
        if operand.has_neurons:
            mixed |= notes.producers_of(operand.neurons)
            notes.note_resort(number, operand)
        notes.note_elsewhere(operand.parts, f"computed with in '{step.name}'")
        hidden |= {(part.leaf, step.name) for part in operand.parts}
    for what in sorted({notes.leaf_names[leaf] for leaf, _ in hidden}):
        notes.blame(mixed, f"{what} reads it in '{step.name}', which is not followed")
        notes.read |= mixed
    fed = any(operand.from_input for operand in operands)
    facts = {"from_input": fed, "mixed": frozenset(mixed), "hidden": frozenset(hidden)}
    return [plain(shape, **facts) for shape in shapes]
