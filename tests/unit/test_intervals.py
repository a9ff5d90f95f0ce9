"""Aggregates and intervals, compared with values computed by hand and with the results of rliable."""

import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.stats

from dormant.lab.judging import (
    bootstrap,
    bootstrap_interval,
    half_width,
    iqm,
    mean,
    mean_interval,
    p_value,
    stratified_interval,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # rliable's imports raise warnings
    from rliable import library, metrics

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHAPES = [(3, 1), (5, 1), (5, 3), (10, 26), (2, 17), (7, 4)]


def table(shape, seed=0):
    rng = np.random.default_rng([seed, *shape])
    return rng.lognormal(size=shape) * rng.uniform(0.3, 2.0, shape[1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(iqm, metrics.aggregate_iqm), (mean, metrics.aggregate_mean)],
    ids=["iqm", "mean"],
)
def test_aggregates_equal_rliables(ours, theirs, shape):
    assert float(ours(table(shape))) == pytest.approx(float(theirs(table(shape))), abs=1e-9)


RESAMPLES = 2_000


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(iqm, metrics.aggregate_iqm), (mean, metrics.aggregate_mean)],
    ids=["iqm", "mean"],
)
@pytest.mark.parametrize("shape", [(3, 3), (10, 5)], ids=str)
def test_bootstrap_bounds_equal_rliables_within_monte_carlo_error(ours, theirs, shape):
    np.random.seed(0)  # rliable accepts a random state, but draws from the global generator
    values = table(shape)
    _, bounds = library.get_interval_estimates({"": values}, lambda x: np.array([theirs(x)]), reps=RESAMPLES)
    _, *mine = bootstrap_interval(ours, values, resamples=RESAMPLES)
    # Our bounds and rliable's bounds lie between two quantiles of our draws. The levels of these quantiles are four
    # standard errors below and above the level of the bound.
    drawn = 4 * np.sqrt(0.025 * 0.975 / RESAMPLES)
    draws = bootstrap(ours, values, RESAMPLES, seed=0)
    wide, narrow = (np.quantile(draws, [0.025 - sign * drawn, 0.975 + sign * drawn]) for sign in (1, -1))
    low, high = bounds[""][:, 0]
    assert wide[0] <= low <= narrow[0] and narrow[1] <= high <= wide[1]
    assert wide[0] <= mine[0] <= narrow[0] and narrow[1] <= mine[1] <= wide[1]


def test_the_same_seed_draws_the_same_bounds():
    first, again, other = (bootstrap_interval(iqm, table((5, 3)), seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert first.estimate == other.estimate


GAPPED = np.array([[1.0, 10.0], [2.0, np.nan], [3.0, 30.0]])


def test_seeds_without_a_value_are_left_out():
    assert float(mean(GAPPED)) == (2 + 20) / 2
    assert float(iqm(GAPPED)) == (2 + 3 + 10) / 3  # without the 1 and the 30


def test_an_environment_without_values_has_no_mean_over_environments():
    empty = np.array([[1.0, np.nan], [2.0, np.nan]])
    assert np.isnan(mean(empty))
    assert float(iqm(empty)) == 1.5
    assert np.isnan(iqm(empty[:, 1:]))
    assert np.isnan(stratified_interval(empty)).all()
    assert np.isnan(stratified_interval(np.empty((3, 0)))).all()


def test_seeds_without_a_value_are_never_drawn():
    _, low, high = bootstrap_interval(mean, np.array([[1.0, 5.0], [np.nan, 5.0], [1.0, np.nan]]))
    assert low == high == 3.0


def test_the_stratified_interval_is_welchs():
    first, second = np.array([1.0, 2.0, 4.0]), np.array([10.0, 14.0, 19.0])
    estimate, low, high = stratified_interval(np.column_stack([first, -second]))
    expected = scipy.stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    # One sample is negated, so the mean over both environments is half of the difference between the samples.
    np.testing.assert_allclose([2 * low, 2 * high], expected, rtol=1e-9)
    assert 2 * estimate == first.mean() - second.mean()


def test_with_the_fewest_degrees_of_freedom_it_has_those_of_one_environment():
    values = np.array([[1.0, 10.0], [2.0, 14.0], [3.0, 18.0]])
    # The variances of the means are 1/3 and 16/3. The t quantile for two degrees of freedom is 4.302653.
    assert float(half_width(values, "fewest")) == pytest.approx(4.302653 * np.sqrt(17 / 3) / 2, rel=1e-6)


def test_the_environment_with_the_fewest_seeds_sets_the_degrees_of_freedom():
    values = np.array([[1.0, 10.0], [2.0, 14.0], [3.0, np.nan]])
    # The t quantile for one degree of freedom is 12.7062.
    assert float(half_width(values, "fewest")) == pytest.approx(12.7062 * np.sqrt(1 / 3 + 8 / 2) / 2, rel=1e-5)


def test_the_interval_of_one_environment_is_students():
    values = np.array([4.0, 6.0, 7.0, np.nan])
    assert stratified_interval(values[:, None]) == mean_interval(values)
    assert stratified_interval(values[:, None], "fewest") == mean_interval(values)


def test_two_environments_of_equal_spread_have_all_their_degrees_of_freedom():
    values = np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]])
    assert float(half_width(values)) == pytest.approx(2.776445 / np.sqrt(6), rel=1e-6)  # 4 degrees of freedom


