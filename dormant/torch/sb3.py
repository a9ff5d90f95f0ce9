"""A callback that measures and recycles the networks of Stable-Baselines3 and sb3-contrib agents (extra `sb3`)."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..settings import check_whole, checked_tau
from .measuring import Report, measure
from .recycling import Init, check_init
from .renewing import ReDo
from .schedule import Every, Intervening, Intervention, checked_intervention
from .wiring import Wiring

try:
    from stable_baselines3.common.callbacks import BaseCallback
except ImportError as error:
    raise ImportError('dormant.torch.sb3 needs Stable-Baselines3: pip install "dormant[sb3]"') from error

VALUES = ("q_net", "quantile_net")  # the networks of DQN and QR-DQN
SAVED = "dormant_intervention"  # the model's attribute for the state of the intervention; `model.save` saves it


class InterventionCallback(BaseCallback):
    """Applies an intervention to the networks of an agent while the agent learns, and logs their dormant neurons.

    The callback supports DQN, QR-DQN, SAC, TD3, DDPG, TQC, CrossQ, PPO, A2C and agents derived from them, including
    recurrent agents. All networks of an agent are traced together. Thus a neuron of a shared feature extractor is
    recycled only if it is dormant in every network. To recycle only some networks, give the names of submodules, as in
    `ReDo(layers=("critic",))`. Target networks are not recycled. The agent's updates copy the change to them.

    SB3 calls a callback between two calls of `train`. If `train` takes several gradient steps, an intervention that
    is due at one of them is applied afterwards. An intervention that acts at every gradient step is then applied only
    once, and a warning is shown. Neurons are scored on `score_batch` samples of the replay buffer or of the last
    rollout. Scoring does not affect the run, because the batch is drawn with a separate random generator. `init` is a
    function that builds a policy from which fresh weights are taken. By default, it builds the same kind of policy.

    Every `period` gradient steps, the callback logs `dormant/fraction`, `dormant/<network>` and `dormant/recycled`. The
    first two are measured before the intervention acts. `report` is the last measurement. `recycled` is the number of
    recycled neurons. The model holds the intervention's state, so the schedule continues after a model is saved and
    loaded.

    Raises TypeError if an argument has the wrong type, and ValueError if `period` or `score_batch` is below 1 or `tau`
    is negative. When training starts, raises ValueError if the agent has no known network. Warns once if no layer can
    be recycled.
    """

    model: Any  # the agent, from SB3 or sb3-contrib

    def __init__(
        self,
        intervention: Intervention,
        period: int = 1_000,
        tau: float = 0.1,
        score_batch: int = 64,
        init: Callable[[], nn.Module] | None = None,
        seed: int = 0,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        self.intervention = checked_intervention(intervention)
        check_whole("period", period)
        check_whole("score_batch", score_batch, "samples", hint="the paper uses 64")
        check_init(init)
        self.period, self.tau, self.score_batch = period, checked_tau(tau), score_batch
        self.init_policy, self.seed = init, seed
        self.plan: Intervening | None = None
        self.report: Report | None = None  # the last measurement
        self.new_steps = 0  # gradient steps since the intervention was last called
        self.rollout: tuple[object, ...] | None = None
        self.hook: RemovableHandle | None = None
        self.told = False  # whether the warning about several gradient steps was shown

    def _on_training_start(self) -> None:
        policy = self.model.policy
        networks = Networks(policy)
        # Some policies do not return all of their options, such as the width of an LSTM. The model has these options.
        options = {**policy._get_constructor_parameters(), **(self.model.policy_kwargs or {})}
        make = self.init_policy or (lambda: type(policy)(**options))
        fresh: Init = lambda: Networks(make())  # noqa: E731
        self.plan = Intervening(networks, networks.optimizers, self.intervention, fresh)
        saved = getattr(self.model, SAVED, None)
        if saved is not None and saved["intervention"] == repr(self.intervention):
            self.plan.load_state_dict(saved)
        self.new_steps, self.rollout, self.report = 0, None, None
        if self.hook is not None:  # left over if an exception ended the last training
            self.hook.remove()
        # The optimizer of the critic, or of the only network, steps once per gradient step.
        self.hook = networks.optimizers[-1].register_step_post_hook(self._count)

    def _count(self, *_: object) -> None:
        self.new_steps += 1

    def _on_rollout_end(self) -> None:
        if hasattr(self.model, "rollout_buffer"):
            self.rollout = self._rollout_batch()

    def _on_rollout_start(self) -> None:
        steps, self.new_steps = self.new_steps, 0
        if self.plan is None or not steps:
            return
        if steps > 1 and getattr(self.intervention, "every_step", False) and not self.told:
            self.told = True
            warnings.warn(
                f"{self.intervention!r} should act at every gradient step, but {type(self.model).__name__} takes "
                f"{steps} gradient steps between two calls of a callback. It acts once after these steps.",
                stacklevel=2,
            )
        batch = cache(self._score_batch)
        plan, now = self.plan, self.plan.gradient_steps + steps
        first = plan.learner is None
        wiring = plan.traced(batch).wiring
        if first and not any(layer.recyclable for layer in wiring.layers):
            why = "\n".join(f"{layer.name}: {'; '.join(layer.reasons)}" for layer in wiring.layers)
            warnings.warn(f"no layer of this {type(self.model).__name__} can be recycled:\n{why}", stacklevel=2)
        if due := now // self.period > plan.gradient_steps // self.period:
            self.report = measure(plan.module, wiring, *batch(), tau=self.tau)
        plan.step_on(batch, steps)
        # `state_dict()` is not called here, because it would copy the state at every step.
        state = {"gradient_steps": plan.gradient_steps, "state": plan.state}
        setattr(self.model, SAVED, {"intervention": repr(self.intervention), **state})
        if due:
            self._log()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._on_rollout_start()
        if self.hook is not None:
            self.hook.remove()

    @property
    def wiring(self) -> Wiring | None:
        """The wiring of all networks together, or None before the first gradient step."""
        return self.plan.learner.wiring if self.plan and self.plan.learner else None

    @property
    def recycled(self) -> int:
        """The number of neurons recycled so far. For a loaded model, this includes neurons recycled before the save."""
        return sum(self.plan.recycled.values()) if self.plan else 0

    def _score_batch(self) -> tuple[object, ...]:
        if self.rollout is not None:
            return self.rollout
        model = self.model
        steps = self.plan.gradient_steps if self.plan else 0
        with _own_generator(self.seed + steps):
            batch = model.replay_buffer.sample(self.score_batch, env=model._vec_normalize_env)
        values = any(hasattr(model, name) for name in VALUES)
        return (batch.observations,) if values else (batch.observations, batch.actions)

    def _rollout_batch(self) -> tuple[object, ...]:
        """Returns samples of the last rollout: the observations, and for recurrent policies the recurrent states."""
        buffer = self.model.rollout_buffer
        steps, environments = buffer.episode_starts.shape
        draws = np.random.default_rng(self.seed + self.model.num_timesteps)
        size = min(self.score_batch, steps * environments)
        rows, columns = np.unravel_index(draws.choice(steps * environments, size, replace=False), (steps, environments))

        def drawn(values: Any) -> object:
            if isinstance(values, dict):
                return {name: drawn(each) for name, each in values.items()}
            return buffer.to_torch(values[rows, columns])

        observations = drawn(buffer.observations)
        if not hasattr(buffer, "hidden_states_pi"):
            return (observations,)
        kept = 1.0 - buffer.episode_starts[rows, columns]
        names = ("hidden_states_pi", "cell_states_pi", "hidden_states_vf", "cell_states_vf")
        states = [
            getattr(buffer, name)[rows, :, columns] * kept[:, None, None] for name in names
        ]  # samples are on the first axis
        return (observations, *(buffer.to_torch(each).swapaxes(0, 1).contiguous() for each in states))

    def _log(self) -> None:
        if self.report is None:
            return
        self.logger.record("dormant/fraction", self.report.fraction)
        for network in sorted({name.split(".")[0] for name in self.report.masks}):
            mine = [name for name in self.report.masks if name.split(".")[0] == network]
            self.logger.record(f"dormant/{network}", _only(mine, self.report).fraction)
        self.logger.record("dormant/recycled", self.recycled)


def ReDoCallback(
    tau: float = 0.1,
    period: int = 1_000,
    networks: Sequence[str] | None = None,
    score_batch: int = 64,
    init: Callable[[], nn.Module] | None = None,
    seed: int = 0,
    verbose: int = 0,
) -> InterventionCallback:
    """Returns a callback that applies `Every(period, ReDo(tau))`: it recycles dormant neurons every `period` steps.

    Steps are gradient steps. If `networks` is given, such as ("critic",), only these networks are recycled.

    >>> ReDoCallback(tau=0.0, period=500).intervention.period
    500

    Source: Sokar et al. 2023, algorithm 1 (DQN: period 1,000, tau 0.1, 64 states; SAC: 200,000, 0, 256).
    """
    if isinstance(networks, str):
        raise TypeError(f"networks must be a list of names, got the text {networks!r}; write networks=[{networks!r}].")
    plan = Every(period, ReDo(tau=tau, layers=None if networks is None else tuple(networks)))
    return InterventionCallback(plan, period, tau, score_batch, init, seed, verbose)


def _only(layers: list[str], report: Report) -> Report:
    scores, masks = ({name: values[name] for name in layers} for values in (report.scores, report.masks))
    return Report(report.tau, scores, masks)


class Networks(nn.Module):
    """A module that contains all online networks of a policy, so that the tracer finds the layers that they share.

    `optimizers` are the optimizers of these networks. Raises ValueError if the policy has no known network.
    """

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        found = {name: getattr(policy, name, None) for name in (*VALUES, "actor", "critic")}
        found = {name: each for name, each in found.items() if isinstance(each, nn.Module)}
        if hasattr(policy, "mlp_extractor"):
            found = {"policy": policy}  # in PPO and A2C, the actor and the critic are parts of the policy
        if not found:
            raise ValueError(
                f"no network of {type(policy).__name__} is known; expected a policy of SB3 with a q_net, with a "
                "quantile_net, with an actor and a critic, or an actor-critic policy."
            )
        for name, network in found.items():
            setattr(self, name, network)
        owners = [policy, *found.values()]
        kept = {id(each): each for owner in owners if (each := getattr(owner, "optimizer", None)) is not None}
        self.optimizers: list[torch.optim.Optimizer] = list(kept.values())

    def forward(self, observations: object, *more: Tensor) -> object:
        """Returns the outputs of all networks. `more` are the actions, or the states of recurrent layers."""
        parts = dict(self.named_children())
        if "policy" in parts:
            return _actor_critic(parts["policy"], observations, *more)
        for name in VALUES:
            if name in parts:
                return parts[name](observations)
        # SAC's actor computes a mean and a standard deviation, and then samples an action. We leave out the sampling.
        actor = getattr(parts["actor"], "get_action_dist_params", parts["actor"])
        return actor(observations), parts["critic"](observations, *more)


def _actor_critic(policy: Any, observations: Any, *states: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the parameters of the action distribution, and the values, from an actor-critic policy."""
    features = policy.extract_features(observations)
    actor, critic = (features, features) if policy.share_features_extractor else features
    if states:
        actor = policy.lstm_actor(actor[None], states[:2])[0][0]
        if policy.lstm_critic is not None:
            critic = policy.lstm_critic(critic[None], states[2:])[0][0]
        else:
            critic = actor.detach() if policy.shared_lstm else policy.critic(critic)
    actor, critic = policy.mlp_extractor.forward_actor(actor), policy.mlp_extractor.forward_critic(critic)
    return policy.action_net(actor), policy.value_net(critic)


@contextmanager
def _own_generator(seed: int) -> Iterator[None]:
    """Seeds NumPy's global generator, from which SB3's replay buffers draw, and restores its state afterwards."""
    state = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(state)
