"""Runs a program with taps in PyTorch, to find which values are zero and whether outputs depend on a unit."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .oracles import Failure, judge_outputs, recycled_units
from .program import BATCH_STATISTICS, Program, Values
from .structure import Loops, Structure, Table, compiled

Draw = Callable[[str, int, tuple[int, ...]], np.ndarray]  # (kind of random numbers, key, shape) -> numbers


class Recorder(Loops):
    """Records kernel inputs and activations, and adds `moves` to the pre-activations of units."""

    generic = False
    tanh, relu = staticmethod(torch.tanh), staticmethod(torch.relu)

    def __init__(
        self,
        moves: dict[str, np.ndarray] | None = None,
        training: bool = False,
        seed: int = 0,
        draw: Draw | None = None,
        rounding: float = 0.0,
    ) -> None:
        self.rounding = rounding  # relative error of every pre-activation, to imitate a different compilation
        self.random, self.draw = torch.Generator().manual_seed(seed), draw
        self.moves, self.training = moves or {}, training
        self.reads, self.activations, self.arguments = list[Tensor](), list[Tensor](), dict[str, Tensor]()

    def r(self, name: str, value: Tensor) -> Tensor:
        self.reads.append(value)
        return value

    def z(self, name: str, value: Tensor) -> Tensor:
        if self.rounding:
            value = value * (1 + self.rounding * torch.randn(value.shape, generator=self.random).to(value))
        return value + torch.tensor(self.moves[name]).to(value) if name in self.moves else value

    def a(self, name: str, compute: Callable[[], Tensor], arguments: Sequence[Tensor], *_: Any) -> Tensor:
        self.activations.append(result := compute())
        self.arguments[name] = arguments[0]
        return result

    def drawn(self, kind: str, key: int, value: Tensor) -> Tensor:
        """Returns the random numbers that the network draws, or constants if `draw` can't reproduce them."""
        if self.draw is None:
            return super().drawn(kind, key, value)
        return torch.from_numpy(self.draw(kind, key, tuple(value.shape))).to(value)

    def noise(self, value: Tensor) -> Tensor:
        if self.draw is not None:
            return self.drawn("normal", 5, value)
        return torch.randn(value.shape, generator=self.random).to(value)

    def pick(self, x: Tensor, one: Tensor, two: Tensor) -> Tensor:
        return one if x.sum() > 0 else two

    def switch(self, x: Tensor, *cases: Tensor) -> Tensor:
        return cases[int(x.reshape(len(x), -1).sum(0).argmax()) % len(cases)]

    def stack(self, states: Sequence[Tensor]) -> Tensor:
        return torch.stack(tuple(states), 1)


def run(program: Program, values: Values, batch: np.ndarray, recorder: Recorder) -> list[np.ndarray]:
    """Returns the outputs of a program. They include the outputs of training mode."""
    p = {name: torch.from_numpy(value) for name, value in values.items()}
    with torch.no_grad():
        return [output.numpy() for output in compiled(program)(p, torch.from_numpy(batch), recorder)]


class Observed(NamedTuple):
    """Values of a run, each [batch, elements]. `ends` holds kernel inputs and outputs.

    `zero` masks the elements of `ends` that are 0 on the whole batch.
    """

    ends: list[np.ndarray]
    zero: list[Table]
    activations: list[np.ndarray]


def observed(
    program: Program, values: Values, batch: np.ndarray, tiny: float = 0.0, training: bool = False, seed: int = 0,
    draw: Draw | None = None,
) -> Observed:  # fmt: skip
    """Returns the values of a run. In `zero`, numbers up to `tiny` are treated as 0, because XLA rounds them to 0."""
    recorder = Recorder(training=training, seed=seed, draw=draw)
    outputs = run(program, values, batch, recorder)
    ends = [np.reshape(np.asarray(value), (len(value), -1)) for value in (*recorder.reads, *outputs)]
    activations = [np.reshape(np.asarray(value), (len(value), -1)) for value in recorder.activations]
    return Observed(ends, [(np.abs(value) <= tiny).all(0) for value in ends], activations)


def hangs_on_rounding(program: Program, values: Values, batch: np.ndarray, seen: Observed, **options: Any) -> bool:
    """Whether rounding decides which values are 0. Then a different compilation may give different zeros.

    Examples: a constant neuron from which the batch mean is subtracted, a sigmoid that almost underflows, or GELU of
    numbers below -4, where its factor 1 + tanh is 0 or one rounding unit.
    """
    if any(((value != 0) & (np.abs(value) < 1e-30)).any() for value in (*seen.ends, *seen.activations)):
        return True
    if not program.operations & {*BATCH_STATISTICS, "gelu"}:
        return False
    recorder = Recorder(rounding=1e-6, **options)
    outputs = run(program, values, batch, recorder)
    gelus = {str(node.attrs.get("id", index)) for index, node in enumerate(program.nodes) if node.op == "gelu"}
    if any((recorder.arguments[name] < -4).any() for name in gelus):
        return True
    ends = [np.reshape(np.asarray(value), (len(value), -1)) for value in (*recorder.reads, *outputs)]
    zero = [(value == 0).all(0) for value in ends]
    return any((now & ~then).any() for now, then in zip(seen.zero, zero, strict=True))


def judge_moves(
    program: Program, truths: Sequence[Structure], modes: Sequence[bool], before: Values, new: Values, donor: Values,
    batch: np.ndarray,
) -> list[Failure]:  # fmt: skip
    """Changes the pre-activations of recycled units, and checks that no output changes."""
    recycled = recycled_units(truths[0], before, new, donor)
    if not recycled.any():
        return []
    moves, fails = unit_moves(truths[0], recycled), []
    for training in modes:
        still, moved = (run(program, new, batch, Recorder(each, training)) for each in (None, moves))
        fails += judge_outputs("outputs depend on a recycled unit", still, moved)
    return fails


def unit_moves(truth: Structure, recycled: np.ndarray) -> dict[str, np.ndarray]:
    """Returns numbers to add to a kernel's result, by the kernel's name: large for recycled units, 0 for others."""
    rng = np.random.default_rng(5)
    signs = np.where(rng.random(len(recycled)) < 0.7, 1, -1)
    sizes = np.where(recycled, rng.uniform(15, 25, len(recycled)) * signs, 0)
    moves = {}
    for name, shape in truth.unit_shapes.items():
        here = np.array([sizes[index] for index, unit in enumerate(truth.units) if unit[0] == name])
        if here.any():
            moves[name] = here.reshape(shape)
    return moves
