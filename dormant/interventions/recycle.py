"""Interventions that recycle neurons: `ReDo`, `Recycle`, `ContinualBackprop`, and the released code of ReDo."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..metrics import contributions, gradient_scores, utilities
from ..scores import neuron_scores
from ..settings import Renewal, check_continual_backprop, check_recycle, check_recycling, checked_tau
from ..surgery import Learner, Recycled, count, first_moments, fresh, graft, recyclable, renewed, uncounted
from ..wiring import Entries, Network, NeuronLayer, Wiring, by_path, entry_mask
from .how_many import Dormant, Number
from .schedule import when


@dataclass(frozen=True)
class ReDo:
    """Recycles the tau-dormant neurons of every layer that can be recycled safely.

    Recycled neurons get incoming weights from the network's initialiser, and outgoing weights of zero. With `tau=0`,
    the outputs of the network on the score batch (the inputs of `update`) do not change at all, unless a normalisation
    couples the neurons or `outgoing` is "fresh".

    - `outgoing`: "zero", or "fresh" to also draw the outgoing weights from the initialiser (the paper's figure 22).
    - `moments`: "fresh" gives recycled weights the optimizer state of a new weight (zero moments for Adam). "keep" does
      not change their state.
    - `step_count`: "keep" does not change Adam's step count, as in the paper. The first step of a recycled weight is
      then (1 - b1) / sqrt(1 - b2) = 3.2 learning rates long. "restart" sets the count to zero whenever a neuron is
      recycled. All weights share the count, so this also changes the bias correction of the other weights.
    - `coupled`: "recycle" or "skip" the layers whose neurons are coupled by a normalisation.
    - `layers`: names of the layers to recycle. The name of a network, such as "actor", stands for its layers, such as
      "actor/dense". None recycles all layers that can be recycled safely.
    - `incoming`: "fresh" uses the weights from the initialiser. "scaled" scales each incoming vector to the mean length
      of the vectors of the layer's other neurons (the paper's figure 23).

    >>> ReDo(tau=0.025).tau
    0.025

    Raises ValueError for a negative tau or an unknown option. `init` raises ValueError for a layer that does not exist
    or that can't be recycled safely.
    Source: Sokar et al. 2023, algorithm 1. We also reset the moments of biases, draw each layer from its own
    initialiser, and find outgoing weights by tracing. docs/differences.md lists the differences from the reference.
    """

    tau: float = 0.1
    outgoing: Literal["zero", "fresh"] = "zero"
    moments: Literal["fresh", "keep"] = "fresh"
    step_count: Literal["keep", "restart"] = "keep"
    coupled: Literal["recycle", "skip"] = "recycle"
    layers: tuple[str, ...] | None = None
    incoming: Literal["fresh", "scaled"] = "fresh"

    def __post_init__(self) -> None:
        checked_tau(self.tau)
        check_recycling(self.renewal, self.coupled, self.layers)

    @property
    def renewal(self) -> Renewal:
        """The options for the new weights and their optimizer state."""
        return Renewal(self.outgoing, self.incoming, self.moments, self.step_count)

    def init(self, learner: Learner, network: Network) -> Recycled:
        return uncounted(self.targets(learner, network))

    def targets(self, learner: Learner, network: Network) -> list[NeuronLayer]:
        """Returns the layers that this intervention recycles."""
        return recyclable(network, learner.params, self.layers, self.coupled)

    def update(
        self, key: Array, learner: Learner, state: Recycled, network: Network, *inputs: PyTree
    ) -> tuple[Learner, Recycled]:
        dormant = network.wiring.dormant(learner.params, *inputs, tau=self.tau)
        masks = {name: dormant[name] for name in state.counts}
        return renewed(key, learner, network, masks, self.renewal), count(state, masks)


Score = Literal["activation", "gradient", "contribution", "utility"]


class Recycling(NamedTuple):
    """How often the intervention has acted so far, and how many neurons of each layer were recycled."""

    recyclings: Int[Array, ""]
    recycled: Recycled


@dataclass(frozen=True)
class Recycle:
    """Recycles neurons by any score, in every layer that can be recycled safely.

    - `score`: "activation" is the score of ReDo. "gradient" is the mean absolute first moment of the incoming weights,
      from the optimizer's state (ReGraMa). "contribution" and "utility" are the utilities of continual backprop. Each
      score is divided by its mean over the layer.
    - `number`: the rule that sets how many neurons to recycle: `Dormant`, `Share`, `PooledShare` or `Gap`.
    - `order`: "lowest" recycles the neurons with the lowest scores. For control experiments, "highest" and "random"
      recycle the same number of neurons, but those with the highest scores, or random neurons.
    - `at_most`: the largest number of neurons to recycle per layer and call. None sets no limit.
    - `renewal`: the options for the new weights and their optimizer state.
    - `coupled` and `layers`: as in `ReDo`.

    >>> regrama = Recycle("gradient", Dormant(tau=0.01))
    >>> Recycle(number=Dormant(0.1), order="random").at_most is None
    True

    Raises ValueError for an unknown option or `at_most` below 1. `init` raises ValueError for a layer that does not
    exist or can't be recycled, and if the score is "gradient" but the optimizer keeps no first moments.
    Source: Sokar et al. 2023, figures 15 and 25. "gradient" follows Liu et al. 2025 (ReGraMa), who use the gradient of
    the last batch. We use the running average of the gradient, which is available in any training loop.
    """

    score: Score = "activation"
    number: Number = Dormant()  # noqa: RUF009 (immutable, so it may be shared)
    order: Literal["lowest", "highest", "random"] = "lowest"
    at_most: int | None = None
    renewal: Renewal = Renewal()  # noqa: RUF009
    coupled: Literal["recycle", "skip"] = "recycle"
    layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_recycle(self.score, self.number, self.order, self.at_most, Number)
        check_recycling(self.renewal, self.coupled, self.layers)

    def init(self, learner: Learner, network: Network) -> Recycling:
        if self.score == "gradient":
            first_moments(learner)
        layers = recyclable(network, learner.params, self.layers, self.coupled)
        return Recycling(jnp.zeros((), jnp.int32), uncounted(layers))

    def update(
        self, key: Array, learner: Learner, state: Recycling, network: Network, *inputs: PyTree
    ) -> tuple[Learner, Recycling]:
        choosing, drawing = jax.random.split(key)
        found = _scores(self.score, learner, network, inputs)
        scores = {name: found[name] for name in state.recycled.counts}
        masks = {}
        for index, (name, number) in enumerate(self.number.count(scores, state.recyclings).items()):
            number = number if self.at_most is None else jnp.minimum(number, self.at_most)
            number = jnp.where(jnp.isnan(scores[name]).any(), 0, number)
            ranked = _ranked(jax.random.fold_in(choosing, index), scores[name], self.order)
            masks[name] = lowest(ranked, number)
        learner = renewed(drawing, learner, network, masks, self.renewal)
        return learner, Recycling(state.recyclings + 1, count(state.recycled, masks))


def _scores(score: Score, learner: Learner, network: Network, inputs: PyTree) -> dict[str, Array]:
    wiring = network.wiring
    match score:
        case "activation":
            return wiring.scores(learner.params, *inputs)
        case "gradient":
            return gradient_scores(wiring, first_moments(learner))
        case "contribution":
            found = contributions(wiring, learner.params, *inputs)
        case "utility":
            found = utilities(wiring, learner.params, *inputs)
    return {name: neuron_scores(values[None]) for name, values in found.items()}


def _ranked(key: Array, scores: Float[Array, " neurons"], order: str) -> Float[Array, " neurons"]:
    """Returns one value per neuron, so that the neurons to recycle first have the lowest values."""
    match order:
        case "highest":
            return -scores
        case "random":
            return jax.random.uniform(key, scores.shape)
        case _:
            return scores


def lowest(values: Float[Array, " neurons"], number: Int[Array, ""]) -> Bool[Array, " neurons"]:
    """Returns a mask of the `number` neurons with the lowest values. If values are equal, the earlier neuron is taken.

    >>> lowest(jnp.array([3.0, 1.0, 1.0]), jnp.array(1)).tolist()
    [False, True, False]
    """
    return jnp.argsort(jnp.argsort(values)) < number


class Usefulness(NamedTuple):
    """The state of one layer: each neuron's running utility and age in updates, and the replacements still due."""

    utility: Float[Array, " neurons"]
    age: Int[Array, " neurons"]
    owed: Float[Array, ""]  # number of replacements still due; may be a fraction


