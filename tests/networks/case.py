"""Test cases: networks in JAX. A case states whether each layer is recycled, coupled or only measured."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np

import dormant

Apply = Callable[..., Any]  # apply(params, *inputs)
Init = Callable[[jax.Array], Any]  # init(key)

IMAGES = np.random.default_rng(0).normal(size=(4, 12, 12, 3)).astype(np.float32)
ROWS = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
SEQUENCES = np.random.default_rng(2).normal(size=(3, 4, 5)).astype(np.float32)
ACTIONS = np.random.default_rng(3).normal(size=(6, 2)).astype(np.float32)
FRACTIONS = np.random.default_rng(4).uniform(size=(6, 3)).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """A network and the expected result per hidden layer (see `promises`).

    In `layers`, the name `first+...` stands for merged layers whose first layer is `first`. If the trace must fail,
    `refused` is a part of the error message. `agent` cites the paper of an agent that uses this network. `build()`
    returns the functions apply and init.
    """

    name: str
    build: Callable[[], tuple[Apply, Init]]
    inputs: tuple[np.ndarray, ...]
    layers: Mapping[str, str]
    refused: str = ""
    agent: str = ""
    framework: ClassVar[str] = "JAX"

    def trace(self) -> dormant.Wiring:
        """Traces the network and returns the wiring."""
        apply, init = self.build()
        return dormant.trace(apply, weights(shapes_of(init), seed=0), *self.inputs)

    @property
    def title(self) -> str:
        """The name. If an agent uses the network, the citation of its paper follows in brackets."""
        return f"{self.name} ({self.agent})" if self.agent else self.name


def promises(
    recycled: str = "",
    coupled: str = "",
    measured: Mapping[str, str] | None = None,
    awake: str = "",
    lost: str = "",
) -> dict[str, str]:
    """Returns a dict from layer names to expected results. Each argument has layer names, separated by spaces.

    `measured` maps a part of the reason against recycling to layer names. Layers in `awake` are recycled (coupled or
    not), but zero incoming entries do not silence them, because a cosine or a normalisation without parameters
    follows. Hidden layers in `lost` are only measured, or the trace does not find them. The name `...` stands for all
    layers without a name in the arguments, and must come last.
    """
    kinds = {"recycled": recycled, "coupled": coupled, "awake": awake, "lost": lost, **(measured or {})}
    return {name: promise for promise, names in kinds.items() for name in names.split()}


def named(layer: str, name: str) -> bool:
    """Returns whether a case's name stands for this layer. `...` stands for any layer, `a+...` for merged layers."""
    if name == "...":
        return True
    return layer.startswith(name[:-3]) if name.endswith("+...") else layer == name


def promise_of(layer: str, promised: Mapping[str, str]) -> str | None:
    """Returns the expected result for a layer, or None if the case does not name it."""
    return next((promise for name, promise in promised.items() if named(layer, name)), None)


def kept(promise: str | None, found: str) -> bool:
    """Returns whether a layer's result ("recycled", "coupled" or its reasons) agrees with the expected result."""
    if promise in ("awake", "lost"):
        return (found in ("recycled", "coupled")) == (promise == "awake")
    exact = promise in ("recycled", "coupled", None) or found in ("recycled", "coupled")
    return promise == found if exact else promise in found


def matches(promised: Mapping[str, str], found: Mapping[str, str]) -> bool:
    """Returns whether every layer has the expected result, and every expected layer was found."""
    listed = (name for name, promise in promised.items() if promise != "lost")
    every = all(any(named(layer, name) for layer in found) for name in listed)
    return every and all(kept(promise_of(layer, promised), what) for layer, what in found.items())


def verdicts(layers: Iterable[Any]) -> dict[str, str]:
    """Returns a dict from layer names to results: "recycled", "coupled", or the reasons why a layer is not recycled."""
    safe = {True: "coupled", False: "recycled"}
    return {layer.name: "; ".join(layer.reasons) or safe[bool(layer.coupled_by)] for layer in layers}


def linen(
    name: str,
    *inputs: np.ndarray,
    recycled: str = "",
    coupled: str = "",
    measured: Mapping[str, str] | None = None,
    awake: str = "",
    refused: str = "",
    agent: str = "",
) -> Callable[[Callable[..., Any]], Case]:
    """Returns a decorator. It turns a function of inputs, which makes its Flax layers inline, into a case."""

    def case(function: Callable[..., Any]) -> Case:
        return Case(
            name, flax(body(function)(), *inputs), inputs, promises(recycled, coupled, measured, awake), refused, agent
        )

    return case


def by_hand(
    name: str,
    shapes: Mapping[str, tuple[int, ...]],
    *inputs: np.ndarray,
    recycled: str = "",
    coupled: str = "",
    measured: Mapping[str, str] | None = None,
    awake: str = "",
    refused: str = "",
    agent: str = "",
) -> Callable[[Apply], Case]:
    """Returns a decorator. It turns a function of parameters and inputs into a case.

    `shapes` maps a name to the shape of the parameter `params[name]["w"]`.
    """

    def init(key: jax.Array) -> Any:
        keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
        return {name: {"w": jax.random.normal(keys[name], shape)} for name, shape in shapes.items()}

    def case(apply: Apply) -> Case:
        return Case(name, lambda: (apply, init), inputs, promises(recycled, coupled, measured, awake), refused, agent)

    return case


def flax(module: nn.Module, *inputs: np.ndarray) -> Callable[[], tuple[Apply, Init]]:
    """Returns a function without arguments. It returns the functions apply and init of a Flax module."""
    return lambda: (module.apply, lambda key: module.init(key, *inputs))


def body(function: Callable[..., Any]) -> type[nn.Module]:
    """Returns a class of Flax modules. Its `__call__` is `function`."""
    return type(function.__name__, (nn.Module,), {"__call__": nn.compact(lambda self, *inputs: function(*inputs))})


def flat(x: jax.Array) -> jax.Array:
    """Flattens all axes except the first, the batch."""
    return x.reshape(x.shape[0], -1)


def shapes_of(init: Init) -> Any:
    """Returns the shapes of the parameters that `init` returns, as a tree."""
    return jax.eval_shape(init, jax.random.key(0))


def weights(shapes: Any, seed: int) -> Any:
    """Returns random parameters of these shapes, drawn by NumPy to avoid compilation."""
    generator = np.random.default_rng(seed)

    def drawn(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        values = generator.normal(size=leaf.shape) * (0.4 if len(leaf.shape) > 1 else 0.1)
        if np.issubdtype(leaf.dtype, np.complexfloating):
            values = values + 1j * generator.normal(size=leaf.shape)
        name = jax.tree_util.keystr(path)
        positive = any(word in name for word in ("var", "scale", "sigma", "average"))
        return (0.5 + np.abs(values) if positive else values).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(drawn, shapes)
