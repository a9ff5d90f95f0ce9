"""Metrics of a network: the distance of its weights, the ranks of its features, and the effect of one gradient step.

Every loop logs `condition` at each log point. Loops of DQN log `representation` and `trial` at evaluations, if
`rank_batch` is set. These metrics do not change the results of a training.
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
# Limits on the cost: the number of states for `condition`, the number of states for the tangent kernel, and the number
# of entries in the kernel's matrix of gradients (256 MB). A network with more than a million parameters therefore uses
# fewer than 64 states for the kernel.
CONDITION_STATES, KERNEL_STATES, KERNEL_NUMBERS = 64, 64, 2**26
GRADIENT_TAU = 0.01  # threshold of `gradient_dormant`; the default of `gradient_dormancy`


def condition(
    wiring: Wiring, params: PyTree[Array], start: PyTree[Array], before: PyTree[Array], inputs: Array
) -> dict[str, Float[Array, ""]]:
    """Measures one network on at most 64 of the inputs. `start` and `before` are earlier parameters.

    `start` has the parameters at the start of the run. The caller draws them again from the seed, so the run's state
    does not hold them. `before` has the parameters at the previous log point, which is the start of the chunk.
    Checkpoints are written at log points, so a resumed run has these parameters, too.

    >>> from dormant import trace
    >>> params = {"hidden": {"w": jnp.ones((2, 3))}, "head": {"w": jnp.ones((3, 1))}}
    >>> wiring = trace(lambda p, x: jax.nn.relu(x @ p["hidden"]["w"]) @ p["head"]["w"], params, jnp.ones((5, 2)))
    >>> metrics = condition(wiring, params, jax.tree.map(jnp.zeros_like, params), params, jnp.ones((5, 2)))
    >>> {name: round(float(value), 2) for name, value in metrics.items()}
    {'active_fraction': 1.0, 'distance_from_start': 1.0, 'distance_since_log': 0.0, 'isometry/head/w': 64.0, \
'isometry/hidden/w': 10.0}

    Source: see `active_fraction`, `weight_distance` and `isometry_deviations`.
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
    """Measures the last layer's activations (ranks and norm), the norm of all weights, and the tangent kernel's rank.

    The activations form a matrix with one row per input. The tangent kernel compares the gradients of the largest
    output of `apply(params, inputs)` on at most 64 inputs.
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
    """Takes one gradient step on a batch, measures its effects, and discards the new parameters.

    The gradient is that of the agent's loss, before the optimizer. `states` are other observations, on which the churn
    is measured.
    Source: see the functions of `dormant.metrics` and `dormant.trainability` that have the names of the metrics.
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
