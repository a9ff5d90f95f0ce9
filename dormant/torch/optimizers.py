"""Resets the optimizer's state of recycled weights, and adds gradients of penalties to the gradient of the loss."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..settings import check_parseval, check_spectral, check_strength, described
from .execution import plain, plain_name

Optimizers = torch.optim.Optimizer | Iterable[torch.optim.Optimizer]

# Names of state with one number per weight, in Adam and its variants, Muon, SGD with momentum, RMSprop, Adagrad and
# Adadelta.
MOMENTS = frozenset(
    (
        *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg"),
        *("grad_avg", "exp_inf", "sum", "acc_delta"),
    )
)
INITIAL = "initial"  # the name of the state in which `penalised` stores the initial weights
# Names of state with one number per parameter tensor. The value is the initial value of this number.
COUNTS = {"step": 0.0, "mu_product": 1.0}


def optimizer_list(optimizers: Optimizers) -> list[torch.optim.Optimizer]:
    """Returns the optimizers as a list. `optimizers` is one optimizer or several.

    Raises TypeError if an element is not an optimizer.
    """
    one = isinstance(optimizers, torch.optim.Optimizer)
    found: list[object] = [*optimizers] if isinstance(optimizers, Iterable) and not one else [optimizers]
    for each in found:
        if not isinstance(each, torch.optim.Optimizer):
            raise TypeError(
                "optimizer must be a torch.optim.Optimizer or a list of optimizers that train the module; got "
                f"{described(each)}."
            )
    return [each for each in found if isinstance(each, torch.optim.Optimizer)]


def check_held(optimizers: list[torch.optim.Optimizer], leaves: Mapping[str, Tensor]) -> None:
    """Raises ValueError if a parameter in `leaves` is in none of the optimizers.

    The moments of such a parameter could not be reset. An empty list of optimizers is accepted.
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
    """Raises ValueError if the optimizers have state of these parameters that can't be reset for single weights.

    This is the case if the state has an unknown name, or if its shape differs from that of the parameter.
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
                        f"Use an optimizer whose state is among {sorted(MOMENTS)}, with each parameter's shape."
                    )


def _is_known(name: str, value: object, leaf: Tensor) -> bool:
    if value is None or name in COUNTS:
        return True
    return name in (*MOMENTS, INITIAL) and isinstance(value, Tensor) and value.shape == leaf.shape


def forget_(
    optimizers: Iterable[torch.optim.Optimizer], leaf: Tensor, entries: Bool[Tensor, "..."], restart: bool
) -> None:
    """Resets the moments of the masked entries of a parameter to those of a new weight (see `_start`).

    `entries` is the mask. For a penalty, the current weights become the new initial weights of these entries. If
    `restart` is true, the step count of the parameter is also set to zero. This is done in place, because fused and
    capturable optimizers keep references to the tensor.
    """
    for optimizer in optimizers:
        state = optimizer.state.get(leaf, {})
        for name, value in state.items():
            if name in MOMENTS and isinstance(value, Tensor):
                value.masked_fill_(entries.to(value.device), _start(optimizer, name))
            elif name == INITIAL and isinstance(value, Tensor):
                value.copy_(torch.where(entries.to(value.device), leaf.detach().to(value), value))
            elif restart and name in COUNTS:
                if isinstance(value, Tensor):
                    value.fill_(COUNTS[name])
                else:
                    state[name] = type(value)(COUNTS[name])


def _start(optimizer: torch.optim.Optimizer, name: str) -> float:
    """Returns the moment of a new weight. It is 0, except for Adagrad and for TensorFlow's form of RMSprop."""
    if name == "sum":
        return optimizer.defaults.get("initial_accumulator_value", 0.0)
    # RMSpropTFLike is the default optimizer of A2C in Stable-Baselines3.
    return 1.0 if (type(optimizer).__name__, name) == ("RMSpropTFLike", "square_avg") else 0.0


Weights = Mapping[str, Tensor]
POWER_STEPS = 8  # number of steps of power iteration that estimate the largest singular value


