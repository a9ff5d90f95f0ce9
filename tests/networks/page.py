"""Checks that docs/networks.md has the right line for a network. docs/make_networks.py writes this page."""

import runpy
from pathlib import Path
from typing import Any

from .case import Case
from .torch_case import TorchCase

DOCS = Path(__file__).parents[2] / "docs"
MAKER = runpy.run_path(str(DOCS / "make_networks.py"))
PAGE = (DOCS / "networks.md").read_text()
LINES = frozenset(PAGE.splitlines())
BEFORE = MAKER["recorded"]()


def on_the_page(case: Case | TorchCase, wiring: Any) -> None:
    """Raises AssertionError if the page does not have the line for this case and wiring."""
    _check(case, MAKER["of_wiring"](wiring))


def refused_on_the_page(case: Case, error: Exception) -> None:
    """Raises AssertionError if the page does not have the line for this case and this error of the trace."""
    _check(case, MAKER["refusal"](error))


def _check(case: Case | TorchCase, outcome: Any) -> None:
    line = MAKER["row"](case, outcome, BEFORE[case.title, case.framework])
    assert line in LINES, f"docs/networks.md is old, run make networks; this line is missing:\n{line}"
