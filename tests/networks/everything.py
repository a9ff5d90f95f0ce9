"""All networks, in the order of docs/networks.md."""

from collections.abc import Iterator
from types import ModuleType
from typing import TypeVar

from foreign import jax_networks, torch_networks

from . import (
    attention,
    continuous,
    convolutional,
    dense,
    kernels,
    model_based,
    offline,
    policies,
    sequences,
    sets_and_layers,
    torch_agents,
    torch_control,
    torch_layers,
    torch_models,
    value_based,
)
from .case import Case, promises
from .torch_case import TorchCase

AnyCase = TypeVar("AnyCase", Case, TorchCase)


def cases(kind: type[AnyCase], *rooms: ModuleType) -> tuple[AnyCase, ...]:
    """Returns all cases of this class that these modules define."""
    return tuple(case for room in rooms for case in vars(room).values() if isinstance(case, kind))


JAX = cases(
    Case,
    value_based,
    policies,
    continuous,
    model_based,
    offline,
    attention,
    sequences,
    sets_and_layers,
    convolutional,
    dense,
    kernels,
)
TORCH = cases(TorchCase, torch_agents, torch_control, torch_models, torch_layers)


def foreign_jax() -> Iterator[Case]:
    """Yields the networks of public JAX packages as cases. Imports a package when it builds a network."""
    for name, make in jax_networks.NETWORKS.items():
        network = make()
        yield Case(name, lambda network=network: (network.apply, network.init), network.inputs, network.layers)


def foreign_torch() -> Iterator[TorchCase]:
    """Yields the networks of public PyTorch packages as cases. Imports a package when it builds a network."""
    for name, make in torch_networks.NETWORKS.items():
        module, inputs, layers = make()
        yield TorchCase(name, lambda module=module: module, inputs, promises(" ".join(layers)))


def foreign_names() -> tuple[list[str], list[str]]:
    """Returns two lists: names of the networks of public JAX packages and PyTorch packages. Builds no network."""
    return list(jax_networks.NETWORKS), list(torch_networks.NETWORKS)


def everything() -> Iterator[Case | TorchCase]:
    """Yields every network in docs/networks.md."""
    yield from JAX
    yield from foreign_jax()
    yield from TORCH
    yield from foreign_torch()
