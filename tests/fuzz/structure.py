"""Finds which entries feed and read each unit of a program, from derivatives of a smooth copy of the program.

A unit is one neuron in the result of a kernel. An entry is one number of a parameter. The tracer is not used.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from .operations import OPS
from .program import Program, Values
from .source import tapped_source

Table = Bool[np.ndarray, "..."]
TINY = 1e-9


@dataclass(frozen=True)
class Reading:
    """The dependencies of each element of a kernel's input or of an output. Elements have no batch axis."""

    name: str
    units: Table  # [elements, units]
    entries: Table  # [elements, entries]
    raw: Table  # [elements]: depends on the input directly
    gated: Table  # [elements]: depends on a product of activations, so one silent factor is enough to make it 0
    read_by: Table  # [elements, entries]: the entries that multiply the element


@dataclass(frozen=True)
class Structure:
    """The true dependencies of a program in one mode. Entries of all parameters are numbered consecutively."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    units: tuple[tuple[str, int], ...]
    columns: Table  # [units, entries]: entries of the kernel that computes the unit
    feeds: Table  # [units, entries]: entries that enter the unit's pre-activation
    readings: tuple[Reading, ...]
    activations: tuple[Table, ...]  # [elements, units] for every nonlinearity
    shapes: Mapping[str, tuple[int, ...]]  # name of a parameter -> its shape
    axes: Mapping[str, tuple[int, ...]]  # kernel -> axes of its result along which its units lie
    unit_shapes: Mapping[str, tuple[int, ...]]  # kernel -> shape of its result, with length 1 on all other axes

    def activations_of(self, unit: int) -> list[Table]:
        """Returns, for every nonlinearity, a mask of the result's elements that depend on a unit."""
        return [units[:, unit] for units in self.activations]

    def of(self, name: str) -> slice:
        """Returns the slice of one parameter's entries."""
        start = sum(self.sizes[: self.names.index(name)])
        return slice(start, start + self.sizes[self.names.index(name)])


def soft(*values: Tensor) -> Tensor:
    """Combines values element by element with a smooth function. The result depends on all of the values."""
    return sum((1 + 0.1 * index) * value + 0.1 * value * value for index, value in enumerate(values))


def blend(value: Tensor) -> Tensor:
    """Returns a smooth function of the value. Each element of it depends on all elements along the last axis."""
    return value + 0.1 * value.sum(-1, keepdim=True) + 0.05 * torch.flip(value, (-1,)) ** 2


class Loops:
    """Recurrent operations as Python loops with taps."""

    def recurrent(self, name: str, sequence: Any, w: Any, u: Any) -> Any:
        h, states = None, []
        for step in range(sequence.shape[1]):
            z = self.r(name, sequence[:, step]) @ w
            z = self.z(name, z if h is None else z + self.r(f"{name}h", h) @ u)
            h = self.a(name, lambda z=z: self.tanh(z), [z], lambda: None)
            states.append(h)
        return self.stack(states)

    def residual_scan(self, name: str, h: Any, stack: Any) -> Any:
        for index, w in enumerate(stack):
            h = h + self._layer(f"{name}_{index}", h, w)
        return h

    def scan_layers(self, name: str, h: Any, stack: Any) -> Any:
        for index, w in enumerate(stack):
            h = self._layer(f"{name}_{index}", h, w)
        return h

    def complex(self, name: str, x: Any, real: Any, imaginary: Any) -> Any:
        """Returns the modulus of a product with a complex kernel. Real and imaginary parts are units of one neuron."""
        read = self.r(name, x)
        a, b = self.z(f"{name}r", read @ real), self.z(f"{name}i", read @ imaginary)
        return self.a(name, lambda: torch.sqrt(a * a + b * b), [a + 0.7 * b], lambda: None)

    def attention(self, name: str, x: Any, q: Any, k: Any, v: Any) -> Any:
        read = self.r(name, x)
        queries, keys, values = (self.z(f"{name}_{i}", read @ w) for i, w in enumerate((q, k, v), 1))
        logits = queries @ keys.transpose(1, 2)
        smooth = lambda: lambda a: soft(a) * soft(a).sum(-1, keepdim=True)  # noqa: E731
        return self.gated(self.a(name, lambda: torch.softmax(logits, -1), [logits], smooth) @ values)

    def drawn(self, kind: str, key: int, value: Any) -> Any:
        """Returns constants instead of random numbers."""
        return torch.full_like(value, 0.7 if kind == "rows" else 1.0)

    def while_layers(self, name: str, h: Any, w: Any) -> Any:
        for index in range(3):
            z = self.z(f"{name}_{index}", self.r(f"{name}_{index}", h) @ w)
            h = self.a(name, lambda z=z: torch.tanh(z), [z], lambda: None)
        return h

    def gated(self, value: Any) -> Any:
        """Marks a value as a product of activations and returns it."""
        return value

    def _layer(self, name: str, h: Any, w: Any) -> Any:
        z = self.z(name, self.r(name, h) @ w)
        return self.a(name, lambda: self.relu(z), [z], lambda: None)


