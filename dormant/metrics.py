"""Metrics of networks and neurons: utilities, ranks, norms, churn, and the error on random targets.

All functions except `readings` can be compiled and mapped over seeds. Compiled code can't raise errors, so a NaN in the
inputs gives NaN. `readings` copies numbers to the host and raises ValueError for NaN.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Num, PyTree

from .reasons import Interval as Interval
from .scores import AnyArray, dormant_fraction, magnitudes, neuron_scores
from .surgery import Learner
from .wiring import Entries, Network, NeuronLayer, Wiring, by_path, entry_sums

Matrix = Num[AnyArray, "samples neurons"]
Scalar = float | Float[Array, ""]
FREQUENCY = 1e5  # frequency of the sine in random_targets; so high that similar states have unrelated targets


def gradient_scores(wiring: Wiring, gradients: PyTree[Array]) -> dict[str, Float[Array, " neurons"]]:
    """Returns the gradient score of each neuron, as one array per layer.

    The score is the mean absolute gradient of the neuron's incoming weights and bias, divided by the mean over the
    layer. The scores of a layer therefore average 1. If all gradients of a layer are zero, all of its scores are 0.
    `gradients` has the same tree as the parameters. The cost is one pass over the gradients.

    >>> from dormant import trace
    >>> params = {"hidden": {"w": jnp.ones((2, 3))}, "head": {"w": jnp.ones((3, 1))}}
    >>> wiring = trace(lambda p, x: jax.nn.relu(x @ p["hidden"]["w"]) @ p["head"]["w"], params, jnp.ones((5, 2)))
    >>> gradients = {"hidden": {"w": jnp.array([[0.0, 1.0, 3.0], [0.0, -1.0, 1.0]])}, "head": {"w": jnp.ones((3, 1))}}
    >>> gradient_scores(wiring, gradients)["hidden"].tolist()
    [0.0, 1.0, 2.0]

    Source: Liu et al. 2025, "Measure gradients, not activations! Enhancing neuronal activity in deep RL" (ReGraMa). We
    use the gradient of the batch's mean loss, as other implementations do.
    """
    ones = by_path(jax.tree.map(lambda leaf: jnp.ones(leaf.shape), gradients))
    gradient_sizes = by_path(jax.tree.map(magnitudes, gradients))
    scores = {}
    for layer in wiring.layers:
        total, number = (_sums(leaves, layer.incoming, layer.width) for leaves in (gradient_sizes, ones))
        scores[layer.name] = neuron_scores((total / jnp.maximum(number, 1.0))[None])
    return scores


def contributions(wiring: Wiring, params: PyTree[Array], *inputs: PyTree) -> dict[str, Float[Array, " neurons"]]:
    """Returns the contribution utility of each neuron: mean |h| * sum |outgoing|.

    h is the neuron's activation, and "outgoing" are the weights that read the neuron. A neuron with several
    non-linearities has one mean activation per non-linearity. The largest of them is used.

    Source: Dohare et al. 2024, "Loss of plasticity in deep continual learning", contribution utility.
    """
    activity = _activity(wiring, params, inputs, centred=False)
    return {layer.name: activity[layer.name] * _weight(params, layer, layer.outgoing) for layer in wiring.layers}


def utilities(wiring: Wiring, params: PyTree[Array], *inputs: PyTree) -> dict[str, Float[Array, " neurons"]]:
    """Returns the overall utility of each neuron: mean |h - mean h| * sum |outgoing| / sum |incoming|.

    h is the neuron's activation, "outgoing" the weights that read the neuron, and "incoming" its incoming weights and
    bias. Small incoming weights give a higher utility, because the neuron can then change quickly. If an activation of
    the layer is NaN or infinite, the utilities of all of its neurons are NaN.

    Source: Dohare et al. 2021, "Continual backprop", overall utility. It is called `cbp` in
    dopamine/labs/redo/weight_recyclers.py, which uses only kernels. We also use biases.
    """
    activity = _activity(wiring, params, inputs, centred=True)
    found = {}
    for layer in wiring.layers:
        fed, read = (_weight(params, layer, entries) for entries in (layer.incoming, layer.outgoing))
        found[layer.name] = activity[layer.name] * read / jnp.maximum(fed, jnp.finfo(fed.dtype).tiny)
    return found


def _activity(wiring: Wiring, params: PyTree[Array], inputs: PyTree, centred: bool) -> dict[str, Array]:
    """Returns each neuron's mean |h|, or mean |h - mean h| if `centred`, where h is its activation.

    A layer with a NaN or infinite activation has NaN for all of its neurons.
    """
    means = {layer.name: jnp.zeros(layer.width) for layer in wiring.layers}
    for layer, neurons, values in wiring.measure(params, *inputs):
        rows = values.reshape(-1, values.shape[-1])
        rows = rows - rows.mean(axis=0, keepdims=True) if centred else rows
        largest = means[layer].at[neurons].max(magnitudes(rows).mean(axis=0))
        finite = jnp.isfinite(rows).all() & jnp.isfinite(largest).all()
        means[layer] = jnp.where(finite, largest, jnp.nan)
    return means


def _weight(params: PyTree[Array], layer: NeuronLayer, entries: Entries) -> Array:
    return _sums(by_path(jax.tree.map(magnitudes, params)), entries, layer.width)


def _sums(leaves: dict[str, Array], entries: Entries, width: int) -> Array:
    sums = [entry_sums(leaves[path], neurons, width) for path, neurons in entries.items()]
    return jnp.zeros(width) + sum(sums, start=jnp.zeros(width))


def effective_rank(matrix: Matrix) -> Float[Array, ""]:
    """Returns exp(-sum_i p_i log p_i), where p_i = s_i / sum_j s_j: the exponential entropy of the singular values s.

    The effective rank lies between 1 and the rank, and is 0 for a zero matrix (our choice). It need not be an integer.
    Computing the singular values costs samples * neurons * min(samples, neurons) operations.

    >>> round(float(effective_rank(np.diag([1.0, 1.0, 0.0]))), 3)
    2.0

    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality", definition 1.
    """
    shares = _shares(matrix)
    entropy = -jnp.sum(jnp.where(shares > 0, shares * jnp.log(jnp.where(shares > 0, shares, 1.0)), 0.0))
    total = shares.sum()  # 1, or 0 for a zero matrix, or NaN if an entry is NaN
    return jnp.where(total > 0, jnp.exp(entropy), total)


def srank(matrix: Matrix, delta: float = 0.01) -> Float[Array, ""]:
    """Returns the smallest k such that the k largest singular values sum to at least 1 - delta times the total.

    A zero matrix has srank 0. Kumar et al. call srank the effective rank. Do not confuse it with `effective_rank` and
    `stable_rank`, which are other quantities.

    >>> int(srank(np.diag([3.0, 1.0, 0.01])))
    2

    Raises ValueError unless 0 < delta < 1.
    Source: Kumar et al. 2021, "Implicit under-parameterization inhibits data-efficient deep RL", section 3.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie between 0 and 1, got {delta}; the paper uses 0.01.")
    shares = _shares(matrix)
    total = shares.sum()
    too_few = jnp.sum(jnp.cumsum(shares) < 1 - delta).astype(shares.dtype)
    return jnp.where(total > 0, jnp.minimum(too_few + 1.0, shares.size), total)


