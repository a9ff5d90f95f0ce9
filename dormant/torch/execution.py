"""Runs a module once and restores its state afterwards. An observer is called after every tensor operation.

One such run is called a pass.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from .keeping import as_it_was

# Operations that are not recorded. They do not change values. Torch may run them in one pass and not in another,
# because this depends on the number of references to a tensor.
ALIASES = frozenset(("detach", "alias"))
Extreme = Literal["lowest", "highest"]
Seed = int | Extreme | None
READS = frozenset(("_local_scalar_dense", "equal"))  # operations that return a Python number
OPAQUE = (int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, type(None))


def plain(module: nn.Module) -> nn.Module:
    """Returns the module inside the wrappers of `torch.compile`, DataParallel and DistributedDataParallel."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        else:
            return module


def plain_name(name: str) -> str:
    """Returns a parameter's name without the prefix that `torch.compile` adds."""
    return name.replace("_orig_mod.", "")


def named_leaves(module: nn.Module) -> dict[str, Tensor]:
    """Returns a dictionary from the plain names of all parameters and buffers to the tensors."""
    return {plain_name(name): leaf for name, leaf in (*module.named_parameters(), *module.named_buffers())}


def storage(tensor: Tensor) -> int | None:
    """Returns the address of a tensor's storage. Sparse and empty tensors have no storage and give None."""
    try:
        return tensor.untyped_storage().data_ptr() or None
    except (NotImplementedError, RuntimeError):
        return None


def tensors_in(value: Any) -> list[Tensor] | None:
    """Returns all tensors in a value, which may be a tensor, a tuple, list or dict, or an object with attributes.

    Returns None if the value contains an object in which tensors can't be found.
    """
    found: list[Tensor] = []
    seen: set[int] = set()
    waiting = list(tree_leaves(value))
    while waiting:
        item = waiting.pop(0)
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, (OPAQUE, np.ndarray | np.generic)) or id(item) in seen:
            continue
        elif isinstance(item, nn.Module) or not (held := _held(item)):
            return None
        else:
            seen.add(id(item))
            waiting += tree_leaves(held)
    return found


def _held(item: object) -> list[object]:
    """Returns what an object holds: its attributes, and its elements if it is of a subclass of dict, list or tuple.

    Returns an empty list if this is not known.
    """
    found: list[object] = []
    if isinstance(item, Mapping):
        found.append([*item.values()])
    elif isinstance(item, list | tuple):
        found.append([*item])
    elif callable(item):
        return []
    if hasattr(item, "__dict__"):
        found.append({name: value for name, value in vars(item).items() if not name.startswith("__")})
    return found


def check_batch(inputs: object) -> None:
    """Raises ValueError if all tensors of the inputs are empty."""
    shapes = [tuple(tensor.shape) for tensor in tensors_in(inputs) or [] if tensor.ndim]
    if shapes and all(0 in shape for shape in shapes):
        raise ValueError(f"expected at least one sample, got an empty batch: the inputs have shapes {shapes}.")


