"""ReDo for the off-policy agents of Stable-Baselines3 (extra `sb3`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor, nn

from .recycling import Init, Report, measure, recycle_
from .tracing import trace
from .wiring import Wiring

try:
    from stable_baselines3.common.callbacks import BaseCallback
except ImportError as error:
    raise ImportError('dormant.torch.sb3 needs Stable-Baselines3: pip install "dormant[sb3]"') from error


class ReDoCallback(BaseCallback):
    """Measures and recycles the dormant neurons of a DQN or actor-critic agent's networks during training.

    `networks` names attributes of the model: ("q_net",) of a DQN, ("actor", "critic") of SAC or TD3. All of the
    model's networks are traced together, so a neuron of a shared feature extractor is recycled only if it is dormant
    in every network. SB3 counts gradient steps in `model._n_updates`, which it saves and restores, so a loaded
    model continues the schedule. SB3 calls a callback only between two calls of `train`. If a call takes several
    gradient steps, recycling happens at the first call that ends at or after a multiple of `period`. Target networks
    are not recycled; only SB3's updates change them. Scoring does not change the run, because the score batch is
    drawn with a separate random generator.

    `recycled` is the number of recycled neurons so far; `report` and `wiring` are the most recent ones. The callback
    logs `dormant/fraction` and `dormant/<network>` (before recycling), and `dormant/recycled`.

    Raises ValueError if `period` is not positive or `tau` is negative, and at the start of training if the model
    does not have these networks.
    Source: Sokar et al. 2023, algorithm 1 (DQN: period 1,000, tau 0.1, 64 states; SAC: 200,000, 0, 256).
    """

    model: Any  # an OffPolicyAlgorithm

    def __init__(
        self,
        tau: float = 0.1,
        period: int = 1_000,
        networks: tuple[str, ...] = ("q_net",),
        score_batch: int = 64,
        init: Init | None = None,
        seed: int = 0,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if period < 1 or not tau >= 0:
            raise ValueError(f"period must be at least 1 gradient step and tau at least 0, got {period} and {tau}.")
        self.tau, self.period, self.networks = tau, period, networks
        self.score_batch, self.init_network, self.seed = score_batch, init, seed
        self.recycled = 0
        self.wiring: Wiring | None = None
        self.report: Report | None = None  # of the most recent measurement

    def _on_training_start(self) -> None:
        known = _networks(self.model)
        if not self.networks or set(self.networks) - set(known):
            raise ValueError(f"networks must name some of {known} of {type(self.model).__name__}, got {self.networks}.")
        self.wiring = None  # the model may have changed
        self.periods_done = self._gradient_steps() // self.period

    def _on_rollout_start(self) -> None:
        periods = self._gradient_steps() // self.period
        if periods > self.periods_done and self.model.replay_buffer.size() > 0:
            self.periods_done = periods
            self._measure_and_recycle()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._on_rollout_start()

    def _gradient_steps(self) -> int:
        return self.model._n_updates

    def _measure_and_recycle(self) -> None:
        module, inputs = Networks(self.model), self._score_batch()
        self.wiring = wiring = self.wiring or trace(module, *inputs)
        chosen = [layer.name for layer in wiring.layers if layer.name.split(".")[0] in self.networks]
        self.report = _only(chosen, measure(module, wiring, *inputs, tau=self.tau))
        counts = recycle_(
            module, wiring, *inputs, tau=self.tau, optimizer=module.optimizers, init=self.init_network, layers=chosen
        )
        self.recycled += sum(counts.values())
        self._log(self.report)

    def _score_batch(self) -> tuple[Any, ...]:
        model = self.model
        with _own_generator(self.seed + self._gradient_steps()):
            batch = model.replay_buffer.sample(self.score_batch, env=model._vec_normalize_env)
        return (batch.observations,) if hasattr(model, "q_net") else (batch.observations, batch.actions)

    def _log(self, report: Report) -> None:
        self.logger.record("dormant/fraction", report.fraction)
        for network in self.networks:
            mine = [name for name in report.masks if name.split(".")[0] == network]
            self.logger.record(f"dormant/{network}", _only(mine, report).fraction)
        self.logger.record("dormant/recycled", self.recycled)


def _only(layers: list[str], report: Report) -> Report:
    here = [name for name in layers if name in report.scores]
    scores, masks = ({name: values[name] for name in here} for values in (report.scores, report.masks))
    return Report(report.tau, scores, masks, tuple(name for name in layers if name not in here))


class Networks(nn.Module):
    """The online networks of a model in one module, so that the tracer sees which layers they share."""

    q_net: nn.Module
    actor: nn.Module
    critic: nn.Module

    def __init__(self, model: Any) -> None:
        super().__init__()
        for name in _networks(model):
            setattr(self, name, getattr(model, name))
        owners = [model.policy, *self.children()]
        self.optimizers = [owner.optimizer for owner in owners if getattr(owner, "optimizer", None) is not None]

    def forward(self, observations: Any, actions: Tensor | None = None) -> Any:
        """Returns all outputs that the networks compute from their hidden layers."""
        if actions is None:
            return self.q_net(observations)
        # SAC's actor computes a mean and a standard deviation, and then samples; this skips the sampling.
        actor = getattr(self.actor, "get_action_dist_params", self.actor)
        return actor(observations), self.critic(observations, actions)


def _networks(model: Any) -> list[str]:
    return [name for name in ("q_net", "actor", "critic") if isinstance(getattr(model, name, None), nn.Module)]


@contextmanager
def _own_generator(seed: int) -> Iterator[None]:
    """Seeds NumPy's global generator, from which SB3's replay buffers draw, and restores its state afterwards."""
    state = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(state)
