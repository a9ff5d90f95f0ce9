"""Programs: a program is a traced function as a flat list of primitive steps. `evaluate` runs it."""

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import ShapedArray, Tracer
from jax.extend import core
from jax.typing import DTypeLike

# Primitives that are inlined. The value is the name of the parameter that holds the inner jaxpr.
INLINED = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vmap_call": "call",
}


# Largest number of steps of an unrolled scan. Measuring compiles every step, so this limits the compile time.
LONGEST_UNROLLED = 10_000


class TraceError(ValueError):
    """Raised if a function has no neuron layer.

    Also raised if inputs of another shape give other layers, or make a scan too long to unroll.
    """


class Step(NamedTuple):
    """One call of a primitive. `operands` and `results` are indices of values. `settings` are JAX's parameters."""

    primitive: core.Primitive
    operands: tuple[int, ...]
    results: tuple[int, ...]
    settings: dict[str, Any]
    scope: str

    @property
    def name(self) -> str:
        return self.primitive.name


class Program(NamedTuple):
    """A list of steps that compute values.

    Every value has an index. `inputs` and `outputs` are indices of values. `constants` maps indices to constants.
    `shapes` holds the shape of every value.
    """

    steps: list[Step]
    inputs: list[int]
    outputs: list[int]
    constants: dict[int, Any]
    shapes: list[tuple[int, ...]]


def flat_program(function: Callable[..., Any], *arguments: Any) -> Program:
    """Returns the flat program of a function, traced at the shapes and dtypes of its arguments."""
    closed = jax.make_jaxpr(function)(*arguments)
    writer = _Writer()
    inputs = [writer.number(_shaped(variable).shape) for variable in closed.jaxpr.invars]
    outputs = writer.inline(closed.jaxpr, closed.consts, inputs, scope="")
    every = Program(writer.steps, inputs, outputs, writer.constants, writer.shapes)
    # Steps that no output depends on, such as a statistic that the caller drops, are not part of the network.
    return every._replace(steps=needed(every, outputs))


def evaluate(traced: Program, arguments: Sequence[Any], wanted: Iterable[int]) -> dict[int, Any]:
    """Runs the steps that the wanted values depend on. Returns a dictionary from indices to values.

    `arguments` is a flat list with one array per input.
    """
    values = dict(traced.constants) | dict(zip(traced.inputs, arguments, strict=True))
    for step in needed(traced, wanted):
        results = step.primitive.bind(*(values[operand] for operand in step.operands), **step.settings)
        results = results if step.primitive.multiple_results else [results]
        values.update(zip(step.results, results, strict=True))
    return {number: values[number] for number in wanted}


def trained_inputs(traced: Program) -> set[int]:
    """Returns the inputs that can get a gradient: those that reach an output without a `stop_gradient` in between."""
    reached = set(traced.outputs)
    for step in needed(traced, traced.outputs, stops="stop_gradient"):
        reached.update(step.operands)
    return reached.intersection(traced.inputs)


def needed(traced: Program, wanted: Iterable[int], stops: str = "") -> list[Step]:
    """Returns the steps on which the wanted values depend, in order. Ignores steps of the primitive named `stops`."""
    open_values, kept = set(wanted), []
    for step in reversed(traced.steps):
        if step.name != stops and open_values.intersection(step.results):
            open_values.update(step.operands)
            kept.append(step)
    return kept[::-1]


def _typed(literal: core.Literal) -> np.ndarray:
    """Returns a literal of a jaxpr as an array. It has the dtype in the jaxpr, not JAX's default dtype."""
    return np.asarray(literal.val, _shaped(literal).dtype)


def _shaped(atom: core.Var | core.Literal) -> ShapedArray:
    """Returns the shape and dtype of a variable or literal, which is always an array in a traced network."""
    return cast(ShapedArray, atom.aval)