class Operations(TorchDispatchMode):
    """Calls `observe` after every operation of a pass.

    Memory that existed before the pass is copied before an operation writes to it. `restore` copies it back.
    """

    gradients = False  # whether the pass tracks gradients

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []  # one per operation: its name, and which parameters are among its arguments
        self.random = False
        self.python_random = False  # whether the pass used the generators of Python or NumPy
        self.leaves: dict[int, int] = {}
        self.allocated: set[int] = set()
        self.saved: dict[int, tuple[Tensor, Tensor, int | None]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Returns False, so that torch does not import `torch._dynamo`. The import would take two seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and func._can_decompose():
            with self:  # the module turned on inference mode, which hides the operations inside layers
                return func.decompose(*args, **kwargs)
        if func._schema.is_mutable or "batch_norm" in func.__name__:
            self._save(tensors_of(args, kwargs))
        outputs = func(*args, **kwargs)
        if func.overloadpacket.__name__ in ALIASES or any(map(_has_no_values, tensors_of(outputs))):
            return outputs
        self.allocated |= {place for tensor in tensors_of(outputs) if (place := storage(tensor))}
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.random = True
            self.drew(func.overloadpacket.__name__.removesuffix("_"), args, tensors_of(outputs))
        self.names.append(self._name(func, args, kwargs))
        self.observe(func, args, kwargs, outputs)
        return self.python_gets(list(args), outputs) if func.overloadpacket.__name__ in READS else outputs

    def start(self, leaves: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        """Called before the pass. `leaves` are the parameters and buffers, and `inputs` are the module's inputs."""
        self.leaves = {place: number for number, leaf in enumerate(leaves) if (place := storage(leaf))}

    def _name(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        name = func.overloadpacket.__name__
        taken = [self.leaves[place] for tensor in tensors_of(args) if (place := storage(tensor)) in self.leaves]
        if not taken:
            return name
        return f"{name} {taken} {[leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, int)]}"

    def observe(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        """Called after each operation. The index of the operation is `len(self.names) - 1`."""

    def drew(self, name: str, args: Sequence[object], outputs: Sequence[Tensor]) -> None:
        """Called after an operation that draws random numbers. It may change `outputs` in place."""

    def python_reads(self, tensor: Tensor) -> None:
        """Called when Python reads a tensor as a list or a NumPy array."""

    def python_gets(self, tensors: Sequence[Tensor], result: object) -> object:
        """Called when Python reads a number, list or array from tensors. Returns the value that Python gets.

        `result` is the value that torch returns.
        """
        return result

    def finish(self, outputs: Sequence[Tensor]) -> None:
        """Called after the pass with the tensors that the module returns."""

    def _save(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            place = storage(tensor)
            if place and place not in self.saved and place not in self.allocated:
                memory = tensor.new_empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                version = None if tensor.is_inference() else tensor._version
                self.saved[place] = tensor.detach() if version is None else tensor, memory.clone(), version

    def restore(self) -> None:
        """Restores the memory that the pass overwrote. Also restores version counters, because autograd checks them."""
        for tensor, copy, version in self.saved.values():
            copy.new_empty(0).set_(tensor.untyped_storage()).copy_(copy)
            if version is not None:
                torch._C._autograd._unsafe_set_version_counter((tensor,), (version,))  # type: ignore[attr-defined]


def _has_no_values(tensor: Tensor) -> bool:
    """Whether a tensor has no memory to read, such as some tensors in `torch.func.jvp`."""
    return tensor.is_meta or tensor._is_zerotensor()


def tensors_of(*values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


class Recorder(Operations):
    """Records the outputs of operations. `wanted` and `checked` are indices of operations in the pass.

    `recorded` holds the outputs of the wanted operations. `not_finite` holds the checked operations whose outputs
    contain NaN or infinity. With `extreme`, dropout keeps every element, and all uniform random numbers are the lowest
    or highest number of their range.
    """

    def __init__(self, wanted: Sequence[int], checked: Sequence[int] = (), extreme: Extreme | None = None) -> None:
        super().__init__()
        self.extreme = extreme
        self.wanted, self.recorded = frozenset(wanted), dict[int, Tensor]()
        self.checked, self.not_finite = frozenset(checked), set[int]()

    def observe(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        step, tensors = len(self.names) - 1, tensors_of(outputs)
        if not tensors:  # the pass runs different operations than the trace
            return
        if step in self.wanted:
            # A clone is recorded, because a later operation may change the tensor in place.
            self.recorded[step] = tensors[0].detach().clone()
        if step in self.checked and not bool(tensors[0].isfinite().all()):
            self.not_finite.add(step)

    def drew(self, name: str, args: Sequence[object], outputs: Sequence[Tensor]) -> None:
        if self.extreme is None:
            return
        if name == "native_dropout" and isinstance(args[0], Tensor):
            outputs[0].copy_(args[0])
        if name in ("native_dropout", "bernoulli"):
            outputs[-1].fill_(1)
        if name in ("rand", "rand_like", "uniform"):
            ends = [end for end in args[1:3] if isinstance(end, int | float)] if name == "uniform" else []
            low, high = ends if len(ends) == 2 else (0.0, 1.0)
            high -= (high - low) * torch.finfo(outputs[0].dtype).eps
            outputs[0].fill_(low if self.extreme == "lowest" else high)


class Dataflow(Operations):
    """Records each operation with its arguments in `steps`. Passes with equal `steps` compute the same results."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.alive: list[Any] = []  # holds references to outputs, so that their addresses are not used again

    def start(self, leaves: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        super().start(leaves, inputs)
        for leaf in (*leaves, *inputs):  # these are numbered first, so that they have the same numbers in all passes
            self._describe(leaf)

    def observe(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        self.alive.append(outputs)
        described = [self._describe(leaf) for leaf in tree_leaves((args, kwargs, outputs))]
        self.steps.append((func, *described))

    def _describe(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return repr(leaf)
        place = storage(leaf)
        if place is None or leaf.layout is not torch.strided:
            return leaf.shape
        number = self.numbers.setdefault(place, len(self.numbers))
        return number, leaf.shape, leaf.stride(), leaf.storage_offset(), leaf.dtype

    def finish(self, outputs: Sequence[Tensor]) -> None:
        self.steps.append([self._describe(output) for output in outputs])


class _Leaving(torch.overrides.TorchFunctionMode):
    """Reports each tensor that Python reads without a torch operation, for example with `tolist`."""

    WAYS = frozenset(("numpy", "tolist", "__array__", "__dlpack__"))

    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self.operations = operations

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in self.WAYS and args and isinstance(args[0], Tensor):
            self.operations.python_reads(args[0])
            return self.operations.python_gets(args[:1], result)
        return result


def run(
    module: nn.Module, inputs: tuple[Any, ...], operations: Operations, training: bool = False, seed: Seed = None
) -> None:
    """Runs the module in evaluation or training mode. `operations` observes each operation.

    `seed` seeds all random generators. If it is None, they continue from their current states. Afterwards, parameters,
    buffers, attributes, training flags, gradients, generators, and all objects that `Kept` covers are restored.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # inference mode would hide the operations inside layers
        inputs = tree_map_only(Tensor, lambda x: x.clone() if x.is_inference() else x, inputs)
        kept = stack.enter_context(as_it_was(module, training))
        for context in (_no_autocast_cache(), _parts(module)):
            stack.enter_context(context)
        if seed is not None:
            kept.seed(seed if isinstance(seed, int) else 0)
        before = kept.python_states()
        stack.enter_context(torch.set_grad_enabled(operations.gradients))
        stack.callback(operations.restore)
        operations.start(list(named_leaves(module).values()), tensors_in(inputs) or [])
        with _Leaving(operations), operations:
            outputs = module(*inputs)
        operations.python_random = kept.python_states() != before
        operations.random = operations.random or operations.python_random
        operations.finish(_returned(outputs, module))


def _returned(outputs: Any, module: nn.Module) -> list[Tensor]:
    tensors = tensors_in(outputs)
    if tensors is None:
        raise TypeError(
            f"{type(module).__name__} returned a {type(outputs).__name__} whose tensors can't be found; wrap it in a "
            "module that returns tensors (in tuples, lists, dicts, or attributes of an object)."
        )
    return tensors


@contextlib.contextmanager
def _no_autocast_cache() -> Iterator[None]:
    """Turns off the cache of autocast. Otherwise, training could get weights that were cast without gradients."""
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(enabled)
        torch.clear_autocast_cache()  # the module may have turned on the cache itself


@contextlib.contextmanager
def _parts(module: nn.Module) -> Iterator[None]:
    """Makes transformer layers and compiled submodules run as separate operations, not as one fused operation."""
    fused = torch.backends.mha.get_fastpath_enabled()
    compiled = any(hasattr(part, "_orig_mod") for part in module.modules())
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