def stable_rank(matrix: Matrix) -> Float[Array, ""]:
    """Returns the squared Frobenius norm divided by the squared spectral norm: sum_i s_i^2 / max_i s_i^2.

    The stable rank lies between 1 and the rank. Small singular values hardly change it. A zero matrix has stable
    rank 0.

    >>> round(float(stable_rank(np.diag([2.0, 1.0]))), 3)
    1.25

    Source: Rudelson and Vershynin 2007, "Sampling from large matrices", section 1 (there called numerical rank).
    """
    values = _singular_values(matrix)
    return jnp.sum(jnp.square(_divided(values, values.max(initial=0.0))))


def weight_norms(params: PyTree) -> dict[str, Float[Array, ""]]:
    """Returns a dictionary from the path of each parameter to its Euclidean norm.

    >>> {path: float(norm) for path, norm in weight_norms({"dense": {"kernel": jnp.array([[3.0, 4.0]])}}).items()}
    {'dense/kernel': 5.0}
    """
    return {path: norm(leaf) for path, leaf in by_path(params).items()}


def norm(values: Num[AnyArray, "..."]) -> Float[Array, ""]:
    """Returns the Euclidean norm of all entries, computed without overflow or underflow."""
    sizes = magnitudes(values)
    largest = sizes.max(initial=0.0)
    return largest * jnp.sqrt(jnp.sum(jnp.square(_divided(sizes, largest))))