class Usefulnesses(NamedTuple):
    """The state of every layer, and how many neurons were replaced so far."""

    layers: dict[str, Usefulness]
    recycled: Recycled


@dataclass(frozen=True)
class ContinualBackprop:
    """Replaces the mature neurons with the lowest utilities, a share `replacement_rate` of them per update.

    A neuron is mature if it is older than `maturity` updates. The utility of a neuron is an exponential average over
    updates: average <- decay * average + (1 - decay) * utility. The average starts at zero, and is divided by 1 -
    decay^age to correct for this. `utility` is "contribution" or "overall" (`contributions` and `utilities` in
    `dormant.metrics`). If the share is less than one neuron, it is summed over updates until it reaches one neuron.
    Call `update` at every gradient step, not within `Every`. Each call costs a forward pass of the score batch.

    >>> ContinualBackprop(maturity=1_000).replacement_rate
    0.0001

    Raises ValueError for an unknown option, and for a rate, decay or maturity outside its range. `init` raises
    ValueError for a layer that does not exist or that can't be recycled safely.
    Source: Dohare et al. 2024, "Loss of plasticity in deep continual learning". The released code also adds the mean
    contribution of a replaced neuron to the bias of the next layer. We do not. We compute utilities on the score batch.
    """

    every_step: ClassVar[bool] = True
    replacement_rate: float = 1e-4
    maturity: int = 100
    decay: float = 0.99
    utility: Literal["contribution", "overall"] = "contribution"
    renewal: Renewal = Renewal()  # noqa: RUF009 (immutable)
    coupled: Literal["recycle", "skip"] = "recycle"
    layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_continual_backprop(self.replacement_rate, self.maturity, self.decay, self.utility)
        check_recycling(self.renewal, self.coupled, self.layers)

    def init(self, learner: Learner, network: Network) -> Usefulnesses:
        layers = recyclable(network, learner.params, self.layers, self.coupled)
        zeros = {
            layer.name: Usefulness(jnp.zeros(layer.width), jnp.zeros(layer.width, jnp.int32), jnp.zeros(()))
            for layer in layers
        }
        return Usefulnesses(zeros, uncounted(layers))

    def update(
        self, key: Array, learner: Learner, state: Usefulnesses, network: Network, *inputs: PyTree
    ) -> tuple[Learner, Usefulnesses]:
        measure = contributions if self.utility == "contribution" else utilities
        now = measure(network.wiring, learner.params, *inputs)
        chosen = {name: self.choose(layer, now[name]) for name, layer in state.layers.items()}
        masks = {name: mask for name, (_, mask) in chosen.items()}
        due = jnp.array([mask.any() for mask in masks.values()], bool).any()
        learner = when(due, lambda: renewed(key, learner, network, masks, self.renewal), learner)
        return learner, Usefulnesses({name: layer for name, (layer, _) in chosen.items()}, count(state.recycled, masks))

    def choose(
        self, layer: Usefulness, utility: Float[Array, " neurons"]
    ) -> tuple[Usefulness, Bool[Array, " neurons"]]:
        """Returns the layer's state after an update with these utilities, and a mask of the neurons to replace.

        If a utility is NaN, the state does not change and no neuron is replaced.
        """
        unknown = jnp.isnan(utility).any()
        age = layer.age + jnp.where(unknown, 0, 1)
        running = self.decay * layer.utility + (1 - self.decay) * utility
        running = jnp.where(unknown, layer.utility, running)
        corrected = running / (1 - self.decay ** age.astype(jnp.float32))
        mature = age > self.maturity
        owed = layer.owed + jnp.where(unknown, 0.0, self.replacement_rate * mature.sum().astype(jnp.float32))
        number = jnp.minimum(jnp.floor(owed).astype(jnp.int32), mature.sum(dtype=jnp.int32))
        number = jnp.where(unknown, 0, number)
        mask = lowest(jnp.where(mature, corrected, jnp.inf), number)
        owed = owed - number.astype(jnp.float32)
        return Usefulness(jnp.where(mask, 0.0, running), jnp.where(mask, 0, age), owed), mask


