"""Overlaps between sets of dormant neurons, compared with values computed by hand."""

import json

import numpy as np
import polars as pl

from dormant.experiments.phenomenon import FIG05
from dormant.lab import Claim, Experiment, Panel, Quantity
from dormant.lab.judging.claims import judge
from dormant.lab.judging.table import overlap_metrics, overlaps, with_overlaps
from dormant.lab.runs.folder import RunFolder

# With tau = 0.1, the five log points have the dormant neurons {}, {0, 1}, {1, 2}, {0, 1, 2} and {3}.
SCORES = np.array([[[1, 1, 1, 1], [0, 0, 2, 2], [2, 0, 0, 2], [0, 0.1, 0, 3.9], [1, 1, 2, 0]]], float)


def test_the_union_is_of_all_earlier_points_and_not_of_the_present_one():
    found = overlaps(SCORES, 0.1, "union")
    # At point 2, one of two neurons is in the union {0, 1} of earlier points. At point 3, all neurons are in the union
    # {0, 1, 2}. At point 4, no neuron is in the union.
    np.testing.assert_array_equal(found, [[np.nan, np.nan, 0.5, 1.0, 0.0]])


def test_the_previous_set_is_that_of_the_point_before():
    np.testing.assert_array_equal(overlaps(SCORES, 0.1, "previous"), [[np.nan, np.nan, 0.5, 1.0, 0.0]])
    # At tau = 0, point 3 is {0, 2} and point 2 is {1, 2}: one of two neurons is in both.
    np.testing.assert_array_equal(overlaps(SCORES, 0.0, "previous"), [[np.nan, np.nan, 0.5, 0.5, 0.0]])
    # The union before point 3 is {0, 1, 2}, which contains both neurons of point 3.
    np.testing.assert_array_equal(overlaps(SCORES, 0.0, "union"), [[np.nan, np.nan, 0.5, 1.0, 0.0]])


def test_chance_gives_the_larger_sets_share():
    by_chance = overlaps(SCORES, 0.1, "union-by-chance")
    np.testing.assert_array_equal(by_chance, [[np.nan, np.nan, 0.5, 0.75, 0.75]])
    rng = np.random.default_rng(0)
    drawn = np.stack([[rng.permutation(20) < size for size in (8, 5)] for _ in range(4_000)])
    scores = 1.0 - drawn
    assert abs(np.nanmean(overlaps(scores, 0.0, "previous")) - 8 / 20) < 0.01
    assert overlaps(scores, 0.0, "previous-by-chance")[0, 1] == 8 / 20


def test_runs_get_a_column_for_each_overlap_that_an_experiment_names(tmp_path):
    claim = Claim("It grows", Quantity("overlap/union/0/dense"), "DQN", None, "higher", 0.05)
    panels = (Panel("Overlap", "overlap/previous/0.1/dense"), Panel("Loss", "loss"))
    metrics = overlap_metrics(Experiment("fig00", "", {}, panels, (claim,)))
    assert metrics == ["overlap/previous/0.1/dense", "overlap/union/0/dense"]

    run = RunFolder(tmp_path)
    rows = [{"seed": seed, "agent_steps": step} for step in range(5) for seed in (3, 7)]
    scores = [row | {"scores/dense": SCORES[0, row["agent_steps"]].tolist()} for row in rows]
    run.scores.write_text("".join(json.dumps(row) + "\n" for row in scores))
    table = with_overlaps(pl.DataFrame(rows), run, metrics)
    assert table["seed"].to_list() == [row["seed"] for row in rows]
    for seed in (3, 7):
        mine = table.filter(seed=seed)
        assert mine["overlap/previous/0.1/dense"].to_list() == [None, None, 0.5, 1.0, 0.0]
        assert mine["overlap/union/0/dense"].to_list() == [None, None, 0.5, 1.0, 0.0]


def study(rng, stay, neurons=64, seeds=3):
    """Returns a table of runs for figure 5. A dormant neuron stays dormant with probability `stay`."""
    frames = []
    for seed in range(seeds):
        dormant = np.zeros(neurons, bool)
        scores = np.ones((1, 12, neurons))
        for point, size in enumerate(np.linspace(4, 28, 12).astype(int)):
            kept = dormant & (rng.random(neurons) < stay)
            order = np.argsort(rng.random(neurons) - kept)
            dormant = np.isin(np.arange(neurons), order[:size])
            scores[0, point, dormant] = 0.0
        columns = {name: overlaps(scores, 0.0, name.split("/")[1])[0] for name in overlap_metrics(FIG05)}
        columns |= {f"dormant/{tau}/dense": (scores[0] == 0).mean(axis=-1) for tau in ("0", "0.1")}
        frames.append(pl.DataFrame({"agent_steps": np.arange(12)} | columns).with_columns(seed=pl.lit(seed)))
    return pl.concat(frames).with_columns(
        arm=pl.lit("DQN"), environment=pl.lit("MinAtar/Asterix"), reset_age=pl.lit(None, pl.Float64)
    )


def test_claims_about_overlaps_fail_for_neurons_that_are_dormant_at_random_and_pass_for_lasting_ones():
    rng = np.random.default_rng(0)
    at_random = [judge(claim, study(rng, stay=0.0)).verdict for _ in range(15) for claim in FIG05.claims]
    assert at_random.count("reproduced") <= 0.05 * len(at_random)
    assert {judge(claim, study(rng, stay=0.9)).verdict for claim in FIG05.claims} == {"reproduced"}


def test_claims_about_overlaps_need_dormant_neurons_and_room_above_chance():
    frame = study(np.random.default_rng(0), stay=0.9)
    none = frame.with_columns(pl.lit(0.01).alias("dormant/0.1/dense"))
    full = frame.with_columns(pl.lit(0.97).alias("overlap/union-by-chance/0.1/dense"))
    (claim,) = [each for each in FIG05.claims if each.quantity.metric == "overlap/union/0.1/dense"]
    needs_some, needs_room = judge(claim, none), judge(claim, full)
    assert needs_some.verdict == needs_room.verdict == "not testable"
    assert needs_some.why.startswith("The claim needs at least 2.0 % dormant neurons in “dense” (τ = 0.1) of DQN")
    assert needs_room.why.startswith("The claim needs at most 95.0 % overlap with all before, by chance (τ = 0.1)")
