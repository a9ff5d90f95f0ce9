"""The DQN agent of the paper (Sokar et al. 2023). DrQ(eps) is this agent with other settings and augmented batches."""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from dormant.perturbed_descent import UPGD, upgd
from dormant.regularisers import CChain, ChurnState, L2Init, Parseval, Spectral, output_churn, penalised
from dormant.settings import FRACTION, NOT_NEGATIVE, POSITIVE, added, check_counts, check_fields, check_value
from dormant.surgery import Learner

from ..envs import Objective
from ..networks import MLP, Injectable, Params
from ..networks.convolutional import ImpalaResNet, MinAtarCNN, NatureCNN
from ..replay.device import Batch


class Noise(NamedTuple):
    """The random numbers that augment a batch. The observations before and after a transition get different numbers."""

    offset_tm1: Int[Array, "*steps batch 2"]
    offset_t: Int[Array, "*steps batch 2"]
    factor_tm1: Float[Array, "*steps batch"]
    factor_t: Float[Array, "*steps batch"]


@dataclass(frozen=True)
class Augmentation:
    """Shifts each image by up to `pad` cells in each direction, and multiplies it by a random factor near 1.

    The standard deviation of the factor is about `intensity`. The defaults leave images unchanged. Only training
    batches are augmented. Scores and actions are computed from observations without augmentation.

    >>> noise = Augmentation(pad=4, intensity=0.05).draw(jax.random.key(0), 1, 32)
    >>> noise.offset_tm1.shape, bool(jnp.all((noise.factor_tm1 >= 0.9) & (noise.factor_tm1 <= 1.1)))
    ((1, 32, 2), True)

    Raises ValueError if `pad` is negative or `intensity` lies outside [0, 0.5).
    Source: Kostrikov et al. 2020 and Schwarzer et al. 2021; dopamine/labs/atari_100k/atari_100k_rainbow_agent.py. That
    code never draws the largest offset, so its images never move `pad` cells up or left. Our images can.
    """

    pad: int = 0
    intensity: float = 0.0

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError(f"pad must be at least 0 cells, got {self.pad}; 0 does not shift images.")
        if not 0 <= self.intensity < 0.5:
            raise ValueError(f"intensity must lie in [0, 0.5), got {self.intensity}; 0 does not scale images.")

    def draw(self, key: Key[Array, ""], steps: int, batch: int) -> Noise | tuple[()]:
        """Draws the noise of `steps` batches. Returns an empty tuple if the settings disable augmentation."""
        if self == NO_AUGMENTATION:
            return ()
        shift, scale = jax.random.split(key)
        offsets = jax.random.randint(shift, (2, steps, batch, 2), 0, 2 * self.pad + 1)
        normal = jnp.clip(jax.random.normal(scale, (2, steps, batch)), -2.0, 2.0)
        return Noise(*offsets, *(1.0 + self.intensity * normal))

    def augmented(self, batch: Batch) -> Batch:
        """Returns the batch with augmented observations. Augmented observations are floats.

        Raises ValueError if the batch has no noise, or if `pad` is set and observations are not images.
        """
        if self == NO_AUGMENTATION:
            return batch
        noise = batch.noise
        if not isinstance(noise, Noise):
            raise ValueError(f"{self} needs a batch with noise from its method draw; this batch has noise={noise!r}.")
        shape = batch.observation_tm1.shape[1:]
        if self.pad and len(shape) != 3:
            raise ValueError(
                f"pad={self.pad} shifts images of height, width and channels, but observations have shape {shape}; "
                "set pad to 0."
            )
        before = self._image(batch.observation_tm1, noise.offset_tm1, noise.factor_tm1)
        after = self._image(batch.observation_t, noise.offset_t, noise.factor_t)
        return batch._replace(observation_tm1=before, observation_t=after)

    def _image(self, images: Array, offset: Array, factor: Array) -> Array:
        moved = shifted(images, offset, self.pad) if self.pad else images
        return scaled(moved, factor)


