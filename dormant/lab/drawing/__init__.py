"""Pictures of runs: figures with claims, the demo's picture, score maps, and the colours that they share."""

from typing import Any

# Okabe and Ito's palette, which all common kinds of colour blindness can tell apart. Its yellow is too pale on white.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
DORMANT = "#AA3377"
LINES = ("-", "--", ":", "-.")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
