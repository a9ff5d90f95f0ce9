"""One network on one batch: dormancy by layer, with what another batch of this size might have shown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from .metrics import effective_rank, norm
from .scores import checked_tau
from .tracing import trace
from .wiring import Activation, NeuronLayer, Wiring, paths

RESAMPLES = 1_000


class Interval(NamedTuple):
    """Bounds of a share between which the share on all data lies, with 95 % confidence."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class LayerReport:
    """What one layer of neurons, or all of them together, looked like on the batch.

    `interval` is that of the dormant share. The layer "all" has no `scores`, and no rank and norm of its own (NaN).
    """

    name: str
    neurons: int
    dormant: int
    interval: Interval
    effective_rank: float
    weight_norm: float
    scores: Float[np.ndarray, " neurons"]
    reasons: tuple[str, ...] = ()
    coupled_by: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Dormant neurons divided by neurons."""
        return self.dormant / self.neurons


@dataclass(frozen=True, eq=False)
class Report:
    """The layers of a network in the order in which it computes them, and all of them pooled. Print it for a table."""

    layers: tuple[LayerReport, ...]
    all: LayerReport
    tau: float
    samples: int
    seed: int

    def __str__(self) -> str:
        header = ("layer", "neurons", "dormant", "share", "95 % interval", "effective rank", "weight norm")
        rows = [header, *(_row(layer) for layer in (*self.layers, self.all))]
        last = ["recyclable", *(_status(layer) for layer in self.layers), ""]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:]), status]).rstrip()
            for row, status in zip(rows, last, strict=True)
        ]
        return "\n".join([*lines, self.method])

    @property
    def method(self) -> str:
        """How the numbers were found, in one sentence."""
        measured = f"tau = {self.tau:g}, batch of {self.samples} samples"
        if np.isnan(self.all.interval.low):
            return f"{measured}; no intervals, because the samples of this batch influence one another"
        return f"{measured}; intervals: bootstrap over its samples, {RESAMPLES} resamples, seed {self.seed}"


def report(apply: Callable[..., Any], params: PyTree[Any], *inputs: Any, tau: float = 0.1, seed: int = 0) -> Report:
    """Dormant neurons of every layer of `apply(params, *inputs)`, with a sampling interval, ranks and weight norms.

    Every array of `inputs` has the samples of the batch along its first axis. The dormant fraction depends on the batch:
    the interval says how far it would differ on other samples from the same source. It is the basic bootstrap
    interval, from whole samples drawn with replacement, so it assumes that samples are independent; frames of one
    episode are not, and then it is too narrow. The effective rank is that of the activations, positions and samples
    as rows; the weight norm is that of all incoming entries. A layer measured in several places has the largest rank.

    >>> params = {"dense": {"kernel": jnp.diag(jnp.array([1.0, 1.0, 0.0]))}, "head": {"kernel": jnp.ones((3, 1))}}
    >>> def apply(params, x):
    ...     return jax.nn.relu(x @ params["dense"]["kernel"]) @ params["head"]["kernel"]
    >>> print(report(apply, params, jnp.eye(3)))
    layer  neurons  dormant   share  95 % interval  effective rank  weight norm  recyclable
    dense        3        1  33.3 %  0.0 - 33.3 %             2.00         1.41  yes
    all          3        1  33.3 %  0.0 - 33.3 %
    tau = 0.1, batch of 3 samples; intervals: bootstrap over its samples, 1000 resamples, seed 0

    Raises ValueError for a negative tau, and if inputs do not share a first axis; TraceError as `trace` does.
    Source: the interval, Davison and Hinkley 1997, "Bootstrap methods and their application", section 5.2.
    """
    checked_tau(tau)
    samples = _batch_size(inputs)
    wiring = trace(apply, params, *inputs)
    scores = {name: np.asarray(found) for name, found in jax.jit(wiring.scores)(params, *inputs).items()}
    dormant = {name: found <= tau for name, found in scores.items()}
    places = jax.jit(_by_sample(wiring))(params, inputs)
    draws = _draws(samples, seed) if _agree(wiring, places, scores) else None
    shares = _resampled(wiring, places, draws, tau)
    leaves = dict(zip(paths(params), jax.tree.leaves(params), strict=True))
    layers = tuple(
        LayerReport(
            layer.name,
            layer.width,
            int(dormant[layer.name].sum()),
            _interval(shares[layer.name], float(dormant[layer.name].mean())),
            max(float(effective_rank(place.matrix)) for place in places if place.layer == layer.name),
            _incoming_norm(layer, leaves),
            scores[layer.name],
            layer.reasons,
            layer.coupled_by,
        )
        for layer in wiring.layers
    )
    return Report(layers, _pooled(layers, shares), tau, samples, seed)
