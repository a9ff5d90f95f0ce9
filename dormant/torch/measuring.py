"""Measures a module's neurons: dormancy on a batch, utilities, and the gradients that reach them."""

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

# Seeds of the runs that check whether a dormant neuron fires if the module draws other random numbers.
SEEDS: tuple[Seed, ...] = (0, 1, 2, 3, "lowest", "highest")
RUNS: tuple[tuple[bool, Seed], ...] = ((True, None), *((mode, seed) for seed in SEEDS for mode in (False, True)))
AVERAGES = ("exp_avg", "momentum_buffer")  # running averages of gradients in the state of optimizers
NO_NEURONS = "the module has no neurons: no weight of a layer reads another layer."


@dataclass(frozen=True, eq=False)
class Report:
    """Each layer's neuron scores and dormant masks, and the fraction of all neurons that is dormant.

    `left_out` names the layers that were not computed, because these inputs take a branch without them.
    """

    tau: float
    scores: Mapping[str, Float[Tensor, " neurons"]]
    masks: Mapping[str, Bool[Tensor, " neurons"]]
    left_out: tuple[str, ...] = ()

    @property
    def fraction(self) -> float:
        """The number of dormant neurons, divided by the number of neurons. Ignores layers that are left out.

        NaN if an activation is not finite, or if every layer is left out. Raises ValueError if the module has no
        neurons.
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
    """Returns the scores and dormant masks of a module's neurons on a batch of inputs, without output layers.

    The module runs in evaluation mode without gradients, and its state is restored afterwards. If an activation of a
    layer is NaN or infinite, the layer's scores and dormant fraction are NaN, and none of its neurons counts as
    dormant. A warning names such a layer once.

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
                f"expected a {kind.__name__} as the {place} argument, got a {type(value).__name__}: "
                "wiring = trace(module, *inputs), and then measure(module, wiring, *inputs) or "
                "recycle_(module, wiring, *inputs)."
            )


def lasting_scores(module: nn.Module, wiring: Wiring, *inputs: object) -> dict[str, Float[Tensor, " neurons"]]:
    """Returns each neuron's largest score over both modes and several seeds of the random numbers.

    A neuron with a low score is inactive in all of these runs. A module whose runs would all be equal runs once.
    """
    scores = wiring.scores(module, *inputs)
    for training, seed in RUNS:
        others = wiring.scores(module, *inputs, training=training, seed=seed)
        scores = {name: torch.maximum(each, others[name]) if name in others else each for name, each in scores.items()}
    return scores


def contributions(module: nn.Module, wiring: Wiring, *inputs: object) -> dict[str, Float[Tensor, " neurons"]]:
    """Returns each neuron's mean absolute activation, times the sum of its absolute outgoing weights.

    If a neuron is read at several values, it has one mean activation at each; the largest is used. The result lacks
    layers that these inputs do not compute.

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
    """Returns each neuron's overall utility: mean |h - mean h| * sum |outgoing| / sum |incoming|.

    h is the neuron's activation. A layer with a NaN or infinite activation has NaN for all of its neurons.

    Source: Dohare et al. 2021, "Continual backprop", overall utility. We count biases among the incoming weights.
    """
    found = {}
    for name, each in _activity(module, wiring, inputs, centred=True).items():
        fed, read = (_weight(module, wiring[name], side) for side in ("incoming", "outgoing"))
        found[name] = each * read / fed.clamp(min=torch.finfo(fed.dtype).tiny)
    return found


def gradient_scores(wiring: Wiring, gradients: Mapping[str, Tensor]) -> dict[str, Float[Tensor, " neurons"]]:
    """Returns each neuron's mean absolute incoming gradient, divided by the mean of its layer.

    `gradients` maps the names of parameters to gradients, from a backward pass or from `first_moments`.

    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    >>> gradient_scores(trace(net, torch.ones(1, 1)), {"0.weight": torch.tensor([[0.0], [-3.0]])})["0"].tolist()
    [0.0, 2.0]

    Source: Liu et al. 2025, "Measure gradients, not activations! Enhancing neuronal activity in deep RL" (ReGraMa). We
    count biases among the incoming weights.
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

    Raises ValueError for a negative tau. Source: Liu et al. 2025; see `gradient_scores`.
    """
    scores = gradient_scores(wiring, gradients)
    return Report(tau, scores, {name: each <= checked_tau(tau) for name, each in scores.items()}).fraction


def first_moments(
    module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], names: Iterable[str]
) -> dict[str, Tensor]:
    """Returns the running average of the gradient of the named parameters, from the optimizers' state.

    The result lacks parameters that were not trained yet, such as those of an actor that is trained later than its
    critic. Raises ValueError if an optimizer keeps no average, such as RMSprop, or if no parameter has an average.
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
    """Returns the sum of each neuron's absolute incoming or outgoing weights, without buffers."""
    leaves = {plain_name(name): leaf.detach() for name, leaf in plain(module).named_parameters()}
    owners = layer.incoming if side == "incoming" else layer.outgoing
    sums = [
        entry_sums(magnitudes(leaves[name]), owner, layer.width) for name, owner in owners.items() if name in leaves
    ]
    return torch.stack(sums).sum(0) if sums else torch.zeros(layer.width)


