"""Reports, printed wirings, and reasons why layers are not recycled. Used for networks in JAX and in PyTorch."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes  # an optional package

WIDTH = 120  # columns of a printed table
NARROWEST = 8  # fewest columns of a wrapped cell
BREAK = "\t"  # a place where the path of a parameter may be broken
SENTENCE = 40  # the last column of a table holds sentences; it shrinks first, down to this width


class Reason(str):
    """A string that explains why a layer is not recycled. `cure` is a string that tells the user what to change.

    >>> reason = Reason("the function also returns it", RETURN)
    >>> reason, reason.cure
    ('the function also returns it', 'trace a function that does not return it')
    """

    cure: str

    def __new__(cls, text: str, cure: str) -> "Reason":
        reason = super().__new__(cls, text)
        reason.cure = cure
        return reason


APART = "insert a layer with its own weights between it and the values it is combined with"
OWN = "give each of its neurons weights of its own"
DIRECT = "use those parameters directly as weights, without computing with them first"
SILENT = "add or pad before the activation, or use an activation that maps 0 to 0"
TRAIN = "let a gradient reach that parameter, or leave the layer as it is"
RETURN = "trace a function that does not return it"
BRANCH = "choose with torch.where or an index instead of Python's if, for or while"
PYTHON = "keep the value a tensor: no item(), tolist() or numpy() in forward"
RUNS = "make forward run on the example inputs in training mode, with gradients on"


def cures(reasons: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns one line per cure, which lists the layers that need it. `reasons` maps each layer's name to its reasons.

    >>> cures({"conv": [Reason("its kernel is frozen", TRAIN)], "dense": []})
    ['to recycle conv: let a gradient reach that parameter, or leave the layer as it is']
    """
    layers: dict[str, dict[str, None]] = {}
    for layer, why in reasons.items():
        for reason in why:
            if isinstance(reason, Reason):
                layers.setdefault(reason.cure, {})[layer] = None
    return [f"to recycle {', '.join(names)}: {cure}" for cure, names in layers.items()]


@runtime_checkable
class HasReasons(Protocol):
    """An object with the reasons why a layer is not recycled, and the normalisations that couple its neurons."""

    @property
    def reasons(self) -> Sequence[str]: ...
    @property
    def coupled_by(self) -> Sequence[str]: ...


