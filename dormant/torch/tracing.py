"""Traces a module: runs it on example inputs, and follows every neuron to the weights that read it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..reasons import APART, BRANCH, RUNS, Reason
from .branches import LONGEST, Change, Got, Pass, TooLong, branches, module_names, running_part
from .execution import (
    Dataflow,
    Operations,
    Recorder,
    Seed,
    check_batch,
    named_leaves,
    plain,
    plain_name,
    run,
    storage,
    tensors_of,
)
from .layers import Found, Gradients, collect, has_nan, same_wiring
from .ledger import Call, Ledger, mix
from .rules import known
from .rules.movement import any_row, read_by_python
from .shadows import Shadows
from .values import NOTHING, Part, Value, broken, together
from .wiring import Activation, Wiring

Kind = TypeVar("Kind", bound=Operations)
RANDOM_TRACES = 8  # number of extra traces if Python draws random numbers; they may miss rare branches
RANDOM_BRANCH = Reason(
    "forward takes a branch on a random number of Python or NumPy, and only one way was followed", BRANCH
)
BUFFER, FROZEN, DETACHED = "a buffer", "frozen (requires_grad=False)", "detached from the outputs"


def trace(module: nn.Module, *example_inputs: Any) -> Wiring:
    """Returns the wiring of a module: its layers, and the parameters that feed and read each neuron.

    The module is run on the example inputs, in evaluation mode and in training mode. A batch of one or two samples is
    enough. The state of the module is restored afterwards. Layers may be modules or functions, in any order.
    Flattening, concatenation, slicing, pooling and layers with several readers are followed exactly. Output layers are
    not measured, because no weight reads them. `print(wiring)` shows which layers can't be recycled safely, and why.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> print(trace(net, torch.zeros(1, 3)))
    layer  neurons  fed by              read by   recycled
    0      4        0.weight, 0.bias    2.weight  yes
    output layers, not measured: 2

    Raises TypeError if there are no example inputs, or if the module returns an object whose tensors can't be found.
    Raises ValueError if the module has no parameters or has lazy parameters, or if the inputs are empty.
    """
    module = plain(module)
    _check(module)
    if not example_inputs:
        raise TypeError("trace needs example inputs: trace(module, x), where x is a batch of inputs of forward.")
    check_batch(example_inputs)
    return _traced(module, example_inputs)


def _check(module: nn.Module) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"trace needs a torch.nn.Module, got a {type(module).__name__}.")
    if lazy := [name for name, leaf in module.named_parameters() if nn.parameter.is_lazy(leaf)]:
        raise ValueError(f"{lazy[0]} has no shape yet: run the module once on a batch, and trace it then.")
    if not any(True for _ in module.parameters()):
        raise ValueError(f"{type(module).__name__} has no parameters, so it has no neurons to measure.")


def _traced(module: nn.Module, inputs: tuple[Any, ...]) -> Wiring:
    latest = [_found(module, inputs)]

    def measure(module: nn.Module, inputs: tuple[Any, ...], training: bool, seed: Seed) -> list[Activation]:
        module = plain(module)
        activations = _activations(module, inputs, latest[0], training, seed)
        if activations is None and isinstance(seed, str):  # forward takes another branch with these random numbers
            return []
        if activations is None:  # the operations or shapes depend on the inputs, for example on the batch size
            now = _found(module, inputs, again=True)._replace(branches=latest[0].branches)
            if not now.branches and (difference := same_wiring(latest[0], now)):
                raise ValueError(f"the module is wired differently on these inputs ({difference}): trace it again.")
            latest[0] = now
            activations = _activations(module, inputs, now, training, seed)
        if activations is None:
            raise ValueError("the module runs different operations at each call, so its neurons can't be measured.")
        return activations

    return Wiring(latest[0].layers, latest[0].outputs, latest[0].not_followed, measure)


def _activations(
    module: nn.Module, inputs: tuple[Any, ...], found: Found, training: bool, seed: Seed
) -> list[Activation] | None:
    """Returns the activations of all layers on the inputs.

    The result is None if the operations or shapes differ from those of the trace. It is empty if the module computes
    the same in training mode as in evaluation mode, or if a seed is given and the module draws no random numbers.
    """
    measuring = found.trained if training else found.evaluated
    if measuring is None or (seed is not None and not measuring.random):
        return []
    wanted = [step for points in measuring.points.values() for step in points]
    extreme = seed if isinstance(seed, str) else None
    recorder = Recorder(wanted, [step for steps in measuring.made.values() for step in steps], extreme)
    if training:
        recorder = _in_training(module, inputs, lambda: Recorder(wanted, (), extreme), seed)[0]
    else:
        run(module, inputs, recorder, seed=seed)
    if recorder.names != measuring.operations:
        return None
    activations = []
    leaves = named_leaves(module)
    spoiled = {layer.name for layer in found.layers if has_nan(layer, leaves)}
    for name, points in measuring.points.items():
        for step, neurons in points.items():
            values = recorder.recorded[step]
            if not values.numel():  # no sample reaches the layer, such as an expert that the router never chooses
                continue
            if values.ndim != neurons.ndim:
                return None
            if not all(n in (1, size) for n, size in zip(neurons.shape, values.shape, strict=True)):
                return None
            # The activations alone do not suffice, because a nonlinearity such as `where(x > 0, x, 0)` hides a NaN.
            finite = name not in spoiled and not (measuring.made.get(name, set()) & recorder.not_finite)
            activations.append(
                Activation(
                    name,
                    neurons,
                    values if finite else values.new_full((), torch.nan, dtype=torch.float32).expand(values.shape),
                )
            )
    return activations


class Passes(NamedTuple):
    """The ledger, and the tracers of evaluation mode and training mode.

    `trained` is None if the module raises an error in training mode, or if it computes the same as in evaluation mode.
    """

    notes: Ledger
    evaluated: "Tracer"
    trained: "Tracer | None"
    raised: bool  # whether the module raises an error in training mode

    @property
    def python_random(self) -> bool:
        return any(traced.python_random for traced in (self.evaluated, self.trained) if traced)

    def collected(self) -> Pass:
        found = collect(self.notes, self.evaluated, self.trained)
        return Pass(found, (self.evaluated.got, self.trained.got if self.trained else []))


def _found(module: nn.Module, inputs: tuple[Any, ...], again: bool = False) -> Found:
    """Traces a module and returns the result. With `again=True`, does not search for branches."""
    passes = _passes(module, inputs)
    first, notes = passes.collected(), passes.notes
    most = LONGEST * max(len(traced.names) for traced in (passes.evaluated, passes.trained) if traced)

    def changed(change: Change) -> Pass:
        return _passes(module, inputs, change, most).collected()

    reasons = branches(first, changed) if any(first.got) and not again else []
    if passes.python_random and not again:
        others = (_passes(module, inputs, seed=seed).collected().found for seed in range(RANDOM_TRACES))
        reasons += [RANDOM_BRANCH] * any(same_wiring(first.found, other) for other in others)
    branched = bool(reasons)
    reasons += [] if passes.raised else _note_missed(notes, module, inputs)
    for reason in reasons:
        notes.blame(range(len(notes.layers)), reason)
    found = passes.collected().found if reasons or notes.detached else first.found
    return found._replace(branches=branched)


def _passes(
    module: nn.Module,
    inputs: tuple[Any, ...],
    change: Change | None = None,
    most: int | None = None,
    seed: Seed = None,
) -> Passes:
    """Traces a module in both modes.

    `change` replaces a value that Python reads. `most` is the largest number of operations per mode. If a mode runs
    more, this raises TooLong.
    """
    leaves = named_leaves(module)
    frozen = {name: FROZEN for name, leaf in module.named_parameters() if not leaf.requires_grad}
    frozen |= {name: BUFFER for name, _ in module.named_buffers()}
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    notes = Ledger(shapes, {plain_name(name): what for name, what in frozen.items()})
    parts = module_names(module)
    evaluated, trained, raised = (
        Tracer(notes, parts, change if change and not change.training else None, most),
        None,
        False,
    )
    run(module, inputs, evaluated, seed=seed)
    try:
        flow, attempt = _in_training(module, inputs, Dataflow, seed)
    except Exception as error:
        raised = True
        reason = Reason(f"training mode raises {type(error).__name__} on these inputs: {str(error)[:80]}", RUNS)
        notes.blame(range(len(notes.layers)), reason)
    else:
        if flow.steps != evaluated.steps:
            notes.training = True
            trained = Tracer(notes, parts, change if change and change.training else None, most)
            run(module, attempt, trained, training=True, seed=seed)
    return Passes(notes, evaluated, trained, raised)


def _note_missed(notes: Ledger, module: nn.Module, inputs: tuple[Any, ...]) -> list[Reason]:
    """Records the parameters that no gradient reaches in both modes.

    Returns a list with one reason if these parameters can't be found, or else an empty list.
    """
    try:
        first = _in_training(module, inputs, lambda: Gradients(module))[0]
        if first.missed:
            run(module, inputs, second := Gradients(module))
            first.missed = [name for name in first.missed if name in second.missed]
    except Exception as error:
        return [Reason(f"forward raises {type(error).__name__} when gradients are on: {str(error)[:80]}", RUNS)]
    missed = [name for name in first.missed if not notes.is_idle(name)]
    if missed and first.unknown:
        return [Reason(first.unknown, RUNS)]
    notes.detached = dict.fromkeys(missed, DETACHED)
    return []


def _in_training(
    module: nn.Module, inputs: tuple[Any, ...], make: Callable[[], Kind], seed: Seed = None
) -> tuple[Kind, tuple[Any, ...]]:
    """Runs a module in training mode. Returns the object that observed the operations, and the inputs that were used.

    `make` creates the observer. If the module raises ValueError, as BatchNorm does for a batch of one sample, it is run
    again with two copies of the sample.
    """
    try:
        run(module, inputs, operations := make(), training=True, seed=seed)
    except ValueError:
        inputs = _doubled(inputs)
        run(module, inputs, operations := make(), training=True, seed=seed)
    return operations, inputs


def _doubled(inputs: Any) -> Any:
    """Returns the inputs after repeating each tensor with one sample, so that it has two samples."""
    return tree_map_only(Tensor, lambda x: torch.cat([x, x]) if x.ndim and len(x) == 1 else x, inputs)


class Tracer(Dataflow):
    """Follows neurons and parameter entries through the operations of a pass, and records them in the ledger."""

    def __init__(self, notes: Ledger, parts: Mapping[int, str], change: Change | None, most: int | None) -> None:
        super().__init__()
        self.most = most  # largest number of operations in the pass, or None
        self.notes, self.shadows = notes, Shadows()
        self.parts, self.change, self.got = parts, change, list[Got]()
        self.places: dict[int, str] = {}
        self.python_chooses = False

    def start(self, leaves: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        super().start(leaves, inputs)
        for tensor in inputs:
            self.shadows.write(tensor, Value(from_input=True, varies=True), whole=True)
        for name, start, leaf in zip(self.notes.names, self.notes.starts, leaves, strict=True):
            entries = self.notes.entries[start : start + leaf.numel()].reshape(leaf.shape)
            constant = self.notes.frozen.get(name) == BUFFER
            self.shadows.write(leaf, Value(parts=(Part(entries, constant=constant),)))
            if place := storage(leaf):
                self.places[place] = name

    def value(self, tensor: Any) -> Value:
        """Returns the `Value` of a tensor. Removes the stages of layers that have no neurons in the tensor."""
        found = self.shadows.read(tensor) if isinstance(tensor, Tensor) else NOTHING
        if len(found.carried) > 1 and found.neurons is not None:
            present = set(self.notes.layers_of(self.notes.current(found.neurons)))
            stages = {layer: stage for layer, stage in found.stages.items() if stage.broken or layer in present}
            found = replace(found, stages=stages)
        return found

    def observe(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        super().observe(func, args, kwargs, outputs)
        if self.most is not None and len(self.names) > self.most:
            raise TooLong
        self.notes.step = len(self.names) - 1
        tensors = tensors_of(args, kwargs)
        self.notes.used |= {self.places[place] for tensor in tensors if (place := storage(tensor)) in self.places}
        if torch.Tag.inplace_view in func.tags:
            return
        self._note_choices(func.overloadpacket.__name__, args)
        written = _written(func, args, kwargs)
        before = {storage(tensor) for tensor in tensors}
        made = [tensor for tensor in tensors_of(outputs) if storage(tensor) not in before or storage(tensor) is None]
        if written or made or not tensors_of(outputs):
            self._apply(func, args, kwargs, outputs, written)

    def _note_choices(self, name: str, args: Any) -> None:
        """Handles indices that Python computes from the inputs. They may select any row of a parameter."""
        if name == "_local_scalar_dense" and not (args[0].is_floating_point() or args[0].dtype is torch.bool):
            value = self.value(args[0])
            self.python_chooses |= value.from_input or value.varies
        if name == "select" and self.python_chooses and (value := self.value(args[0])).parts:
            whole = any_row(value, args[1] % args[0].ndim)
            if whole is not None and args[0].is_contiguous():
                self.shadows.write(args[0], whole)
            else:
                self.notes.not_known(value.parts, name)

    def _apply(self, func: Any, args: Any, kwargs: Any, outputs: Any, written: list[Tensor]) -> None:
        name = func.overloadpacket.__name__
        if written:
            name = name.removesuffix("_")
            kwargs = {key: value for key, value in kwargs.items() if key != "out"}
        call = Call(func, name, args, kwargs, outputs, self.value)
        found = known(self.notes, call)
        values = found if isinstance(found, list) else [found, *self._others(call, found)]
        places = {storage(tensor) for tensor in written}
        returned = [tensor for tensor in call.outputs if storage(tensor) not in places]
        if returned and written:  # for example `rrelu_with_noise`, which also writes to its argument `noise`
            for tensor in written:
                self.shadows.write(tensor, mix(self.notes, call))
        for tensor, value in zip(returned or written, values, strict=False):
            self.shadows.write(tensor, value)
            self.notes.mark(value.neurons, value.stages)

    def _others(self, call: Call, first: Value) -> list[Value]:
        """Returns the values of all outputs after the first, such as the indices of maxima.

        They are treated as mixes of the neurons in the first output, whose value is `first`.
        """
        if len(call.outputs) < 2:
            return []
        whole = together([first])
        lost = replace(whole, stages=broken(whole.stages, Reason(f"read by aten.{call.name}", APART)))
        return [lost] * (len(call.outputs) - 1)

    def python_gets(self, tensors: Sequence[Tensor], result: object) -> object:
        if any(value.stages or value.from_input or value.varies for value in map(self.value, tensors)):
            self.got.append(Got(result, running_part(self.parts)))
            if self.change is not None and self.change.number == len(self.got) - 1:
                return self.change.value
        return result

    def python_reads(self, tensor: Tensor) -> None:
        read_by_python(self.notes, [self.value(tensor)], "as a list or an array")

    def finish(self, outputs: Sequence[Tensor]) -> None:
        super().finish(outputs)
        for value in map(self.value, outputs):
            self.notes.returned(value.stages)
            self.notes.not_known(value.parts, "return")


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Returns the tensors to which an operation writes, except for the running statistics of a BatchNorm."""
    if not func._schema.is_mutable or "batch_norm" in func.__name__:
        return []
    found = []
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            found += tensors_of(value)
    return found
