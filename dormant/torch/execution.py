"""One forward pass of a module as the sequence of tensor operations that it runs."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def plain(module: nn.Module) -> nn.Module:
    """The user's own module inside `torch.compile` and (distributed) data-parallel wrappers."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        else:
            return module


class Operations(TorchDispatchMode):
    """Numbers the operations of a pass; when `closing`, the pass is over and its outputs are being handed in."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.closing = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """True, torch's default, imports `torch._dynamo` (two seconds) to keep a compiler away that never gets here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if self.closing:
            self.hand_in(args[0])
        else:
            self.names.append(func.overloadpacket.__name__)
            self.observe(func, args, kwargs or {}, outputs)
        return outputs

    def observe(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        """Look at one operation; its number is `len(self.names) - 1`."""

    def hand_in(self, output: Tensor) -> None:
        """Look at one tensor that the module returned."""


class Recorder(Operations):
    """Keeps the outputs of the operations whose numbers are wanted."""

    def __init__(self, wanted: Sequence[int]) -> None:
        super().__init__()
        self.wanted, self.recorded = frozenset(wanted), dict[int, Tensor]()

    def observe(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        step = len(self.names) - 1
        if step in self.wanted:
            # A clone, because an operation inside a composite one may still change it in place.
            self.recorded[step] = tree_leaves(outputs)[0].detach().clone()


def run(module: nn.Module, inputs: tuple[Any, ...], operations: Operations) -> None:
    """Run the module in evaluation mode, without gradients, showing each operation to `operations`."""

    def forward(*arguments: Any) -> None:
        outputs = tree_leaves(module(*arguments))
        operations.closing = True
        for output in outputs:
            _hand_in(output, module)

    with _evaluation(module), _composite_layers(module), torch.no_grad(), operations:
        # Functionalised, `relu_` and `+=` become new tensors, so that no value changes after it was looked at.
        torch.func.functionalize(forward)(*inputs)


def _hand_in(output: Any, module: nn.Module) -> None:
    if isinstance(output, Tensor):
        output.clone()
    elif not isinstance(output, int | float | str | None):
        raise TypeError(
            f"{type(module).__name__} returned a {type(output).__name__}, whose tensors cannot be followed; "
            "wrap it in a module that returns tensors (in tuples, lists or dicts)."
        )


@contextlib.contextmanager
def _evaluation(module: nn.Module) -> Iterator[None]:
    training = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, flag in training:
            part.training = flag


@contextlib.contextmanager
def _composite_layers(module: nn.Module) -> Iterator[None]:
    """Run transformer layers and compiled submodules as their parts, not as one fused operation."""
    fused = torch.backends.mha.get_fastpath_enabled()
    compiled = any(hasattr(part, "_orig_mod") for part in module.modules())
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
