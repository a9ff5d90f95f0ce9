"""Programs: networks as lists of nodes. The module `source` turns them into code for each framework."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Values = dict[str, np.ndarray]


BATCH_STATISTICS = {"batch_norm", "batch_center", "batch_norm_module"}  # operations that mix samples


@dataclass(frozen=True)
class Node:
    """One operation. `shape` leaves out the batch axis of a batched node."""

    op: str
    args: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    batched: bool = True
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_parameter(self) -> bool:
        return self.op == "param"


@dataclass(frozen=True)
class Program:
    """A network. Node 0 is the input.

    A parameter node has the attributes `name`, `trained` ("yes", "frozen", "buffer" or "constant") and `role`
    ("kernel", "bias" or "scale"). `training_outputs` are returned in training mode only.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    training_outputs: tuple[int, ...] = ()
    batch: int = 4
    seed: int = 0

    @property
    def parameters(self) -> dict[str, Node]:
        """Returns the parameter nodes by name, in order. One parameter may have several nodes."""
        return {node.attrs["name"]: node for node in self.nodes if node.is_parameter}

    @property
    def operations(self) -> set[str]:
        """Returns the names of the operations in use."""
        return {node.op for node in self.nodes if node.op not in ("input", "param")}


def without_dead_nodes(program: Program) -> Program:
    """Returns the program without the nodes that no output needs."""
    needed = {0, *program.outputs, *program.training_outputs}
    for index in reversed(range(len(program.nodes))):
        if index in needed:
            needed.update(program.nodes[index].args)
    order = sorted(needed)
    place = {old: new for new, old in enumerate(order)}
    nodes = tuple(
        replace(program.nodes[old], args=tuple(place[arg] for arg in program.nodes[old].args)) for old in order
    )
    outputs = tuple(place[output] for output in program.outputs)
    return replace(
        program,
        nodes=nodes,
        outputs=outputs,
        training_outputs=tuple(place[output] for output in program.training_outputs),
    )


def redirected(program: Program, old: int, new: int) -> Program:
    """Returns the program with every use of node `old` replaced by node `new`. `new` must come before `old`."""
    swap = lambda ids: tuple(new if index == old else index for index in ids)  # noqa: E731
    nodes = tuple(replace(node, args=swap(node.args)) for node in program.nodes)
    return without_dead_nodes(
        replace(program, nodes=nodes, outputs=swap(program.outputs), training_outputs=swap(program.training_outputs))
    )


def draw_values(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Values:
    """Returns random parameters. No entry is near zero."""
    rng = np.random.default_rng(seed)
    values = {}
    for name, shape in shapes.items():
        sign = np.where(rng.random(shape) < 0.5, -1.0, 1.0)
        size = rng.uniform(0.2, 0.9, shape).astype(np.float32)
        values[name] = size if name.endswith("running_var") else (sign * size).astype(np.float32)
    return values


def draw_input(shape: Iterable[int], batch: int, seed: int) -> np.ndarray:
    """Returns a random batch of inputs."""
    return np.random.default_rng(seed + 1).normal(size=(batch, *shape)).astype(np.float32)
