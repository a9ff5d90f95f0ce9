"""Test cases: modules in PyTorch. A case states whether each layer is recycled, coupled or only measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import dormant.torch

from .case import promises


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


IMAGES = drawn(0, 4, 3, 12, 12)
ROWS = drawn(1, 6, 5)
SEQUENCES = drawn(2, 3, 4, 5)  # batch, time, features
ACTIONS = drawn(3, 6, 2)


class Net(nn.Module):
    """A module with named layers. Its forward pass calls `function(module, *inputs)`."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Returns dense layers with an activation after each layer except the last."""
    pairs = pairwise(widths)
    layers = [layer for one, other in pairs for layer in (nn.Linear(one, other), activation())]
    return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class TorchCase:
    """A module and the expected result per hidden layer (see `promises` in case.py).

    `agent` cites the paper of an agent that uses this network. `build()` returns a new module.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: tuple[Any, ...]
    layers: Mapping[str, str]
    agent: str = ""
    framework: ClassVar[str] = "PyTorch"

    def module(self, seed: int = 0) -> nn.Module:
        """Returns a new module. Its weights depend only on the seed."""
        torch.manual_seed(seed)
        return self.build()

    def trace(self) -> dormant.torch.wiring.Wiring:
        """Traces the module and returns the wiring."""
        return dormant.torch.trace(self.module(), *self.inputs)

    @property
    def title(self) -> str:
        """The name. If an agent uses the network, the citation of its paper follows in brackets."""
        return f"{self.name} ({self.agent})" if self.agent else self.name


def module(
    name: str,
    *inputs: Any,
    recycled: str = "",
    coupled: str = "",
    measured: Mapping[str, str] | None = None,
    awake: str = "",
    lost: str = "",
    agent: str = "",
) -> Callable[[Callable[[], nn.Module]], TorchCase]:
    """Returns a decorator. It turns a function that builds a module into a case."""

    def case(build: Callable[[], nn.Module]) -> TorchCase:
        return TorchCase(name, build, inputs, promises(recycled, coupled, measured, awake, lost), agent)

    return case
