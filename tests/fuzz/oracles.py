"""Checks after recycling at tau = 0. They use values and derivatives, never the wiring that the tracer returns.

`structure` defines units and entries. A `truth` is a `Structure` with the true dependencies of a program.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .program import Program, Values
from .structure import Reading, Structure, Table, still_read

RUNNING = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Failure:
    """One failed check: its kind, and a description."""

    kind: str
    seen: str


@dataclass
class Outcome:
    """The outcome of one program: how many layers are recycled or only measured, or why `trace` refused the program."""

    recycled: int = 0
    measured: int = 0
    refused: str = ""
    acted: bool = False  # some unit was recycled
    failures: list[Failure] = field(default_factory=list)

    @property
    def status(self) -> str:
        if self.failures:
            return "failed"
        return "refused" if self.refused else "recycled" if self.recycled else "measured"


def flat(values: Mapping[str, np.ndarray], truth: Structure) -> np.ndarray:
    """Returns all parameters as one vector, with the entries in the order of `truth`."""
    return np.concatenate([np.ravel(values[name]) for name in truth.names]) if truth.names else np.zeros(0)


def entry_name(truth: Structure, entry: int) -> str:
    """Returns the name of an entry, such as `w3[7]` for entry 7 of the flattened parameter w3."""
    name = next(name for name in truth.names if truth.of(name).start <= entry < truth.of(name).stop)
    return f"{name}[{entry - truth.of(name).start}]"


def unit_name(truth: Structure, unit: int) -> str:
    return "unit {1} of kernel {0}".format(*truth.units[unit])


def _some(truth: Structure, entries: np.ndarray) -> str:
    found = [entry_name(truth, int(entry)) for entry in np.flatnonzero(entries)]
    return ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")


def silent_units(truths: Sequence[Structure], zero: Sequence[Table]) -> Table:
    """Returns a mask of the silent units. On the whole batch, all kernel inputs and outputs that they reach are 0."""
    silent = np.ones(len(truths[0].units), bool)
    reached = np.zeros(len(truths[0].units), bool)
    for truth in truths:
        for reading, zeros in zip(truth.readings, zero, strict=True):
            silent &= ~(reading.units & ~zeros[:, None]).any(0)
            reached |= reading.units.any(0)
    return silent & reached


def recycled_units(truth: Structure, before: Values, after: Values, donor: Values) -> Table:
    """Returns a mask of the units that have a redrawn entry in their kernel."""
    old, new = flat(before, truth), flat(after, truth)
    fresh = (old != new) & (new == flat(donor, truth))
    return (truth.columns & fresh).any(1)


def judge_entries(
    truths: Sequence[Structure],
    before: Values,
    after: Values,
    donor: Values,
    trained: set[str],
    zero: Sequence[Table] | None,
) -> list[Failure]:
    """Checks that only entries of silent units changed, and that every entry that feeds a recycled unit changed.

    If `zero` is None, silent units are not known, so only the entries that feed recycled units are checked.
    """
    truth = truths[0]
    old, new, fresh_values = (flat(values, truth) for values in (before, after, donor))
    may_train = np.concatenate([np.full(truth.sizes[i], name in trained) for i, name in enumerate(truth.names)])
    running = np.concatenate([np.full(truth.sizes[i], name.endswith(RUNNING)) for i, name in enumerate(truth.names)])
    changed = (old != new) & ~(np.isnan(old) & np.isnan(new)) & ~running
    fresh, zeroed = changed & (new == fresh_values), changed & (new == 0)
    found = []

    def fail(kind: str, wrong: np.ndarray, what: str) -> None:
        if wrong.any():
            found.append(Failure(kind, f"{_some(truth, wrong)}: {what}"))

    fail("a strange value", changed & ~fresh & ~zeroed, "changed to a value that is neither fresh nor 0")
    fail("an entry that nothing trains changed", changed & ~may_train, "not trained, yet overwritten")
    silent = np.ones(len(truth.units), bool)
    if zero is not None:
        silent = silent_units(truths, zero)
        for each in truths:
            fixed = ~(each.columns & may_train).any(1)  # units of a constant kernel are treated as inputs
            found += _judge_readings(each, fresh, zeroed, silent | fixed, zero)
    recycled = np.flatnonzero((truth.columns & fresh).any(1))
    # An entry that was 0 and reads a recycled unit may have been set to 0 without a visible change. So may an entry
    # that reads a unit whose whole kernel is 0, because this unit may have been recycled without a visible change.
    unseen = silent & ~(truth.columns & (new != 0)).any(1)
    reads = np.any([_readers(each, unit) for each in truths for unit in {*recycled, *np.flatnonzero(unseen)}], 0)
    old = may_train & ~running & ~changed & ~((new == 0) & reads)
    for unit in recycled:
        what = f"feeds {unit_name(truth, unit)}, which was recycled, and is not fresh"
        fail("an old entry feeds a recycled unit", np.any([each.feeds[unit] for each in truths], 0) & old, what)
    return found


def judge_readers(
    program: Program, truths: Sequence[Structure], modes: Sequence[bool], before: Values, after: Values, donor: Values
) -> list[Failure]:
    """Checks that no kernel reads a recycled unit any more, not even in branches that were not taken."""
    recycled, now = recycled_units(truths[0], before, after, donor), flat(after, truths[0]) != 0
    for truth, training in zip(truths, modes, strict=True):
        for reading, alive in zip(truth.readings, still_read(program, after, training), strict=False):
            kept = reading.units & alive[:, None] & recycled
            for element in np.flatnonzero(kept.any(1)):
                if not _scales(truth, reading, int(element), recycled, now):
                    unit = int(np.flatnonzero(kept[element])[0])
                    what = f"{reading.name} still reads {unit_name(truth, unit)}, which was recycled"
                    return [Failure("a kernel still reads a recycled unit", what)]
    return []


def _scales(truth: Structure, reading: Reading, element: int, recycled: Table, now: Table) -> bool:
    """Whether a kernel only scales an element, and the scaled neuron was recycled with the element.

    In `(padded * kernel).sum()`, for example, all other elements are a constant 0, so the result is the same neuron.
    """
    made = (truth.columns & reading.read_by[element] & now).any(1)
    beside = (reading.read_by[:, truth.columns[made].any(0)]).any(1) & reading.units.any(1)
    return bool(recycled[made].all() and (reading.units[beside] == reading.units[element]).all())


def _readers(truth: Structure, unit: int) -> np.ndarray:
    rows = [reading.read_by[reading.units[:, unit]] for reading in truth.readings if reading.read_by.size]
    return np.concatenate(rows).any(0) if rows else np.zeros(sum(truth.sizes), bool)


def _judge_readings(
    truth: Structure, fresh: np.ndarray, zeroed: np.ndarray, silent: Table, zero: Sequence[Table]
) -> list[Failure]:
    found = []
    excused = ~np.concatenate(
        [t for reading in truth.readings for t in (reading.entries, reading.read_by) if t.size]
    ).any(0)
    for reading, zeros in zip(truth.readings, zero, strict=True):
        live = ~zeros
        wrong = (reading.entries[live] & fresh).any(0)
        if wrong.any():
            what = f"redrawn, though {reading.name} depends on it where it is not 0"
            found.append(Failure("a live entry was redrawn", f"{_some(truth, wrong)}: {what}"))
        if reading.read_by.size:
            # Readers of an element may be zeroed if the element is 0 on every sample, because then no output changes.
            # It must be 0 because its units are silent, or because one factor of a gated pair is silent. The tracer
            # treats such a pair as one neuron. Readers of a constant 0, such as padding, may always be zeroed.
            nothing = ~reading.entries.any(1) & ~reading.raw
            alone = ~(reading.units & ~silent).any(1) | reading.gated
            dead = zeros & (reading.units.any(1) | nothing) & alone
            wrong = (reading.read_by[~dead] & zeroed).any(0)
            excused |= (reading.read_by[dead] & zeroed).any(0)
            if wrong.any():
                what = f"set to 0, though it reads a live element of {reading.name}"
                found.append(Failure("a live reader was zeroed", f"{_some(truth, wrong)}: {what}"))
    if (zeroed & ~excused).any() and not found:
        what = "set to 0, though it reads no silent unit"
        found.append(Failure("a live reader was zeroed", f"{_some(truth, zeroed & ~excused)}: {what}"))
    return found


def judge_outputs(kind: str, before: Sequence[Any], after: Sequence[Any]) -> list[Failure]:
    """Checks that outputs are equal to the last bit."""
    for index, (one, two) in enumerate(zip(before, after, strict=True)):
        if not np.array_equal(one, two, equal_nan=True):
            moved = np.nanmax(np.abs(np.asarray(one) - np.asarray(two)))
            return [Failure(kind, f"output {index} moved by {moved:.3g}")]
    return []


def silence(program: Program, truths: Sequence[Structure], values: Values) -> Values:
    """Returns the values with random units silenced. Changes only entries that feed no other unit."""
    rng = np.random.default_rng(program.seed + 7)
    truth = truths[0]
    chosen = rng.random(len(truth.units)) < 0.45
    feeds = np.any([each.feeds for each in truths], 0)
    mine = feeds[chosen].any(0) & ~feeds[~chosen].any(0)
    changed = flat(values, truth).copy()
    roles = {name: node.attrs["role"] for name, node in program.parameters.items()}
    biases = np.concatenate([np.full(truth.sizes[i], roles[name] == "bias") for i, name in enumerate(truth.names)])
    if (mine & biases).any() and rng.random() < 0.5:
        changed[mine & biases] = -30.0
        with_bias = feeds[:, mine & biases].any(1)
        mine &= ~feeds[with_bias].any(0)
    if any("norm" in name for name in program.operations):  # a bias of a norm does not feed exactly one unit
        changed[biases & (rng.random(len(biases)) < 0.3)] = -30.0
    keep = np.concatenate([np.full(truth.sizes[i], name.endswith(RUNNING)) for i, name in enumerate(truth.names)])
    changed[mine & ~keep] = 0.0
    return {name: changed[truth.of(name)].reshape(values[name].shape).astype(np.float32) for name in truth.names}


def is_trace_error(error: Exception) -> bool:
    """Whether the library refused the network on purpose."""
    return type(error).__name__ == "TraceError"
