"""Draws fresh weights for a module, with its layers' own initialisers or a function that builds a new module."""

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .execution import named_leaves, plain, plain_name, storage

Init = Callable[[], nn.Module]


def fresh_values(module: nn.Module, leaves: Mapping[str, Tensor], init: Init | None) -> dict[str, Tensor]:
    """Returns newly drawn values of the parameters and buffers in `leaves`, by name.

    >>> net = nn.Linear(3, 4)
    >>> fresh_values(net, {"weight": net.weight}, None)["weight"].shape
    torch.Size([4, 3])

    Raises ValueError if a value can't be drawn; the message names the parameter.
    """
    if init is not None:
        return _from_init(leaves, init)
    parts = {plain_name(name): part for name, part in module.named_modules(remove_duplicate=False)}
    fresh: dict[str, Tensor] = {}
    for owner in dict.fromkeys(name.rpartition(".")[0] for name in leaves):
        wanted = [name for name in leaves if name.rpartition(".")[0] == owner]
        redrawn = _redrawn(owner, parts[owner], [name.rpartition(".")[2] for name in wanted])
        fresh |= {name: redrawn[name.rpartition(".")[2]] for name in wanted}
    return fresh


def check_init(init: object) -> None:
    """Raises TypeError unless `init` is None or a function that can build a module."""
    if isinstance(init, nn.Module) or not (init is None or callable(init)):
        raise TypeError(
            f"init must be a function that builds a fresh module at every call, got a {type(init).__name__}: "
            "init=lambda: Network(...)."
        )


def _from_init(leaves: Mapping[str, Tensor], init: Init) -> dict[str, Tensor]:
    built = init()
    if not isinstance(built, nn.Module):
        raise TypeError(f"init() must build a torch.nn.Module, got a {type(built).__name__}.")
    fresh = named_leaves(plain(built))
    for name, leaf in leaves.items():
        if name not in fresh or fresh[name].shape != leaf.shape:
            found = f"has the shape {tuple(fresh[name].shape)}" if name in fresh else "is missing"
            raise ValueError(
                f"init() built a {type(built).__name__} in which {name} {found}; expected {tuple(leaf.shape)}, as in "
                "the module. init must build the same kind of module."
            )
        if storage(fresh[name]) == storage(leaf):
            raise ValueError(f"init() returned the module's own {name}; it must build a fresh module at every call.")
    return {name: fresh[name].detach() for name in leaves}


def _redrawn(name: str, part: nn.Module, wanted: list[str]) -> dict[str, Tensor]:
    """Returns fresh values of the `wanted` parameters of a submodule, drawn in a copy of the submodule."""
    title = f"{name or 'the module'} ({type(part).__name__})"
    cure = "pass init=, a function that builds a freshly initialised module of the same kind."
    # nn.MultiheadAttention has a method `_reset_parameters`, with an underscore.
    reset = next((way for way in ("reset_parameters", "_reset_parameters") if callable(getattr(part, way, None))), None)
    if reset is None:
        raise ValueError(f"{title} has no reset_parameters(), so its weights cannot be drawn afresh; {cure}")
    try:
        part = copy.deepcopy(part)
    except RuntimeError as error:
        raise ValueError(f"{title} can't be copied ({error}), so its weights cannot be drawn afresh; {cure}") from error
    leaves = {leaf: tensor for leaf, tensor in named_leaves(part).items() if leaf in wanted}
    with torch.no_grad():
        for leaf in leaves.values():
            if leaf.is_floating_point() or leaf.is_complex():
                leaf.fill_(math.nan)
        getattr(part, reset)()
    leaves = {leaf: tensor.detach() for leaf, tensor in named_leaves(part).items() if leaf in wanted}
    for leaf, tensor in leaves.items():
        if bool(tensor.isnan().any()):
            raise ValueError(f"{reset}() of {title} does not draw {leaf} afresh; {cure}")
    return leaves
