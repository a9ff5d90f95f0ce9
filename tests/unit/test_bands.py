"""Lines and bands of plots agree with the lab's statistics. Values that were not measured are left out."""

import math

import numpy as np
import polars as pl
import pytest

from dormant.lab.drawing.curves import ends, iqm_band, measured, normalised, stratified_band
from dormant.lab.judging import iqm, mean_interval, stratified_interval

ROWS = [
    {"environment": environment, "seed": seed, "agent_steps": steps, "value": value}
    for environment, seed, steps, value in (
        ("A", 0, 0, 1.0),
        ("A", 0, 10, None),
        ("A", 0, 20, 3.0),
        ("A", 1, 0, 5.0),
        ("A", 1, 20, math.nan),
        ("B", 0, 0, 2.0),
        ("B", 1, 10, 7.0),
    )
]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_only_what_was_measured_is_there():
    x, values = measured(pl.DataFrame(ROWS), ["A"], "agent_steps", "value")
    assert x.tolist() == [0, 20]
    np.testing.assert_array_equal(values, [[[1, 3]], [[5, math.nan]]])


def test_a_point_that_some_environment_lacks_is_in_no_mean_over_environments():
    x, values = measured(pl.DataFrame(ROWS), ["A", "B"], "agent_steps", "value")
    assert x.tolist() == [0] and values.shape == (2, 2, 1)


def test_what_never_was_measured_is_nothing():
    for rows, metric in ((pl.DataFrame(ROWS), "other"), (pl.DataFrame(ROWS).filter(pl.lit(False)), "value")):
        x, values = measured(rows, ["A"], "agent_steps", metric)
        assert x.size == 0 and values.size == 0


def test_the_band_is_the_interval_of_each_point(rng):
    seeds = rng.normal(size=(5, 8))
    seeds[1:, 2] = seeds[:, 3] = seeds[0, 4] = np.nan
    expected = np.array([mean_interval(seeds[:, point]) for point in range(8)]).T
    np.testing.assert_allclose(stratified_band(seeds[:, None]), expected, rtol=1e-12)
    assert np.isnan(stratified_band(seeds[:, None])[1][2]) and np.isnan(stratified_band(seeds[:, None])[0][3])


def test_bands_over_environments_are_the_labs_statistics(rng):
    values = rng.normal(size=(4, 3, 2))
    for band in zip(*stratified_band(values), strict=True):
        assert band in [tuple(stratified_interval(values[:, :, point])) for point in range(2)]
    middle, low, high = iqm_band(values)
    assert middle[1] == iqm(values[:, :, 1]) and (low < middle).all() and (middle < high).all()


def test_the_end_is_the_last_tenth():
    values = np.arange(11.0)[None, None]
    assert ends(np.arange(11.0), values).item() == 9.5


def test_atari_returns_are_put_on_a_humans_scale():
    values = np.array([[[-20.7], [1.7]], [[14.6], [30.5]]])
    np.testing.assert_allclose(normalised(values, ["ALE/Pong", "ALE/Breakout"])[:, :, 0], [[0, 0], [1, 1]], atol=1e-12)
