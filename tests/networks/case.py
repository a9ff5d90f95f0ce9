"""Test cases: a network in JAX, and whether each of its layers is recycled, coupled or only measured."""

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
    """A network and the expected result for each hidden layer (see `promises`).

    The name `first+...` stands for merged layers that begin with `first`. If the network can't be traced, `refused` is
    a part of the error, and `layers` names the hidden layers. `agent` is the publication of the agent that uses this
    network. `build` returns apply and init.
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
        """Returns the name, with the agent's publication in brackets."""
        return f"{self.name} ({self.agent})" if self.agent else self.name


def promises(
    recycled: str = "",
    coupled: str = "",
    measured: Mapping[str, str] | None = None,
    awake: str = "",
    lost: str = "",
) -> dict[str, str]:
    """Returns each layer's expected result. Arguments are layer names between spaces; `measured` maps reasons to names.

    Layers in `awake` are recycled (coupled or not). They are not silent even if all their incoming entries are zero,
    because a cosine or a normalisation without parameters follows. Hidden layers in `lost` are only measured, or the
    trace does not find them. The name `...` comes last and stands for all layers that are not named.
    """
    kinds = {"recycled": recycled, "coupled": coupled, "awake": awake, "lost": lost, **(measured or {})}
    return {name: promise for promise, names in kinds.items() for name in names.split()}


def named(layer: str, name: str) -> bool:
    """Whether `name` in a case stands for a layer. `lstm/ii+...` stands for merged layers, and `...` for any layer."""
    if name == "...":
        return True
    return layer.startswith(name[:-3]) if name.endswith("+...") else layer == name


def promise_of(layer: str, promised: Mapping[str, str]) -> str | None:
    """Returns the expected result for a layer, or None if the case does not name it."""
    return next((promise for name, promise in promised.items() if named(layer, name)), None)


def kept(promise: str | None, found: str) -> bool:
    """Whether a layer's result ("recycled", "coupled" or reasons) agrees with the expected result."""
    if promise in ("awake", "lost"):
        return (found in ("recycled", "coupled")) == (promise == "awake")
    exact = promise in ("recycled", "coupled", None) or found in ("recycled", "coupled")
    return promise == found if exact else promise in found


def matches(promised: Mapping[str, str], found: Mapping[str, str]) -> bool:
    """Whether every layer has the expected result, and every expected layer was found."""
    listed = (name for name, promise in promised.items() if promise != "lost")
    every = all(any(named(layer, name) for layer in found) for name in listed)
    return every and all(kept(promise_of(layer, promised), what) for layer, what in found.items())


def verdicts(layers: Iterable[Any]) -> dict[str, str]:
    """Returns, for each layer of a wiring, "recycled", "coupled" or the reasons why it is only measured."""
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
    """Decorates the `__call__` of a Flax network, which makes its layers inline. Returns a case."""

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
    """Decorates a function of parameters and inputs. Parameters are `params[name]["w"]`. Returns a case."""

    def init(key: jax.Array) -> Any:
        keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
        return {name: {"w": jax.random.normal(keys[name], shape)} for name, shape in shapes.items()}

    def case(apply: Apply) -> Case:
        return Case(name, lambda: (apply, init), inputs, promises(recycled, coupled, measured, awake), refused, agent)

    return case


def flax(module: nn.Module, *inputs: np.ndarray) -> Callable[[], tuple[Apply, Init]]:
    """Returns a function that returns apply and init of a Flax module."""
    return lambda: (module.apply, lambda key: module.init(key, *inputs))


def body(function: Callable[..., Any]) -> type[nn.Module]:
    """Returns a Flax module class whose `__call__` is `function`."""
    return type(function.__name__, (nn.Module,), {"__call__": nn.compact(lambda self, *inputs: function(*inputs))})


def flat(x: jax.Array) -> jax.Array:
    """Flattens all axes but the batch."""
    return x.reshape(x.shape[0], -1)


def shapes_of(init: Init) -> Any:
    """Returns the tree of shapes of the parameters that `init` returns."""
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
