"""Each cure and metric has a paragraph with an equation and a reference. The paragraph of a metric names the cost."""

import inspect
import re
from typing import get_args

import pytest
from documentation.pages import DOCS

from dormant import metrics, trainability
from dormant.cli.interventions import Name

CURES, METRICS = ((DOCS / page).read_text().split("\n\n") for page in ("cures.md", "metrics.md"))
OPTIONS = ("`layer_norm`", '`activation="crelu"`', '`activation="fourier"`', "`gap`", "`spectral_norm`")


@pytest.mark.parametrize("name", [f"`{name}`" for name in get_args(Name) if name != "none"] + [*OPTIONS])
def test_a_cure_has_an_equation_and_a_reference(name):
    told = [paragraph for paragraph in CURES if paragraph.startswith("**") and f"({name}" in paragraph]
    assert len(told) == 1
    assert "Equation: " in told[0] and "Reference: " in told[0]


@pytest.mark.parametrize("name", ["Every", "WhenDormant", "WarmUp"])
def test_a_wrapper_has_an_equation_and_a_reference(name):
    told = [paragraph for paragraph in CURES if paragraph.startswith(f"**{name}**")]
    assert len(told) == 1 and "Equation: " in told[0] and "Reference: " in told[0]


def functions(module):
    """The names of a module's own public functions."""
    found = inspect.getmembers(module, inspect.isfunction)
    return {name for name, one in found if one.__module__ == module.__name__ and not name.startswith("_")}


# Functions of dormant.metrics that are parts of another metric, and scores that docs/cures.md explains.
PARTS = {"norm", "score_bounds", "readings", "random_targets", "fitting_loss", "fitting_step"}
PARTS |= {"gradient_scores", "contributions", "utilities"}


@pytest.mark.parametrize("name", sorted(functions(trainability) | functions(metrics) - PARTS))
def test_a_metric_has_an_equation_a_cost_and_a_reference(name):
    mark = re.compile(rf"`(\w+\.)*{name}`")
    told = [paragraph for paragraph in METRICS if paragraph.startswith("**") and mark.search(paragraph)]
    assert len(told) == 1
    assert all(part in told[0] for part in ("Equation: ", "Cost: ", "Reference: "))
