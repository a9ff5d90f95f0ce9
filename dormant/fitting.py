"""How well a network can still be trained: its error after a fixed number of steps towards targets new to it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from .surgery import Learner
from .wiring import Network

FREQUENCY = 1e5  # of the sine that makes two states' targets unrelated


def target_fitting_error(
    key: Array,
    apply: Callable[..., Float[Array, "samples outputs"]],
    params: PyTree[Array],
    network: Network,
    *inputs: Any,
    gradient_steps: int = 1_000,
) -> Float[Array, ""]:
    """The mean squared error after `gradient_steps` from `params` towards random targets, by a fresh optimizer.

    Targets are sin(1e5 * y), with y the outputs of a network drawn by `network.init(key)`. A network that lost its
    plasticity has a larger error than a fresh one, `params=network.init(another_key)`; so compare both. The parameters,
    those of a checkpoint for instance, are not changed. It costs as much as so many gradient steps on all of `inputs`.

    >>> from dormant import Network, trace
    >>> apply = lambda params, x: jax.nn.relu(x @ params["hidden"]["w"]) @ params["head"]["w"]
    >>> def init(key):
    ...     one, other = jax.random.split(key)
    ...     hidden, head = jax.random.normal(one, (2, 64)), jax.random.normal(other, (64, 1))
    ...     return {"hidden": {"w": hidden}, "head": {"w": head}}
    >>> params, x = init(jax.random.key(1)), jnp.eye(2)
    >>> network = Network(trace(apply, params, x), init, optax.adam(1e-2))
    >>> dead = jax.tree.map(jnp.zeros_like, params)
    >>> error = lambda params: target_fitting_error(jax.random.key(0), apply, params, network, x, gradient_steps=100)
    >>> bool(error(params) < 0.01), bool(error(dead) > 0.1)
    (True, True)

    Raises ValueError for less than one gradient step.
    Source: Lyle et al. 2022, "Understanding and preventing capacity loss in reinforcement learning", who average
    over several sets of targets: map this over keys.
    """
    if gradient_steps < 1:
        raise ValueError(f"gradient_steps must be at least 1, got {gradient_steps}.")
    targets = random_targets(key, apply, network, *inputs)

    def step(learner: Learner, _: None) -> tuple[Learner, None]:
        return fitting_step(learner, apply, network, targets, *inputs), None

    fitted, _ = jax.lax.scan(step, Learner(params, network.tx.init(params)), length=gradient_steps)
    return fitting_loss(fitted.params, apply, targets, *inputs)


def random_targets(
    key: Array, apply: Callable[..., Any], network: Network, *inputs: Any
) -> Float[Array, "samples outputs"]:
    """Targets that have nothing to do with one another, made of the outputs of a network drawn with the key."""
    return jnp.sin(FREQUENCY * apply(network.init(key), *inputs))


def fitting_loss(
    params: PyTree[Array], apply: Callable[..., Any], targets: Float[Array, "samples outputs"], *inputs: Any
) -> Float[Array, ""]:
    """The mean squared error of a network's outputs."""
    return jnp.square(apply(params, *inputs) - targets).mean()


def fitting_step(
    learner: Learner,
    apply: Callable[..., Any],
    network: Network,
    targets: Float[Array, "samples outputs"],
    *inputs: Any,
) -> Learner:
    """The learner one gradient step closer to the targets."""
    params, opt_state = learner
    gradient = jax.grad(fitting_loss)(params, apply, targets, *inputs)
    with jax.numpy_dtype_promotion("standard"):  # Adam raises a float to the power of its integer step count
        change, opt_state = network.tx.update(gradient, opt_state, params)
    return Learner(optax.apply_updates(params, change), opt_state)
