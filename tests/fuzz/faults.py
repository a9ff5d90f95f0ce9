"""Plants past faults of the tracer into the wirings that `trace` returns. The fuzzer must find each fault."""

import contextlib
import dataclasses
import importlib
import re
import unittest.mock as mock
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dormant.torch.wiring import NeuronLayer as TorchLayer
from dormant.wiring import NeuronLayer as JaxLayer

from .generator import generate
from .jax_faults import JAX_FAULTS
from .running import run
from .source import Framework
from .torch_faults import TORCH_FAULTS, CodeFault

Layer = JaxLayer | TorchLayer
Change = Callable[[Layer], Layer]


@dataclass(frozen=True)
class Fault:
    """A fault: its description, and a function that changes a layer of a wiring."""

    text: str
    change: Change


def replaced(layer: Layer, **fields: Any) -> Layer:
    return dataclasses.replace(layer, **fields)


def without_reasons(pattern: str) -> Change:
    """Returns a change that removes a layer's reasons that match `pattern`. Without reasons, a layer is recycled."""

    def change(layer: Layer) -> Layer:
        return replaced(layer, reasons=tuple(reason for reason in layer.reasons if not re.search(pattern, reason)))

    return change


def outgoing_maps(move: Callable[[Any, int], Any]) -> Change:
    """Returns a change that applies `move` to the neuron map of every kernel that reads the layer."""

    def change(layer: Layer) -> Layer:
        maps = {name: move(owner, layer.width) for name, owner in layer.outgoing.items()}
        return replaced(layer, outgoing=maps)

    return change


def _next(owner: Any, width: int) -> Any:
    return like(owner, np.where(np.asarray(owner) >= 0, (np.asarray(owner) + 1) % width, np.asarray(owner)))


def _repeated(owner: Any, width: int) -> Any:
    """Returns the map of a flattened image as if channels and positions were flattened in reverse order."""
    ids = np.asarray(owner)
    rows = ids.size // width
    if rows <= 1 or ids.size % width or not (ids >= 0).all():
        return owner
    flat = ids.ravel()
    other = (
        np.repeat(np.arange(width), rows)
        if not (flat == np.repeat(np.arange(width), rows)).all()
        else np.tile(np.arange(width), rows)
    )
    return like(owner, other.reshape(ids.shape))


def like(owner: Any, ids: np.ndarray) -> Any:
    """Returns ids in the array type of `owner`."""
    if isinstance(owner, np.ndarray):
        return ids
    return importlib.import_module("torch").from_numpy(np.ascontiguousarray(ids))


def without_vectors(maps: Mapping[str, Any]) -> dict[str, Any]:
    return {name: owner for name, owner in maps.items() if owner.ndim > 1}


def first_only(maps: Mapping[str, Any]) -> dict[str, Any]:
    return dict(list(maps.items())[:1])


FAULTS = {
    "biases are kept": Fault(
        "Recycling redraws kernels and leaves biases as they are.",
        lambda layer: replaced(layer, incoming=without_vectors(layer.incoming)),
    ),
    "one reader is forgotten": Fault(
        "Of several kernels that read a layer, only the first is set to 0.",
        lambda layer: replaced(layer, outgoing=first_only(layer.outgoing)),
    ),
    "readers off by one": Fault("The next neuron's outgoing weights are set to 0.", outgoing_maps(_next)),
    "flattened in the wrong order": Fault(
        "After a flatten, the rows that read a channel are found with a wrong order of the axes.",
        outgoing_maps(_repeated),
    ),
    "sums are recycled": Fault(
        "A layer that is added to other layers is recycled.",
        without_reasons(r"summ|stream|combined|residual|joined|added"),
    ),
    "offsets are recycled": Fault(
        "A layer that is not 0 when it is silent is recycled.",
        without_reasons(r"not zero|not 0|after (the|its) activation|offset"),
    ),
    "shared weights are recycled": Fault(
        "A layer whose weights have another use is recycled.",
        without_reasons(r"share|another use|is also|both feeds and reads|other neurons"),
    ),
    "outputs are recycled": Fault("A layer that the function returns is recycled.", without_reasons(r"return")),
    "normalisations do not couple": Fault(
        "A layer is treated as safe although a normalisation couples its neurons.",
        lambda layer: replaced(layer, coupled_by=()),
    ),
    "incoming off by one": Fault(
        "The next neuron's incoming weights are drawn again.",
        lambda layer: replaced(
            layer, incoming={name: _next(owner, layer.width) for name, owner in layer.incoming.items()}
        ),
    ),
}


CODE_FAULTS: dict[str, tuple[CodeFault, ...]] = {**{name: (each,) for name, each in TORCH_FAULTS.items()}, **JAX_FAULTS}


def faults_of(framework: Framework) -> list[str]:
    """Returns the names of all faults that can be planted in a framework, into wirings or into the tracer's code."""
    return [*FAULTS, *(TORCH_FAULTS if framework == "torch" else JAX_FAULTS)]


@contextlib.contextmanager
def replaced_functions(faults: Iterable[CodeFault]) -> Iterator[list[str]]:
    """Replaces functions of the tracer inside a `with` block. Yields the functions' names.

    Raises AttributeError if a function does not exist.
    """
    with contextlib.ExitStack() as undo:
        for fault in faults:
            owner, _, name = fault.function.rpartition(".")
            module = importlib.import_module(fault.module)
            found = getattr(module, owner) if owner else module
            undo.enter_context(mock.patch.object(found, name, fault.wrong))
        yield [fault.function for fault in faults]


def planted(name: str, framework: Framework) -> contextlib.AbstractContextManager[list[str]]:
    """Plants a fault inside a `with` block. Yields a list of the functions or layers that it changed."""
    return replaced_functions(CODE_FAULTS[name]) if name in CODE_FAULTS else changed_wiring(name, framework)


@contextlib.contextmanager
def changed_wiring(name: str, framework: Framework) -> Iterator[list[str]]:
    """Plants a fault inside a `with` block. Yields a list that collects the names of the changed layers.

    Raises AttributeError if `trace` does not exist.
    """
    fault, changed = FAULTS[name], list[str]()
    module = importlib.import_module("dormant" if framework == "jax" else "dormant.torch")
    right = module.trace

    def altered(layer: Layer) -> Layer:
        new = fault.change(layer)
        if new.reasons != layer.reasons or new.coupled_by != layer.coupled_by or maps_differ(new, layer):
            changed.append(layer.name)
        return new

    def trace(*args: Any, **kwargs: Any) -> Any:
        wiring = right(*args, **kwargs)
        return dataclasses.replace(wiring, layers=tuple(altered(layer) for layer in wiring.layers))

    module.trace = trace
    try:
        yield changed
    finally:
        module.trace = right


def maps_differ(one: Layer, two: Layer) -> bool:
    return any(getattr(one, side) is not getattr(two, side) for side in ("incoming", "outgoing"))


def first_found(name: str, framework: Framework, seed: int, limit: int) -> tuple[int | None, str]:
    """Returns the number of the first program that fails only with the fault, and the kind of its failure.

    Returns None and an explanation if no program below `limit` does.
    """
    touched = False
    for number in range(limit):
        program = generate(framework, seed, number)
        with planted(name, framework) as changed:
            outcome = run(program, framework)
        touched = touched or bool(changed)
        if changed and outcome.failures:
            known = {failure.kind for failure in run(program, framework).failures}
            for failure in outcome.failures:
                if failure.kind not in known:
                    return number, failure.kind
    return None, "not found" if touched else "the fault changed no wiring: adapt its pattern to the tracer's reasons"
