"""The SAC agent of the paper (Sokar et al. 2023): an actor, two critics and a temperature."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from dormant.regularisers import L2Init, Parseval, Spectral, penalised
from dormant.settings import FRACTION, NOT_NEGATIVE, POSITIVE, check_counts, check_fields, check_value
from dormant.surgery import Learner

from ..networks import MLP, Params
from ..replay.steps import Steps

CRITICS = ("critic1", "critic2")
NETWORKS = ("actor", *CRITICS)
SACParams = dict[str, Params]  # the parameters of each network, by its name
GAP: PyTree = optax.MaskedNode()  # stands for a network that a tree leaves out
# Bounds of the policy's log standard deviation. Outside these bounds, neither the policy nor its gradients are useful.
# Source: the code of Haarnoja et al. 2018.
LOG_STD = (-20.0, 2.0)


class SACState(NamedTuple):
    """The actor and the critics, the target critics, and the temperature.

    `learner` holds the parameters and the optimizer state of the actor and of each critic. Layers are called
    `actor/dense_0`, `critic1/dense_0` and so on. Interventions treat the layers of each network separately.
    """

    learner: Learner
    target: SACParams
    temperature: Learner  # its parameter is the logarithm of the temperature


class Losses(NamedTuple):
    """The losses of a gradient step, the mean Q value of the actions in its batch, the entropy and the temperature."""

    loss: Float[Array, ""]
    actor_loss: Float[Array, ""]
    q_mean: Float[Array, ""]
    entropy: Float[Array, ""]
    temperature: Float[Array, ""]


@dataclass(frozen=True)
class SAC:
    """The hyper-parameters of SAC. Its methods are pure functions of states and arrays. Actions lie in [-1, 1].

    `width` multiplies the widths of the hidden layers. `target_entropy` is the target entropy per action dimension. If
    `reset_targets` is true, an intervention that overwrites weights of a critic also overwrites these weights in the
    critic's target. If it is false, the target keeps the old weights until Polyak averaging has replaced them.

    >>> agent = SAC(hidden=(4,))
    >>> state = agent.init(jax.random.key(0), observations=3, actions=2)
    >>> agent.act(state.learner.params, jnp.zeros((1, 3)), jnp.zeros((1, 2))).tolist()
    [[0.0, 0.0]]

    Raises ValueError for a hyper-parameter outside its range.
    Source: TF-Agents' SacAgent with the settings of dopamine/labs/redo/tfagents/sac_train_eval.py. The paper does not
    state its reward scale and target entropy, so we use the defaults of TF-Agents.
    """

    hidden: tuple[int, ...] = (256, 256)
    width: float = 1.0
    gamma: float = 0.99
    batch_size: int = 256
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    temperature_learning_rate: float = 3e-4
    adam_epsilon: float = 1e-7  # Keras' default
    actor_weight_decay: float = 0.0  # L2 regularisation of kernels (not biases), added to the gradient before Adam
    critic_weight_decay: float = 0.0
    polyak: float = 0.005
    reward_scale: float = 0.1
    target_entropy: float = -0.5
    initial_temperature: float = 1.0
    reset_targets: bool = False
    replay_capacity: int = 1_000_000  # in agent steps, like min_replay
    min_replay: int = 10_000
    regulariser: L2Init | Parseval | Spectral | None = None  # for actor and critics

    losses = Losses

    def __post_init__(self) -> None:
        if not isinstance(self.hidden, tuple) or not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must hold at least one width of at least 1 neuron, got {self.hidden}.")
        rates = ("actor_learning_rate", "critic_learning_rate")
        check_fields(self, POSITIVE, "width", *rates, "reward_scale", "initial_temperature")
        decays = ("actor_weight_decay", "critic_weight_decay")
        check_fields(self, NOT_NEGATIVE, "temperature_learning_rate", "adam_epsilon", *decays)
        check_counts(self, "batch_size")
        check_fields(self, FRACTION, "gamma", "polyak")
        check_value("regulariser", self.regulariser)
        if not math.isfinite(self.target_entropy):
            raise ValueError(f"target_entropy must be a number, got {self.target_entropy}; -0.5 is the default.")
        if not 1 <= self.min_replay <= self.replay_capacity:
            raise ValueError(
                f"min_replay must lie between 1 and replay_capacity, got {self.min_replay} with replay_capacity "
                f"{self.replay_capacity}."
            )

    @property
    def network(self) -> MLP:
        """The hidden layers of the actor and of each critic."""
        return MLP(tuple(math.ceil(neurons * self.width) for neurons in self.hidden))

    def optimizer(self) -> optax.GradientTransformation:
        """One optimizer per network. Weight decay and the regulariser's gradient are added before Adam."""
        optimizers: PyTree = {name: self._optimizer(name) for name in NETWORKS}
        return optax.partition(optimizers, {name: name for name in NETWORKS})

    def _optimizer(self, name: str) -> optax.GradientTransformation:
        return penalised(self.regulariser, self._unpenalised(name))

    def _unpenalised(self, name: str) -> optax.GradientTransformation:
        if name in CRITICS:
            return self._adam(self.critic_learning_rate, self.critic_weight_decay)
        return self._adam(self.actor_learning_rate, self.actor_weight_decay)

    def _adam(self, learning_rate: float, weight_decay: float = 0.0) -> optax.GradientTransformation:
        adam = optax.adam(learning_rate, eps=self.adam_epsilon)
        if not weight_decay:
            return adam
        decay = optax.add_decayed_weights(weight_decay, lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params))
        return optax.chain(decay, adam)

    def init(self, key: Key[Array, ""], observations: int, actions: int) -> SACState:
        """Returns the state of fresh networks. The target networks are copies of the critics.

        `observations` and `actions` are the lengths of an observation and of an action.
        """
        params = self.init_params(key, observations, actions)
        temperature = jnp.log(jnp.float32(self.initial_temperature))
        return SACState(
            Learner(params, self.optimizer().init(params)),
            {name: params[name] for name in CRITICS},
            Learner(temperature, self._adam(self.temperature_learning_rate).init(temperature)),
        )

    def init_params(self, key: Key[Array, ""], observations: int, actions: int) -> SACParams:
        """Fresh parameters of all networks."""
        actor, *critics = jax.random.split(key, 3)
        return {"actor": self.network.init(actor, (observations,), 2 * actions)} | {
            name: self.network.init(key, (observations + actions,), 1)
            for name, key in zip(CRITICS, critics, strict=True)
        }

    def apply(
        self,
        params: SACParams,
        observation: Float[Array, "batch observation"],
        action: Float[Array, "batch actions"],
    ) -> tuple[Array, Array, Array]:
        """The outputs of all networks on observations and actions, for tracing and scoring their neurons."""
        return (self.network.apply(params["actor"], observation), *self._values(params, observation, action))

    def act(
        self,
        params: SACParams,
        observation: Float[Array, "batch observation"],
        noise: Float[Array, "batch actions"],
    ) -> Float[Array, "batch actions"]:
        """Actions drawn with standard normal noise. Zero noise gives the greedy actions."""
        return self._draw(params["actor"], observation, noise)[0]

    def update(self, state: SACState, batch: Steps) -> tuple[SACState, Losses]:
        """Takes one gradient step with the critics, the actor and the temperature. Then averages the target critics."""
        alpha = jnp.exp(state.temperature.params)
        gradient, (loss, q_mean) = jax.grad(self.critic_loss, has_aux=True)(
            {name: state.learner.params[name] for name in CRITICS}, state, batch, alpha
        )
        learner = self._step(state.learner, gradient)
        gradient, (actor_loss, log_density) = jax.grad(self.actor_loss, has_aux=True)(
            learner.params["actor"], learner.params, batch, alpha
        )
        learner = self._step(learner, {"actor": gradient})
        temperature = self._step_temperature(state.temperature, log_density, batch.action_tm1.shape[1])
        critics: PyTree = {name: learner.params[name] for name in CRITICS}
        target: PyTree = optax.incremental_update(critics, state.target, self.polyak)
        losses = Losses(loss, actor_loss, q_mean, -log_density.mean(), alpha)
        return SACState(learner, target, temperature), losses

    def critic_loss(
        self, critics: SACParams, state: SACState, batch: Steps, alpha: Float[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Float[Array, ""]]]:
        """Half the squared temporal-difference errors, averaged over the batch and summed over both critics."""
        action_t, log_density_t = self._draw(state.learner.params["actor"], batch.observation_t, batch.noise_t)
        value_t = jnp.minimum(*self._values(state.target, batch.observation_t, action_t)) - alpha * log_density_t
        goal = jax.lax.stop_gradient(self.reward_scale * batch.reward_t + batch.discount_t * value_t)
        values = self._values(critics, batch.observation_tm1, batch.action_tm1)
        loss = 0.5 * (jnp.square(values[0] - goal).mean() + jnp.square(values[1] - goal).mean())
        return loss, (loss, 0.5 * (values[0] + values[1]).mean())

    def actor_loss(
        self, actor: Params, critics: SACParams, batch: Steps, alpha: Float[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Float[Array, " batch"]]]:
        """The temperature times the policy's negative entropy, minus the value of the policy's actions."""
        action, log_density = self._draw(actor, batch.observation_tm1, batch.noise_tm1)
        loss = (alpha * log_density - jnp.minimum(*self._values(critics, batch.observation_tm1, action))).mean()
        return loss, (loss, log_density)

    def intervened(self, state: SACState, learner: Learner) -> SACState:
        """The state with the learner that an intervention returned. With `reset_targets`, updates the targets too."""
        if not self.reset_targets:
            return state._replace(learner=learner)

        def follow(old: Array, new: Array, target: Array) -> Array:
            return jnp.where(new != old, new, target)

        before, after = ({name: each.params[name] for name in CRITICS} for each in (state.learner, learner))
        return SACState(learner, jax.tree.map(follow, before, after, state.target), state.temperature)

    def synchronise(self, state: SACState, before: Array, after: Array) -> SACState:
        """The unchanged state, because `update` has already averaged the target networks."""
        del before, after
        return state

    def target_due(self, before: int, after: int) -> bool:
        """Returns False, because the target networks are averaged at every update and never copied."""
        del before, after
        return False

    def _step(self, learner: Learner, gradient: SACParams) -> Learner:
        """Returns the learner after one optimizer step of each network that `gradient` has."""
        params, parts = dict(learner.params), dict(learner.opt_state.inner_states)
        for name in gradient:
            # Each tree keeps one network and has a gap for every other network, because `optax.partition` stores its
            # states in this form.
            alone = [{each: tree[each] if each == name else GAP for each in NETWORKS} for tree in (gradient, params)]
            change: PyTree
            with jax.numpy_dtype_promotion("standard"):  # strict promotion forbids Adam's float ** int
                change, inner = self._optimizer(name).update(alone[0], parts[name].inner_state, alone[1])
            params[name] = optax.apply_updates(params[name], change[name])
            parts[name] = parts[name]._replace(inner_state=inner)
        return Learner(params, learner.opt_state._replace(inner_states=parts))

    def _step_temperature(self, learner: Learner, log_density: Float[Array, " batch"], actions: int) -> Learner:
        """Raises the temperature if the policy's entropy is below its target. Otherwise lowers the temperature."""
        # The loss of TF-Agents is (entropy - target entropy) times the logarithm of the temperature. This is its
        # gradient with respect to that logarithm.
        gradient = -(log_density.mean() + self.target_entropy * actions)
        with jax.numpy_dtype_promotion("standard"):
            change, state = self._adam(self.temperature_learning_rate).update(gradient, learner.opt_state)
        return Learner(optax.apply_updates(learner.params, change), state)

    def _draw(self, actor: Params, observation: Array, noise: Array) -> tuple[Array, Array]:
        return sample(*moments(self.network.apply(actor, observation)), noise)

    def _values(self, critics: SACParams, observation: Array, action: Array) -> tuple[Array, Array]:
        both = jnp.concatenate([observation, action], axis=-1)
        one, other = (self.network.apply(critics[name], both)[:, 0] for name in CRITICS)
        return one, other


