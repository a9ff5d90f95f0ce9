"""Plots of an experiment: their content and labels, also for unusual runs."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import polars as pl
import pytest

from dormant.lab import Arm, Claim, Design, Experiment, Panel, Quantity
from dormant.lab.drawing.curves import ALL, Pen, pens, plots
from dormant.lab.drawing.figure import arranged, experiment_figure, grid, parts, published, save
from dormant.plots import spread
from dormant.rl.envs.atari import Atari
from dormant.rl.envs.minatar import MinAtar


@dataclass(frozen=True)
class Training:
    """A training that has only the fields that a figure reads."""

    replay_ratio: float = 1.0
    env: Any = None
    seeds: tuple[int, ...] = ()
    agent_steps: int = 400


GAMES = (MinAtar("Asterix"), MinAtar("Breakout"))
PANELS = (Panel("Dormant", "dormant/0.1/all"), Panel("Return", "eval_return"))
CLAIM = Claim("More is more", Quantity("eval_return"), "ReDo", "DQN", "higher", 1.1, "ratio")


def experiment(arms=("DQN", "ReDo"), games=GAMES, panels=PANELS, name="fig09", shown=(), seeds=(0, 1)):
    trained = tuple(Arm(arm, Training(float(arm.split()[-1]) if "RR" in arm else 1.0)) for arm in arms)
    return Experiment(name, "A title", {"smoke": Design(trained, games, seeds, "Much.")}, panels, (CLAIM,), shown)


def frame(arms=("DQN", "ReDo"), games=("MinAtar/Asterix", "MinAtar/Breakout"), seeds=(0, 1)):
    return pl.DataFrame(
        [
            {"arm": arm, "environment": game, "seed": seed, "agent_steps": steps, "gradient_steps": steps // 2,
             "replay_ratio": float(arm.split()[-1]) if "RR" in arm else 1.0,
             "dormant/0.1/all": 0.1 * (number + 1) + 0.01 * seed,
             "eval_return": 10.0 * number + seed if steps % 200 == 0 else None}
            for number, arm in enumerate(arms) for game in games for seed in seeds for steps in range(0, 500, 100)
        ]
    )  # fmt: skip


def test_shares_have_a_plot_of_all_environments_and_minatars_returns_have_none():
    found = [(plot.metric, plot.place) for plot in plots(experiment(), "smoke", frame())]
    games = ["MinAtar/Asterix", "MinAtar/Breakout"]
    assert found == [("dormant/0.1/all", place) for place in (*games, ALL)] + [
        ("eval_return", place) for place in games
    ]


def test_ataris_returns_have_an_iqm_of_all_environments():
    games = ("ALE/Pong", "ALE/Breakout")
    what = experiment(games=(Atari("Pong"), Atari("Breakout")), panels=PANELS[1:])
    *_, last = plots(what, "smoke", frame(games=games))
    assert (last.place, last.quantity) == (ALL, "human-normalised return, IQM")
    assert last.lines[0].middle[0] == pytest.approx((20.7 / 35.3 - 0.7 / 28.8) / 2)  # mean of the middle two


def test_unmeasured_points_missing_arms_and_games_are_left_out():
    part = frame(arms=("DQN",), games=("MinAtar/Breakout",))
    plot, returns = plots(experiment(), "smoke", part)
    assert [line.label for line in plot.lines] == ["DQN"]
    assert plot.lines[0].x.tolist() == [0, 100, 200, 300, 400] and returns.lines[0].x.tolist() == [0, 200, 400]


def test_a_sweep_is_a_line_of_ends_for_each_family():
    arms = ("DQN, RR 2", "DQN, RR 0.5", "ReDo, RR 0.5")
    what = experiment(arms, GAMES[:1], (Panel("Ends", "eval_return", "replay_ratio"),))
    (plot,) = plots(what, "smoke", frame(arms))
    dqn, redo = plot.lines
    assert (dqn.label, dqn.x.tolist(), dqn.middle.tolist()) == ("DQN", [0.5, 2], [10.5, 0.5])
    assert (redo.label, redo.x.tolist(), redo.colour) == ("ReDo", [0.5], 1)


def test_arms_of_one_family_differ_in_colour_and_of_several_in_dashes():
    assert pens(["DQN, RR 1", "DQN, RR 2"])["DQN, RR 2"] == Pen(1, 0)
    assert pens(["DQN, RR 1", "DQN, RR 2", "ReDo, RR 1", "ReDo, RR 2"])["ReDo, RR 2"] == Pen(1, 1)


def test_the_papers_curves_have_the_pens_of_ours_and_stand_beside_their_like():
    arms = tuple(f"DQN, RR {ratio:g}" for ratio in (0.25, 0.5, 1, 2))
    what = experiment(
        arms, GAMES[:1], name="fig07", shown=tuple(f"DemonAttack replay_ratio={r}" for r in ("0.25", "1"))
    )
    shares, returns = grid(what, "smoke", frame(arms))
    assert [plot.metric for plot in shares] == ["dormant/0.1/all", "dormant_percent"]
    assert [plot.metric for plot in returns] == ["eval_return", "return"]
    paper = shares[1]
    assert (paper.title, paper.place, paper.published) == ("paper (Atari)", "DemonAttack", True)
    assert [(line.label, line.colour) for line in paper.lines] == [("DQN, RR 0.25", 0), ("DQN, RR 1", 2)]
    assert paper.lines[1].middle.tolist() == pytest.approx([0.09, 0.20, 0.29, 0.38])


def test_the_papers_plot_of_a_tau_stands_beside_ours_of_this_tau_and_before_all_others():
    panels = (PANELS[0], Panel("Low", "dormant/0.025/all"))
    table = frame().with_columns(pl.col("dormant/0.1/all").alias("dormant/0.025/all"))
    what = experiment(panels=panels, shown=("DemonAttack tau=0.025 replay_ratio=0.25",))
    rows = grid(what, "smoke", table)
    assert [[plot.published for plot in row] for row in rows] == [[False] * 3, [False, False, False, True]]
    cells = [(plot.title, plot.place) for plot in arranged(rows)]
    assert cells[:2] == [("Low", ALL), ("paper (Atari)", "DemonAttack, τ = 0.025, replay ratio 0.25")]
    assert [title for title, _ in cells[2:]] == ["Dormant"] * 3 + ["Low"] * 2


def test_an_odd_number_of_plots_beside_the_papers_leaves_one_place_empty():
    what = experiment(games=GAMES[:1], name="fig02", panels=PANELS[:1], shown=("Asterix tau=0", "DemonAttack tau=0"))
    ours, asterix, demon, empty = arranged(grid(what, "smoke", frame(games=("MinAtar/Asterix",))))
    assert (ours.published, asterix.published, demon.published, empty) == (False, True, True, None)
    experiment_figure(what, "smoke", frame(games=("MinAtar/Asterix",)))


def test_a_plot_of_many_lines_becomes_several_of_at_most_six_with_the_first_line_in_each():
    arms = tuple(f"Arm {number}" for number in range(8))
    (plot,) = plots(experiment(arms, GAMES[:1], PANELS[:1]), "smoke", frame(arms))
    first, second = parts(plot)
    assert [line.label for line in first.lines] == ["Arm 0", "Arm 1", "Arm 2", "Arm 3", "Arm 4"]
    assert [line.label for line in second.lines] == ["Arm 0", "Arm 5", "Arm 6", "Arm 7"]
    assert (first.place, second.place) == ("MinAtar/Asterix, part 1 of 2", "MinAtar/Asterix, part 2 of 2")
    assert parts(replace(plot, lines=plot.lines[:6]))[0].place == "MinAtar/Asterix"


def names_of(axes):
    """The boxes of the names of lines, and of the axes, in pixels."""
    axes.figure.canvas.draw()
    names = [text for text in axes.texts if text.get_gid()]
    for name in names:
        name.arrowprops = name.arrow_patch = None  # the line from the name to the end of its curve
    return [name.get_window_extent() for name in names], axes.get_window_extent()


def test_names_of_lines_are_beside_the_axes_and_apart():
    arms = tuple(f"Arm {number}" for number in range(6))
    what = experiment(arms, GAMES[:1], PANELS)
    same = frame(arms).with_columns(pl.lit(0.1).alias("dormant/0.1/all"))  # all lines end at one height
    for axes in experiment_figure(what, "smoke", same).axes:
        boxes, box = names_of(axes)
        assert len(boxes) == 6 and all(each.x0 > box.x1 for each in boxes)
        assert not any(one.overlaps(other) for one, other in pairwise(sorted(boxes, key=lambda each: each.y0)))
        assert max(each.x1 for each in boxes) <= axes.figure.bbox.x1
        assert axes.get_legend() is None


def test_long_titles_and_quantities_are_broken_into_lines():
    long = Panel("Overlap with the log point before (τ = 0.1)", "overlap with the log point before, by chance")
    what = experiment(games=GAMES[:1], panels=(long,))
    figure = experiment_figure(what, "smoke", frame().with_columns(pl.lit(0.5).alias(long.metric)))
    figure.canvas.draw()
    axes = figure.axes[0]
    for text, side in ((axes._left_title, "x1"), (axes.yaxis.label, "y1")):
        assert "\n" in text.get_text() and "\n=" not in text.get_text()
        assert getattr(text.get_window_extent(), side) <= getattr(figure.bbox, side)


def test_a_loss_is_drawn_on_a_logarithmic_scale_with_its_names_at_the_ends():
    what = experiment(games=GAMES[:1], panels=(Panel("Loss", "loss"),))
    table = frame().with_columns(loss=pl.when(pl.col("arm") == "DQN").then(10.0).otherwise(0.001))
    axes = experiment_figure(what, "smoke", table).axes[0]
    assert axes.get_yscale() == "log"
    low, high = axes.get_ylim()
    assert 0 < low < 0.001 and 10 < high < 100
    heights = {text.get_text(): text.xyann[1] for text in axes.texts}
    assert heights["ReDo"] < 0.2 and heights["DQN"] > 0.8


def test_a_leader_that_crosses_the_axes_is_dotted():
    short = frame().filter((pl.col("arm") == "ReDo") | (pl.col("agent_steps") <= 200))
    axes = experiment_figure(experiment(games=GAMES[:1], panels=PANELS[:1]), "smoke", short).axes[0]
    styles = {text.get_text(): text.arrow_patch.get_linestyle() for text in axes.texts}
    assert styles == {"DQN": ":", "ReDo": "solid"}


def test_lines_differ_without_colour():
    arms = tuple(f"Arm {number}" for number in range(6))
    (axes,) = (each for each in experiment_figure(experiment(arms, GAMES[:1], PANELS[:1]), "smoke", frame(arms)).axes
               if each.lines)  # fmt: skip
    assert len({line.get_marker() for line in axes.lines if line.get_marker() != "None"}) == 6


def test_a_panel_that_the_paper_has_not_is_refused():
    with pytest.raises(KeyError, match="no panel 'Pong' of fig09; it has DemonAttack"):
        published(experiment(shown=("Pong",)), "smoke")


def test_heights_are_kept_apart_and_inside():
    for heights in ([0.0, 0.0, 0.01], [1.0, 1.0], [0.3, 0.9, 0.31, 0.3]):
        moved = sorted(spread(heights, 0.1))
        assert all(high - low > 0.0999 for low, high in pairwise(moved))
        assert moved[0] >= 0 and moved[-1] <= 1 + 1e-9


@pytest.mark.parametrize("seeds", [(0,), tuple(range(7))], ids=len)
def test_the_picture_is_drawn(tmp_path, seeds):
    arms = ("DQN, RR 0.5", "DQN, RR 1", "ReDo, RR 1")
    panels = (Panel("Ends", "eval_return", "replay_ratio"), PANELS[0])
    what = experiment(arms, GAMES[:1], panels, shown=("DemonAttack replay_ratio=0.25",), seeds=seeds)
    picture = experiment_figure(what, "smoke", frame(arms, seeds=seeds), revisions=["abc"])
    svg, png = save(picture, tmp_path / "a")
    text = svg.read_text()
    for said in ("dormant figure fig09 --scale smoke", "revision abc", "Left out: Much.", "paper (Atari)"):
        assert said in text
    assert "A title" not in text and "More is more" not in text  # claims are not in the picture
    assert png.read_bytes().startswith(b"\x89PNG") and sorted(tmp_path.iterdir()) == [png, svg]


def test_the_same_runs_give_the_same_file(tmp_path):
    what = experiment(games=GAMES[:1], panels=PANELS[:1])
    first, second = (save(experiment_figure(what, "smoke", frame()), tmp_path / name)[0].read_bytes() for name in "ab")
    assert first == second


def test_evaluations_that_failed_leave_the_rest():
    table = frame().with_columns(eval_return=pl.lit(math.nan))
    assert [plot.metric for plot in plots(experiment(), "smoke", table)] == ["dormant/0.1/all"] * 3


def test_no_runs_are_refused_with_the_command_that_makes_them():
    with pytest.raises(ValueError, match="run: dormant figure fig09 --scale smoke"):
        experiment_figure(replace(experiment(), published=()), "smoke", frame().filter(pl.lit(False)))