class Cutter(Loops):
    """Runs a program in pieces. Replaces each kernel input by new random numbers, and with `cut` each activation too.

    In this way, derivatives do not pass from one piece to the next.
    """

    generic = True

    def __init__(self, cut: bool, training: bool, seed: int) -> None:
        self.cut, self.training = cut, training
        self.random = torch.Generator().manual_seed(seed)
        self.ends: list[Tensor] = []
        self.reads: list[tuple[str, Tensor, Tensor]] = []
        self.zs: list[tuple[str, Tensor]] = []
        self.activations: list[Tensor] = []
        self.products: list[Tensor] = []

    def gated(self, value: Tensor) -> Tensor:
        self.products.append(value)
        return value

    def r(self, name: str, value: Tensor) -> Tensor:
        leaf = self._leaf(value, value.detach() != 0)  # a constant 0 stays 0
        self.reads.append((name, value, leaf))
        self.ends.append(value)
        return leaf

    def z(self, name: str, value: Tensor) -> Tensor:
        self.zs.append((name, value))
        return value

    def a(self, name: str, compute: Callable[[], Tensor], values: list[Tensor], smooth: Callable[[], Any]) -> Tensor:
        result = (smooth() or soft)(*values)
        self.ends += values
        self.activations.append(result)
        return self._leaf(result, result.detach() != 0) if self.cut else result

    def noise(self, value: Tensor) -> Tensor:
        return torch.full_like(value, 0.7)

    def pick(self, x: Tensor, one: Tensor, two: Tensor) -> Tensor:
        return 0.4 * one + 0.6 * two

    def switch(self, x: Tensor, *cases: Tensor) -> Tensor:
        return sum((0.3 + 0.2 * index) * case for index, case in enumerate(cases))  # type: ignore[return-value]

    def stack(self, states: list[Tensor]) -> Tensor:
        return torch.stack(states, 1)

    def _leaf(self, value: Tensor, alive: Tensor | float = 1.0) -> Tensor:
        leaf = (0.5 + torch.rand(value.shape, generator=self.random, dtype=torch.float64)) * alive
        return leaf.to(value.dtype).requires_grad_()


def still_read(program: Program, values: Values, training: bool) -> list[Table]:
    """Returns, for every kernel input, a mask of the elements that affect a kernel's result with these parameters."""
    pieces = Cutter(True, training, 4)
    p = {name: torch.from_numpy(value).double().requires_grad_() for name, value in values.items()}
    x = 0.5 + torch.rand((3, *program.nodes[0].shape), generator=pieces.random, dtype=torch.float64)
    compiled(program)(p, x, pieces)
    leaves = [leaf for _, _, leaf in pieces.reads]
    found = torch.autograd.grad(_total(pieces), leaves, allow_unused=True)
    return [
        np.zeros(leaf[0].numel(), bool) if each is None else (each != 0).reshape(len(leaf), -1).any(0).numpy()
        for each, leaf in zip(found, leaves, strict=True)
    ]


def _total(pieces: Cutter) -> Tensor:
    return sum((1.1 + 0.1 * index) * weighted(z) for index, (_, z) in enumerate(pieces.zs))  # type: ignore[return-value]


