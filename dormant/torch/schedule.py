"""The protocol of interventions on modules, wrappers that schedule or combine them, and the object that runs them."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from ..settings import check_every, check_when_dormant, check_whole, checked_kind, checked_links
from .measuring import Report, measure
from .optimizers import Optimizers, optimizer_list
from .recycling import Init, Learner, check_init, same_on_every_process
from .tracing import trace
from .wiring import Wiring

State = dict[str, Any]  # of numbers, tensors, lists and dicts, so that `torch.load` accepts it with weights_only=True
Counts = dict[str, int]
Inputs = Callable[[], tuple[object, ...]]


@runtime_checkable
class Intervention(Protocol):
    """An object that changes a module and its optimizer's state in place, outside of the gradient step.

    - `init` returns the initial state of the intervention.
    - `check` raises ValueError if the intervention can't be applied to this learner.
    - `update_` is called after every gradient step, or after `steps` gradient steps. It changes the learner and the
      state in place. It returns the number of neurons recycled per layer, or None if it changed nothing. `inputs` is a
      function that returns the batch on which neurons are scored.
    """

    def init(self, module: nn.Module) -> State: ...

    def check(self, learner: Learner) -> None: ...

    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> Counts | None: ...


def checked_intervention(what: Intervention) -> Intervention:
    """Returns `what`. Raises TypeError if it is not an intervention, for example a class in place of an instance."""
    return checked_kind(what, Intervention)


@dataclass(frozen=True)
class Every:
    """Applies `what` at the gradient steps start, start + period, start + 2 * period, and so on, below `stop`.

    The first gradient step is 1. With `start=0`, `what` is therefore first applied at step `period`. If `update_` is
    called after several gradient steps, and `what` is due at one or more of them, `what` is applied once.

    >>> Every(1_000, Chain(), stop=2_500_000).period
    1000

    Raises TypeError if the period is not a whole number or `what` is not an intervention. Raises ValueError if the
    period is below 1, if `0 <= start < stop` does not hold, or if `what` must be called at every gradient step, like
    `ClipWeights`.
    """

    period: int
    what: Intervention
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        check_every(self.period, self.what, self.start, self.stop, Intervention)

    def init(self, module: nn.Module) -> State:
        return {"gradient_steps": 0, "inner": self.what.init(module)}

    def check(self, learner: Learner) -> None:
        self.what.check(learner)

    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> Counts | None:
        before = state["gradient_steps"]
        state["gradient_steps"] += steps
        if not self.due(before, state["gradient_steps"]):
            return None
        return self.what.update_(learner, state["inner"], inputs)

    def due(self, before: int, now: int) -> bool:
        """Whether `what` is due at one or more of the gradient steps `before + 1` to `now`.

        >>> Every(10, Chain(), stop=30).due(15, 20), Every(10, Chain(), stop=30).due(20, 40)
        (True, False)
        """
        wait = max(before + 1 - self.start, 0)  # number of steps from `start` to `before + 1`
        first = self.start + -(-wait // self.period) * self.period
        return first <= now and (self.stop is None or first < self.stop)


@dataclass(frozen=True, init=False, repr=False)
class Chain:
    """Applies several interventions, one after the other. `Chain()` does nothing.

    >>> Chain(Every(1_000, Chain()), Every(50_000, Chain())).links[1].period
    50000

    Raises TypeError if an argument is not an intervention, such as a list of interventions.
    """

    links: tuple[Intervention, ...]

    def __init__(self, *links: Intervention) -> None:
        object.__setattr__(self, "links", checked_links(links, Intervention))

    @property
    def every_step(self) -> bool:
        """Whether an intervention in the chain must be called at every gradient step."""
        return any(getattr(link, "every_step", False) for link in self.links)

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.links))})"

    def init(self, module: nn.Module) -> State:
        return {"links": [link.init(module) for link in self.links]}

    def check(self, learner: Learner) -> None:
        for link in self.links:
            link.check(learner)

    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> Counts | None:
        links = zip(self.links, state["links"], strict=True)
        acted = [link.update_(learner, inner, inputs, steps) for link, inner in links]
        acted = [counts for counts in acted if counts is not None]
        return (
            {name: sum(counts.get(name, 0) for counts in acted) for each in acted for name in each} if acted else None
        )


@dataclass(frozen=True)
class WhenDormant:
    """Applies `what` if at least `share` of all neurons are tau-dormant on the score batch.

    Use it to reset a network only if the network needs it. Each check costs a forward pass of the score batch. Put this
    intervention within `Every` to set how often it checks.

    >>> WhenDormant(0.25, Chain()).tau
    0.1

    Raises TypeError if `what` is not an intervention. Raises ValueError if the share is outside of (0, 1], if tau is
    negative, or if `what` must be called at every gradient step.
    Source: ours. A similar method perturbs the network more strongly if the dormant share is larger: Xu et al. 2024,
    "DrM: mastering visual reinforcement learning through dormant ratio minimization".
    """

    share: float
    what: Intervention
    tau: float = 0.1

    def __post_init__(self) -> None:
        check_when_dormant(self.share, self.what, self.tau, Intervention)

    def init(self, module: nn.Module) -> State:
        return self.what.init(module)

    def check(self, learner: Learner) -> None:
        self.what.check(learner)

    def update_(self, learner: Learner, state: State, inputs: Inputs, steps: int = 1) -> Counts | None:
        fraction = measure(learner.module, learner.wiring, *inputs(), tau=self.tau).fraction
        due = torch.tensor(fraction >= self.share, device=next(learner.module.parameters()).device)
        same_on_every_process(learner.module, [due])
        return self.what.update_(learner, state, inputs, steps) if bool(due) else None


def with_intervention(
    module: nn.Module, optimizer: Optimizers, intervention: Intervention, init: Init | None = None
) -> "Intervening":
    """Returns an object that applies an intervention to a module while you train the module.

    After each `optimizer.step()`, call the object's method `step` with a batch of inputs of the module. Neurons are
    scored on this batch.

    - `optimizer`: the optimizer that trains the module, or a list of optimizers.
    - `init`: a function that builds a fresh module, from which fresh weights are taken. By default, they come from the
      method `reset_parameters()` of each layer.

    >>> from dormant.torch import ReDo
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> redo = with_intervention(net, torch.optim.Adam(net.parameters()), Every(2, ReDo(tau=0.0)))
    >>> _ = nn.init.constant_(net[0].bias, -100.0)
    >>> [redo.step(torch.zeros(8, 3)) for _ in range(2)]
    [None, {'0': 4}]

    Raises TypeError if an argument has the wrong type.
    """
    optimizers = optimizer_list(optimizer)
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"expected a torch.nn.Module as the first argument, got {type(module).__name__}; write "
            "with_intervention(module, optimizer, Every(1_000, ReDo(tau=0.1)))."
        )
    check_init(init)
    checked_intervention(intervention)
    return Intervening(module, optimizers, intervention, init)


class Intervening:
    """An object that applies an intervention to a module during training. `with_intervention` returns it.

    To save a checkpoint, save the result of `state_dict()`. Also save the state of torch's global random generator,
    because fresh weights are drawn from it.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        intervention: Intervention,
        init: Init | None = None,
    ) -> None:
        self.module, self.optimizers, self.intervention, self.init = module, optimizers, intervention, init
        self.gradient_steps = 0
        self.state = intervention.init(module)
        self.learner: Learner | None = None

    def step(self, *inputs: object, steps: int = 1) -> Counts | None:
        """Applies the intervention after `steps` gradient steps. `inputs` is the batch on which neurons are scored.

        Returns the number of recycled neurons per layer, or None if nothing was due. The first call traces the module.
        It raises ValueError if the intervention can't be applied to this module.
        """
        if not inputs:
            raise TypeError("step needs a batch of the module's inputs, on which neurons are scored: cure.step(x).")
        return self.step_on(lambda: inputs, steps)

    def step_on(self, inputs: Inputs, steps: int = 1) -> Counts | None:
        """Does the same as `step`, but `inputs` is a function that returns the batch. It is called only when needed."""
        check_whole("steps", steps)
        learner = self.traced(inputs)
        self.gradient_steps += steps
        return self.intervention.update_(learner, self.state, inputs, steps)

    def traced(self, inputs: Inputs) -> Learner:
        """Returns the learner. The first call traces the module, and checks that the intervention can be applied."""
        if self.learner is None:
            learner = Learner(self.module, self.optimizers, trace(self.module, *inputs()), self.init)
            self.intervention.check(learner)
            self.learner = learner
        return self.learner

    def measure(self, *inputs: object, tau: float = 0.1) -> Report:
        """Returns the scores and dormant masks of all neurons on a batch of inputs (see `dormant.torch.measure`)."""
        return measure(self.module, self.traced(lambda: inputs).wiring, *inputs, tau=tau)

    @property
    def wiring(self) -> Wiring:
        """The wiring of the module. Print it to see which layers are recycled. Raises ValueError before the trace."""
        if self.learner is None:
            raise ValueError("the wiring is not known yet: call step or measure first, which traces the module.")
        return self.learner.wiring

    @property
    def recycled(self) -> Counts:
        """The number of neurons recycled so far, per layer."""
        return recycled_counts(self.state)

    def state_dict(self) -> State:
        """Returns a dictionary: the intervention's state, the number of gradient steps, and the intervention's repr."""
        intervention = repr(self.intervention)
        return {"intervention": intervention, "gradient_steps": self.gradient_steps, "state": copy.deepcopy(self.state)}

    def load_state_dict(self, state_dict: State) -> None:
        """Restores the state that `state_dict` returned. Raises ValueError if it is from a different intervention."""
        if not isinstance(state_dict, Mapping) or "intervention" not in state_dict:
            raise ValueError(
                "expected the dictionary that `state_dict` of an object from with_intervention returns, got a "
                f"{type(state_dict).__name__}."
            )
        if state_dict["intervention"] != repr(self.intervention):
            raise ValueError(f"the state belongs to {state_dict['intervention']}, not to {self.intervention!r}.")
        self.gradient_steps = state_dict["gradient_steps"]
        self.state = copy.deepcopy(state_dict["state"])


def recycled_counts(state: State) -> Counts:
    """Returns the number of neurons recycled so far per layer, summed over all interventions in `state`.

    >>> recycled_counts({"links": [{"recycled": {"0": 1}}, {"gradient_steps": 2, "inner": {"recycled": {"0": 2}}}]})
    {'0': 3}
    """
    total: Counts = dict(state.get("recycled", {}))
    for inner in (state.get("inner"), *state.get("links", ())):
        for name, count in recycled_counts(inner).items() if isinstance(inner, dict) else ():
            total[name] = total.get(name, 0) + count
    return total