class _Writer:
    """Inlines nested functions into one list of steps. Every value gets a new index."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.constants: dict[int, Any] = {}
        self.shapes: list[tuple[int, ...]] = []

    def number(self, shape: tuple[int, ...]) -> int:
        self.shapes.append(tuple(shape))
        return len(self.shapes) - 1

    def constant(self, value: Any) -> int:
        number = self.number(np.shape(value))
        self.constants[number] = value
        return number

    def inline(self, jaxpr: core.Jaxpr, constants: Sequence[Any], inputs: Sequence[int], scope: str) -> list[int]:
        known = dict(zip(jaxpr.invars, inputs, strict=True))
        known |= {variable: self.constant(value) for variable, value in zip(jaxpr.constvars, constants, strict=True)}

        def look_up(atom: core.Var | core.Literal) -> int:
            return self.constant(_typed(atom)) if isinstance(atom, core.Literal) else known[atom]

        for equation in jaxpr.eqns:
            operands = [look_up(atom) for atom in equation.invars]
            results = self.write(equation, operands, scope)
            known |= dict(zip(equation.outvars, results, strict=True))
        return [look_up(atom) for atom in jaxpr.outvars]

    def write(self, equation: core.JaxprEqn, operands: list[int], scope: str) -> list[int]:
        scope = "/".join(filter(None, [scope, str(equation.source_info.name_stack)]))
        name = equation.primitive.name
        if name in INLINED:
            inner = equation.params[INLINED[name]]
            closed = inner if hasattr(inner, "consts") else core.ClosedJaxpr(inner, [])
            return self.inline(closed.jaxpr, closed.consts, operands, scope)
        if name == "scan" and self.may_unroll(equation):
            return self.unroll(equation, operands, scope)
        if name == "cond":
            return self.choose(equation, operands, scope)
        results = [self.number(_shaped(variable).shape) for variable in equation.outvars]
        self.steps.append(Step(equation.primitive, tuple(operands), tuple(results), equation.params, scope))
        return results

    def may_unroll(self, equation: core.JaxprEqn) -> bool:
        """Whether a scan is short enough to unroll. A longer scan is a single step, which mixes its operands."""
        return equation.params["length"] * len(equation.params["jaxpr"].jaxpr.eqns) <= LONGEST_UNROLLED

    def choose(self, equation: core.JaxprEqn, operands: list[int], scope: str) -> list[int]:
        """Inlines all branches of a `cond`, and then a step that selects the results of one branch.

        If the index of the branch is known while tracing, only this branch is inlined. Returns the indices of the
        resulting values.
        """
        index, *arguments = operands
        branches = equation.params["branches"]
        if index in self.constants and not isinstance(self.constants[index], Tracer):
            branches = [branches[int(np.clip(self.constants[index], 0, len(branches) - 1))]]
        results = [self.inline(branch.jaxpr, branch.consts, arguments, scope) for branch in branches]
        if len(branches) == 1:
            return results[0]
        clipped = functools.partial(_clipped, most=len(branches) - 1)
        (index,) = self.call(clipped, [index], scope, np.int32)
        chosen = []
        for variable, *cases in zip(equation.outvars, *results, strict=True):
            number = self.number(_shaped(variable).shape)
            self.steps.append(Step(lax.select_n_p, (index, *cases), (number,), {}, scope))
            chosen.append(number)
        return chosen

    def unroll(self, equation: core.JaxprEqn, operands: list[int], scope: str) -> list[int]:
        """Inlines the body of a scan once per iteration and returns the indices of the resulting values.

        This way, the tracer finds that all iterations use the same weights.
        """
        settings = equation.params
        body, length = settings["jaxpr"], settings["length"]
        constants, carry, sequences = _split(operands, settings["num_consts"], settings["num_carry"])
        stacked: list[list[int]] = [[] for _ in body.jaxpr.outvars[len(carry) :]]
        for index in reversed(range(length)) if settings["reverse"] else range(length):
            elements = [self.call(operator.itemgetter(index), [sequence], scope)[0] for sequence in sequences]
            results = self.inline(body.jaxpr, body.consts, [*constants, *carry, *elements], scope)
            carry, outputs = results[: len(carry)], results[len(carry) :]
            for column, output in zip(stacked, outputs, strict=True):
                column.insert(0, output) if settings["reverse"] else column.append(output)
        if not length:  # there are no outputs to stack
            empty = [_shaped(variable) for variable in equation.outvars[len(carry) :]]
            return carry + [self.constant(np.zeros(each.shape, each.dtype)) for each in empty]
        return carry + [self.call(_stacked, column, scope)[0] for column in stacked]

    def call(
        self, function: Callable[..., Any], operands: list[int], scope: str, dtype: DTypeLike = np.float32
    ) -> list[int]:
        """Inlines a JAX function that is applied to the values `operands`. Returns the indices of its results."""
        closed = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(self.shapes[one], dtype) for one in operands))
        return self.inline(closed.jaxpr, closed.consts, operands, scope)


def _clipped(index: Array, most: int) -> Array:
    """Returns the index of a branch, clipped to the range from 0 to `most`, or a Boolean if `most` is 1."""
    index = jnp.clip(index, 0, most)
    return index if most > 1 else index == 1


def _stacked(*rows: Array) -> Array:
    return jnp.concatenate([row[None] for row in rows])


def _split(operands: list[int], constants: int, carry: int) -> tuple[list[int], list[int], list[int]]:
    return operands[:constants], operands[constants : constants + carry], operands[constants + carry :]
