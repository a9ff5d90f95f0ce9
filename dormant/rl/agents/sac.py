"""SAC, as the paper trains it: an actor, two critics and a temperature."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from dormant.later import LATER
from dormant.regularisers import L2Init, Parseval, Spectral, penalised
from dormant.surgery import Learner

from ..networks import MLP, Params
from ..tanh_normal import moments, sample

CRITICS = ("critic1", "critic2")
NETWORKS = ("actor", *CRITICS)
GAP: Any = optax.MaskedNode()


class SACState(NamedTuple):
    """What learns, and what targets are computed with.

    The learner's parameters are those of all networks, by name, and so are the parts of its optimizer's state: layers
    are called `actor/dense_0`, `critic1/dense_0`, ..., and whatever is done to layers is done to each network apart.
    """

    learner: Learner
    target: dict[str, Params]
    temperature: Learner  # its parameter is the logarithm


class Steps(NamedTuple):
    """Agent steps, and noise for the actions that the policy draws before and after them."""

    observation_tm1: Float[Array, "batch observation"]
    action_tm1: Float[Array, "batch actions"]
    reward_t: Float[Array, " batch"]
    discount_t: Float[Array, " batch"]
    observation_t: Float[Array, "batch observation"]
    noise_tm1: Float[Array, "batch actions"]
    noise_t: Float[Array, "batch actions"]


class Losses(NamedTuple):
    """What one gradient step says of itself: losses, mean Q value of the actions taken, entropy, temperature."""

    loss: Float[Array, ""]
    actor_loss: Float[Array, ""]
    q_mean: Float[Array, ""]
    entropy: Float[Array, ""]
    temperature: Float[Array, ""]


@dataclass(frozen=True)
class SAC:
    """SAC's hyper-parameters; its methods are pure functions of states and arrays. Actions lie between -1 and 1.

    `width` multiplies the hidden layers. `reset_targets` says whether what an intervention overwrites in a critic is
    overwritten in its target too; if not, the target keeps its old neurons until Polyak averaging has forgotten them.
    `target_entropy` is that of each action dimension.

    >>> agent = SAC(hidden=(4,))
    >>> state = agent.init(jax.random.key(0), observations=3, actions=2)
    >>> agent.act(state.learner.params, jnp.zeros((1, 3)), jnp.zeros((1, 2))).tolist()
    [[0.0, 0.0]]

    Raises ValueError for a hyper-parameter outside its range.
    Source: TF-Agents' SacAgent with the settings of dopamine/labs/redo/tfagents/sac_train_eval.py; reward scale and
    target entropy are its defaults, the paper's own are not known.
    """

    hidden: tuple[int, ...] = (256, 256)
    width: float = 1.0
    gamma: float = 0.99
    batch_size: int = 256
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    temperature_learning_rate: float = 3e-4
    adam_epsilon: float = 1e-7  # Keras' default
    actor_weight_decay: float = 0.0  # L2 in Adam, of kernels and not of biases
    critic_weight_decay: float = 0.0
    polyak: float = 0.005
    reward_scale: float = 0.1
    target_entropy: float = -0.5
    initial_temperature: float = 1.0
    reset_targets: bool = False
    replay_capacity: int = 1_000_000  # agent steps, as is the one below
    min_replay: int = 10_000
    regulariser: L2Init | Parseval | Spectral | None = field(default=None, metadata=LATER)  # of actor and critics

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must name at least one layer of at least 1 neuron, got {self.hidden}.")
        for name in ("width", "actor_learning_rate", "critic_learning_rate", "reward_scale", "initial_temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in ("temperature_learning_rate", "adam_epsilon", "actor_weight_decay", "critic_weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}.")
        for name in ("gamma", "polyak"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}.")
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
        """An optimizer of its own for each network. Weight decay and a penalty's gradient come before Adam."""
        optimizers: Any = {name: self._optimizer(name) for name in NETWORKS}
        return optax.partition(optimizers, {name: name for name in NETWORKS})

    def _optimizer(self, name: str) -> optax.GradientTransformation:
        return penalised(self.regulariser, self._unpenalised(name))

    def _unpenalised(self, name: str) -> optax.GradientTransformation:
        if name in CRITICS:
            return self._adam(self.critic_learning_rate, self.critic_weight_decay)
        return self._adam(self.actor_learning_rate, self.actor_weight_decay)

    def _adam(self, learning_rate: float, weight_decay: float = 0.0) -> optax.GradientTransformation:
        adam = optax.adam(learning_rate, eps=self.adam_epsilon)
        return optax.chain(optax.add_decayed_weights(weight_decay, _kernels), adam) if weight_decay else adam

    def init(self, key: Key[Array, ""], observations: int, actions: int) -> SACState:
        """Fresh networks, whose targets are copies of the critics, for so many numbers of each."""
        params = self.init_params(key, observations, actions)
        temperature = jnp.log(jnp.float32(self.initial_temperature))
        return SACState(
            Learner(params, self.optimizer().init(params)),
            {name: params[name] for name in CRITICS},
            Learner(temperature, self._adam(self.temperature_learning_rate).init(temperature)),
        )

    def init_params(self, key: Key[Array, ""], observations: int, actions: int) -> dict[str, Params]:
        """Fresh parameters of all networks."""
        actor, *critics = jax.random.split(key, 3)
        return {"actor": self.network.init(actor, (observations,), 2 * actions)} | {
            name: self.network.init(key, (observations + actions,), 1)
            for name, key in zip(CRITICS, critics, strict=True)
        }

    def apply(
        self,
        params: dict[str, Params],
        observation: Float[Array, "batch observation"],
        action: Float[Array, "batch actions"],
    ) -> tuple[Array, Array, Array]:
        """What each network makes of observations and actions, for finding and scoring its neurons."""
        return (self.network.apply(params["actor"], observation), *self._values(params, observation, action))

    def act(
        self,
        params: dict[str, Params],
        observation: Float[Array, "batch observation"],
        noise: Float[Array, "batch actions"],
    ) -> Float[Array, "batch actions"]:
        """Actions drawn with standard normal noise; those of no noise are the greedy ones."""
        return self._draw(params["actor"], observation, noise)[0]

    def update(self, state: SACState, batch: Steps) -> tuple[SACState, Losses]:
        """One gradient step of the critics, then of the actor, then of the temperature, and of the targets."""
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
        critics: Any = {name: learner.params[name] for name in CRITICS}
        target: Any = optax.incremental_update(critics, state.target, self.polyak)
        losses = Losses(loss, actor_loss, q_mean, -log_density.mean(), alpha)
        return SACState(learner, target, temperature), losses

    def critic_loss(
        self, critics: dict[str, Params], state: SACState, batch: Steps, alpha: Float[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Float[Array, ""]]]:
        """Half the squared temporal-difference errors of both critics, averaged over the batch."""
        action_t, log_density_t = self._draw(state.learner.params["actor"], batch.observation_t, batch.noise_t)
        value_t = jnp.minimum(*self._values(state.target, batch.observation_t, action_t)) - alpha * log_density_t
        goal = jax.lax.stop_gradient(self.reward_scale * batch.reward_t + batch.discount_t * value_t)
        values = self._values(critics, batch.observation_tm1, batch.action_tm1)
        loss = 0.5 * (jnp.square(values[0] - goal).mean() + jnp.square(values[1] - goal).mean())
        return loss, (loss, 0.5 * (values[0] + values[1]).mean())

    def actor_loss(
        self, actor: Params, critics: dict[str, Params], batch: Steps, alpha: Float[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Float[Array, " batch"]]]:
        """The policy's negative entropy, weighted by the temperature, minus the value of what it would do."""
        action, log_density = self._draw(actor, batch.observation_tm1, batch.noise_tm1)
        loss = (alpha * log_density - jnp.minimum(*self._values(critics, batch.observation_tm1, action))).mean()
        return loss, (loss, log_density)

    def intervened(self, state: SACState, learner: Learner) -> SACState:
        """The state after an intervention made its learner this one."""
        if not self.reset_targets:
            return state._replace(learner=learner)

        def follow(old: Array, new: Array, target: Array) -> Array:
            return jnp.where(new != old, new, target)

        before, after = ({name: each.params[name] for name in CRITICS} for each in (state.learner, learner))
        return SACState(learner, jax.tree.map(follow, before, after, state.target), state.temperature)

    def _step(self, learner: Learner, gradient: dict[str, Params]) -> Learner:
        """The learner after a step of those networks that the gradient names."""
        params, parts = dict(learner.params), dict(learner.opt_state.inner_states)
        for name in gradient:
            # Where `optimizer` keeps the state of a network, the others stand as gaps.
            alone = [{each: tree[each] if each == name else GAP for each in NETWORKS} for tree in (gradient, params)]
            change: Any
            with jax.numpy_dtype_promotion("standard"):  # Adam raises a float to the power of its integer step count
                change, inner = self._optimizer(name).update(alone[0], parts[name].inner_state, alone[1])
            params[name] = optax.apply_updates(params[name], change[name])
            parts[name] = parts[name]._replace(inner_state=inner)
        return Learner(params, learner.opt_state._replace(inner_states=parts))

    def _step_temperature(self, learner: Learner, log_density: Float[Array, " batch"], actions: int) -> Learner:
        """Up where the policy's entropy is below its target, down where it is above."""
        # TF-Agents multiplies the surplus by the logarithm of the temperature, so that this is the gradient.
        gradient = -(log_density.mean() + self.target_entropy * actions)
        with jax.numpy_dtype_promotion("standard"):
            change, state = self._adam(self.temperature_learning_rate).update(gradient, learner.opt_state)
        return Learner(optax.apply_updates(learner.params, change), state)

    def _draw(self, actor: Params, observation: Array, noise: Array) -> tuple[Array, Array]:
        return sample(*moments(self.network.apply(actor, observation)), noise)

    def _values(self, critics: dict[str, Params], observation: Array, action: Array) -> tuple[Array, Array]:
        both = jnp.concatenate([observation, action], axis=-1)
        one, other = (self.network.apply(critics[name], both)[:, 0] for name in CRITICS)
        return one, other


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