def moments(head: Float[Array, "batch moments"]) -> tuple[Float[Array, "batch actions"], Float[Array, "batch actions"]]:
    """Splits the outputs of the actor's last layer into the mean and the log standard deviation of the actions.

    Both are values before tanh squashes the actions. The log standard deviation is clipped to `LOG_STD`.

    >>> moments(jnp.array([[0.5, 9.0]]))[1].tolist()
    [[2.0]]
    """
    mean, log_std = jnp.split(head, 2, axis=-1)
    return mean, jnp.clip(log_std, *LOG_STD)


def sample(
    mean: Float[Array, "batch actions"], log_std: Float[Array, "batch actions"], noise: Float[Array, "batch actions"]
) -> tuple[Float[Array, "batch actions"], Float[Array, " batch"]]:
    """Returns actions and their log densities. `noise` is standard normal.

    >>> action, log_density = sample(jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.zeros((1, 1)))
    >>> action.item(), round(log_density.item(), 4)
    (0.0, -0.9189)

    The density is computed from the noise, so it is finite even where tanh rounds to 1. Both results are differentiable
    with respect to mean and log_std (the reparametrisation trick).
    Source: Haarnoja et al. 2018, "Soft Actor-Critic", appendix C.
    """
    before = mean + jnp.exp(log_std) * noise
    normal = -0.5 * (jnp.square(noise) + math.log(2 * math.pi)) - log_std
    return jnp.tanh(before), (normal - log_slope(before)).sum(-1)


def log_slope(before: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The logarithm of tanh's derivative, log(1 - tanh(u)^2). It is exact even where 1 - tanh(u)^2 rounds to 0.

    >>> [round(slope, 2) for slope in log_slope(jnp.array([0.0, 100.0])).tolist()]
    [0.0, -198.61]
    """
    # 1 - tanh(u)^2 = 4 / (exp(u) + exp(-u))^2, and log(exp(u) + exp(-u)) = u + softplus(-2u).
    return 2.0 * (math.log(2.0) - before - jax.nn.softplus(-2.0 * before))