def feature_norm(features: Matrix) -> Float[Array, ""]:
    """Returns the mean over samples of the Euclidean norm of a layer's activations.

    >>> float(feature_norm(np.array([[3.0, 4.0], [0.0, 1.0]])))
    3.0

    Source: Lyle et al. 2022, "Understanding and preventing capacity loss in reinforcement learning" (InFeR).
    """
    return jax.vmap(norm)(jnp.asarray(features)).mean()


def effective_learning_rates(before: PyTree, after: PyTree) -> dict[str, Float[Array, ""]]:
    """Returns a dictionary from the path of each parameter to its relative change: ||after - before|| / ||before||.

    If a parameter was zero, its rate is infinity, or 0 if it is still zero. The cost is two passes over the weights.

    >>> before, after = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([3.0, 4.5])}
    >>> {path: round(float(rate), 3) for path, rate in effective_learning_rates(before, after).items()}
    {'w': 0.1}

    Source: Lyle et al. 2024, "Normalization and effective learning rates in reinforcement learning". In a network with
    normalisation, a step of the same length changes the outputs less if the weights are larger.
    """
    moved = jax.tree.map(lambda old, new: _inexact(new) - _inexact(old), before, after)
    steps, lengths = weight_norms(moved), weight_norms(before)
    return {path: jnp.where(step == 0, step, step / lengths[path]) for path, step in steps.items()}


def value_churn(before: Matrix, after: Matrix) -> Float[Array, ""]:
    """Returns the mean absolute change of a network's outputs in a gradient step.

    Compute both outputs on the same states. These states should not be in the training batch of the step.

    >>> float(value_churn(np.array([[1.0, 2.0]]), np.array([[1.5, 2.0]])))
    0.25

    Source: Tang and Berseth 2024, "Improving deep reinforcement learning by reducing the chain effect of value and
    policy churn".
    """
    return jnp.abs(_inexact(after) - _inexact(before)).mean()


def policy_churn(before: Matrix, after: Matrix) -> Float[Array, ""]:
    """Returns the fraction of states in which the action with the highest value changes in a gradient step.

    >>> float(policy_churn(np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([[3.0, 2.0], [0.0, 9.0]])))
    0.5

    Source: Schaul et al. 2022, "The phenomenon of policy churn".
    """
    old, new = _inexact(before), _inexact(after)
    changed = (old.argmax(axis=-1) != new.argmax(axis=-1)).mean(dtype=old.dtype)
    return jnp.where(jnp.isnan(old + new).any(), jnp.nan, changed)


def gradient_dormancy(wiring: Wiring, gradients: PyTree[Array], tau: float = 0.01) -> Float[Array, ""]:
    """Returns the fraction of neurons whose gradient score is at most tau; see `gradient_scores`.

    `gradients` has the same tree as the parameters. The cost is one pass over the gradients.

    Raises ValueError for a negative tau.
    Source: Liu et al. 2025, "Measure gradients, not activations! Enhancing neuronal activity in deep RL".
    """
    return dormant_fraction(gradient_scores(wiring, gradients), tau)


