"""Each cure and metric has a paragraph with an equation and a reference. The paragraph of a metric names the cost."""

import inspect
from typing import get_args

import pytest
from documentation.pages import DOCS

from dormant import trainability
from dormant.cli.interventions import Name

CURES, METRICS = ((DOCS / page).read_text().split("\n\n") for page in ("cures.md", "metrics.md"))
OPTIONS = ("`layer_norm`", '`activation="crelu"`', '`activation="fourier"`', "`gap`", "`spectral_norm`")


@pytest.mark.parametrize("name", [f"`{name}`" for name in get_args(Name) if name != "none"] + [*OPTIONS])
def test_a_cure_has_an_equation_and_a_reference(name):
    told = [paragraph for paragraph in CURES if paragraph.startswith("**") and f"({name}" in paragraph]
    assert len(told) == 1
    assert "Equation: " in told[0] and "Reference: " in told[0]


@pytest.mark.parametrize("name", [name for name, one in inspect.getmembers(trainability, inspect.isfunction)])
def test_a_metric_has_an_equation_a_cost_and_a_reference(name):
    if getattr(trainability, name).__module__ != trainability.__name__ or name.startswith("_"):
        return
    told = [paragraph for paragraph in METRICS if paragraph.startswith("**") and f"`{name}`" in paragraph]
    assert len(told) == 1
    assert all(part in told[0] for part in ("Equation: ", "Cost: ", "Reference: "))