@runtime_checkable
class Penalty(Protocol):
    """A function that returns a penalty to add to the loss.

    Its arguments are dictionaries from names to weights: the current weights and the initial weights.
    """

    def __call__(self, params: Weights, initial: Weights) -> Float[Tensor, ""]: ...


class Handles(NamedTuple):
    """The hooks that `penalised` registers. Call `remove()` to remove them, which ends the penalty."""

    hooks: tuple[RemovableHandle, ...]

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()


def penalised(penalty: Penalty, optimizer: torch.optim.Optimizer, module: nn.Module) -> Handles:
    """Makes every `optimizer.step()` first add the gradient of a penalty to the gradients. Returns the hooks.

    The penalty is a function of the module's weights. A hook of the optimizer adds its gradient. Therefore it works
    with any training loop and with gradient scaling. If your loop clips gradients, the penalty is added afterwards. The
    initial weights are stored in the optimizer's state, so `state_dict()` contains them. If a neuron is recycled, its
    fresh weights become its initial weights.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(net.weight, 1.0)
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    >>> handles = penalised(L2Init(0.5), optimizer, net)
    >>> _, net.weight.grad = nn.init.constant_(net.weight, 3.0), torch.zeros(1, 1)
    >>> optimizer.step()
    >>> net.weight.item()  # 3 - 2 * 0.5 * (3 - 1)
    1.0

    Raises TypeError if an argument has the wrong type. Raises ValueError if a parameter of the module that requires
    gradients is not in the optimizer.
    """
    if not isinstance(penalty, Penalty) or isinstance(penalty, type) or not isinstance(module, nn.Module):
        raise TypeError("expected penalised(penalty, optimizer, module), for instance penalised(L2Init(), adam, net).")
    leaves = {plain_name(name): leaf for name, leaf in plain(module).named_parameters() if leaf.requires_grad}
    check_held(optimizer_list(optimizer), leaves)
    first = {name: leaf.detach().clone() for name, leaf in leaves.items()}

    def initial(stepping: torch.optim.Optimizer, name: str) -> Tensor:
        return stepping.state.get(leaves[name], {}).get(INITIAL, first[name])

    def add_gradient(stepping: torch.optim.Optimizer, *_: object) -> None:
        with torch.enable_grad():
            term = penalty(leaves, {name: initial(stepping, name) for name in leaves})
            gradients = torch.autograd.grad(term, list(leaves.values()), allow_unused=True)
        scale = getattr(stepping, "grad_scale", None)  # a fused optimizer divides the gradients by this scale
        for leaf, gradient in zip(leaves.values(), gradients, strict=True):
            if leaf.grad is not None and gradient is not None:
                leaf.grad.add_(gradient if scale is None else gradient * scale)

    def keep_initial(stepping: torch.optim.Optimizer, *_: object) -> None:
        # The initial weights are stored after the first step, because Adam initialises its state only if it is empty.
        for name, leaf in leaves.items():
            if leaf.grad is not None:
                stepping.state[leaf].setdefault(INITIAL, first[name])

    return Handles((optimizer.register_step_pre_hook(add_gradient), optimizer.register_step_post_hook(keep_initial)))


@dataclass(frozen=True)
class L2Init:
    """The penalty strength * ||w - w0||^2. It pulls the weights w towards their initial values w0 instead of zero.

    >>> L2Init(0.5)({"w": torch.tensor([3.0])}, {"w": torch.tensor([1.0])}).item()
    2.0

    Raises ValueError for a negative strength.
    Source: Kumar et al. 2023, "Maintaining plasticity in continual learning via regenerative regularization".
    """

    strength: float = 1e-4

    def __post_init__(self) -> None:
        check_strength(self.strength)

    def __call__(self, params: Weights, initial: Weights) -> Float[Tensor, ""]:
        return self.strength * _total([(leaf - initial[name]).square().sum() for name, leaf in params.items()])


