"""Restores the Python state that a pass may change: attributes, containers, objects, arrays and random generators.

A pass is one run of a module in which the tracer observes every operation.
"""

import contextlib
import functools
import operator
import pickle
import random
import types
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

MOST_OBJECTS = 100_000  # largest number of Python objects that are restored
LARGEST_ARRAY = 1 << 24  # bytes; larger NumPy arrays are not restored
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
ATOMS = (str, bytes, int, float, type(None), Tensor, type)  # values without contents to copy
Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
Container = list | deque | set | dict
CONTAINERS = (list, deque, set, dict)


class Kept:
    """A copy of the Python state of a module before a pass. `restore` writes it back.

    The copy includes the attributes of all submodules, and the lists, dicts, sets, arrays and generators that they
    contain at any depth. It also includes objects and functions, such as hooks, if they come from a package that
    defines a submodule or a hook. For an object, the copy holds its attributes. For a function, it holds the variables
    that the function uses.
    """

    def __init__(self, module: nn.Module) -> None:
        parts = [part for part in module.modules() if not isinstance(part, torch.jit.ScriptModule)]
        hooks = [hook for part in parts for name in HOOKS for hook in getattr(part, name, {}).values()]
        self.packages = {_package(type(part)) for part in parts} | {_package(hook) for hook in hooks}
        self.packages -= {"torch"}
        self.containers: list[tuple[Container, list[object]]] = []
        self.undo: list[Callable[[], object]] = []
        self.generators: list[Generator] = []
        self.seen: dict[int, object] = {}  # holds references to the objects, so that their ids are not used again
        waiting: list[object] = [*parts, *(type(part).forward for part in parts)]
        while waiting and len(self.seen) < MOST_OBJECTS:
            item = waiting.pop()
            if not isinstance(item, ATOMS) and id(item) not in self.seen:
                self.seen[id(item)] = item
                waiting += self._keep(item)

    def restore(self) -> None:
        for back in self.undo:
            back()
        for container, before in self.containers:
            now = _elements(container)
            if len(now) != len(before) or any(map(operator.is_not, now, before)):
                _refill(container, before)

    def seed(self, seed: int) -> None:
        """Seeds the global generators of torch, NumPy and Python, and the generators in the module."""
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        for generator in self.generators:
            if isinstance(generator, torch.Generator):
                generator.manual_seed(seed)
            elif isinstance(generator, np.random.Generator):
                generator.bit_generator.state = type(generator.bit_generator)(seed).state
            else:
                generator.seed(seed)

    def python_states(self) -> bytes:
        """Returns the states of all generators of Python and NumPy as bytes, to compare them."""
        mine = [generator for generator in self.generators if not isinstance(generator, torch.Generator)]
        return pickle.dumps([random.getstate(), np.random.get_state(), *map(_state, mine)])

    def _keep(self, item: object) -> list[object]:
        """Copies the contents of an object, and returns the contained objects, which are to be copied next.

        Returns an empty list if the contents are not copied, such as those of a module from another package.
        """
        if isinstance(item, CONTAINERS):
            return self._contents(item)
        if isinstance(item, (tuple, frozenset)):
            return [*item]
        if isinstance(item, nn.Module):
            return [] if isinstance(item, torch.jit.ScriptModule) else self._contents(vars(item))
        if isinstance(item, types.MethodType):
            return [item.__self__, item.__func__]
        if isinstance(item, types.FunctionType):
            return self._variables(item) if _package(item) in self.packages else []
        if isinstance(item, GENERATORS):
            self.generators.append(item)
            self.undo.append(_back_to_now(item))
        elif isinstance(item, np.ndarray):
            if item.flags.writeable and item.nbytes <= LARGEST_ARRAY:
                before = item.copy()
                self.undo.append(lambda: np.copyto(item, before))
        elif hasattr(item, "__dict__") and self._is_own(item) and not isinstance(item, types.ModuleType):
            return self._contents(vars(item))
        return []

    def _is_own(self, item: object) -> bool:
        return _package(type(item)) in self.packages

    def _contents(self, container: Container) -> list[object]:
        before = _elements(container)
        self.containers.append((container, before))
        return before

    def _variables(self, function: types.FunctionType) -> list[object]:
        """Copies the global variables and the variables of enclosing functions that a function uses. Returns them."""
        names = [name for name in function.__code__.co_names if name in function.__globals__]
        known = {name: function.__globals__[name] for name in names}
        cells = [cell for cell in function.__closure__ or () if _is_filled(cell)]
        inside = [cell.cell_contents for cell in cells]

        def back() -> None:
            for name, value in known.items():
                function.__globals__[name] = value
            for cell, value in zip(cells, inside, strict=True):
                cell.cell_contents = value

        self.undo.append(back)
        return [*known.values(), *inside]


def _package(item: object) -> str:
    return (getattr(item, "__module__", None) or "").partition(".")[0]


def _elements(container: Container) -> list[object]:
    """Returns the elements of a container as a list. For a dict, these are first all keys, and then all values."""
    return [*container, *container.values()] if isinstance(container, dict) else [*container]


def _refill(container: Container, elements: list[object]) -> None:
    container.clear()
    if isinstance(container, dict):
        half = len(elements) // 2
        for key, value in zip(elements[:half], elements[half:], strict=True):
            container[key] = value
    elif isinstance(container, set):
        container.update(elements)
    else:
        container.extend(elements)


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _state(generator: Generator) -> object:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _back_to_now(generator: Generator) -> Callable[[], object]:
    """Returns a function that restores the current state of a generator."""
    if isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        return functools.partial(setattr, bits, "state", bits.state)
    if isinstance(generator, random.Random):
        return functools.partial(generator.setstate, generator.getstate())
    return functools.partial(generator.set_state, generator.get_state())


@contextlib.contextmanager
def as_it_was(module: nn.Module, training: bool) -> Iterator[Kept]:
    """Prepares a module for a pass, and restores all Python state and generators afterwards.

    It sets the training flag of all submodules to `training`, and replaces buffers by copies. It does not call
    `module.eval()`, because some libraries override this method to change weights.
    """
    kept = Kept(module)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    python, numpy = random.getstate(), np.random.get_state()
    scripted = [(part, part.training) for part in module.modules() if isinstance(part, torch.jit.ScriptModule)]
    copies = {id(leaf): leaf.clone() for leaf in module.buffers()}
    for part in module.modules():
        if not isinstance(part, torch.jit.ScriptModule):
            part._buffers = {name: copies.get(id(leaf), leaf) for name, leaf in part._buffers.items()}
        part.training = training
    try:
        with torch.random.fork_rng(devices):
            yield kept
    finally:
        kept.restore()
        for part, flag in scripted:
            part.training = flag
        random.setstate(python)
        np.random.set_state(numpy)
