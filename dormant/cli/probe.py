"""What `dormant scan --fit-steps` adds: how well the saved network can still be trained, beside a fresh one."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from dormant import Learner, Network, trace
from dormant.fitting import fitting_loss, fitting_step, random_targets

TARGETS = 3  # sets of random targets
LEARNING_RATE = 1e-3


def probed(apply: Callable[..., Any], init: Callable[..., Any], params: Any, inputs: Sequence[Any], steps: int) -> str:
    """One line: the error left of random targets, and of those a fresh network's, both averaged over sets of them.

    Raises ValueError if `init` does not run on a key, draws other parameters than the saved ones, or for no step.
    """
    params, fresh = jax.tree.map(jax.numpy.asarray, params), _fresh(init, params)
    network = Network(trace(apply, params, *inputs), init, optax.adam(LEARNING_RATE))

    # Step by step and not in a loop of XLA's, where its CPU backend is slow at convolutions.
    step = jax.jit(lambda learner, targets: fitting_step(learner, apply, network, targets, *inputs), donate_argnums=0)

    def error(params: Any, key: jax.Array) -> float:
        targets = random_targets(key, apply, network, *inputs)
        learner = Learner(jax.tree.map(jax.numpy.copy, params), network.tx.init(params))
        for _ in range(steps):
            learner = step(learner, targets)
        return float(fitting_loss(learner.params, apply, targets, *inputs))

    keys = jax.random.split(jax.random.key(1), TARGETS)
    mine, theirs = (statistics.mean(error(each, key) for key in keys) for each in (params, fresh))
    return (
        f"random targets after {steps:,} steps of Adam at {LEARNING_RATE:g}: error {mine:.3g}, a fresh network's "
        f"{theirs:.3g} (means over {TARGETS} sets of targets)"
    )


def _fresh(init: Callable[..., Any], params: Any) -> Any:
    try:
        fresh = init(jax.random.key(0))
    except Exception as error:  # the function is the user's, and so is whatever it raises
        raise ValueError(f"--init does not run on a random key: {error}") from error
    shapes, expected = (jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), each) for each in (fresh, params))
    if shapes != expected:
        raise ValueError(f"--init must draw parameters like the saved ones, {expected}; it draws {shapes}.")
    return fresh