NO_AUGMENTATION = Augmentation()


def shifted(
    images: Shaped[Array, "batch height width channels"], offset: Int[Array, "batch 2"], pad: int
) -> Shaped[Array, "batch height width channels"]:
    """Pads each image by repeating its edges `pad` times. Then cuts out an image of the original size at `offset`.

    An offset of (pad, pad) leaves the image unchanged.

    >>> row = jnp.arange(4).reshape(1, 1, 4, 1)
    >>> [shifted(row, jnp.array([[1, column]]), 1).ravel().tolist() for column in range(3)]
    [[0, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 3]]

    """
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")

    def crop(image: Array, offset: Array) -> Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), images.shape[1:])

    return jax.vmap(crop)(padded, offset)


def scaled(observations: Shaped[Array, "batch *shape"], factor: Float[Array, " batch"]) -> Float[Array, "batch *shape"]:
    """The observations as floats, each multiplied by its factor.

    >>> scaled(jnp.array([[2], [4]]), jnp.array([1.0, 0.5])).tolist()
    [[2.0], [2.0]]
    """
    ones = (1,) * (observations.ndim - 1)
    return observations.astype(jnp.float32) * factor.reshape(-1, *ones)


class DQNState(NamedTuple):
    """The online network with its optimizer state, and the parameters of the target network.

    `churn` is the state of the regulariser `CChain`, or an empty tuple if the agent has another regulariser or none.
    """

    learner: Learner
    target: Params
    churn: ChurnState | tuple[()] = ()


class Losses(NamedTuple):
    """The mean loss of a gradient step, and the mean Q value of the actions in its batch."""

    loss: Float[Array, ""]
    q_mean: Float[Array, ""]


