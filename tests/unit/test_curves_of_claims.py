"""The quantity of a claim reduces a curve to one number."""

import math

import numpy as np
import pytest

from dormant.lab import Quantity
from dormant.lab.judging import at_end
from dormant.lab.judging.claims import reduced

STEPS = np.array([0, 100, 200, 300, 1000])


@pytest.mark.parametrize(
    ("quantity", "values", "expected"),
    [
        (Quantity("loss", "start"), [math.nan, 3.0, 4.0, 5.0, 6.0], 3.0),
        (Quantity("loss", "end"), [1.0, 2.0, 3.0, 4.0, 5.0], 5.0),
        (
            Quantity("loss", "end"),
            [1.0, 2.0, 3.0, 4.0, math.nan],
            4.0,
        ),  # the last value, because the last tenth has no value
        (Quantity("loss", "mean"), [0.0, 2.0, 2.0, 2.0, 0.0], (100 + 200 + 200 + 700) / 1000),
        (Quantity("loss", "mean", after=0.2), [9.0, 9.0, 1.0, 1.0, 2.0], (100 * 1.0 + 700 * 1.5) / 800),
        (Quantity("loss", "mean", after=0.1, until=0.3), [9.0, 3.0, 1.0, 1.0, 9.0], (100 * 2.0 + 100 * 1.0) / 200),
        (Quantity("loss", "mean"), [math.nan, math.nan, 7.0, math.nan, math.nan], 7.0),
    ],
)
def test_a_curve_comes_down_to_one_number(quantity, values, expected):
    assert reduced(quantity, STEPS, np.array(values)) == pytest.approx(expected)


def test_a_curve_without_values_comes_to_nothing():
    assert math.isnan(reduced(Quantity("loss", "mean"), STEPS, np.full(5, math.nan)))


def test_the_lowest_value_is_one_measured_after_the_start():
    steps, values = np.array([0, 10, 20, 30]), np.array([0.0, 0.3, np.nan, 0.1])
    assert reduced(Quantity("loss", "lowest"), steps, values) == 0.1
    assert reduced(Quantity("loss", "lowest"), steps[:1], values[:1]) == 0.0


def test_the_end_of_a_curve_is_its_last_tenth():
    steps = np.array([0, 50, 89, 90, 100])
    assert at_end(steps, np.ones(5, bool)).tolist() == [False, False, False, True, True]