def compiled(program: Program) -> Callable[..., list[Tensor]]:
    """Returns the program with taps, as a PyTorch function `tapped(p, x, T)`."""
    space: dict[str, Any] = {"torch": torch, "F": F, "soft": soft, "blend": blend}
    exec(compile(tapped_source(program), "<tapped>", "exec"), space)
    return space["tapped"]


def structure(program: Program, training: bool = False) -> Structure:
    """Returns the true dependencies of a program. Runs it once cut at kernels, and once also cut at nonlinearities."""
    tapped = compiled(program)
    random = torch.Generator().manual_seed(1)
    p = {
        name: (0.2 + torch.rand(node.shape, generator=random, dtype=torch.float64)).requires_grad_()
        for name, node in program.parameters.items()
    }
    x = (0.5 + torch.rand((3, *program.nodes[0].shape), generator=random, dtype=torch.float64)).requires_grad_()
    pieces, whole = Cutter(True, training, 2), Cutter(False, training, 3)
    ends = [*tapped(p, x, pieces), *pieces.ends]
    outputs = tapped(p, x, whole)
    units = _units(program, pieces)
    ask = _Derivatives(list(p.values()), units, whole.products)
    columns = np.zeros((units.total, ask.entries), bool)
    for name, z in pieces.zs:
        _, entries, *_ = ask.of(z, pieces.zs, x)
        columns |= (units.identity(name, z).T.astype(int) @ entries.astype(int)) > 0
    feeds = columns.copy()
    for end in ends:
        touched, entries, *_ = ask.of(end, pieces.zs, x)
        feeds |= (touched.T.astype(int) @ entries.astype(int)) > 0
    multiplied = ask.second(pieces)
    readings = []
    none = np.zeros((0, 0), bool)
    for (name, value, _), read_by in zip(whole.reads, multiplied, strict=True):
        readings.append(Reading(name, *ask.of(value, whole.zs, x), read_by))
    readings += [Reading("output", *ask.of(output, whole.zs, x), none) for output in outputs]
    activations = tuple(ask.of(value, whole.zs, x)[0] for value in whole.activations)
    sizes = tuple(leaf.numel() for leaf in p.values())
    shapes = {name: tuple(leaf.shape) for name, leaf in p.items()}
    return Structure(
        tuple(p), sizes, units.names, columns, feeds, tuple(readings), activations, shapes, units.axes, units.shapes
    )


@dataclass(frozen=True)
class _Units:
    starts: dict[str, int]
    counts: dict[str, int]
    axes: dict[str, tuple[int, ...]]
    shapes: dict[str, tuple[int, ...]]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def names(self) -> tuple[tuple[str, int], ...]:
        return tuple((name, index) for name, count in self.counts.items() for index in range(count))

    def by_unit(self, name: str, derivative: Tensor) -> Tensor:
        """Sums the absolute derivative over all axes of z except the axes of its units. Returns [elements, units]."""
        axes = [1 + axis % (derivative.ndim - 1) for axis in self.axes[name]]
        rest = [axis for axis in range(1, derivative.ndim) if axis not in axes]
        moved = derivative.abs().permute(0, *axes, *rest)
        return moved.reshape(len(derivative), self.counts[name], -1).sum(-1)

    def identity(self, name: str, z: Tensor) -> Table:
        """Returns a mask [elements, all units]: the unit to which each element of z belongs. Leaves out the batch."""
        numbers = torch.arange(self.counts[name], dtype=torch.float64)
        own = numbers.reshape(self.shapes[name]).expand(z.shape)[0].reshape(-1).long().numpy() + self.starts[name]
        return np.arange(self.total) == own[:, None]


