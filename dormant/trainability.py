"""Metrics of how well a network can still be trained: active units, gradients, distances, tangent kernel, isometry.

All functions can be compiled and mapped over seeds. A NaN in the inputs gives NaN.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, PyTree

from .metrics import norm, srank, weight_norms
from .scores import AnyArray
from .settings import one_of
from .wiring import by_path

Activations = Mapping[str, Num[AnyArray, "samples ..."]]


def active_fraction(
    activations: Activations, activation: Literal["relu", "tanh", "sigmoid"] = "relu"
) -> Float[Array, ""]:
    """Returns the fraction of activations, over all samples, positions and neurons, that are active.

    With "relu", an activation is active if it is not 0. With "tanh", it is active between -0.99 and 0.99, and with
    "sigmoid" between 0.01 and 0.99. The result differs from 1 minus the dormant fraction, because a neuron can be
    active on some samples and not on others. With CReLU, the result is one half by construction. With Fourier features,
    it is nearly 1. The cost is one pass over the activations.

    >>> float(active_fraction({"hidden": jnp.array([[0.0, 1.0], [2.0, 0.0]])}))  # though no neuron is dead
    0.5

    Raises ValueError for an unknown activation or if there are no activations.
    Source: "fraction of active units" of awjuliani/deep-rl-plasticity 75f0d5a and RLE-Foundation/Plasticine aa00b4b.
    """
    one_of("activation", activation, ("relu", "tanh", "sigmoid"))
    leaves = [jnp.asarray(leaf) for leaf in activations.values()]
    total = sum(leaf.size for leaf in leaves)
    if not total:
        raise ValueError("there are no activations to count; pass wiring.activations(params, inputs).")
    active = {
        "relu": lambda h: h != 0,
        "tanh": lambda h: jnp.abs(h) <= 0.99,
        "sigmoid": lambda h: (h >= 0.01) & (h <= 0.99),
    }[activation]
    counts = [active(leaf).sum().astype(jnp.float32) for leaf in leaves]
    unknown = jnp.stack([jnp.isnan(leaf).any() for leaf in leaves]).any()
    return jnp.where(unknown, jnp.nan, jnp.stack(counts).sum() / total)


def gradient_norm(gradients: PyTree[Array]) -> Float[Array, ""]:
    """Returns the Euclidean norm of all gradients together. Pass gradients that are not clipped.

    The cost is one pass over the gradients.

    >>> float(gradient_norm({"a": jnp.array([3.0]), "b": jnp.array([4.0])}))
    5.0
    """
    return norm(jnp.stack(list(weight_norms(gradients).values())))


def weight_distance(params: PyTree[Array], since: PyTree[Array]) -> Float[Array, ""]:
    """Returns the root mean square change of the weights. `since` holds earlier weights, such as the initial weights.

    The cost is one pass over the weights, and the memory for `since`.

    >>> round(float(weight_distance({"w": jnp.array([3.0, 4.0])}, {"w": jnp.zeros(2)})), 3)
    3.536

    Source: awjuliani/deep-rl-plasticity 75f0d5a measures from the initial weights. Plasticine measures from the weights
    at the last log point.
    """
    moved = jax.tree.map(lambda now, then: now - then, params, since)
    return gradient_norm(moved) / math.sqrt(sum(leaf.size for leaf in jax.tree.leaves(moved)))


def tangent_kernel(
    apply: Callable[..., Array], params: PyTree[Array], *inputs: PyTree, output: Callable[[Array], Array] = jnp.max
) -> Float[Array, "samples samples"]:
    """Returns the empirical neural tangent kernel: scalar products of gradients, one for each pair of samples.

    `apply(params, *inputs)` returns the outputs of a batch. `output` reduces the outputs of one sample to a number,
    whose gradient is used. By default this is the largest output, which for a Q-network is the value of the greedy
    action. The cost is a backward pass per sample, the memory for samples * parameters numbers, and samples^2 *
    parameters operations for the products. 64 to 128 samples are usual.

    >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> tangent_kernel(lambda params, x: x @ params["w"], {"w": jnp.ones((2, 1))}, x).tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]

    Source: Jacot et al. 2018, "Neural tangent kernel".
    """

    def value(params: PyTree[Array], sample: tuple[PyTree, ...]) -> Array:
        return output(apply(params, *jax.tree.map(lambda leaf: leaf[None], sample))[0])

    def gradient(sample: tuple[PyTree, ...]) -> Float[Array, " parameters"]:
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(jax.grad(value)(params, sample))])

    jacobian = jax.lax.map(gradient, inputs)
    return jnp.matmul(jacobian, jacobian.T, precision="highest")


def tangent_kernel_rank(
    apply: Callable[..., Array],
    params: PyTree[Array],
    *inputs: PyTree,
    output: Callable[[Array], Array] = jnp.max,
    delta: float = 0.01,
) -> Float[Array, ""]:
    """Returns the `srank` of `tangent_kernel`: how many of its largest eigenvalues sum to 1 - delta of the total.

    A low rank means that a gradient step on some samples also changes the outputs on the other samples. It costs as
    much as `tangent_kernel`, plus samples^3 operations.

    >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> float(tangent_kernel_rank(lambda params, x: x @ params["w"], {"w": jnp.ones((2, 1))}, x))
    2.0

    Raises ValueError unless 0 < delta < 1.
    Source: Tang et al. 2025 (C-CHAIN) follow the rank of the tangent kernel. Their threshold and number of samples are
    not published with their code.
    """
    return srank(tangent_kernel(apply, params, *inputs, output=output), delta)


def isometry_deviations(params: PyTree[Array], scaled: bool = False) -> dict[str, Float[Array, ""]]:
    """Returns a dictionary from the path of each kernel W to its deviation from an isometry: ||G - I||^2.

    G is W^T W or W W^T, whichever is smaller. In a convolution, each position of the window is a kernel of its own, and
    their deviations are summed. With `scaled`, each kernel is first divided by sqrt(outputs / inputs) / positions.
    `FIRE` gives kernels this singular value, so after `FIRE` the deviation is nearly 0. The cost is inputs * outputs *
    min(inputs, outputs) operations per kernel and position.

    >>> {path: float(value) for path, value in isometry_deviations({"w": jnp.diag(jnp.array([3.0, 4.0]))}).items()}
    {'w': 289.0}

    Source: Han et al. 2026, "FIRE", "deviation from isometry" of W^T W. We use the smaller of the two
    Gram matrices, because a kernel with more outputs than inputs can't have W^T W = I.
    """
    return {path: _deviation(leaf, scaled) for path, leaf in by_path(params).items() if leaf.ndim > 1}


def _deviation(kernel: Float[Array, "*window inputs outputs"], scaled: bool) -> Float[Array, ""]:
    inputs, outputs = kernel.shape[-2:]
    value = math.sqrt(outputs / inputs) / math.prod(kernel.shape[:-2]) if scaled else 1.0
    matrix = (kernel.swapaxes(-1, -2) if inputs < outputs else kernel) / value
    gram = jnp.matmul(matrix.swapaxes(-1, -2), matrix, precision="highest")
    eye = jnp.eye(gram.shape[-1], dtype=gram.dtype).reshape((1,) * (gram.ndim - 2) + gram.shape[-2:])
    return jnp.square(gram - eye).sum()