def dormant_interval(activations: Mapping[str, Num[AnyArray, "samples ..."]], tau: float = 0.1) -> Interval:
    """Returns the dormant fraction over all layers, with a sampling interval.

    The activations of a layer are an array [samples, ..., neurons]. The samples must not influence each other.
    `score_bounds` gives a lower and an upper bound of each neuron's score. A neuron is certainly dormant if its upper
    bound is at most tau. It may be dormant if its lower bound is at most tau. The interval runs from the fraction of
    certainly dormant neurons to the fraction of neurons that may be dormant. The cost is three passes over the
    activations and a sort of each layer's neurons.

    >>> maps = {"dense": jnp.array([[1.0, 2.0, 0.0]] * 25 + [[2.0, 1.0, 0.0]] * 25)}
    >>> [round(float(value), 2) for value in dormant_interval(maps, tau=0.01)]
    [0.33, 0.0, 0.33]

    Raises ValueError for a negative tau or if there is no neuron.
    Source: ours; ratio estimates, Cochran 1977, "Sampling techniques", section 6.3.
    """
    bounds = {name: score_bounds(values) for name, values in activations.items()}
    # Row 0 holds the lower bounds of the scores, which give the upper bound of the fraction.
    high, share, low = (dormant_fraction({name: rows[row] for name, rows in bounds.items()}, tau) for row in range(3))
    return Interval._make((share, low, high))


def score_bounds(activations: Num[AnyArray, "samples ..."]) -> Float[Array, "3 neurons"]:
    """Returns three rows: the lower 95 % confidence bound of each neuron's score, the score, and the upper bound.

    The bounds lie 1.96 standard errors of a ratio of means below and above the score. If a neuron happens to be silent
    in a small batch, its standard error is zero, so its interval would be too narrow. To avoid this, the upper bound
    adds one hypothetical sample to the batch. On this sample, the neuron has its mean activation over the samples on
    which it is active. A neuron that is never active gets the median of these means over the layer.

    >>> activations = np.array([[1.0, 2.0, 0.0]] * 25 + [[2.0, 1.0, 0.0]] * 25, np.float32)
    >>> np.round(score_bounds(activations), 2).tolist()[0]
    [1.3..., 1.3..., 0.0]

    Source: ratio estimates, Cochran 1977, "Sampling techniques", section 6.3; the added sample is ours.
    """
    samples, neurons = activations.shape[0], activations.shape[-1]
    by_sample = magnitudes(activations).reshape(samples, -1, neurons).mean(axis=1)
    relative = _divided(by_sample, by_sample.mean())
    scores = relative.mean(axis=0)
    if samples < 2:
        return jnp.stack([jnp.zeros_like(scores), scores, jnp.full_like(scores, jnp.inf)])
    residuals = relative - scores[None] * relative.mean(axis=1, keepdims=True)
    error = 1.96 * residuals.std(axis=0, ddof=1) / jnp.sqrt(1.0 * samples)
    times = (relative > 0).sum(axis=0).astype(scores.dtype)
    active = jnp.where(times > 0, scores * samples / jnp.maximum(times, 1.0), jnp.nan)
    active = jnp.where(times > 0, active, jnp.nanmedian(active))
    silent = (scores == 0).all()
    low = jnp.where(silent, 0.0, scores - error)
    return jnp.stack([low, scores, jnp.where(silent, jnp.inf, scores + error + active / samples)])


def readings(metrics: Mapping[str, PyTree]) -> dict[str, float]:
    """Returns the metrics as floats, after copying them to the host.

    >>> readings({"srank": srank(np.eye(3))})
    {'srank': 3.0}

    Raises ValueError if a metric is NaN. The message names the metric.
    """
    numbers = {name: float(np.asarray(value)) for name, value in metrics.items()}
    wrong = sorted(name for name, number in numbers.items() if np.isnan(number))
    if wrong:
        raise ValueError(
            f"these metrics are NaN: {', '.join(wrong)}. Look for NaN or infinite values in the inputs and the "
            "parameters."
        )
    return numbers


