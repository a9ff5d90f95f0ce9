"""What every intervention offers."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array

from ..surgery import Learner
from ..wiring import Network


@runtime_checkable
class Intervention(Protocol):
    """A value that looks at a learner now and then and changes its weights.

    `init` returns the intervention's state, a tree of arrays. `update` is called after every gradient step with a
    key and the inputs of a score batch; it returns the changed learner and state, with the same tree, shapes and
    dtypes. Both can be compiled, and `update` can be mapped over seeds with `jax.vmap`.
    """

    def init(self, learner: Learner, network: Network) -> Any: ...

    def update(
        self, key: Array, learner: Learner, state: Any, network: Network, *inputs: Any
    ) -> tuple[Learner, Any]: ...


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless a named option has one of its values."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
