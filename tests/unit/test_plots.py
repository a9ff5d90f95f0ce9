"""Pictures of a report, of neuron scores and of runs: what they show, and which input they refuse."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from walks import Walk

from dormant import report
from dormant.lab.drawing import plot_runs
from dormant.lab.runs import runner
from dormant.plots import DORMANT, new_axes, plot_layers, plot_scores

PARAMS = {"dense": {"kernel": jnp.diag(jnp.array([1.0, 1.0, 0.0]))}, "head": {"kernel": jnp.ones((3, 1))}}


def apply(params, x):
    return jax.nn.relu(x @ params["dense"]["kernel"]) @ params["head"]["kernel"]


def test_a_report_draws_its_fractions_and_its_sorted_scores():
    found = report(apply, PARAMS, jnp.tile(jnp.eye(3), (20, 1)))
    shares, scores = found.plot()
    assert [bar.get_width() for bar in shares.patches] == pytest.approx([1 / 3, 1 / 3])
    assert [text.get_text() for text in shares.get_yticklabels()] == ["dense (3)", "all (3)"]
    np.testing.assert_allclose(scores.lines[0].get_ydata(), np.sort(found.layers[0].scores))
    mine = (new_axes(), new_axes())
    assert found.plot(mine) == mine


def test_dormant_neurons_are_purple_and_at_the_bottom():
    axes = plot_scores(np.array([0, 10]), np.array([[1.0, 0.0, 2.0], [1.5, 0.0, 1.5]]))
    mesh = axes.collections[0]
    mesh.update_scalarmappable()
    axes.figure.canvas.draw()
    colours = mesh.get_facecolors().reshape(3, 2, 4)
    purple = np.array([int(DORMANT[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    assert np.allclose(colours[0, :, :3], purple) and not np.isclose(colours[1:, :, :3], purple).all(-1).any()


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="one row of scores per step"):
        plot_scores(np.arange(3), np.ones((2, 4)))
    with pytest.raises(ValueError, match="expected 3 fractions of 'dense', one per step"):
        plot_layers(np.arange(3), {"dense": np.ones(2)})


def test_runs_are_drawn_with_each_seed_and_their_mean(tmp_path):
    folder = runner.run(Walk(seeds=(0, 1)), tmp_path / "run")
    axes = plot_runs({"walk": folder.path}, "eval_return")
    *seeds, mean = (line.get_ydata() for line in axes.lines)
    assert len(seeds) == 2
    np.testing.assert_allclose(mean, np.mean(seeds, axis=0))
    assert [text.get_text() for text in axes.texts] == ["walk"] and axes.get_legend() is None
    plot_runs({"again": folder.path}, "eval_return", axes)
    assert [text.get_text() for text in axes.texts] == ["walk", "again"]
    with pytest.raises(ValueError, match="is not a run folder"):
        plot_runs({"walk": tmp_path})


def test_without_matplotlib_the_error_names_the_extra():
    program = """
import sys
sys.modules["matplotlib"] = None
from dormant.reasons import Interval, LayerReport, Report
import numpy as np
layer = LayerReport("a", 1, 0, Interval(0.0, 0.0, 0.0), 1.0, 1.0, np.ones(1))
try:
    Report((layer,), layer, 0.1, 1).plot()
except ModuleNotFoundError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert found == "matplotlib is not installed; run: pip install 'dormant[cli]'\n"
