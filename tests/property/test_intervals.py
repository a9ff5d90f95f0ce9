"""Properties of aggregates, intervals and verdicts that hold for any numbers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dormant.lab import Claim, Quantity
from dormant.lab.judging import bootstrap_interval, half_width, iqm, mean, stratified_interval
from dormant.lab.judging.claims import Pairs, verdict

VALUES = st.integers(-800, 800).map(lambda number: number / 8)  # sums of eighths are exact
AGGREGATES = [iqm, mean]
CLAIM = Claim("", Quantity("loss"), "A", "B", "higher", 0.5)


def tables(environments=None):
    shapes = st.tuples(st.integers(2, 6), st.just(environments) if environments else st.integers(1, 4))
    return shapes.flatmap(lambda shape: arrays(float, shape, elements=VALUES))


def shuffled(table, seed):
    return np.random.default_rng(seed).permuted(table, axis=0)


@pytest.mark.parametrize("aggregate", AGGREGATES, ids=lambda function: function.__name__)
@given(table=tables(), seed=st.integers(0, 9), shift=VALUES)
def test_an_aggregate_forgets_the_order_of_seeds_follows_a_shift_and_lies_among_the_values(
    aggregate, table, seed, shift
):
    value = aggregate(table)
    np.testing.assert_allclose(aggregate(shuffled(table, seed)), value, atol=1e-9)
    np.testing.assert_allclose(aggregate(table + shift), value + shift, atol=1e-9)
    np.testing.assert_allclose(aggregate(-table), -value, atol=1e-9)
    assert table.min() <= value + 1e-9 and value <= table.max() + 1e-9


@pytest.mark.parametrize("aggregate", AGGREGATES, ids=lambda function: function.__name__)
@given(table=tables())
def test_a_seed_without_values_changes_nothing_and_leading_axes_are_mapped_over(aggregate, table):
    longer = np.vstack([table, np.full((1, table.shape[1]), np.nan)])
    np.testing.assert_array_equal(aggregate(longer), aggregate(table))
    stack = np.stack([table, table + 1, 2 * table])
    np.testing.assert_allclose(aggregate(stack), [aggregate(each) for each in stack], atol=1e-9)


@given(table=tables())
def test_bootstrap_bounds_lie_among_the_values(table):
    _, low, high = bootstrap_interval(iqm, table, resamples=50)
    assert table.min() - 1e-9 <= low <= high <= table.max() + 1e-9


@given(table=tables(), shift=VALUES, scale=st.sampled_from([0.25, 2.0, 1e-6, 1e6]))
def test_a_t_interval_follows_shift_and_scale_and_is_wider_with_fewer_degrees_of_freedom(table, shift, scale):
    interval = np.array(stratified_interval(table))
    moved = np.array(stratified_interval(scale * (table + shift)))
    np.testing.assert_allclose(moved, scale * (interval + shift), rtol=1e-6, atol=1e-7 * scale)
    assert half_width(table, "welch") <= half_width(table, "fewest") + 1e-9


def judged(claim, mine, theirs):
    """Returns the verdict on a claim, from two tables [seeds, environments]."""
    return verdict(claim, Pairs(tuple(f"game {number}" for number in range(mine.shape[1])), mine, theirs))


PAIRS = st.tuples(st.integers(2, 4), st.integers(1, 3)).flatmap(
    lambda shape: st.tuples(arrays(float, shape, elements=VALUES), arrays(float, shape, elements=VALUES))
)


@given(arms=PAIRS, smallest=st.sampled_from([-1.0, 0.0, 0.5, 20.0]))
def test_a_claim_and_its_mirror_image_are_judged_alike(arms, smallest):
    mine, theirs = arms
    claim = replace(CLAIM, smallest=smallest)
    mirrored = replace(claim, direction="lower", smallest=-smallest)
    here, there = judged(claim, mine, theirs), judged(mirrored, -mine, -theirs)
    assert here.verdict == there.verdict
    np.testing.assert_allclose([here.estimate, here.low, here.high], [-there.estimate, -there.high, -there.low])


@given(arms=PAIRS)
def test_a_claim_and_its_opposite_get_fitting_verdicts(arms):
    fitting = {
        "reproduced": {"opposite", "not settled"},  # "not settled" if the effect may be too small to matter
        "weaker than claimed": {"no such effect"},
        "no such effect": {"no such effect", "weaker than claimed"},
        "opposite": {"reproduced", "not settled"},
        "not settled": {"not settled", "opposite"},
    }
    opposite = replace(CLAIM, direction="lower", smallest=-CLAIM.smallest)
    assert judged(opposite, *arms).verdict in fitting[judged(CLAIM, *arms).verdict]


@given(arms=PAIRS, scales=arrays(float, 3, elements=st.sampled_from([0.5, 4.0, 64.0])))
def test_the_unit_of_an_environments_returns_is_of_no_account(arms, scales):
    mine, theirs = (np.abs(table) + 1 for table in arms)
    claim = replace(CLAIM, quantity=Quantity("eval_return"))
    scale = scales[: mine.shape[1]]
    here = judged(claim, mine, theirs)
    there = judged(claim, scale * mine, scale * theirs)
    np.testing.assert_allclose(there[2:5], here[2:5])


@pytest.mark.parametrize(("environments", "by"), [(1, "difference"), (3, "ratio")])
def test_where_there_is_no_effect_few_claims_of_three_seeds_are_reproduced(environments, by):
    # This claim has no smallest effect that matters, so only the interval prevents a verdict by chance.
    claim = replace(CLAIM, by=by, smallest=1.0 if by == "ratio" else 0.0)
    rng = np.random.default_rng(0)
    draws = rng.lognormal(sigma=0.5, size=(1_000, 2, 3, environments))
    reproduced = [judged(claim, mine, theirs).verdict == "reproduced" for mine, theirs in draws]
    # The verdict tests one side of a 95 % interval, so about 25 of 1,000 claims are reproduced by chance. The
    # probability of more than 40 is 1 in 500.
    assert sum(reproduced) <= 40