def _shares(matrix: Matrix) -> Float[Array, " values"]:
    values = _singular_values(matrix)
    return _divided(values, values.sum())


def _singular_values(matrix: Matrix) -> Float[Array, " values"]:
    """Returns the singular values of the matrix divided by its largest absolute entry, in descending order."""
    values = _inexact(matrix)
    return jnp.linalg.svd(_divided(values, magnitudes(values).max(initial=0.0)), compute_uv=False)


def _inexact(values: Num[AnyArray, "..."]) -> Num[Array, "..."]:
    """Returns the values as an array. Integers, Booleans and lower precisions are converted to single precision."""
    values = jnp.asarray(values)
    if jnp.issubdtype(values.dtype, jnp.complexfloating):
        return values
    return values.astype(jnp.float64 if values.dtype == jnp.float64 else jnp.float32)


def _divided(values: Num[Array, "..."], by: Float[Array, ""]) -> Float[Array, "..."]:
    return values / jnp.where(by == 0, 1.0, by)


def target_fitting_error(
    key: Array,
    apply: Callable[..., Float[Array, "samples outputs"]],
    params: PyTree[Array],
    network: Network,
    *inputs: PyTree,
    gradient_steps: int = 1_000,
) -> Float[Array, ""]:
    """Returns the mean squared error on random targets after training `params` with a new optimizer state.

    The targets are those of `random_targets`. A network that has lost plasticity has a larger error than a fresh
    network. For the error of a fresh network, pass `params=network.init(another_key)`. `params` may come from a
    checkpoint and are not changed. The cost is `gradient_steps` gradient steps on all `inputs`.

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

    Raises ValueError if `gradient_steps` is below 1.
    Source: Lyle et al. 2022, "Understanding and preventing capacity loss in reinforcement learning". They average over
    several sets of targets. To do this, map the function over keys and take the mean.
    """
    if gradient_steps < 1:
        raise ValueError(f"gradient_steps must be at least 1, got {gradient_steps}.")
    targets = random_targets(key, apply, network, *inputs)

    def step(learner: Learner, _: None) -> tuple[Learner, None]:
        return fitting_step(learner, apply, network, targets, *inputs), None

    fitted, _ = jax.lax.scan(step, Learner(params, network.tx.init(params)), length=gradient_steps)
    return fitting_loss(fitted.params, apply, targets, *inputs)


def random_targets(
    key: Array, apply: Callable[..., Array], network: Network, *inputs: PyTree
) -> Float[Array, "samples outputs"]:
    """Returns the targets sin(1e5 * y), where y is the output of a network with the parameters `network.init(key)`."""
    return jnp.sin(FREQUENCY * apply(network.init(key), *inputs))


def fitting_loss(
    params: PyTree[Array], apply: Callable[..., Array], targets: Float[Array, "samples outputs"], *inputs: PyTree
) -> Float[Array, ""]:
    """Returns the mean squared error between the outputs of a network and the targets."""
    return jnp.square(apply(params, *inputs) - targets).mean()


def fitting_step(
    learner: Learner,
    apply: Callable[..., Array],
    network: Network,
    targets: Float[Array, "samples outputs"],
    *inputs: PyTree,
) -> Learner:
    """Returns the learner after one gradient step towards the targets."""
    params, opt_state = learner
    gradient = jax.grad(fitting_loss)(params, apply, targets, *inputs)
    with jax.numpy_dtype_promotion("standard"):  # Adam raises a float to the power of its step count, an integer
        change, opt_state = network.tx.update(gradient, opt_state, params)
    return Learner(optax.apply_updates(params, change), opt_state)