@dataclass(frozen=True)
class DQN:
    """The hyper-parameters of DQN. Its methods are pure functions of states and arrays.

    >>> agent = DQN(network=MLP((4,)))
    >>> state = agent.init(jax.random.key(0), (3,), actions=2)
    >>> int(agent.act(state.learner.params, jnp.zeros(3), jnp.array(0.0), jnp.array([0.5, 0.5])))
    0

    Raises ValueError for a hyper-parameter outside its range.
    Source: the paper's DQN, dopamine/jax/agents/dqn/configs/dqn.gin and dopamine/labs/redo/configs/dqn_dense.gin;
    `minatar_dqn` has the settings for MinAtar, and `atari_drq` the settings of DrQ(eps).
    """

    network: MinAtarCNN | MLP | NatureCNN | ImpalaResNet | Injectable = field(default_factory=MinAtarCNN)
    gamma: float = 0.99
    n_step: int = 1
    batch_size: int = 32
    learning_rate: float = 6.25e-5
    adam_epsilon: float = 1.5e-4
    weight_decay: float = 0.0  # L2 regularisation of kernels and biases, added to the gradient before Adam
    double: bool = False
    clip_rewards: bool = True
    replay_capacity: int = 1_000_000  # in agent steps, like min_replay, target_period and epsilon_steps
    min_replay: int = 20_000
    target_period: int = 8_000  # the paper copies every 2,000 gradient steps: 8,000 agent steps at replay ratio 0.25
    epsilon_steps: int = 250_000
    epsilon_end: float = 0.01
    augmentation: Augmentation = NO_AUGMENTATION  # augments training batches only
    regulariser: L2Init | Parseval | Spectral | CChain | None = None
    upgd: UPGD | None = added(None)  # noqa: RUF009 (immutable); if set, UPGD with Adam replaces Adam

    losses = Losses

    def __post_init__(self) -> None:
        for name in ("network", "augmentation", "regulariser", "upgd"):
            check_value(name, getattr(self, name))
        check_counts(self, "n_step", "batch_size", "replay_capacity", "target_period", "epsilon_steps")
        check_fields(self, FRACTION, "gamma", "epsilon_end")
        check_fields(self, POSITIVE, "learning_rate")
        check_fields(self, NOT_NEGATIVE, "weight_decay", "adam_epsilon")
        if not self.n_step <= self.min_replay <= self.replay_capacity:
            raise ValueError(
                f"min_replay must lie between n_step and replay_capacity, got {self.min_replay} with n_step "
                f"{self.n_step} and replay_capacity {self.replay_capacity}."
            )

    def optimizer(self) -> optax.GradientTransformation:
        """Returns Adam. Unlike in AdamW, weight decay is added to the gradient, as in the paper.

        The regulariser's gradient is also added. If `upgd` is set, returns UPGD, which takes its direction from Adam.
        """
        penalty = None if isinstance(self.regulariser, CChain) else self.regulariser
        adam = optax.adam(self.learning_rate, eps=self.adam_epsilon)
        if self.upgd is not None:
            adam = upgd(self.learning_rate, optax.scale_by_adam(eps=self.adam_epsilon), self.upgd)
        adam = penalised(penalty, adam)
        return optax.chain(optax.add_decayed_weights(self.weight_decay), adam) if self.weight_decay else adam

    @property
    def drawn_batch(self) -> int:
        """The number of transitions drawn per gradient step. C-CHAIN needs a second batch, with other states."""
        return self.batch_size * (2 if isinstance(self.regulariser, CChain) else 1)

    @property
    def objective(self) -> Objective:
        """The return that the Q values estimate."""
        return Objective(self.gamma, self.clip_rewards)

    def init(self, key: Key[Array, ""], observation_shape: tuple[int, ...], actions: int) -> DQNState:
        """Returns the state of a fresh network. The target network is a copy of this network."""
        params = self.network.init(key, observation_shape, actions)
        churn = self.regulariser.init(params) if isinstance(self.regulariser, CChain) else ()
        return DQNState(Learner(params, self.optimizer().init(params)), params, churn)

    def epsilon(self, agent_steps: Int[Array, ""]) -> Float[Array, ""]:
        """The probability of a random action: 1 until learning starts, then it falls linearly over `epsilon_steps`."""
        progress = (agent_steps - self.min_replay).astype(jnp.float32) / self.epsilon_steps
        return 1.0 - (1.0 - self.epsilon_end) * jnp.clip(progress, 0.0, 1.0)

    def act(
        self,
        params: Params,
        observation: Shaped[Array, " *shape"],
        epsilon: Float[Array, ""],
        uniform: Float[Array, "2"],
    ) -> Int[Array, ""]:
        """The greedy action, or a random one with probability epsilon. `uniform` holds two numbers in [0, 1)."""
        return self.act_with_value(params, observation, epsilon, uniform)[0]

    def act_with_value(
        self,
        params: Params,
        observation: Shaped[Array, " *shape"],
        epsilon: Float[Array, ""],
        uniform: Float[Array, "2"],
    ) -> tuple[Int[Array, ""], Float[Array, ""]]:
        """The action of `act`, and the Q value of the greedy action."""
        q = self.network.apply(params, observation[None])[0]
        explore, choice = uniform
        return jnp.where(explore < epsilon, random_action(choice, len(q)), jnp.argmax(q).astype(jnp.int32)), q.max()

    def update(self, state: DQNState, batch: Batch) -> tuple[DQNState, Losses]:
        """Takes one gradient step on the augmented batch. Leaves the target network unchanged; see `synchronise`."""
        params, opt_state = state.learner
        batch = self.augmentation.augmented(batch)
        gradient, losses, churn = self.gradient(state, batch)
        with jax.numpy_dtype_promotion("standard"):  # strict promotion forbids Adam's float ** int
            change, opt_state = self.optimizer().update(gradient, opt_state, params)
        return DQNState(Learner(optax.apply_updates(params, change), opt_state), state.target, churn), losses

    def gradient(self, state: DQNState, batch: Batch) -> tuple[Params, Losses, ChurnState | tuple[()]]:
        """The gradient of the loss on an augmented batch, the losses, and the next state of C-CHAIN.

        With C-CHAIN, the first half of the batch is the training batch. The second half holds the states on which
        changes of the Q values are penalised.
        """
        params, cchain, churned = state.learner.params, self.regulariser, state.churn
        if not (isinstance(cchain, CChain) and isinstance(churned, ChurnState)):
            return *jax.grad(self.loss, has_aux=True)(params, state.target, batch), ()
        batch, other = (jax.tree.map(lambda leaf, at=at: jnp.split(leaf, 2)[at], batch) for at in (0, 1))
        before = self.network.apply(churned.previous, other.observation_tm1)

        def total(params: Params) -> tuple[Float[Array, ""], tuple[Losses, Float[Array, ""]]]:
            loss, losses = self.loss(params, state.target, batch)
            churn = output_churn(self.network.apply(params, other.observation_tm1), before)
            return loss + cchain.strength_at(churned) * churn, (losses, churn)

        gradient, (losses, churn) = jax.grad(total, has_aux=True)(params)
        return gradient, losses, cchain.after(churned, params, losses.loss, churn)

    def loss(self, params: Params, target: Params, batch: Batch) -> tuple[Float[Array, ""], Losses]:
        """The Huber loss of the temporal-difference errors, averaged over the batch."""
        q_tm1 = self.network.apply(params, batch.observation_tm1)
        q_t = self.network.apply(target, batch.observation_t)
        selector_t = self.network.apply(params, batch.observation_t) if self.double else q_t
        errors = jax.vmap(td_error)(q_tm1, batch.action_tm1, batch.return_t, batch.discount_t, q_t, selector_t)
        loss = optax.losses.huber_loss(errors).mean()
        taken = jnp.take_along_axis(q_tm1, batch.action_tm1[:, None], axis=1)
        return loss, Losses(loss, taken.mean())

    def intervened(self, state: DQNState, learner: Learner) -> DQNState:
        """The state with the learner that an intervention returned. The target network does not change."""
        return state._replace(learner=learner)

    def synchronise(self, state: DQNState, before: Int[Array, ""], after: Int[Array, ""]) -> DQNState:
        """Copies the learner's parameters to the target network if `target_due`. Returns the new state.

        Recycling changes only the learner. The target network keeps the old weights until the next copy, as in the
        paper.
        """
        due = self.target_due(before, after)
        target = jax.lax.cond(due, lambda: state.learner.params, lambda: state.target)
        return state._replace(target=target)

    def target_due(self, before: int | Array, after: int | Array) -> bool | Bool[Array, ""]:
        """Whether a copy is due: the interval (before, after] of agent steps contains a multiple of `target_period`."""
        return after // self.target_period > before // self.target_period


