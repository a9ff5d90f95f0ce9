"""A network in JAX and what dormant promises for it."""

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
    """A network and, for each hidden layer, its promise: see `promises`.

    A layer's name that ends with `+...` stands for merged layers, of which it names the first. `refused` is a part
    of the error for a network that cannot be traced; `layers` then names its hidden layers. `agent` is the publication
    of the agent that has this network. `build` returns apply and init.
    """

    name: str
    build: Callable[[], tuple[Apply, Init]]
    inputs: tuple[np.ndarray, ...]
    layers: Mapping[str, str]
    refused: str = ""
    agent: str = ""
    framework: ClassVar[str] = "JAX"

    def trace(self) -> dormant.Wiring:
        """The wiring, from a trace made now."""
        apply, init = self.build()
        return dormant.trace(apply, weights(shapes_of(init), seed=0), *self.inputs)

    @property
    def title(self) -> str:
        """The name, with the agent's publication in brackets."""
        return f"{self.name} ({self.agent})" if self.agent else self.name


def promises(
    recycled: str = "",
    coupled: str = "",
    measured: Mapping[str, str] | None = None,
    awake: str = "",
    lost: str = "",
) -> dict[str, str]:
    """The promise of each layer. Layers are names between spaces; `measured` maps a reason to layers.

    Layers that are `awake` are recycled, coupled or not, but are not silent where all that feeds them is zero: a
    cosine follows, or a normalisation without parameters. Layers that are `lost` are hidden layers that the trace
    lists as measured only, or not at all. The name `...`, after all others, stands for any other layers.
    """
    kinds = {"recycled": recycled, "coupled": coupled, "awake": awake, "lost": lost, **(measured or {})}
    return {name: promise for promise, names in kinds.items() for name in names.split()}


def named(layer: str, name: str) -> bool:
    """Whether a case's name is that of a layer; `lstm/ii+...` names merged layers by the first of them, `...` any."""
    if name == "...":
        return True
    return layer.startswith(name[:-3]) if name.endswith("+...") else layer == name


def promise_of(layer: str, promised: Mapping[str, str]) -> str | None:
    """The promise for a layer, or None if there is none."""
    return next((promise for name, promise in promised.items() if named(layer, name)), None)


def kept(promise: str | None, found: str) -> bool:
    """Whether "recycled", "coupled", or the reasons why a layer is only measured, are what was promised."""
    if promise in ("awake", "lost"):
        return (found in ("recycled", "coupled")) == (promise == "awake")
    exact = promise in ("recycled", "coupled", None) or found in ("recycled", "coupled")
    return promise == found if exact else promise in found


def matches(promised: Mapping[str, str], found: Mapping[str, str]) -> bool:
    """Whether each layer that was found keeps its promise, and each promise has its layer."""
    listed = (name for name, promise in promised.items() if promise != "lost")
    every = all(any(named(layer, name) for layer in found) for name in listed)
    return every and all(kept(promise_of(layer, promised), what) for layer, what in found.items())


def verdicts(layers: Iterable[Any]) -> dict[str, str]:
    """For each layer of a wiring: "recycled", "coupled", or the reasons why it is only measured."""
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
    """Decorates the body of a Flax network: from inputs to outputs, with layers made on the way."""

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
    """Decorates a function of parameters and inputs; each parameter is called `w` in a dictionary of its own."""

    def init(key: jax.Array) -> Any:
        keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
        return {name: {"w": jax.random.normal(keys[name], shape)} for name, shape in shapes.items()}

    def case(apply: Apply) -> Case:
        return Case(name, lambda: (apply, init), inputs, promises(recycled, coupled, measured, awake), refused, agent)

    return case


def flax(module: nn.Module, *inputs: np.ndarray) -> Callable[[], tuple[Apply, Init]]:
    """What builds a Flax module."""
    return lambda: (module.apply, lambda key: module.init(key, *inputs))


def body(function: Callable[..., Any]) -> type[nn.Module]:
    """A Flax module from the body of its call."""
    return type(function.__name__, (nn.Module,), {"__call__": nn.compact(lambda self, *inputs: function(*inputs))})


def flat(x: jax.Array) -> jax.Array:
    """Everything but the batch in one axis."""
    return x.reshape(x.shape[0], -1)


def shapes_of(init: Init) -> Any:
    """The tree of shapes of the parameters that `init` returns."""
    return jax.eval_shape(init, jax.random.key(0))


def weights(shapes: Any, seed: int) -> Any:
    """Random parameters of these shapes. NumPy draws them, which takes no compilation."""
    generator = np.random.default_rng(seed)

    def drawn(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        values = generator.normal(size=leaf.shape) * (0.4 if len(leaf.shape) > 1 else 0.1)
        if np.issubdtype(leaf.dtype, np.complexfloating):
            values = values + 1j * generator.normal(size=leaf.shape)
        name = jax.tree_util.keystr(path)
        positive = any(word in name for word in ("var", "scale", "sigma", "average"))
        return (0.5 + np.abs(values) if positive else values).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(drawn, shapes)
