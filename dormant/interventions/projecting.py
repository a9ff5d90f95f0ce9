"""Interventions that project kernels: `FIRE` makes their singular values equal, `NaP` restores their initial norms."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..settings import check_fire, check_flag
from ..surgery import Learner, fresh, graft, nothing
from ..wiring import Network, by_path
from .resets import owner


@dataclass(frozen=True)
class FIRE:
    """Replaces each kernel by a kernel near it whose singular values are equal. Use it once, when the data changes.

    A dense kernel gets singular values near sqrt(outputs / inputs). Each position of a convolution's window is a kernel
    of its own, with singular values near sqrt(outputs / inputs) / positions. Biases and normalisations do not change.

    - `iterations`: steps of the Newton-Schulz iteration. A step multiplies a small singular value by at most 1.5, so
      ten steps do not repair a kernel whose singular values differ by more than a factor of about 50.
    - `heads`: "project" output layers like all other layers, "keep" them, or initialise them again ("fresh").
    - `moments`: "keep" does not change the optimizer's state of these kernels. "fresh" resets it.

    >>> FIRE(heads="keep")
    FIRE(iterations=10, heads='keep', moments='keep')

    Raises ValueError for an unknown option or less than 1 iteration.
    Source: Han et al. 2026, "FIRE: Frobenius-isometry reinitialization"; vision/interventions/fire.py at isaac7778/FIRE
    c37a0ac. Their DQN sets all dense layers to their saved initial weights. A similar intervention here is
    `Chain(FIRE(), Reset(("dense", "head")))`, which gives them new initial weights. Their SAC projects all dense layers
    and resets the optimizers. Their DQN and SAC also change the target network. We do not. The last two axes of a
    kernel are its inputs and outputs; other axes are the window.
    """

    iterations: int = 10
    heads: Literal["project", "keep", "fresh"] = "project"
    moments: Literal["fresh", "keep"] = "keep"

    def __post_init__(self) -> None:
        check_fire(self.iterations, self.heads, self.moments)

    def init(self, learner: Learner, network: Network) -> tuple[()]:
        del learner, network
        return ()

    def update(
        self, key: Array, learner: Learner, state: tuple[()], network: Network, *inputs: PyTree
    ) -> tuple[Learner, tuple[()]]:
        del inputs
        drawn = by_path(fresh(network, key, learner)) if self.heads == "fresh" else {}
        new, hit = [], []
        for path, leaf in by_path(learner.params).items():
            head = self.heads != "project" and bool(owner(path, network.wiring.outputs))
            kernel = leaf.ndim > 1 and not head
            new.append(isometric(leaf, self.iterations) if kernel else drawn.get(path, leaf))
            hit.append(jnp.array(kernel or (head and path in drawn)))
        donor, mask = (jax.tree.unflatten(jax.tree.structure(learner.params), leaves) for leaves in (new, hit))
        forget = mask if self.moments == "fresh" else nothing(mask)
        return graft(learner, mask, donor, network.tx, forget=forget), state


def isometric(kernel: Float[Array, "*window inputs outputs"], iterations: int = 10) -> Float[Array, "..."]:
    """Returns a kernel with the singular vectors of `kernel` and nearly equal singular values, as in `FIRE`.

    >>> jnp.round(isometric(jnp.diag(jnp.array([3.0, 4.0]))), 3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    inputs, outputs = kernel.shape[-2:]
    matrix = kernel.swapaxes(-1, -2) if inputs < outputs else kernel  # this way, the Gram matrix below is smaller
    norm = jnp.sqrt(jnp.square(matrix).sum(axis=(-2, -1), keepdims=True))
    near = matrix / jnp.where(norm > 0, norm, 1.0)

    def step(_: int, near: Array) -> Array:
        gram = jnp.matmul(near.swapaxes(-1, -2), near, precision="highest")
        return 1.5 * near - 0.5 * jnp.matmul(near, gram, precision="highest")

    near = jax.lax.fori_loop(0, iterations, step, near)
    scale = math.sqrt(outputs / inputs) / math.prod(kernel.shape[:-2])
    return scale * (near.swapaxes(-1, -2) if inputs < outputs else near)


class Norms(NamedTuple):
    """The initial Euclidean norm of each kernel that is projected, by path."""

    norms: dict[str, Float[Array, ""]]


@dataclass(frozen=True)
class NaP:
    """Scales hidden kernels back to their initial norms (normalise and project).

    By default, it scales the kernels of layers that have a normalisation before their activation. This does not change
    what the network computes, and keeps the effective learning rate constant. With `everywhere`, it scales all hidden
    kernels. Output layers, biases, normalisations and the optimizer's state do not change. Each call costs one pass
    over the weights. Put it within `Every`. The paper projects at every gradient step or at every 1,000th.

    >>> NaP()
    NaP(everywhere=False)

    `init` raises ValueError if no hidden layer is normalised and `everywhere` is false.
    Source: Lyle et al. 2024, "Normalization and effective learning rates in reinforcement learning". There is no
    official code, and we took the equation from a summary of the paper by others. The authors also remove biases before
    a normalisation, and project or decay its scales and offsets. We do not.
    """

    everywhere: bool = False

    def __post_init__(self) -> None:
        check_flag("everywhere", self.everywhere)

    def init(self, learner: Learner, network: Network) -> Norms:
        leaves = by_path(learner.params)
        hidden = [layer for layer in network.wiring.layers if self.everywhere or layer.coupled_by]
        fed = dict.fromkeys(path for layer in hidden for path in layer.incoming if leaves[path].ndim > 1)
        if not fed:
            raise ValueError(
                "NaP needs a network that normalises its hidden layers, and found no such layer; add a LayerNorm "
                "before each activation (--layer-norm), or project all hidden kernels with NaP(everywhere=True)."
            )
        return Norms({path: jnp.sqrt(jnp.square(leaves[path]).sum()) for path in fed})

    def update(
        self, key: Array, learner: Learner, state: Norms, network: Network, *inputs: PyTree
    ) -> tuple[Learner, Norms]:
        del key, inputs
        new, hit = [], []
        for path, leaf in by_path(learner.params).items():
            norm = jnp.sqrt(jnp.square(leaf).sum())
            factor = state.norms[path] / jnp.where(norm > 0, norm, 1.0) if path in state.norms else 1.0
            new.append(leaf * factor)
            hit.append(jnp.array(path in state.norms))
        donor, mask = (jax.tree.unflatten(jax.tree.structure(learner.params), leaves) for leaves in (new, hit))
        return graft(learner, mask, donor, network.tx, forget=nothing(mask)), state
