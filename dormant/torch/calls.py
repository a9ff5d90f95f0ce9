"""Describes one operation of a pass, and defines how operations without a rule treat neurons and parameters."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..reasons import APART, Reason
from .ledger import Ledger
from .values import NOTHING, Value, broken, together


@dataclass(frozen=True)
class Call:
    """One operation of a pass; `value(tensor)` returns what the tracer knows about a tensor."""

    func: Any
    name: str  # without the trailing underscore of an in-place operation
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    value: Callable[[Any], Value]

    @property
    def tensors(self) -> list[Tensor]:
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    @property
    def values(self) -> list[Value]:
        return [self.value(tensor) for tensor in self.tensors]

    @property
    def shape(self) -> torch.Size:
        """The shape of the first output."""
        return self.outputs[0].shape

    @property
    def outputs(self) -> list[Tensor]:
        return [leaf for leaf in tree_leaves(self.output) if isinstance(leaf, Tensor)]

    def argument(self, name: str, default: Any = None) -> Any:
        """Returns the argument with this name in the operation's schema, or else `default`."""
        if name in self.kwargs:
            return self.kwargs[name]
        for index, argument in enumerate(self.func._schema.arguments):
            if argument.name == name:
                found = self.args[index] if index < len(self.args) else argument.default_value
                return default if found is None else found
        return default


Result = Value | list[Value]
Rule = Callable[[Ledger, Call], Result]


def mix(notes: Ledger, call: Call, reason: Reason | None = None, statistic: str | None = None) -> Value:
    """Returns the value of an operation that mixes neurons and parameter entries.

    If a weight reads the result, the contributing layers are not recycled; `reason` explains why. Later values record
    only which layers and parameters contributed.
    """
    values = call.values
    whole = together(values)
    unfollowed = dict(whole.unfollowed)
    for value in values:
        unfollowed |= notes.not_known(value.parts, call.name)
    stages = broken(whole.stages, reason or Reason(f"several neurons are mixed by aten.{call.name}", APART), statistic)
    return replace(whole, stages=stages, unfollowed=unfollowed)


def constant(call: Call) -> Value:
    """Returns the value of an operation that takes neither neurons nor parameters."""
    random = torch.Tag.nondeterministic_seeded in call.func.tags
    values = call.values
    fed = any(value.from_input for value in values)
    varies = random or any(value.varies for value in values)
    return Value(from_input=fed, varies=varies) if fed or varies else NOTHING