@dataclass(frozen=True)
class ReDoAsPublished:
    """Recycles neurons like the released code of ReDo (dopamine/labs/redo). `redo_as_published` explains the fields."""

    tau: float
    misaligned_flatten: bool
    next_recorded_layer: bool
    xavier: bool
    keep_bias_moments: bool
    unrecorded: tuple[str, ...]

    def __post_init__(self) -> None:
        checked_tau(self.tau)

    def init(self, learner: Learner, network: Network) -> Recycled:
        safe = recyclable(network, learner.params, None, "recycle")
        layers = [layer for layer in self.recorded(network.wiring) if layer in safe]
        return Recycled({layer.name: jnp.zeros((), jnp.int32) for layer in layers})

    def recorded(self, wiring: Wiring) -> list[NeuronLayer]:
        """Returns the layers whose activations the reference code records."""
        return [layer for layer in wiring.layers if layer.name.rpartition("/")[2] not in self.unrecorded]

    def outgoing(self, wiring: Wiring, shapes: dict[str, tuple[int, ...]]) -> dict[str, Entries]:
        """Returns the entries that the reference code sets to zero for each recycled layer."""
        recorded = self.recorded(wiring)
        entries = {}
        for layer, successor in zip(recorded, [*recorded[1:], None], strict=True):
            entries[layer.name] = layer.outgoing if successor is None else self._into(layer, successor, shapes)
        return {layer.name: entries[layer.name] for layer in recorded if layer.recyclable}

    def _into(self, layer: NeuronLayer, successor: NeuronLayer, shapes: dict[str, tuple[int, ...]]) -> Entries:
        kernel = next(path for path in successor.incoming if len(shapes[path]) > 1)
        rows = shapes[kernel][-2]
        only_next = self.next_recorded_layer
        known = {path: ids for path, ids in layer.outgoing.items() if path == kernel or not only_next}
        wrong = self.misaligned_flatten if kernel in layer.outgoing else only_next
        if wrong and rows % layer.width == 0 and (self.misaligned_flatten or rows == layer.width):
            flags = np.repeat(np.arange(layer.width), rows // layer.width)
            known |= {kernel: flags.reshape((1,) * (len(shapes[kernel]) - 2) + (rows, 1))}
        return known or layer.outgoing

    def update(
        self, key: Array, learner: Learner, state: Recycled, network: Network, *inputs: PyTree
    ) -> tuple[Learner, Recycled]:
        wiring = network.wiring
        dormant = wiring.dormant(learner.params, *inputs, tau=self.tau)
        masks = {name: dormant[name] for name in state.counts}
        shapes = {path: leaf.shape for path, leaf in by_path(learner.params).items()}
        fed = entry_mask(learner.params, {name: wiring[name].incoming for name in masks}, masks)
        outgoing = self.outgoing(wiring, shapes)
        read = entry_mask(learner.params, {name: outgoing[name] for name in masks}, masks)
        donor = _xavier(key, learner.params) if self.xavier else fresh(network, key, learner)
        donor = jax.tree.map(lambda hit, new: jnp.where(hit, jnp.zeros_like(new), new), read, donor)
        hit = jax.tree.map(jnp.logical_or, fed, read)
        forget = jax.tree.map(lambda one, leaf: one & (leaf.ndim > 1), hit, learner.params)
        forget = forget if self.keep_bias_moments else hit
        return graft(learner, hit, donor, network.tx, forget=forget), count(state, masks)


def _xavier(key: Array, params: PyTree[Array]) -> PyTree[Array]:
    """Returns Xavier-uniform kernels and zero biases with the shapes of `params`."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    draw = jax.nn.initializers.xavier_uniform()
    fresh_leaves = [
        draw(one, leaf.shape, leaf.dtype) if leaf.ndim > 1 else jnp.zeros_like(leaf)
        for one, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, fresh_leaves)


def redo_as_published(
    tau: float = 0.1,
    *,
    misaligned_flatten: bool = True,
    next_recorded_layer: bool = True,
    xavier: bool = True,
    keep_bias_moments: bool = True,
    unrecorded: tuple[str, ...] = ("Conv_4",),
) -> ReDoAsPublished:
    """Returns ReDo with four quirks of the released code. Each argument switches one quirk on or off.

    - `misaligned_flatten`: between a convolution and a dense layer, the wrong weights are set to zero. The code repeats
      each channel's dormant flag over neighbouring rows of the dense kernel. But neighbouring rows belong to different
      channels, because the map is flattened with channels last.
    - `next_recorded_layer`: the code records the activations of layers. It takes the incoming weights of the next
      recorded layer as a layer's outgoing weights. Layers in `unrecorded` are not recorded, such as the last
      convolution of an IMPALA stack. In a residual block, the code therefore sets weights to zero that read the
      residual stream.
    - `xavier`: fresh weights are Xavier uniform and fresh biases are zero, whatever the initialiser of the layer is.
    - `keep_bias_moments`: Adam's moments of biases are not reset.

    >>> redo_as_published(0.1).misaligned_flatten
    True

    Source: google/dopamine, dopamine/labs/redo/weight_recyclers.py and networks.py at revision 5873f54.
    """
    return ReDoAsPublished(tau, misaligned_flatten, next_recorded_layer, xavier, keep_bias_moments, unrecorded)
