"""Renders a program as code: as a plain function or module, and as a copy with taps (calls of `T`) for the oracles."""

from collections.abc import Callable
from typing import Any, Literal

from .operations import OPS, Op
from .program import Node, Program
from .torch_operations import HELPERS

Framework = Literal["jax", "torch"]

TORCH_LOOPS = """
def recurrent(sequence, w, u):
    h, states = sequence.new_zeros(sequence.shape[0], u.shape[0]), []
    for step in sequence.unbind(1):
        h = torch.tanh(step @ w + h @ u)
        states.append(h)
    return torch.stack(states, 1)


def residual_loop(h, stack):
    for w in stack:
        h = h + torch.relu(h @ w)
    return h


def layers_loop(h, stack):
    for w in stack:
        h = torch.relu(h @ w)
    return h
"""


def jax_access(node: Node) -> str:
    name = node.attrs["name"]
    return f'C["{name}"]' if node.attrs["trained"] == "constant" else f'p["{name}"]'


def plain_access(node: Node) -> str:
    return f'p["{node.attrs["name"]}"]'


def module_access(node: Node) -> str:
    return f"self.{node.attrs['name']}"


def _names(program: Program, access: Callable[[Node], str]) -> list[str]:
    return [
        "x" if node.op == "input" else access(node) if node.is_parameter else f"h{index}"
        for index, node in enumerate(program.nodes)
    ]


def _filled(template: str, index: int, node: Node, names: list[str]) -> str:
    return template.format(*(names[arg] for arg in node.args), id=node.attrs.get("id", index), **_fields(node))


def _fields(node: Node) -> dict[str, Any]:
    return {name: value for name, value in node.attrs.items() if name != "id"}


def plain_lines(program: Program, framework: Framework) -> list[str]:
    """Returns the lines of the network without taps. The last line is the return statement."""
    names = _names(program, jax_access if framework == "jax" else module_access)
    lines, late = [], _training_only(program)
    for index, node in enumerate(program.nodes):
        if node.op in ("input", "param") or index in late:
            continue
        lines.append(f"{names[index]} = {_filled(getattr(OPS[node.op], framework), index, node, names)}")
    outputs = ", ".join(names[output] for output in program.outputs)
    if program.training_outputs:
        lines.append("if self.training:")
        for index in late:
            node = program.nodes[index]
            if not node.is_parameter:
                lines.append(f"    {names[index]} = {_filled(OPS[node.op].torch, index, node, names)}")
        extra = ", ".join(names[output] for output in program.training_outputs)
        lines.append(f"    return {outputs}, {extra},")
    return [*lines, f"return {outputs},"]


def _training_only(program: Program) -> list[int]:
    """Returns the nodes (by number) that only the outputs of training mode need."""
    needed = set(program.outputs) | {0}
    for index in reversed(range(len(program.nodes))):
        if index in needed:
            needed.update(program.nodes[index].args)
    return [index for index in range(len(program.nodes)) if index not in needed]


def tapped_source(program: Program) -> str:
    """Returns the source of a PyTorch function `tapped(p, x, T)`. It calls `T` at every kernel and nonlinearity."""
    names = _names(program, plain_access)
    lines = []
    for index, node in enumerate(program.nodes):
        if node.op not in ("input", "param"):
            lines += _tapped(index, node, names, all(program.nodes[arg].batched for arg in node.args))
    returned = [names[output] for output in (*program.outputs, *program.training_outputs)]
    body = "\n    ".join([*lines, f"return [{', '.join(returned)}]"])
    return f"def tapped(p, x, T):\n    {body}\n"


def _tapped(index: int, node: Node, names: list[str], batched_arguments: bool) -> list[str]:
    op: Op = OPS[node.op]
    own = op.tapped_torch
    template = own or op.torch
    number = node.attrs.get("id", index)
    if op.kind == "kernel" and not own:
        read = [*names]
        read[node.args[0]] = f"r{index}"
        value = _filled(template, index, node, read)
        return [f'r{index} = T.r("{number}", {names[node.args[0]]})', f'{names[index]} = T.z("{number}", {value})']
    value = _filled(template, index, node, names)
    if node.batched and (op.kind == "nonlinear" or (op.kind == "product" and batched_arguments)):
        soft = _filled(op.soft, index, node, names) if op.soft else "None"
        arguments = ", ".join(names[arg] for arg in node.args)
        call = f'T.a("{number}", lambda: {value}, [{arguments}], lambda: {soft})'
        return [f"{names[index]} = T.gated({call})" if op.kind == "product" else f"{names[index]} = {call}"]
    return [f"{names[index]} = {value}"]


def jax_source(program: Program) -> str:
    """Returns the source of `apply(p, x)`. `C` holds the constants."""
    return "def apply(p, x):\n    " + "\n    ".join(plain_lines(program, "jax")) + "\n"


def torch_source(program: Program) -> str:
    """Returns the source of a module `Network`. Its parameters and buffers are zeros until they are loaded."""
    declared, built = [], set()
    for index, node in enumerate(program.nodes):
        if node.is_parameter and "." not in node.attrs["name"]:
            declared.append(_declaration(node))
        elif not node.is_parameter and node.op != "input" and OPS[node.op].module:
            number = node.attrs.get("id", index)
            if number not in built:
                declared.append(f"self.l{number} = {_filled(OPS[node.op].module, index, node, [''] * index)}")
                built.add(number)
            if node.attrs.get("frozen"):
                declared.append(f"self.l{number}.requires_grad_(False)")
    loops = TORCH_LOOPS if program.operations & {"recurrent", "residual_scan", "scan_layers"} else ""
    loops += HELPERS if program.operations & {"half_in_place", "add_in_place", "copy_in_place"} else ""
    lines = [
        *("class Network(nn.Module):", "    def __init__(self):", "        super().__init__()"),
        *(f"        {line}" for line in dict.fromkeys(declared)),
        *("", "    def forward(self, x):"),
        *(f"        {line}" for line in plain_lines(program, "torch")),
    ]
    return f"{loops}\n\n" * bool(loops) + "\n".join(lines) + "\n"


def _declaration(node: Node) -> str:
    name, trained, zeros = node.attrs["name"], node.attrs["trained"], f"torch.zeros({node.shape})"
    if trained == "buffer":
        return f'self.register_buffer("{name}", {zeros})'
    if trained == "constant":
        return f"self.{name} = {zeros}"
    return f"self.{name} = nn.Parameter({zeros}, requires_grad={trained == 'yes'})"
