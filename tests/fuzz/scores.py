"""Checks the scores of a wiring against activations that are recorded without the tracer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .oracles import Failure, entry_name, silent_units, unit_name
from .program import Program, Values
from .structure import Structure, Table
from .taps import Observed, observed

# Operations with several results per unit, or with one result for several units. Cumulative sums over time are among
# them: a layer is measured after the sum, but the first value of the sum equals an activation.
POOLS = {"max_pool", "max_time"}
SEVERAL = {"crelu", "glu", "take_traced", "cumsum_time", "scan_add", *POOLS}


def is_plain(program: Program) -> bool:
    """Whether every nonlinearity has one result for each unit."""
    return not program.operations & SEVERAL


def neurons_of(truth: Structure, incoming: Mapping[str, Any], width: int) -> Table:
    """Returns a mask [neurons, units] of each neuron's units, found by the kernel entries that feed the neuron."""
    owners = owners_of(truth, incoming)
    mine = owners[None, :] == np.arange(width)[:, None]
    return (mine.astype(int) @ truth.columns.T.astype(int)) > 0


def owners_of(truth: Structure, incoming: Mapping[str, Any]) -> np.ndarray:
    """Returns the neuron that each entry of the parameters feeds according to `incoming`, or -1 for other entries."""
    owners = np.full(sum(truth.sizes), -1)
    for name, neurons in incoming.items():
        owners[truth.of(name)] = np.broadcast_to(np.asarray(neurons), truth.shapes[name]).ravel()
    return owners


def judge_scores(
    program: Program, truths: Sequence[Structure], layers: Sequence[Any], scores: Mapping[str, Any], seen: Observed
) -> list[Failure]:
    """Checks that silent units score 0, and that the scores of simple layers equal scores computed by hand."""
    truth, found = truths[0], []
    quiet = silent_units(truths, seen.zero) & ~active(truth, seen.activations)
    if program.operations & POOLS:  # a maximum with zeros can silence a linear neuron after it is measured
        quiet[:] = False
    for layer in layers:
        if not layer.recyclable or layer.coupled_by:
            continue  # the entries may not identify a refused layer's units; coupled layers are scored after a norm
        neurons = neurons_of(truth, layer.incoming, layer.width)
        got = np.asarray(scores[layer.name])
        if np.isnan(got).all() and not finite(truth, neurons.any(0), seen.activations):
            continue  # a layer with an activation that is not finite has only NaN scores
        for neuron in np.flatnonzero(got != 0):
            units = np.flatnonzero(neurons[neuron])
            if len(units) and quiet[units].all():
                what = f"neuron {neuron} of {layer.name} ({unit_name(truth, units[0])}) scores {got[neuron]:.3g}"
                found.append(Failure("a silent neuron has a score", what))
                break
        expected = by_hand(truth, neurons, seen) if is_plain(program) else None
        if expected is not None and not np.allclose(got, expected, rtol=1e-3, atol=1e-6, equal_nan=True):
            what = f"{layer.name} scores {got.round(3).tolist()}, and its activations say {expected.round(3).tolist()}"
            found.append(Failure("wrong scores", what))
    return found


def judge_coupled(truth: Structure, layers: Sequence[Any], trained: set[str]) -> list[Failure]:
    """Checks that only a statistic couples neurons: no entry of another layer's kernel feeds a coupled neuron."""
    may_train = np.repeat([name in trained for name in truth.names], truth.sizes)
    for layer in layers:
        if not layer.recyclable or not layer.coupled_by:
            continue
        owners = owners_of(truth, layer.incoming)
        neurons = neurons_of(truth, layer.incoming, layer.width)
        own = truth.columns[neurons.any(0)].any(0)
        kernels = {truth.units[unit][0] for unit in np.flatnonzero(neurons.any(0))}
        others = np.array([name not in kernels for name, _ in truth.units])
        foreign = truth.columns[others].any(0) & ~own
        for neuron in range(layer.width):
            feeds = truth.feeds[neurons[neuron]].any(0) & may_train & (owners != neuron)
            wrong = feeds & ((owners < 0) | foreign)
            if wrong.any():
                what = f"{entry_name(truth, int(np.flatnonzero(wrong)[0]))} feeds neuron {neuron} of {layer.name}"
                return [Failure("a coupled neuron is fed by an entry that is not its own", what)]
    return []


def active(truth: Structure, activations: Sequence[np.ndarray]) -> Table:
    """Returns a mask of the active units. A nonzero result of some nonlinearity depends on each active unit."""
    active = np.zeros(len(truth.units), bool)
    for units, values in zip(truth.activations, activations, strict=True):
        active |= units[(values != 0).any(0)].any(0)
    return active


def finite(truth: Structure, mine: np.ndarray, activations: Sequence[np.ndarray]) -> bool:
    """Returns whether all activations of the units in the mask `mine` are finite."""
    pairs = zip(truth.activations, activations, strict=True)
    return all(np.isfinite(values[:, units[:, mine].any(1)]).all() for units, values in pairs)


def by_hand(truth: Structure, neurons: Table, seen: Observed) -> np.ndarray | None:
    """Returns the scores of a layer that has one nonlinearity, if kernels read its results unchanged. Else None."""
    mine = neurons.any(0)
    if not (neurons.sum(1) == 1).all() or mine.sum() < len(neurons):
        return None
    touched = [index for index, units in enumerate(truth.activations) if units[:, mine].any()]
    if len({truth.units[unit][0] for unit in np.flatnonzero(mine)}) != 1 or len(touched) != 1:
        return None
    units, values = truth.activations[touched[0]], seen.activations[touched[0]].astype(np.float64)
    counts = units[:, mine].sum(0)
    if (units.sum(1) > 1).any() or not units[:, mine].any(1).all() or len(set(counts.tolist())) != 1:
        return None
    if not np.any([reading.units[:, mine].any(0) for reading in truth.readings], 0).all():
        return None
    for reading, read in zip(truth.readings, seen.ends, strict=True):
        for element in np.flatnonzero(reading.units[:, mine].any(1)):
            same = units[:, reading.units[element]].any(1)
            if not any(np.array_equal(read[:, element], column) for column in values[:, same].T):
                return None
    means = (neurons.astype(float) @ units.T.astype(float)) @ np.abs(values).mean(0) / counts[0]
    return means / means.mean() if means.mean() > 0 else means


def judge_not_finite(
    program: Program,
    truth: Structure,
    layers: Sequence[Any],
    before: Values,
    after: Values,
    fraction: float,
    unit: int,
    batch: np.ndarray,
) -> list[Failure]:
    """Checks that a unit with NaN gives a dormant fraction of NaN, and that its layer is not recycled."""
    found: list[Failure] = []
    seen = observed(program, before, batch)
    activations = zip(truth.activations_of(unit), seen.activations, strict=True)
    readings = zip((reading.units[:, unit] for reading in truth.readings), seen.ends, strict=True)
    if not all(np.isnan(value[:, mine]).any() for mine, value in activations if mine.any()):
        return found  # a nonlinearity hides the NaN, as `where(h > 0, h, 0)` does
    if not any(np.isnan(value[:, mine]).any() for mine, value in readings):
        return found  # nothing reads the NaN, because a mask or an index leaves it out
    for layer in layers:
        neurons = neurons_of(truth, layer.incoming, layer.width)
        if not layer.recyclable or not neurons[:, unit].any():
            continue  # a refused layer's entries may belong to an earlier layer
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
    """Sets one entry of a unit's kernel to NaN. Returns the values and the unit, or None if no kernel is trained."""
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
