"""Checks the scores of a wiring against activations that were taken by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .oracles import Failure, Values, silent_units, unit_name
from .structure import Structure, Table

INEXACT = {"noise", "dropout", "per_sample_noise", "noisy_dense", "train_noise", "take_traced"} | {"crelu", "glu"}


def neurons_of(truth: Structure, incoming: Mapping[str, Any], width: int) -> Table:
    """[neurons, units]: the units of each neuron of a layer, found by the kernel entries that feed it."""
    owners = np.full(sum(truth.sizes), -1)
    for name, neurons in incoming.items():
        here = truth.of(name)
        owners[here] = np.broadcast_to(np.asarray(neurons), truth.shapes[name]).ravel()
    mine = owners[None, :] == np.arange(width)[:, None]
    return (mine.astype(int) @ truth.columns.T.astype(int)) > 0


def judge_scores(
    truths: Sequence[Structure], layers: Sequence[Any], scores: Mapping[str, np.ndarray], zero: Sequence[Table],
    activations: Sequence[np.ndarray], exact: bool,
) -> list[Failure]:  # fmt: skip
    """A silent unit scores 0, and a plain layer scores what its activations say."""
    truth, found = truths[0], []
    quiet = silent_units(truths, zero) & ~_active(truth, activations)
    for layer in layers:
        if not layer.recyclable or layer.coupled_by:
            continue
        neurons = neurons_of(truth, layer.incoming, layer.width)
        got = np.asarray(scores[layer.name])
        for neuron in np.flatnonzero(got != 0):
            units = np.flatnonzero(neurons[neuron])
            if len(units) and quiet[units].all():
                what = f"neuron {neuron} of {layer.name} ({unit_name(truth, units[0])}) scores {got[neuron]:.3g}"
                found.append(Failure("a silent neuron has a score", what))
                break
        expected = by_hand(truth, neurons, activations) if exact else None
        if expected is not None and not np.allclose(got, expected, rtol=1e-3, atol=1e-6, equal_nan=True):
            what = f"{layer.name} scores {got.round(3).tolist()}, and its activations say {expected.round(3).tolist()}"
            found.append(Failure("wrong scores", what))
    return found


def _active(truth: Structure, activations: Sequence[np.ndarray]) -> Table:
    """The units on which some nonlinearity's result depends that is not 0."""
    active = np.zeros(len(truth.units), bool)
    for units, values in zip(truth.activations, activations, strict=True):
        active |= units[(np.reshape(values, (len(values), -1)) != 0).any(0)].any(0)
    return active


def by_hand(truth: Structure, neurons: Table, activations: Sequence[np.ndarray]) -> np.ndarray | None:
    """The scores of a layer that passes one nonlinearity, element by element. None if the layer is not so plain."""
    if not (neurons.sum(1) == 1).all() or len(np.unique(neurons.argmax(1))) < len(neurons):
        return None
    if len({truth.units[unit][0] for unit in neurons.argmax(1)}) != 1:
        return None
    mine = neurons.any(0)
    touched = [index for index, units in enumerate(truth.activations) if units[:, mine].any()]
    if len(touched) != 1:
        return None
    units = truth.activations[touched[0]]
    one_each = (units.sum(1) <= 1).all() and (units[:, mine].any(1)).all()
    counts = units[:, mine].sum(0)
    if not one_each or len(set(counts.tolist())) != 1 or counts[0] == 0:
        return None
    size = np.abs(np.reshape(activations[touched[0]], (len(activations[touched[0]]), -1)).astype(np.float64)).mean(0)
    means = (neurons.astype(float) @ units.T.astype(float)) @ size / counts[0]
    return means / means.mean() if means.mean() > 0 else means


def judge_not_finite(
    truth: Structure, layers: Sequence[Any], before: Values, after: Values, fraction: float, unit: int
) -> list[Failure]:
    """Where a unit is not a number, the dormant fraction is not either, and nobody in its layer is recycled."""
    found = []
    for layer in layers:
        neurons = neurons_of(truth, layer.incoming, layer.width)
        if not neurons[:, unit].any():
            continue
        if not np.isnan(fraction):
            found.append(
                Failure("NaN is not reported", f"{layer.name} holds NaN, and the dormant fraction is {fraction}")
            )
        entries = truth.columns[neurons.any(0)].any(0)
        names = [name for name in truth.names if entries[truth.of(name)].any()]
        for name in names:
            mine = entries[truth.of(name)]
            old, new = np.ravel(before[name]), np.ravel(after[name])
            changed = (old != new) & ~(np.isnan(old) & np.isnan(new)) & (new != 0)
            if (changed & mine).any():
                found.append(Failure("a layer with NaN was recycled", f"{name} of {layer.name} changed"))
                break
    return found


def with_nan(truth: Structure, values: Values, trained: Sequence[str], seed: int) -> tuple[Values, int] | None:
    """The values with NaN in one entry of one unit's kernel, and the unit."""
    rng = np.random.default_rng(seed + 11)
    may = np.concatenate([np.full(size, name in trained) for name, size in zip(truth.names, truth.sizes, strict=True)])
    units = np.flatnonzero((truth.columns & may).any(1))
    if not len(units):
        return None
    unit = int(rng.choice(units))
    entry = int(rng.choice(np.flatnonzero(truth.columns[unit] & may)))
    changed = {name: value.copy() for name, value in values.items()}
    name = next(name for name in truth.names if truth.of(name).start <= entry < truth.of(name).stop)
    changed[name].flat[entry - truth.of(name).start] = np.nan
    return changed, unit
