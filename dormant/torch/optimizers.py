"""Resets an optimizer's state for recycled weights."""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

Optimizers = torch.optim.Optimizer | Iterable[torch.optim.Optimizer]

# State with one number per weight: Adam and its variants, Muon and SGD with momentum, RMSprop, Adagrad, Adadelta.
MOMENTS = frozenset(
    (
        *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg"),
        *("grad_avg", "exp_inf", "sum", "acc_delta"),
    )
)
# State with one number per parameter tensor, and the number that a new tensor starts with.
COUNTS = {"step": 0.0, "mu_product": 1.0}


def optimizer_list(optimizers: Optimizers) -> list[torch.optim.Optimizer]:
    """Returns the optimizers as a list. `optimizers` is one optimizer or several.

    Raises TypeError if an element is not an optimizer.
    """
    one = isinstance(optimizers, torch.optim.Optimizer)
    found: list[object] = [*optimizers] if isinstance(optimizers, Iterable) and not one else [optimizers]
    for each in found:
        if not isinstance(each, torch.optim.Optimizer):
            what = f"the class {each.__name__}" if isinstance(each, type) else f"a {type(each).__name__}"
            raise TypeError(
                f"optimizer must be a torch.optim.Optimizer or a list of optimizers that train the module; got {what}."
            )
    return [each for each in found if isinstance(each, torch.optim.Optimizer)]


def check_held(optimizers: list[torch.optim.Optimizer], leaves: Mapping[str, Tensor]) -> None:
    """Checks that the optimizers hold all of these parameters.

    Raises ValueError if no optimizer holds a parameter, because its moments could not be reset.
    """
    held = {id(leaf) for optimizer in optimizers for group in optimizer.param_groups for leaf in group["params"]}
    missing = [name for name, leaf in leaves.items() if id(leaf) not in held]
    if optimizers and missing:
        how_many = "none" if len(missing) == len(leaves) else "only some"
        raise ValueError(
            f"the optimizer holds {how_many} of the parameters to be recycled: {', '.join(missing[:3])} is not among "
            "its parameters. Pass every optimizer that trains the module (optimizer=[first, second]), or name the "
            "layers to recycle (layers=[...])."
        )


def check_known(optimizers: list[torch.optim.Optimizer], leaves: Mapping[str, Tensor]) -> None:
    """Checks that all state of the optimizers that hold these parameters can be reset for single weights.

    Raises ValueError, before anything is changed, if a state has an unknown name or another shape than its parameter.
    """
    mine = {id(leaf) for leaf in leaves.values()}
    for optimizer in optimizers:
        if not any(id(leaf) in mine for group in optimizer.param_groups for leaf in group["params"]):
            continue
        for leaf, state in optimizer.state.items():
            for name, value in state.items() if isinstance(leaf, Tensor) else ():
                if not _is_known(name, value, leaf):
                    raise ValueError(
                        f"{type(optimizer).__name__} keeps {name!r}, whose value for a fresh weight is not known. "
                        f"Use an optimizer whose state is among {sorted(MOMENTS)}, in each parameter's own shape."
                    )


def _is_known(name: str, value: object, leaf: Tensor) -> bool:
    if value is None or name in COUNTS:
        return True
    return name in MOMENTS and isinstance(value, Tensor) and value.shape == leaf.shape


def forget_(
    optimizers: Iterable[torch.optim.Optimizer], leaf: Tensor, entries: Bool[Tensor, "..."], restart: bool
) -> None:
    """Resets the moments of these entries to those of a new weight: zero, or Adagrad's initial accumulator.

    `restart` also zeroes the parameter's step count, in place, because fused and capturable optimizers hold the tensor.
    """
    for optimizer in optimizers:
        state = optimizer.state.get(leaf, {})
        for name, value in state.items():
            if name in MOMENTS and isinstance(value, Tensor):
                start = optimizer.defaults.get("initial_accumulator_value", 0) if name == "sum" else 0
                value.masked_fill_(entries.to(value.device), start)
            elif restart and name in COUNTS:
                if isinstance(value, Tensor):
                    value.fill_(COUNTS[name])
                else:
                    state[name] = type(value)(COUNTS[name])
