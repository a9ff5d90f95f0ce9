"""Shrinks a failing program."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from .operations import OPS
from .program import Node, Program, redirected, without_dead_nodes

SIMPLER = {"kernel": (), "plain": (), "nonlinear": ("relu", "tanh")}


def shrunk(program: Program, fails: Callable[[Program], bool], attempts: int = 300) -> Program:
    """Returns a smaller program that still fails. `fails(program)` must be true."""
    progress = True
    while progress and attempts > 0:
        progress = False
        for candidate in smaller(program):
            attempts -= 1
            if fails(candidate):
                program, progress = candidate, True
                break
            if attempts <= 0:
                break
    return program


def smaller(program: Program) -> Iterator[Program]:
    """Yields simpler programs, each with one change, the largest simplifications first."""
    for group in ("outputs", "training_outputs"):
        chosen = getattr(program, group)
        for index in range(len(chosen)):
            rest = chosen[:index] + chosen[index + 1 :]
            if rest or group == "training_outputs":
                yield without_dead_nodes(replace(program, **{group: rest}))
    for index in reversed(range(1, len(program.nodes))):
        node = program.nodes[index]
        for other in range(index):
            same = program.nodes[other].shape == node.shape and program.nodes[other].batched == node.batched
            if same and (other in node.args or other == 0 or not node.batched):
                yield redirected(program, index, other)
    for index, node in enumerate(program.nodes):
        yield from _plainer(program, index, node)


def _plainer(program: Program, index: int, node: Node) -> Iterator[Program]:
    """Yields the program with one node in a simpler form."""

    def changed(new: Node) -> Program:
        return without_dead_nodes(replace(program, nodes=(*program.nodes[:index], new, *program.nodes[index + 1 :])))

    if node.op == "input" or node.is_parameter:
        return
    if not node.batched:
        name = f"k{900 + index}"
        yield changed(Node("param", (), node.shape, False, {"name": name, "trained": "yes", "role": "kernel"}))
    if OPS[node.op].kind == "nonlinear" and node.batched and node.op != "relu":
        arg = program.nodes[node.args[0]]
        if arg.shape == node.shape:
            yield changed(replace(node, op="relu", args=node.args[:1]))
    if node.op in ("linear_module", "linear_module_plain", "linear") and not node.attrs.get("frozen"):
        weight = program.nodes[node.args[1]]
        if weight.is_parameter and "." in weight.attrs["name"]:
            plain = f"k{900 + index}"
            nodes = list(program.nodes)
            nodes[node.args[1]] = replace(weight, attrs={**weight.attrs, "name": plain})
            nodes[index] = replace(node, op="linear", args=node.args[:2])
            yield without_dead_nodes(replace(program, nodes=tuple(nodes)))