def test_values_that_do_not_vary_have_an_interval_of_no_width():
    assert stratified_interval(np.full((3, 2), 7.0)) == (7.0, 7.0, 7.0)
    assert stratified_interval(np.full((3, 2), 7.0), "fewest") == (7.0, 7.0, 7.0)


def test_an_environment_with_one_seed_has_no_bounds():
    estimate, low, high = stratified_interval(np.array([[1.0, 2.0], [np.nan, 4.0]]))
    assert estimate == 2.0
    assert np.isnan([low, high]).all()


@pytest.mark.parametrize(("seeds", "environments"), [(3, 1), (3, 3), (5, 3)])
def test_a_t_interval_holds_the_truth_as_often_as_it_says(seeds, environments):
    spreads = np.array([1.0, 3.0, 0.5])[:environments]
    tables = spreads * np.random.default_rng(0).normal(size=(10_000, seeds, environments))
    held = (np.abs(mean(tables)) <= half_width(tables)).mean()
    assert 0.94 < held < 0.97  # Welch's interval is a little too wide for three seeds


def test_the_p_value_is_that_of_scipy_and_fits_the_interval():
    values = table((5, 1))[:, 0]
    ours = float(p_value(values[:, None], null=0.5))
    assert ours == pytest.approx(scipy.stats.ttest_1samp(values, 0.5).pvalue, rel=1e-9)
    stratified = table((5, 3))
    _, low, _ = stratified_interval(stratified, level=0.9)
    assert float(p_value(stratified, null=low)) == pytest.approx(0.1, rel=1e-9)
    assert p_value(np.full((3, 1), 2.0)) == 0.0 and p_value(np.zeros((3, 1))) == 1.0


def simulated(**which):
    """Returns rows of the committed table that benchmarks/verdicts.py wrote. `which` selects the rows."""
    rows = pl.read_csv(BENCHMARKS / "verdicts.csv", comment_prefix="#", infer_schema_length=None)
    return rows.filter(**which)


def test_simulated_studies_have_at_most_five_percent_false_verdicts():
    rows = simulated().filter(~pl.col("claim").is_in(["Atari, quotients", "primary, not corrected"]))
    shape = {(seeds, games) for seeds in (3, 5, 10) for games in (1, 3, 17)}
    assert shape <= set(rows.select("seeds", "games").iter_rows())
    # With 10,000 studies, a fraction of 5 % has a standard error of 0.2 %.
    assert rows.filter(~pl.col("claim").str.starts_with("overlap"))["false"].max() <= 0.056
    assert rows.filter(truth="dormant at random")["reproduced"].max() <= 0.05
    assert simulated(claim="primary, not corrected")["false"].min() > 0.05


def test_simulated_studies_find_effects_that_matter():
    power = simulated(claim="returns, SD 0.25", seeds=5, games=3)
    assert power.filter(truth="1.5 times")["reproduced"].item() > 0.9
    assert power.filter(truth="1.3 times")["reproduced"].item() > 0.7
    assert simulated(claim="Atari, scores", truth="1.3 times, 3 at random")["reproduced"].item() > 0.5
    assert simulated(claim="Atari, quotients", truth="1.3 times, 3 at random")["reproduced"].item() < 0.3


def coverage(situations, interval, games):
    """Returns rows of the committed table that benchmarks/coverage.py wrote. The arguments select the rows."""
    table = pl.read_csv(BENCHMARKS / "coverage.csv", comment_prefix="#")
    return table.filter(
        pl.col("situation").is_in(situations), pl.col("interval") == interval, pl.col("games").is_in(games)
    )


def test_the_interval_of_verdicts_was_measured_to_hold_nine_times_in_ten_where_the_bootstrap_does_not():
    paired = ["no effect", "doubled"]
    assert coverage(paired, "t, Welch", [1, 3])["coverage"].min() > 0.9
    bootstrap = coverage(paired, "percentile bootstrap of the IQM", [1, 3]).filter(seeds=3)
    assert bootstrap["coverage"].max() < 0.9
    change = coverage(["one arm"], "t, fewest degrees", [3])
    assert change.filter(pl.col("returns") != "very skewed")["coverage"].min() > 0.9
