"""Finds Python branches that depend on the values of tensors.

Each value that Python reads from a tensor is changed, and the module is traced again. If the wiring (which parameters
feed and read each neuron) is then different, there is a branch. A pass is one run of the module.
"""

import linecache
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn
from torch.utils._pytree import tree_map

from ..reasons import BRANCH, Reason
from .execution import plain_name
from .layers import Found, same_wiring

MOST_TRACES = 40  # largest number of traces with a changed value
STEPS = 1, -1, 64, -64  # changes of an integer that Python reads
JUMPS = 1.0, -1.0, 1000.0, -1000.0  # changes of a float that Python reads
LONGEST = 4  # a pass is stopped after this many times the number of operations of the first pass


class Got(NamedTuple):
    """A value that Python reads from a tensor: a number, a list or an array.

    The tensor depends on inputs, neurons or random numbers, so the value may differ in another pass. `place` is the
    name of the submodule that reads the value.
    """

    value: object
    place: str


class Change(NamedTuple):
    """A change of one value that Python reads.

    `training` is True for the pass in training mode. `number` is the index of the changed value among the values that
    Python reads in this pass. `value` is the new value.
    """

    training: bool
    number: int
    value: object


class TooLong(Exception):
    """Raised if a pass with a changed value runs many more operations than the first pass."""


class Pass(NamedTuple):
    """The layers of a trace, and the values that Python reads in evaluation mode and in training mode."""

    found: Found
    got: tuple[Sequence[Got], Sequence[Got]]


def branches(first: Pass, again: Callable[[Change], Pass]) -> list[Reason]:
    """Returns reasons not to recycle layers. There is one for each value that Python reads and that affects the wiring.

    `again` traces the module with a change. If this trace ends at a `raise` or `assert` statement, the module only
    checks the value, which is not a branch. If the trace raises any other exception, the change is ignored. If all
    changes of a value are ignored, the value is assumed to affect the wiring.
    """
    reasons: dict[Reason, None] = {}
    left = MOST_TRACES
    for training, all_got in zip((False, True), first.got, strict=True):
        for number, got in enumerate(all_got):
            others = other_values(got.value)
            left -= len(others)
            if left < 0:
                return [*reasons, Reason("forward takes more branches on values than can be followed", BRANCH)]
            if _matters(first, again, [Change(training, number, value) for value in others]):
                where = f" (in {got.place!r})" if got.place else ""
                reasons[Reason(f"forward takes a branch on a value{where}, and only one way was followed", BRANCH)] = (
                    None
                )
    return list(reasons)


def _matters(first: Pass, again: Callable[[Change], Pass], changes: Sequence[Change]) -> bool:
    """Whether a value affects the wiring: one of its changes gives another wiring, or all are ignored (`branches`)."""
    told = False
    for change in changes:
        try:
            other = again(change)
        except TooLong:
            return True
        except Exception as error:
            told = told or _is_check(error)
            continue
        told = True
        more = len(other.got[change.training]) > len(first.got[change.training])
        if more or same_wiring(first.found, other.found):
            return True
    return not told


def _is_check(error: Exception) -> bool:
    """Whether a `raise` or `assert` statement of the module raised this error. False if an operation raised it."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return False
    file, here = Path(last.tb_frame.f_code.co_filename), Path(__file__).parent
    if here in file.parents and file.name != "execution.py":
        raise error  # a bug of the tracer
    line = linecache.getline(last.tb_frame.f_code.co_filename, last.tb_lineno)
    return re.search(r"\b(raise|assert)\b", line) is not None


def other_values(got: object) -> Sequence[object]:
    """Returns values that Python could have read instead of `got`.

    >>> other_values(True), other_values([3])
    ([False], [[4], [2], [67], [-61], [0]])
    """
    if isinstance(got, bool | np.bool_):
        return [not got]
    if isinstance(got, int):
        return [*(got + step for step in STEPS), 0]
    if isinstance(got, float | complex):
        return [*(got + jump for jump in JUMPS), 0.0]
    if isinstance(got, list):
        return [
            tree_map(lambda one, place=place: _at(other_values(one), place), got) for place in range(len(STEPS) + 1)
        ]
    if isinstance(got, np.ndarray) and got.dtype == np.bool_:
        return [~got]
    if isinstance(got, np.ndarray):
        return [(got + np.asarray(step, got.dtype)).astype(got.dtype) for step in STEPS[:2]] + [np.zeros_like(got)]
    return []


def _at(values: Sequence[object], place: int) -> object:
    return values[min(place, len(values) - 1)]


def module_names(module: nn.Module) -> dict[int, str]:
    """Returns a dictionary from the id of each submodule to its name."""
    return {id(part): plain_name(name) for name, part in module.named_modules()}


def running_part(names: Mapping[int, str]) -> str:
    """Returns the name of the submodule whose method is running, or an empty string if there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in names:
            return names[id(owner)]
        frame = frame.f_back
    return ""
