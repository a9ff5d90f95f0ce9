"""Classification with fixed labels, or with labels that are shuffled every few epochs, for several seeds."""

import math
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from dormant.rl.condition import condition
from dormant.rl.learning import TAUS, dormancy
from dormant.rl.networks import Params
from dormant.rl.schedule import by_seed, in_turn, key_for
from dormant.surgery import Learner
from dormant.tracing import trace
from dormant.wiring import Wiring

from ..rl.networks.convolutional import ImageCNN
from .images import FashionMNIST, Images, ImageSet


class Batch(NamedTuple):
    """Images with their classes."""

    pixels: Float[Array, "batch height width channels"]
    labels: Int[Array, " batch"]


class Losses(NamedTuple):
    """Per gradient step: the mean cross-entropy of the batch, and the fraction of images classified correctly."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


@dataclass(frozen=True)
class Classifier:
    """A network that is trained on cross-entropy by stochastic gradient descent with momentum.

    Raises ValueError for a hyper-parameter outside its range.
    Source: the paper's figure 3 uses SGD. Learning rate and momentum come from secondary sources, which also
    report a batch of 256. We use 32. In the paper a network recovers from shuffled labels within 20 epochs; with a
    batch of 256, ours does not.
    """

    network: ImageCNN = field(default_factory=ImageCNN)
    learning_rate: float = 0.01
    momentum: float = 0.9
    batch_size: int = 32

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}.")

    def optimizer(self) -> optax.GradientTransformation:
        """Stochastic gradient descent with momentum."""
        return optax.sgd(self.learning_rate, self.momentum)

    def update(self, learner: Learner, batch: Batch) -> tuple[Learner, Losses]:
        """Takes one gradient step. Returns the new learner and the losses of the batch."""
        gradient, losses = jax.grad(self.loss, has_aux=True)(learner.params, batch)
        change, opt_state = self.optimizer().update(gradient, learner.opt_state, learner.params)
        return Learner(optax.apply_updates(learner.params, change), opt_state), losses

    def loss(self, params: Params, batch: Batch) -> tuple[Float[Array, ""], Losses]:
        """Returns the mean cross-entropy twice: as the number to differentiate, and in the losses of the batch."""
        logits = self.network.apply(params, batch.pixels)
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()
        right = jnp.argmax(logits, axis=1).astype(jnp.int32) == batch.labels
        return loss, Losses(loss, right.astype(jnp.float32).mean())


class SupervisedState(NamedTuple):
    """The complete state of a run, as in a checkpoint. Arrays have a leading axis of seeds."""

    learner: Learner
    epochs: Int[Array, " seeds"]


@dataclass(frozen=True)
class SupervisedTraining:
    """A training of a classifier on an image set. On one machine, equal fields give bit-identical results.

    With shuffled labels, the first `shuffle_epochs` epochs use the true labels. After that, a new permutation of the
    labels over all images is drawn every `shuffle_epochs` epochs. Each epoch draws a new order of the images and drops
    the last batch if it is incomplete. Neurons are always scored on the same `score_batch` images.

    >>> SupervisedTraining(epochs=100).agent_steps
    31200

    Raises ValueError for a number below 1, or for a batch with more images than the training has.
    Source: Sokar et al. 2023, figure 3. We infer from the height of the jumps in that figure that the paper shuffles
    labels over images and does not rename classes.
    """

    agent: Classifier = field(default_factory=Classifier)
    env: ImageSet = field(default_factory=FashionMNIST)
    labels: Literal["fixed", "shuffled"] = "fixed"
    images: int = 10_000
    epochs: int = 100
    shuffle_epochs: int = 20
    seeds: tuple[int, ...] = (0, 1, 2)
    score_batch: int = 1_000

    def __post_init__(self) -> None:
        for name in ("epochs", "shuffle_epochs", "score_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name, size in (("batch_size", self.agent.batch_size), ("score_batch", self.score_batch)):
            if size > self.images:
                raise ValueError(f"{name} must be at most the number of images, got {size} of {self.images}.")
        if not self.seeds:
            raise ValueError("seeds must hold at least one number, got none.")

    @property
    def kind(self) -> str:
        """The prefix of the names of the run folders."""
        return f"classifier-{self.labels}"

    @property
    def steps_per_epoch(self) -> int:
        """Gradient steps per epoch."""
        return self.images // self.agent.batch_size

    @property
    def agent_steps(self) -> int:
        """The length of a run in gradient steps. It has this name because every training has `agent_steps`."""
        return self.epochs * self.steps_per_epoch

    @cached_property
    def wiring(self) -> Wiring:
        """The traced network. It is used to score neurons."""
        with jax.ensure_compile_time_eval():
            blank = jnp.zeros((1, *self.env.image_shape))
            return trace(self.agent.network.apply, self.fresh(jax.random.key(0)), blank)

    def fresh(self, key: Key[Array, ""]) -> Params:
        """Freshly initialised parameters."""
        return self.agent.network.init(key, self.env.image_shape, self.env.classes)

    @cached_property
    def data(self) -> Images:
        """The images. The first use loads them. Raises ValueError if they are missing."""
        return self.env.load(self.images)

    def init(self) -> SupervisedState:
        """The state before the first gradient step."""
        return _init(self, jnp.array(self.seeds))

    def advance(self, state: SupervisedState) -> tuple[SupervisedState, dict[str, np.ndarray]]:
        """Trains for one epoch. Returns the new state and its metrics: arrays [seeds] or [seeds, neurons].

        `rise/TAU/all` is measured after an epoch that started with a shuffle of the labels. It is the growth of the
        dormant fraction in that epoch.
        """
        epoch, params, seeds = int(state.epochs[0]), state.learner.params, jnp.array(self.seeds)
        before = self.measure(state) if self.shuffles_at(epoch) else {}
        state, losses = _epoch(self, seeds, self.data, state)
        metrics = self.measure(state) | losses._asdict() | _condition(self, seeds, self.data, state, params)
        for name in [f"{tau:g}/all" for tau in TAUS] if before else ():
            metrics[f"rise/{name}"] = metrics[f"dormant/{name}"] - before[f"dormant/{name}"]
        steps = np.full(len(self.seeds), self.agent_steps_done(state))
        counts = {"agent_steps": steps, "gradient_steps": steps}
        return state, counts | {name: np.asarray(value) for name, value in metrics.items()}

    def shuffles_at(self, epoch: int) -> bool:
        """Whether the labels are shuffled at the start of an epoch. The first epoch is 0.

        >>> [epoch for epoch in range(60) if SupervisedTraining(labels="shuffled").shuffles_at(epoch)]
        [20, 40]
        """
        return self.labels != "fixed" and epoch > 0 and epoch % self.shuffle_epochs == 0

    def measure(self, state: SupervisedState) -> dict[str, np.ndarray]:
        """Epochs done, dormant fractions and neuron scores of a state.

        With shuffled labels, a state before the first epoch also has `rise/TAU/all`, which is 0.
        """
        scores = _scores(self, jnp.array(self.seeds), self.data, state)
        metrics = {name: np.asarray(value) for name, value in scores.items()}
        if int(state.epochs[0]) == 0 and self.labels != "fixed":
            metrics |= {f"rise/{tau:g}/all": np.zeros(len(self.seeds), np.float32) for tau in TAUS}
        return metrics | {"epoch": np.asarray(state.epochs)}

    def agent_steps_done(self, state: SupervisedState) -> int:
        """The gradient steps done so far, equal for all seeds. Runs without an actor report them as agent steps."""
        return int(state.epochs[0]) * self.steps_per_epoch


@partial(jax.jit, static_argnums=0)
def _init(training: SupervisedTraining, seeds: Int[Array, " seeds"]) -> SupervisedState:
    def one(seed: Array) -> SupervisedState:
        params = training.fresh(key_for(seed, "init"))
        learner = Learner(params, training.agent.optimizer().init(params))
        return SupervisedState(learner, jnp.zeros((), jnp.int32))

    return jax.vmap(one)(seeds)


@partial(jax.jit, static_argnums=0)
def _epoch(
    training: SupervisedTraining, seeds: Int[Array, " seeds"], data: Images, state: SupervisedState
) -> tuple[SupervisedState, Losses]:
    return by_seed(partial(_epoch_of, training, data), seeds, state)


def _epoch_of(
    training: SupervisedTraining, data: Images, seed: Array, state: SupervisedState
) -> tuple[SupervisedState, Losses]:
    """Trains one seed for an epoch. Returns the new state and the mean losses."""
    labels = _labels(training, jnp.asarray(data.labels), seed, state.epochs)
    order = jax.random.permutation(key_for(seed, "order", state.epochs), training.images)
    batches = order[: training.steps_per_epoch * training.agent.batch_size].reshape(training.steps_per_epoch, -1)

    def step(learner: Learner, batch: Int[Array, " images"]) -> tuple[Learner, Losses]:
        return training.agent.update(learner, Batch(jnp.asarray(data.pixels)[batch], labels[batch]))

    learner, losses = jax.lax.scan(step, state.learner, batches)
    return SupervisedState(learner, state.epochs + 1), jax.tree.map(jnp.mean, losses)


def _labels(
    training: SupervisedTraining, labels: Int[Array, " images"], seed: Array, epoch: Int[Array, ""]
) -> Int[Array, " images"]:
    """The labels used in an epoch."""
    if training.labels == "fixed":
        return labels
    number = epoch // training.shuffle_epochs
    shuffled = jax.random.permutation(key_for(seed, "labels", number), labels)
    return jnp.where(number == 0, labels, shuffled)


@partial(jax.jit, static_argnums=0)
def _scores(
    training: SupervisedTraining, seeds: Int[Array, " seeds"], data: Images, state: SupervisedState
) -> dict[str, Array]:
    def one(seed: Array, params: Params) -> dict[str, Array]:
        return training.wiring.scores(params, _scored(training, data, seed))

    return dormancy(by_seed(one, seeds, state.learner.params))


@partial(jax.jit, static_argnums=0)
def _condition(
    training: SupervisedTraining, seeds: Int[Array, " seeds"], data: Images, state: SupervisedState, before: Params
) -> dict[str, Float[Array, " seeds"]]:
    def one(seed: Array, params: Params, before: Params) -> dict[str, Array]:
        start, images = training.fresh(key_for(seed, "init")), _scored(training, data, seed)
        return condition(training.wiring, params, start, before, images)

    return in_turn(one, seeds, state.learner.params, before)


def _scored(training: SupervisedTraining, data: Images, seed: Array) -> Float[Array, "images height width channels"]:
    """The images on which a seed's neurons are scored."""
    chosen = jax.random.permutation(key_for(seed, "score"), training.images)[: training.score_batch]
    return jnp.asarray(data.pixels)[chosen]
