"""Reasons why a layer is measured but not recycled, their cures, and the printed form of a wiring."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

WIDTH = 120  # columns
NARROWEST = 8  # fewest columns of a wrapped cell
SENTENCE = 40  # narrowest last column (sentences) before the other columns are wrapped


class Reason(str):
    """A string with the reason why a layer is not recycled. `cure` tells the user what to change.

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
SILENT = "add before the activation, or use an activation that maps 0 to 0"
TRAIN = "let a gradient reach that parameter, or leave the layer as it is"
RETURN = "trace a function that does not return it"
BRANCH = "choose with torch.where or by an index in place of Python's if, for or while"
PYTHON = "keep the value a tensor: no item(), tolist() or numpy() in forward"
RUNS = "make forward run on the example inputs in training mode, with gradients on"


def cures(reasons: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns one line per cure with the layers that it helps. `reasons` maps names of layers to their reasons.

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
class Told(Protocol):
    """An object that has the reasons and couplings of a layer."""

    @property
    def reasons(self) -> Sequence[str]: ...
    @property
    def coupled_by(self) -> Sequence[str]: ...


@runtime_checkable
class Layer(Told, Protocol):
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
    """Returns a table of the layers, followed by the output layers, the parameters not followed, and the cures."""
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


def status(layer: Told) -> str:
    """Returns the table cell that tells whether a layer is recycled, and if not, why."""
    if layer.reasons:
        return "no: " + "; ".join(layer.reasons)
    return "yes" + (f", but its neurons are coupled by {', '.join(layer.coupled_by)}" if layer.coupled_by else "")


def _paths(entries: Mapping[str, object]) -> str:
    return ", ".join(map(_short, entries)) or "-"


def _short(path: str) -> str:
    """Returns the path of a parameter without Flax's root, "params"."""
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
        # The widest column shrinks to the width of the next widest, or to the width that fits.
        next_widest = max((size for size in widths if size < widths[widest]), default=0)
        widths[widest] = max(next_widest, widths[widest] - over, NARROWEST)
    lines = []
    for row in rows:
        cells = [textwrap.wrap(cell, size) or [""] for cell, size in zip(row, widths, strict=True)]
        for index in range(max(map(len, cells))):
            line = [cell[index] if index < len(cell) else "" for cell in cells]
            lines.append("  ".join(map(str.ljust, line, widths)).rstrip())
    return lines
