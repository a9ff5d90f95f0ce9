"""Metrics of a network's condition: how far it has moved, what it represents, and how it would learn.

Every loop logs `condition` at each log point. Loops of DQN log `representation` and `trial` at evaluations, if
`rank_batch` is set. Nothing here changes a training: the numbers are computed from its states, in separate programs.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dormant.metrics import (
    effective_learning_rates,
    effective_rank,
    feature_norm,
    gradient_dormancy,
    norm,
    policy_churn,
    srank,
    stable_rank,
    value_churn,
    weight_norms,
)
from dormant.trainability import (
    active_fraction,
    gradient_norm,
    isometry_deviations,
    tangent_kernel_rank,
    weight_distance,
)
from dormant.wiring import Wiring

from .agents.dqn import DQN, DQNState
from .replay.device import Batch

# The keys of `representation` and of `trial`.
REPRESENTED = ("srank", "effective_rank", "stable_rank", "feature_norm", "weight_norm", "tangent_kernel_rank")
TRIED = ("gradient_norm", "gradient_dormant", "effective_learning_rate", "value_churn", "policy_churn")
# Limits that keep the costs small: states of `condition`, states of the tangent kernel, and numbers in the matrix of
# their gradients (256 MB). So a network with more than a million parameters has fewer than 64 states in the kernel.
CONDITION_STATES, KERNEL_STATES, KERNEL_NUMBERS = 64, 64, 2**26
GRADIENT_TAU = 0.01  # threshold of `gradient_dormant`; the default of `gradient_dormancy`


def condition(
    wiring: Wiring, params: PyTree[Array], start: PyTree[Array], before: PyTree[Array], inputs: Array
) -> dict[str, Float[Array, ""]]:
    """Measures one network on at most 64 of the inputs. `start` and `before` are earlier parameters.

    `start` are the parameters at the start of the run. They are drawn again from the seed, so that no state holds them.
    `before` are the parameters at the previous log point, which is the start of the chunk. A resumed run has them,
    because its checkpoints are at log points.

    >>> from dormant import trace
    >>> params = {"hidden": {"w": jnp.ones((2, 3))}, "head": {"w": jnp.ones((3, 1))}}
    >>> wiring = trace(lambda p, x: jax.nn.relu(x @ p["hidden"]["w"]) @ p["head"]["w"], params, jnp.ones((5, 2)))
    >>> metrics = condition(wiring, params, jax.tree.map(jnp.zeros_like, params), params, jnp.ones((5, 2)))
    >>> {name: round(float(value), 2) for name, value in metrics.items()}
    {'active_fraction': 1.0, 'distance_from_start': 1.0, 'distance_since_log': 0.0, 'isometry/head/w': 64.0, \
'isometry/hidden/w': 10.0}

    Source: `active_fraction`, `weight_distance` and `isometry_deviations` name theirs.
    """
    return {
        "active_fraction": active_fraction(wiring.activations(params, inputs[:CONDITION_STATES])),
        "distance_from_start": weight_distance(params, start),
        "distance_since_log": weight_distance(params, before),
        **{f"isometry/{path}": each for path, each in isometry_deviations(params, scaled=True).items()},
    }


def representation(
    wiring: Wiring, apply: Callable[..., Array], params: PyTree[Array], inputs: Array
) -> dict[str, Float[Array, ""]]:
    """Measures one network: ranks and a norm of the last neuron layer, a norm of all parameters, a rank of the kernel.

    The activations of the layer form a matrix with one row per input. The tangent kernel is that of the largest output
    of `apply(params, inputs)`, on at most 64 inputs.
    Source: the paper's table 7 reports `srank`. The paper does not define `srank`, so we use the definition of Kumar et
    al. 2021.
    """
    activations = wiring.activations(params, inputs)[wiring.layers[-1].name]
    features = activations.reshape(len(activations), -1)
    return {
        "srank": srank(features),
        "effective_rank": effective_rank(features),
        "stable_rank": stable_rank(features),
        "feature_norm": feature_norm(features),
        "weight_norm": norm(jnp.stack(list(weight_norms(params).values()))),
        "tangent_kernel_rank": tangent_kernel_rank(apply, params, inputs[: kernel_states(params)]),
    }


def kernel_states(params: PyTree[Array]) -> int:
    """The number of states in the tangent kernel: 64, or fewer if the network is large.

    >>> kernel_states({"w": jnp.zeros(10)}), kernel_states({"w": jnp.zeros(2**22)})
    (64, 16)
    """
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    return max(1, min(KERNEL_STATES, KERNEL_NUMBERS // parameters))


def trial(agent: DQN, wiring: Wiring, state: DQNState, batch: Batch, states: Array) -> dict[str, Float[Array, ""]]:
    """Takes one gradient step on a batch, measures what it does, and discards it.

    The gradient is that of the agent's loss, before the optimizer. `states` are other observations, on which the churn
    is measured.
    Source: the functions of `dormant.metrics` and `dormant.trainability` with these names.
    """
    gradient, _, _ = agent.gradient(state, agent.augmentation.augmented(batch))
    before, after = state.learner.params, agent.update(state, batch)[0].learner.params
    old, new = (agent.network.apply(params, states) for params in (before, after))
    whole = [{"all": jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])} for params in (before, after)]
    return {
        "gradient_norm": gradient_norm(gradient),
        "gradient_dormant": gradient_dormancy(wiring, gradient, GRADIENT_TAU),
        "effective_learning_rate": effective_learning_rates(*whole)["all"],
        "value_churn": value_churn(old, new),
        "policy_churn": policy_churn(old, new),
    }