def _activity(module: nn.Module, wiring: Wiring, inputs: tuple[object, ...], centred: bool) -> dict[str, Tensor]:
    """Returns each neuron's mean absolute activation, or deviation if `centred`. NaN if an activation is not finite."""
    widths, found = {layer.name: layer.width for layer in wiring.layers}, dict[str, list[Tensor]]()
    for name, neurons, values in wiring.measure(module, inputs, False, None):
        if name not in widths or int(neurons.max()) >= widths[name]:  # these inputs take a branch without it
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
    """Returns the mean of the elements of each neuron."""
    ones = torch.ones_like(values, dtype=torch.float32)
    return entry_sums(values, neurons, width) / entry_sums(ones, neurons, width).clamp(min=1)


def report(module: nn.Module, *inputs: object, tau: float = 0.1) -> reasons.Report:
    """Returns the dormant neurons of every layer, with sampling intervals, effective ranks and weight norms.

    The result has the type that `dormant.report` returns, and prints as a table. Every tensor of `inputs` has the
    samples of the batch along its first axis. The effective rank is the rank of the activations, with one row per
    sample and position. The weight norm is the norm of all incoming weights. A layer has no interval if its activations
    do not have the samples along their first axis. The cost is a trace, plus the singular values of each layer's
    activations.

    >>> net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 1))
    >>> _ = net[0].weight.data.copy_(torch.diag(torch.tensor([1.0, 1.0, 0.0])))
    >>> print(report(net, torch.eye(3).repeat(20, 1)))
    layer  neurons  dormant   share  95 % interval  effective rank  weight norm  recyclable
    0            3        1  33.3 %  33.3 - 33.3 %            2.00         1.41  yes
    all          3        1  33.3 %  33.3 - 33.3 %
    tau = 0.1, a batch of 60 samples

    Raises ValueError if tau is negative, the batch is empty, or the inputs differ in the length of their first axis.
    Source: Sokar et al. 2023 for the scores. The interval is ours (see `dormant.metrics.score_bounds`).
    """
    lengths = {len(each) if each.ndim else None for each in tensors_in(inputs) or []}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(f"every input must have the batch as its first axis, with the same length; got {lengths}.")
    wiring = trace(module, *inputs)
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
    """Returns the mean absolute activation of each neuron on each sample, divided by the layer's mean."""
    rows = [_means(magnitudes(each[None]), place.neurons.to(each.device), width) for each in place.values]
    by_sample = torch.stack(rows)
    mean = by_sample.mean()
    return by_sample / torch.where(mean > 0, mean, torch.ones_like(mean))


def score_bounds(relative: Float[Tensor, "samples neurons"]) -> Float[Tensor, "2 neurons"]:
    """Returns the lower and the upper 95 % confidence bound of each neuron's score; see `dormant.metrics.score_bounds`.

    `relative` holds the mean absolute activation of each sample and neuron, divided by the layer's mean.
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
    active = torch.where(times > 0, active, median)  # torch's median would be the lower of two middle values
    return torch.stack([scores - error, scores + error + active / samples])


def _rows(place: Activation) -> Tensor:
    """Returns the activations as a matrix [samples and positions, neurons]."""
    own = [axis for axis, length in enumerate(place.neurons.shape) if length > 1]
    values = place.values.movedim(own, list(range(-len(own), 0))) if own else place.values[..., None]
    owners = place.neurons.flatten().to(values.device)
    values = values.reshape(-1, len(owners))[:, owners.argsort(stable=True)][:, int((owners < 0).sum()) :]
    each = max(int((owners == owners.max()).sum()), 1)  # elements per neuron: 1 unless it has positions
    return values.reshape(len(values), -1, each).transpose(1, 2).reshape(-1, values.shape[1] // each)


def effective_rank(matrix: Float[Tensor, "samples neurons"]) -> float:
    """Returns the exponential of the entropy of the normalised singular values, or 0 for a zero matrix.

    >>> round(effective_rank(torch.diag(torch.tensor([1.0, 1.0, 0.0]))), 3)
    2.0

    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality", definition 1.
    """
    values = torch.linalg.svdvals(matrix.to(torch.promote_types(matrix.dtype, torch.float32)))
    shares = values / values.sum() if bool(values.any()) else values
    entropy = -torch.xlogy(shares, shares).sum()
    return float(entropy.exp()) if bool(values.any()) else 0.0
