"""A normal distribution squashed into (-1, 1) by tanh: SAC's policy."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# A standard deviation outside of these is of no use, and its gradients are not either. Haarnoja et al. 2018, whose code
# clips the logarithm here.
LOG_STD = (-20.0, 2.0)


def moments(head: Float[Array, "batch moments"]) -> tuple[Float[Array, "batch actions"], Float[Array, "batch actions"]]:
    """Mean and logarithm of the standard deviation before squashing, as a network's last layer gives them.

    >>> moments(jnp.array([[0.5, 9.0]]))[1].tolist()
    [[2.0]]
    """
    mean, log_std = jnp.split(head, 2, axis=-1)
    return mean, jnp.clip(log_std, *LOG_STD)


def sample(
    mean: Float[Array, "batch actions"], log_std: Float[Array, "batch actions"], noise: Float[Array, "batch actions"]
) -> tuple[Float[Array, "batch actions"], Float[Array, " batch"]]:
    """Actions made of standard normal noise, and the logarithm of the density of each.

    >>> action, log_density = sample(jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.zeros((1, 1)))
    >>> action.item(), round(log_density.item(), 4)
    (0.0, -0.9189)

    The density is that of the action before squashing, found from the noise itself, so that it is finite even where
    tanh rounds to 1. Both can be differentiated with respect to mean and log_std (the reparametrisation trick).
    Source: Haarnoja et al. 2018, "Soft Actor-Critic", appendix C.
    """
    before = mean + jnp.exp(log_std) * noise
    normal = -0.5 * (jnp.square(noise) + math.log(2 * math.pi)) - log_std
    return jnp.tanh(before), (normal - log_slope(before)).sum(-1)


def log_slope(before: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The logarithm of tanh's derivative, log(1 - tanh(u)^2), exact where 1 - tanh(u)^2 rounds to 0.

    >>> [round(slope, 2) for slope in log_slope(jnp.array([0.0, 100.0])).tolist()]
    [0.0, -198.61]
    """
    # 1 - tanh(u)^2 = 4 / (exp(u) + exp(-u))^2, and the logarithm of that sum is u + softplus(-2u).
    return 2.0 * (math.log(2.0) - before - jax.nn.softplus(-2.0 * before))
