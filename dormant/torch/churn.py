"""C-CHAIN: a term of the loss that keeps a module's outputs as they were before the last gradient step."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from ..settings import check_cchain
from .execution import plain
from .schedule import State


@dataclass(frozen=True)
class CChain:
    """The settings of `with_churn_term`, which adds the term strength * churn to the loss.

    The churn is the mean squared change of the outputs in the last gradient step. Draw the states on which it is
    computed independently of the training batch. In the first `fixed` gradient steps, the strength is `strength`. After
    that, the strength is share * mean |loss| / (mean churn + 1e-8), so that the term is about the fraction `share` of
    the loss. The means are over about `window` gradient steps. With `share=None`, the strength never changes.

    >>> CChain(share=None, strength=100.0).fixed
    10000

    Raises ValueError for a number outside its range.
    Source: Tang et al. 2025, "Mitigating plasticity loss in continual reinforcement learning by reducing churn"
    (C-CHAIN); the defaults and the lag of one gradient step are those of crl_minatar/agents/double_dqn_c_chain.py at
    revision 2f8bedf. They average over a window of steps. We use the plain mean over the first half window, and then an
    exponential average with the same mean age. Their term for PPO, a cross-entropy, is not implemented.
    """

    share: float | None = 0.01
    strength: float = 50.0
    fixed: int = 10_000
    window: int = 50_000

    def __post_init__(self) -> None:
        check_cchain(self.share, self.strength, self.fixed, self.window)


def with_churn_term(cchain: CChain, module: nn.Module) -> "ChurnTerm":
    """Returns a function that adds the churn term of a module to its loss. Call it once per gradient step.

    Draw the states independently of the training batch. The cost is a forward pass with the old weights, a forward and
    backward pass with the present weights, and a copy of the weights.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(net.weight, 1.0)
    >>> total = with_churn_term(CChain(strength=1.0), net)
    >>> total(torch.tensor(0.5), torch.tensor([[2.0]])).item()  # no churn at the first step
    0.5
    >>> _ = nn.init.constant_(net.weight, 1.5)
    >>> total(torch.tensor(0.5), torch.tensor([[2.0]])).item()  # plus (2 * 1.5 - 2 * 1)^2
    1.5

    Raises TypeError if an argument has the wrong type.
    """
    if not isinstance(cchain, CChain) or not isinstance(module, nn.Module):
        raise TypeError("expected with_churn_term(cchain, module), for instance with_churn_term(CChain(), net).")
    return ChurnTerm(cchain, module)


class ChurnTerm:
    """Adds the churn term to a loss. `with_churn_term` returns it. Store `state_dict()` in checkpoints."""

    def __init__(self, cchain: CChain, module: nn.Module) -> None:
        self.cchain, self.module = cchain, module
        self.previous = self._weights()
        self.loss = self.churn = 0.0
        self.gradient_steps = 0

    def _weights(self) -> dict[str, Tensor]:
        return {name: leaf.detach().clone() for name, leaf in plain(self.module).state_dict().items()}

    @property
    def strength(self) -> float:
        """The strength at the next gradient step: the factor of the churn in the loss."""
        if self.cchain.share is None or self.gradient_steps < self.cchain.fixed:
            return self.cchain.strength
        return self.cchain.share * self.loss / (self.churn + 1e-8)

    def __call__(self, loss: Float[Tensor, ""], *states: object) -> Float[Tensor, ""]:
        """Returns the loss plus the churn term. `states` are inputs of the module.

        Raises TypeError for a wrong argument.
        """
        if not isinstance(loss, Tensor) or loss.ndim or not states:
            raise TypeError(
                "expected the loss (a tensor of one number) and the states on which outputs stay: (loss, x)."
            )
        outputs = self.module(*states)
        with torch.no_grad():
            before = functional_call(plain(self.module), self.previous, states)
        churn = (outputs - before).square().mean()
        total = loss + self.strength * churn
        self.previous = self._weights()
        self.gradient_steps += 1
        # The churn of the first gradient step is always 0, so the average of the churn leaves this step out.
        rate, churn_rate = (
            max(1 / steps, 2 / (self.cchain.window + 1))
            for steps in (self.gradient_steps, max(self.gradient_steps - 1, 1))
        )
        self.loss += rate * (abs(loss.item()) - self.loss)
        self.churn += churn_rate * (churn.item() - self.churn)
        return total

    def state_dict(self) -> State:
        """Returns the old weights, the averages and the number of gradient steps."""
        numbers = {"loss": self.loss, "churn": self.churn, "gradient_steps": self.gradient_steps}
        return {"previous": {name: leaf.clone() for name, leaf in self.previous.items()}, **numbers}

    def load_state_dict(self, state_dict: State) -> None:
        """Resumes from the result of `state_dict`."""
        like = self._weights()
        self.previous = {name: leaf.to(like[name], copy=True) for name, leaf in state_dict["previous"].items()}
        self.loss, self.churn = float(state_dict["loss"]), float(state_dict["churn"])
        self.gradient_steps = int(state_dict["gradient_steps"])
