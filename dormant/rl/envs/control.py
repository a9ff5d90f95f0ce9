"""What an environment with continuous actions is, as the host plays it."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Float32
from numpy import ndarray


class ControlOutcome(NamedTuple):
    """What one agent step led to in each body: the observation is the one after the action, before any restart."""

    observation: Float32[ndarray, "bodies observation"]
    reward: Float32[ndarray, " bodies"]
    terminal: Bool[ndarray, " bodies"]
    truncated: Bool[ndarray, " bodies"]


@runtime_checkable
class Bodies(Protocol):
    """Several copies of an environment side by side, each as it would go alone. `save` gives a tree of arrays."""

    @property
    def observations(self) -> Float32[ndarray, "bodies observation"]: ...
    def step(self, actions: Float[ndarray, "bodies actions"]) -> ControlOutcome: ...
    def save(self) -> Any: ...
    def restore(self, state: Any) -> None: ...


@runtime_checkable
class ControlEnvironment(Protocol):
    """A specification with so many numbers in an observation and in an action, whose numbers lie between -1 and 1.

    `terminal` says that the return ends, so nothing is bootstrapped; `truncated` says that only the episode does.
    `begin` starts a body for each seed; `stream` sets evaluation apart from training.
    """

    @property
    def observations(self) -> int: ...
    @property
    def actions(self) -> int: ...
    def begin(self, seeds: Sequence[int], stream: int = 0) -> Bodies: ...
