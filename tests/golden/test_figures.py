"""Runs, judges and draws a figure of the paper at smoke scale. The runs are too short to reproduce its claims."""

from html import escape

import pytest

from dormant.cli import run
from dormant.experiments.redo import FIG09
from dormant.lab.judging.table import read


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    assert run(["figure", "fig09", "--scale", "smoke", "--run-dir", str(root)]) == 0
    return root


def test_a_smoke_run_learns_intervenes_and_is_evaluated(root):
    frame = read(root, "smoke", FIG09)
    assert set(frame["arm"]) == {"DQN", "ReDo"} and set(frame["seed"]) == {0, 1}
    for (arm, _), rows in frame.group_by("arm", "seed"):
        assert rows["agent_steps"].max() == 800 and rows["gradient_steps"].max() == 700
        assert rows["eval_return"].count() == 2 and rows["loss"].is_finite().sum() == 7
        recycled = rows.select("^recycled/.*$").sum_horizontal().max()
        assert (recycled > 0) == (arm == "ReDo")


def test_its_page_has_the_claims_and_its_picture_is_there(root):
    page = (root / "smoke" / "report.html").read_text()
    assert all(escape(claim.statement) in page for claim in FIG09.claims)
    assert "This scale gives no verdicts." in page and 'class="verdict reproduced"' not in page
    assert (root / "smoke" / "figures" / "fig09.svg").stat().st_size > 10_000