@dataclass(frozen=True)
class Parseval:
    """The penalty strength * sum_l ||G_l - scale * I||^2, where G_l is the Gram matrix of layer l's incoming vectors.

    It pulls the incoming vectors of a layer towards orthogonal vectors with squared length `scale`. Layers in `free`
    have no penalty. The default lists usual names of output layers. In `nn.Sequential`, the name of a layer is a
    number, such as "4".

    >>> Parseval(1.0)({"hidden.weight": torch.tensor([[1.0, 0.0], [1.0, 2.0]])}, {}).item()  # products 1, 1, 1, 5
    18.0

    Raises ValueError if the strength is negative or the scale is not positive.
    Source: Chung et al. 2024, "Parseval regularization for continual reinforcement learning".
    """

    strength: float = 1e-4
    scale: float = 1.0
    free: tuple[str, ...] = ("head", "value", "advantage")

    def __post_init__(self) -> None:
        check_parseval(self.strength, self.scale, self.free)

    def __call__(self, params: Weights, initial: Weights) -> Float[Tensor, ""]:
        del initial
        return self.strength * _total([self._apart(kernel) for kernel in kernels(params, self.free)])

    def _apart(self, kernel: Float[Tensor, "neurons inputs"]) -> Float[Tensor, ""]:
        products = kernel @ kernel.T
        return (products - self.scale * torch.eye(len(products)).to(products)).square().sum()


@dataclass(frozen=True)
class Spectral:
    """The penalty strength * (sum_l (s_l^power - 1)^2 + sum_l ||b_l||^(2 * power)).

    Here s_l is the largest singular value of the kernel of layer l, and b_l is the bias of layer l. Eight steps of
    power iteration from a fixed vector estimate the singular value.

    >>> penalty = Spectral(1.0, power=1)
    >>> round(penalty({"a.weight": torch.diag(torch.tensor([3.0, 1.0])), "a.bias": torch.tensor([2.0])}, {}).item(), 3)
    8.0

    Raises ValueError for a negative strength or a power below 1.
    Source: Lewandowski et al. 2024, "Learning continually by spectral regularization". They start the iteration from
    the vector of the previous gradient step. We start it from a fixed vector. We do not penalise the scales of
    normalisation layers.
    """

    strength: float = 1e-4
    power: int = 2

    def __post_init__(self) -> None:
        check_spectral(self.strength, self.power)

    def __call__(self, params: Weights, initial: Weights) -> Float[Tensor, ""]:
        del initial
        values = [largest_singular_value(kernel) for kernel in kernels(params)]
        biases = [leaf for name, leaf in params.items() if leaf.ndim < 2 and name.rpartition(".")[2] != "weight"]
        terms = [(value**self.power - 1.0).square() for value in values]
        return self.strength * _total([*terms, *(bias.square().sum() ** self.power for bias in biases)])


def kernels(params: Weights, free: tuple[str, ...] = ()) -> list[Float[Tensor, "neurons inputs"]]:
    """Returns the kernels of all layers that are not in `free`, as matrices. Each row feeds one neuron.

    The first axis of a kernel must be the axis of its neurons, as in `nn.Linear` and `nn.Conv2d`.
    """
    return [leaf.flatten(1) for name, leaf in params.items() if leaf.ndim > 1 and not set(name.split(".")) & set(free)]


def largest_singular_value(kernel: Float[Tensor, "neurons inputs"]) -> Float[Tensor, ""]:
    """Returns an estimate of a kernel's largest singular value, by power iteration from a fixed vector.

    The estimate is never above the exact value. Its gradient treats the vectors of the iteration as constants.

    >>> round(largest_singular_value(torch.diag(torch.tensor([3.0, 1.0]))).item(), 3)
    3.0
    """
    still = kernel.detach()
    right = torch.as_tensor(np.random.default_rng(0).standard_normal(len(kernel)), dtype=kernel.dtype).to(kernel)
    left = _unit(right @ still)
    for _ in range(POWER_STEPS):
        right = _unit(still @ left)
        left = _unit(right @ still)
    return right @ kernel @ left


def _unit(vector: Tensor) -> Tensor:
    length = vector.norm()
    return vector / torch.where(length > 0, length, torch.ones_like(length))


def _total(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum() if terms else torch.zeros(())