def random_action(uniform: Float[Array, "*shape"], actions: int) -> Int[Array, "*shape"]:
    """Maps uniform numbers in [0, 1) to actions.

    >>> random_action(jnp.array([0.0, 0.99]), 3).tolist()
    [0, 2]
    """
    return jnp.minimum((uniform * actions).astype(jnp.int32), actions - 1)


def td_error(
    q_tm1: Float[Array, " actions"],
    a_tm1: Int[Array, ""],
    r_t: Float[Array, ""],
    discount_t: Float[Array, ""],
    q_t: Float[Array, " actions"],
    selector_t: Float[Array, " actions"],
) -> Float[Array, ""]:
    """The error of double Q-learning. The next action is greedy with respect to `selector_t`; `q_t` holds its value.

    >>> q_tm1, q_t, selector_t = jnp.array([[1.0, 2.0], [4.0, 6.0], [1.0, 0.0]])
    >>> float(td_error(q_tm1, jnp.array(0), jnp.array(1.0), jnp.array(0.5), q_t, selector_t))
    2.0

    Source: rlax, double_q_learning. If `selector_t` equals `q_t`, this is the error of Q-learning.
    """
    target_tm1 = jax.lax.stop_gradient(r_t + discount_t * q_t[jnp.argmax(selector_t)])
    return target_tm1 - q_tm1[a_tm1]
