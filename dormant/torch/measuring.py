"""Measures the neurons of a module: their scores on a batch, their utilities, and the gradients of their weights."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .. import reasons
from ..settings import checked_tau
from .execution import Seed, plain, plain_name, tensors_in
from .tracing import trace
from .wiring import Activation, NeuronLayer, Wiring, magnitudes, neuron_scores

# A dormant neuron may be active in training mode, or if the module draws other random numbers. `RUNS` lists the runs
# that check this. Each run has a mode (True for training mode) and a seed.
SEEDS: tuple[Seed, ...] = (0, 1, 2, 3, "lowest", "highest")
RUNS: tuple[tuple[bool, Seed], ...] = ((True, None), *((mode, seed) for seed in SEEDS for mode in (False, True)))
AVERAGES = ("exp_avg", "momentum_buffer")  # running averages of gradients in the state of optimizers
NO_NEURONS = "the module has no neurons: no weight of a layer reads another layer."


@dataclass(frozen=True, eq=False)
class Report:
    """The scores and the masks of dormant neurons of each layer, for a threshold `tau`.

    `left_out` names the layers that were not computed, because the inputs take a branch without these layers.
    """

    tau: float
    scores: Mapping[str, Float[Tensor, " neurons"]]
    masks: Mapping[str, Bool[Tensor, " neurons"]]
    left_out: tuple[str, ...] = ()

    @property
    def fraction(self) -> float:
        """The number of dormant neurons divided by the number of neurons, over all layers that are not left out.

        It is NaN if a score is NaN, or if every layer is left out. Raises ValueError if the module has no neurons.
        """
        fractions = self.fractions
        if not fractions and self.left_out:
            return math.nan
        if not fractions:
            raise ValueError(NO_NEURONS)
        if any(math.isnan(fraction) for fraction in fractions.values()):
            return math.nan
        return sum(int(mask.sum()) for mask in self.masks.values()) / sum(map(len, self.masks.values()))

    @property
    def fractions(self) -> dict[str, float]:
        """The dormant fraction of each layer, or NaN for a layer with a NaN or infinite activation."""
        return {
            name: math.nan if bool(self.scores[name].isnan().any()) else int(mask.sum()) / len(mask)
            for name, mask in self.masks.items()
        }

    def __str__(self) -> str:
        rows = [("layer", "neurons", f"dormant (tau={self.tau:g})")]
        for name, fraction in self.fractions.items():
            mask = self.masks[name]
            rows.append((name, str(len(mask)), "nan" if math.isnan(fraction) else str(int(mask.sum()))))
        rows += [(name, "-", "not computed: these inputs take a branch without it") for name in self.left_out]
        return "\n".join(reasons.table(rows))


def measure(module: nn.Module, wiring: Wiring, *inputs: object, tau: float = 0.1) -> Report:
    """Returns the scores and dormant masks of a module's neurons on a batch of inputs.

    Output layers are not measured. The module runs in evaluation mode without gradients, and its state is restored
    afterwards. If an activation of a layer is NaN or infinite, the scores and the dormant fraction of the layer are
    NaN, and its mask is False everywhere. A warning names each such layer once.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> _ = nn.init.constant_(net[0].bias, -100.0)
    >>> measure(net, trace(net, torch.zeros(1, 3)), torch.zeros(8, 3), tau=0.0).fraction
    1.0

    Raises ValueError if `tau` is negative, and TypeError if `module` or `wiring` has the wrong type.
    Source: Sokar et al. 2023, definition 3.1.
    """
    checked_tau(tau)
    check_arguments(module, wiring)
    scores = wiring.scores(module, *inputs)
    left_out = tuple(layer.name for layer in wiring.layers if layer.name not in scores)
    return Report(tau, scores, {name: score <= tau for name, score in scores.items()}, left_out)


def check_arguments(module: object, wiring: object) -> None:
    for place, value, kind in (("first", module, nn.Module), ("second", wiring, Wiring)):
        if not isinstance(value, kind):
            raise TypeError(
                f"expected a {kind.__name__} as the {place} argument, got a {type(value).__name__}; write wiring = "
                "trace(module, *inputs), and then measure(module, wiring, *inputs) or "
                "recycle_(module, wiring, *inputs)."
            )


def lasting_scores(module: nn.Module, wiring: Wiring, *inputs: object) -> dict[str, Float[Tensor, " neurons"]]:
    """Returns the largest score of each neuron over several runs, in both modes and with several random seeds.

    A neuron with a low score is inactive in all of these runs. A run that would give the same result is skipped.
    """
    scores = wiring.scores(module, *inputs)
    for training, seed in RUNS:
        others = wiring.scores(module, *inputs, training=training, seed=seed)
        scores = {name: torch.maximum(each, others[name]) if name in others else each for name, each in scores.items()}
    return scores


def contributions(module: nn.Module, wiring: Wiring, *inputs: object) -> dict[str, Float[Tensor, " neurons"]]:
    """Returns the contribution utility of each neuron: mean |h| * sum |outgoing|.

    h is the neuron's activation, and "outgoing" are the weights that read the neuron. A neuron with several
    non-linearities has one mean activation per non-linearity. The largest of them is used. Layers that these inputs do
    not compute are missing from the result.

    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    >>> _ = nn.init.ones_(net[0].weight), nn.init.constant_(net[2].weight, 3.0)
    >>> wiring = trace(net, torch.ones(1, 1))
    >>> contributions(net, wiring, torch.tensor([[1.0], [3.0]]))["0"].tolist()
    [6.0, 6.0]

    Source: Dohare et al. 2024, "Loss of plasticity in deep continual learning", contribution utility.
    """
    activity = _activity(module, wiring, inputs, centred=False)
    return {name: each * _weight(module, wiring[name], "outgoing") for name, each in activity.items()}


def utilities(module: nn.Module, wiring: Wiring, *inputs: object) -> dict[str, Float[Tensor, " neurons"]]:
    """Returns the overall utility of each neuron: mean |h - mean h| * sum |outgoing| / sum |incoming|.

    h is the neuron's activation, "outgoing" the weights that read the neuron, and "incoming" its incoming weights and
    bias. A layer with a NaN or infinite activation has NaN for all of its neurons.

    Source: Dohare et al. 2021, "Continual backprop", overall utility.
    """
    found = {}
    for name, each in _activity(module, wiring, inputs, centred=True).items():
        fed, read = (_weight(module, wiring[name], side) for side in ("incoming", "outgoing"))
        found[name] = each * read / fed.clamp(min=torch.finfo(fed.dtype).tiny)
    return found


def gradient_scores(wiring: Wiring, gradients: Mapping[str, Tensor]) -> dict[str, Float[Tensor, " neurons"]]:
    """Returns the gradient score of each neuron, as one tensor per layer.

    The score is the mean absolute gradient of the neuron's incoming weights, divided by the mean over the layer.
    `gradients` maps the names of parameters to their gradients or to the result of `first_moments`.

    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    >>> gradient_scores(trace(net, torch.ones(1, 1)), {"0.weight": torch.tensor([[0.0], [-3.0]])})["0"].tolist()
    [0.0, 2.0]

    Source: Liu et al. 2025, "Measure gradients, not activations! Enhancing neuronal activity in deep RL" (ReGraMa).
    Biases are incoming weights, too.
    """
    scores = {}
    for layer in wiring.layers:
        fed = {name: owner for name, owner in layer.incoming.items() if name in gradients}
        if not fed:
            continue
        sizes = {name: magnitudes(gradients[name]) for name in fed}
        total, number = (
            sum(entry_sums(values[name], owner, layer.width) for name, owner in fed.items())
            for values in (sizes, {name: torch.ones_like(each) for name, each in sizes.items()})
        )
        mean = torch.as_tensor(total) / torch.as_tensor(number).clamp(min=1)
        scores[layer.name] = neuron_scores(mean[None], torch.arange(layer.width)[None], layer.width)
    return scores


def gradient_dormancy(wiring: Wiring, gradients: Mapping[str, Tensor], tau: float = 0.01) -> float:
    """Returns the fraction of neurons whose gradient score is at most tau, or NaN if a gradient is NaN or infinite.

    Raises ValueError for a negative tau.
    Source: Liu et al. 2025 (see `gradient_scores`).
    """
    scores = gradient_scores(wiring, gradients)
    return Report(tau, scores, {name: each <= checked_tau(tau) for name, each in scores.items()}).fraction


def first_moments(
    module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], names: Iterable[str]
) -> dict[str, Tensor]:
    """Returns the running averages of the gradients of the parameters in `names`, from the optimizers' state.

    Parameters that were not trained so far are missing from the result. Raises ValueError if an optimizer keeps no
    average, such as RMSprop, or if none of the parameters has an average.
    """
    leaves = {plain_name(name): leaf for name, leaf in plain(module).named_parameters()}
    wanted = [name for name in names if name in leaves]
    states = {name: [each.state[leaves[name]] for each in optimizers if leaves[name] in each.state] for name in wanted}
    found = {
        name: state[kind]
        for name in wanted
        for state in states[name]
        for kind in AVERAGES
        if isinstance(state.get(kind), Tensor)
    }
    missing = [name for name in wanted if name not in found and (any(states[name]) or not found)]
    if missing:
        raise ValueError(
            f"the optimizer's state has no running average of the gradient of {missing[0]}; expected one called "
            f"{' or '.join(AVERAGES)}, such as that of Adam or SGD with momentum, after at least one step."
        )
    return found


def entry_sums(values: Tensor, owners: Int[Tensor, "..."], width: int) -> Float[Tensor, " neurons"]:
    """Returns, for each of `width` neurons, the sum of the entries of `values` that belong to the neuron.

    >>> entry_sums(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0, -1]]), width=2).tolist()
    [4.0, 0.0]
    """
    owners = owners.to(values.device).reshape((1,) * (values.ndim - owners.ndim) + tuple(owners.shape))
    constant = [axis for axis, length in enumerate(owners.shape) if length == 1]
    sums = (values.sum(constant, keepdim=True) if constant else values).flatten()
    mine = owners.flatten() >= 0
    return sums.new_zeros(width).index_add(0, owners.flatten()[mine], sums[mine])


def _weight(module: nn.Module, layer: NeuronLayer, side: Literal["incoming", "outgoing"]) -> Tensor:
    """Returns the sum of the absolute incoming or outgoing weights of each neuron. Buffers are not included."""
    leaves = {plain_name(name): leaf.detach() for name, leaf in plain(module).named_parameters()}
    owners = layer.incoming if side == "incoming" else layer.outgoing
    sums = [
        entry_sums(magnitudes(leaves[name]), owner, layer.width) for name, owner in owners.items() if name in leaves
    ]
    return torch.stack(sums).sum(0) if sums else torch.zeros(layer.width)


def _activity(module: nn.Module, wiring: Wiring, inputs: tuple[object, ...], centred: bool) -> dict[str, Tensor]:
    """Returns each neuron's mean |h|, or mean |h - mean h| if `centred`, where h is its activation.

    A layer with a NaN or infinite activation has NaN for all of its neurons.
    """
    widths, found = {layer.name: layer.width for layer in wiring.layers}, dict[str, list[Tensor]]()
    for name, neurons, values in wiring.measure(module, inputs, False, None):
        if name not in widths or int(neurons.max()) >= widths[name]:  # these inputs take a branch without this layer
            continue
        neurons = neurons.to(values.device)
        single = values.to(torch.promote_types(values.dtype, torch.float32))
        if centred:
            single = single - _means(single, neurons, widths[name])[neurons.clamp(min=0)]
        means = _means(magnitudes(single), neurons, widths[name])
        finite = bool(torch.where(neurons >= 0, values, torch.zeros_like(values)).isfinite().all())
        found.setdefault(name, []).append(means if finite else torch.full_like(means, torch.nan))
    return {name: torch.stack(found[name]).amax(0) for name in widths if name in found}


def _means(values: Tensor, neurons: Int[Tensor, "..."], width: int) -> Tensor:
    """Returns the mean of the values of each neuron. `neurons` holds the neuron of each element, or -1."""
    ones = torch.ones_like(values, dtype=torch.float32)
    return entry_sums(values, neurons, width) / entry_sums(ones, neurons, width).clamp(min=1)


def report(module: nn.Module, *inputs: object, tau: float = 0.1) -> reasons.Report:
    """Returns a report on each layer of a module: dormant neurons, intervals, effective ranks and weight norms.

    The report prints as a table, and has the same type as that of `dormant.report`. The first axis of every input
    tensor is the batch. The effective rank is computed from the matrix of activations, with one row per sample and
    position. The weight norm is the norm of all incoming weights. A layer has no interval if the first axis of its
    activations is not the batch. The cost is a trace and a singular value decomposition per layer.

    >>> net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 1))
    >>> _ = net[0].weight.data.copy_(torch.diag(torch.tensor([1.0, 1.0, 0.0])))
    >>> print(report(net, torch.eye(3).repeat(20, 1)))
    layer  neurons  dormant   share  95 % interval  effective rank  weight norm  recyclable
    0            3        1  33.3 %  33.3 - 33.3 %            2.00         1.41  yes
    all          3        1  33.3 %  33.3 - 33.3 %
    tau = 0.1, a batch of 60 samples

    Raises ValueError if tau is negative, if the batch is empty, or if the inputs have first axes of different lengths.
    Source: Sokar et al. 2023 for the scores. The interval is ours (see `dormant.metrics.score_bounds`).
    """
    wiring = trace(module, *inputs)
    lengths = {len(each) if each.ndim else None for each in tensors_in(inputs) or []}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(
            f"every input must have the batch as its first axis, with the same length; got the lengths {lengths}."
        )
    if not wiring.layers:
        raise ValueError(NO_NEURONS)
    measured = measure(module, wiring, *inputs, tau=tau)
    (samples,) = (length for length in lengths if length is not None)
    places: dict[str, list[Activation]] = {}
    for place in wiring.measure(module, inputs, False, None):
        places.setdefault(place.layer, []).append(place)
    leaves = {plain_name(name): leaf.detach() for name, leaf in plain(module).named_parameters()}
    layers = [
        _layer_report(wiring[name], measured, places[name], leaves, samples)
        for name in (layer.name for layer in wiring.layers if layer.name in measured.scores)
    ]
    return reasons.Report(tuple(layers), reasons.pooled(layers), tau, samples)


def _layer_report(
    layer: NeuronLayer, measured: Report, places: Sequence[Activation], leaves: Mapping[str, Tensor], samples: int
) -> reasons.LayerReport:
    scores, mask = measured.scores[layer.name], measured.masks[layer.name]
    finite = bool(scores.isfinite().all())
    low, high = (torch.full((layer.width,), torch.nan) for _ in range(2))
    if finite and all(place.values.shape[0] == samples and place.neurons.shape[0] == 1 for place in places):
        bounds = torch.stack([score_bounds(_by_sample(place, layer.width)) for place in places])
        low, high = bounds.amax(0)
    ends = [
        math.nan if bool(each.isnan().any()) else float((each <= measured.tau).float().mean()) for each in (high, low)
    ]
    ranks = [effective_rank(_rows(place)) for place in places] if finite else [math.nan]
    squares = [
        entry_sums(magnitudes(leaves[name]).square(), owner, layer.width).sum()
        for name, owner in layer.incoming.items()
        if name in leaves
    ]
    return reasons.LayerReport(
        layer.name,
        layer.width,
        int(mask.sum()),
        reasons.Interval(int(mask.sum()) / layer.width if finite else math.nan, *ends),
        max(ranks),
        float(torch.stack(squares).sum().sqrt()) if squares else math.nan,
        scores.cpu().numpy(),
        layer.reasons,
        layer.coupled_by,
    )


def _by_sample(place: Activation, width: int) -> Float[Tensor, "samples neurons"]:
    """Returns the mean absolute activation per sample and neuron, divided by the mean over the layer and the batch."""
    rows = [_means(magnitudes(each[None]), place.neurons.to(each.device), width) for each in place.values]
    by_sample = torch.stack(rows)
    mean = by_sample.mean()
    return by_sample / torch.where(mean > 0, mean, torch.ones_like(mean))


def score_bounds(relative: Float[Tensor, "samples neurons"]) -> Float[Tensor, "2 neurons"]:
    """Returns two rows: the lower and the upper 95 % confidence bound of each neuron's score.

    `relative` is the result of `_by_sample`. `dormant.metrics.score_bounds` explains the bounds.
    """
    samples, scores = len(relative), relative.mean(0)
    if samples < 2:
        return torch.stack([torch.zeros_like(scores), torch.full_like(scores, torch.inf)])
    residuals = relative - scores * relative.mean(1, keepdim=True)
    error = 1.96 * residuals.std(0) / math.sqrt(samples)
    times = (relative > 0).sum(0)
    active = scores * samples / times.clamp(min=1)
    if not bool(times.any()):
        return torch.stack([torch.zeros_like(scores), torch.full_like(scores, torch.inf)])
    median = torch.from_numpy(np.median(active[times > 0].cpu().numpy(), keepdims=True)).to(active)
    # NumPy and JAX return the mean of the two middle values. torch.median would return the lower value.
    active = torch.where(times > 0, active, median)
    return torch.stack([scores - error, scores + error + active / samples])


def _rows(place: Activation) -> Tensor:
    """Returns the activations as a matrix [samples and positions, neurons]."""
    own = [axis for axis, length in enumerate(place.neurons.shape) if length > 1]
    values = place.values.movedim(own, list(range(-len(own), 0))) if own else place.values[..., None]
    owners = place.neurons.flatten().to(values.device)
    values = values.reshape(-1, len(owners))[:, owners.argsort(stable=True)][:, int((owners < 0).sum()) :]
    each = max(int((owners == owners.max()).sum()), 1)  # elements per neuron and sample
    return values.reshape(len(values), -1, each).transpose(1, 2).reshape(-1, values.shape[1] // each)


def effective_rank(matrix: Float[Tensor, "samples neurons"]) -> float:
    """Returns exp(-sum_i p_i log p_i), where p_i = s_i / sum_j s_j for the singular values s, or 0 for a zero matrix.

    >>> round(effective_rank(torch.diag(torch.tensor([1.0, 1.0, 0.0]))), 3)
    2.0

    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality", definition 1.
    """
    values = torch.linalg.svdvals(matrix.to(torch.promote_types(matrix.dtype, torch.float32)))
    shares = values / values.sum() if bool(values.any()) else values
    entropy = -torch.xlogy(shares, shares).sum()
    return float(entropy.exp()) if bool(values.any()) else 0.0