def _units(program: Program, cutter: Cutter) -> _Units:
    starts, counts, axes, shapes, total = {}, {}, {}, {}, 0
    ops = {
        str(node.attrs.get("id", index)): node.op for index, node in enumerate(program.nodes) if not node.is_parameter
    }
    for name, z in cutter.zs:
        if name not in starts:
            axes[name] = OPS[ops[re.match(r"\d+", name).group()]].units  # type: ignore[union-attr]
            starts[name], counts[name] = total, int(np.prod([z.shape[axis] for axis in axes[name]]))
            total += counts[name]
            mine = [axis % z.ndim for axis in axes[name]]
            shapes[name] = tuple(length if axis in mine else 1 for axis, length in enumerate(z.shape))
    return _Units(starts, counts, axes, shapes)


class _Derivatives:
    """Finds by derivatives on which units and entries each element of a value depends."""

    def __init__(self, leaves: list[Tensor], units: _Units, products: list[Tensor]) -> None:
        self.leaves, self.units, self.products = leaves, units, products
        self.entries = sum(leaf.numel() for leaf in leaves)

    def of(self, value: Tensor, zs: list[tuple[str, Tensor]], x: Tensor) -> tuple[Table, Table, Table, Table]:
        """Returns four masks of what the elements of a value depend on: units, entries, the input, and products."""
        flat = value.reshape(len(value), -1)
        flat = (flat.real + 0.7 * flat.imag if flat.is_complex() else flat).T @ torch.tensor(
            [1.0, 0.7, 1.3], dtype=torch.float64
        )
        touched = np.zeros((len(flat), self.units.total), bool)
        if not flat.requires_grad:
            return touched, np.zeros((len(flat), self.entries), bool), *np.zeros((2, len(flat)), bool)
        products = [product for product in self.products if product.requires_grad]
        wanted = [*self.leaves, *(z for _, z in zs), *products, x]
        found = torch.autograd.grad(
            flat, wanted, torch.eye(len(flat), dtype=torch.float64), True, is_grads_batched=True, allow_unused=True
        )
        entries, raw = self._entries(found[: len(self.leaves)], len(flat)), found[-1]
        for (name, _), derivative in zip(zs, found[len(self.leaves) :], strict=False):
            if derivative is not None:
                here = slice(self.units.starts[name], self.units.starts[name] + self.units.counts[name])
                touched[:, here] |= (self.units.by_unit(name, derivative) > TINY).numpy()
        gates = found[len(self.leaves) + len(zs) : -1]
        gated = np.any([self._reached(gate, len(flat)) for gate in gates] or [np.zeros(len(flat), bool)], 0)
        return touched, entries, self._reached(raw, len(flat)), gated

    @staticmethod
    def _reached(derivative: Tensor | None, count: int) -> Table:
        if derivative is None:
            return np.zeros(count, bool)
        return (derivative.abs().flatten(1).sum(1) > TINY).numpy()

    def _entries(self, found: Any, count: int) -> Table:
        rows = [
            torch.zeros(count, leaf.numel()) if each is None else each.abs().reshape(count, -1)
            for each, leaf in zip(found, self.leaves, strict=True)
        ]
        return (torch.cat(rows, 1) > TINY).numpy() if rows else np.zeros((count, 0), bool)

    def second(self, pieces: Cutter) -> list[Table]:
        """Returns, for every kernel input, a mask of the entries that multiply each element."""
        total, found = _total(pieces), []
        leaves = [leaf for _, _, leaf in pieces.reads]
        for leaf, first in zip(
            leaves, torch.autograd.grad(total, leaves, create_graph=True, allow_unused=True), strict=True
        ):
            count = leaf[0].numel()
            if first is None or not first.requires_grad:
                found.append(np.zeros((count, self.entries), bool))
                continue
            flat = first.reshape(len(first), -1).T @ torch.tensor([1.0, 0.7, 1.3], dtype=torch.float64)
            rows = torch.autograd.grad(
                flat, self.leaves, torch.eye(count, dtype=torch.float64), True, is_grads_batched=True, allow_unused=True
            )
            found.append(self._entries(rows, count))
        return found


def weighted(z: Tensor) -> Tensor:
    """Returns a sum with a different weight for each element."""
    weights = (1 + 0.37 * torch.arange(z.numel(), dtype=torch.float64) % 1.9).reshape(z.shape)
    return ((z.real + 0.6 * z.imag if z.is_complex() else z) * weights).sum()