@runtime_checkable
class Layer(HasReasons, Protocol):
    """A layer of a wiring, in JAX or PyTorch."""

    @property
    def name(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def incoming(self) -> Mapping[str, object]: ...
    @property
    def outgoing(self) -> Mapping[str, object]: ...


def printed_wiring(layers: Sequence[Layer], outputs: Sequence[str], not_followed: Mapping[str, str]) -> str:
    """Returns the text of a printed wiring: a table of the layers, and lines on all other parts of the network.

    These lines list the output layers, the parameters that are not followed, and the cures.
    """
    rows = [("layer", "neurons", "fed by", "read by", "recycled")]
    rows += [
        (layer.name, str(layer.width), _paths(layer.incoming), _paths(layer.outgoing), status(layer))
        for layer in layers
    ]
    ends = [f"output layers, not measured: {', '.join(outputs) or 'none'}"]
    ends += [f"not followed: {_short(path)} ({how})" for path, how in not_followed.items()]
    ends += cures({layer.name: layer.reasons for layer in layers})
    return "\n".join(
        [*table(rows), *(line for end in ends for line in textwrap.wrap(end, WIDTH, subsequent_indent="  "))]
    )


def status(layer: HasReasons) -> str:
    """Returns "yes" if a layer is recycled, or "no: " and the reasons. Names normalisations that couple its neurons."""
    if layer.reasons:
        return "no: " + "; ".join(layer.reasons)
    return "yes" + (f", but its neurons are coupled by {', '.join(layer.coupled_by)}" if layer.coupled_by else "")


def _paths(entries: Mapping[str, object]) -> str:
    return ", ".join(map(_short, entries)) or "-"


def _short(path: str) -> str:
    """Returns the path of a parameter without the prefix "params/", which Flax adds."""
    return path.removeprefix("params/")


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table with aligned columns. Long cells are wrapped so that no line is longer than `WIDTH`.

    >>> table([("layer", "neurons"), ("conv1", "32")])
    ['layer  neurons', 'conv1  32']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    gaps = 2 * (len(widths) - 1)
    # The last column holds sentences, so it is wrapped before the columns that hold names.
    widths[-1] = min(widths[-1], max(SENTENCE, WIDTH - gaps - sum(widths[:-1])))
    while (over := sum(widths) + gaps - WIDTH) > 0 and max(widths) > NARROWEST:
        widest = widths.index(max(widths))
        # The widest column shrinks to the width of the second widest column, or less if the table then fits.
        next_widest = max((size for size in widths if size < widths[widest]), default=0)
        widths[widest] = max(next_widest, widths[widest] - over, NARROWEST)
    lines = []
    for row in rows:
        cells = [_wrapped(cell, size) for cell, size in zip(row, widths, strict=True)]
        for index in range(max(map(len, cells))):
            line = [cell[index] if index < len(cell) else "" for cell in cells]
            lines.append("  ".join(map(str.ljust, line, widths)).rstrip())
    return lines


def _wrapped(cell: str, size: int) -> list[str]:
    """Returns the lines of a cell. The path of a parameter is broken after a dot or a slash, if it must be broken.

    >>> _wrapped("policy.cnn.0.weight, policy.cnn.0.bias", 15)
    ['policy.cnn.0.', 'weight, policy.', 'cnn.0.bias']
    """
    if len(cell) <= size:
        return [cell]
    marked = re.sub(r"(?<=[./])(?=\S)", BREAK, cell)
    lines = textwrap.wrap(marked, size, expand_tabs=False, replace_whitespace=False)
    return [line.replace(BREAK, "") for line in lines]


class Interval(NamedTuple):
    """An estimate and its 95 % interval. Unknown bounds are NaN. In compiled code, all three fields are arrays."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class LayerReport:
    """One row of a report: a layer's dormant neurons, scores, effective rank and weight norm on the batch.

    `interval` is the dormant fraction with its 95 % interval. `reasons` explain why the layer is not recycled.
    `coupled_by` names the normalisations that couple its neurons. For a layer with NaN or infinite activations, the
    scores, the share, the interval and the effective rank are NaN. The row for all layers together (`Report.all`) has
    NaN as its rank and norm.
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
        """The number of dormant neurons divided by the number of neurons, or NaN if a score is NaN."""
        return float(self.interval.estimate)


@dataclass(frozen=True, eq=False)
class Report:
    """A report on a network. It prints as a table.

    `layers` has one row per layer, in the order of computation. `all` is the row for all layers together. `samples` is
    the size of the batch.
    """

    layers: tuple[LayerReport, ...]
    all: LayerReport
    tau: float
    samples: int

    def __str__(self) -> str:
        rows = [("layer", "neurons", "dormant", "share", "95 % interval", "effective rank", "weight norm")]
        rows += [*map(_row, self.layers), (*_row(self.all)[:5], "", "")]
        last = ["recyclable", *(status(layer) for layer in self.layers), ""]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:]), status]).rstrip()
            for row, status in zip(rows, last, strict=True)
        ]
        return "\n".join([*lines, self.conditions])

    def plot(self, axes: "tuple[Axes, Axes] | None" = None) -> "tuple[Axes, Axes]":
        """Draws the report in matplotlib, and returns the two axes.

        The first axes show the dormant fraction of each layer with its interval. The second axes show the scores of
        each layer in ascending order. If matplotlib is not installed, raises ModuleNotFoundError with the command that
        installs it.
        """
        from .plots import draw_shares, draw_sorted_scores, report_axes

        shares, scores = report_axes(len(self.layers)) if axes is None else axes
        rows = (*self.layers, self.all)
        draw_shares(shares, {f"{row.name} ({row.neurons})": row.interval for row in rows}, self.tau)
        draw_sorted_scores(scores, {layer.name: layer.scores for layer in self.layers}, self.tau)
        return shares, scores

    @property
    def conditions(self) -> str:
        """The last line of the printed report: tau, the size of the batch, and a note if intervals are unknown."""
        told = f"tau = {self.tau:g}, a batch of {self.samples} samples"
        finite = [layer for layer in self.layers if not np.isnan(layer.share)]
        unknown = any(np.isnan(layer.interval.low) for layer in finite)
        return f"{told}; no intervals: the samples of a batch influence one another" if unknown else told


def pooled(layers: Sequence[LayerReport]) -> LayerReport:
    """Returns the row of a report for all layers together."""
    neurons, dormant = sum(layer.neurons for layer in layers), sum(layer.dormant for layer in layers)
    ends = [float(sum(layer.interval[end] * layer.neurons for layer in layers) / neurons) for end in (1, 2)]
    scores = np.concatenate([layer.scores for layer in layers])
    share = np.nan if np.isnan(scores).any() else dormant / neurons
    return LayerReport("all", neurons, dormant, Interval(share, *ends), np.nan, np.nan, scores)


def _row(layer: LayerReport) -> tuple[str, ...]:
    _, low, high = layer.interval
    interval = "-" if np.isnan(low) else f"{100 * low:.1f} - {100 * high:.1f} %"
    known = not np.isnan(layer.share)
    dormant, share = (str(layer.dormant), f"{100 * layer.share:.1f} %") if known else ("nan", "nan")
    unknown = "" if known else "nan"
    rank, weights = (
        unknown if np.isnan(value) else f"{value:.2f}" for value in (layer.effective_rank, layer.weight_norm)
    )
    return layer.name, str(layer.neurons), dormant, share, interval, rank, weights
