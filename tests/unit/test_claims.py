"""Verdicts on a few pairs of runs, compared with values computed by hand."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from dormant.lab import Claim, Experiment, Quantity
from dormant.lab.judging import at_end
from dormant.lab.judging.claims import judge, judged, reduced

T2 = 4.302653  # the t quantile for a 95 % interval with two degrees of freedom
DORMANT = "dormant/0.1/all"
FEWER = Claim("ReDo has fewer", Quantity(DORMANT), "ReDo", "DQN", "lower", -0.1)
HALF = replace(FEWER, smallest=0.5, by="ratio")
RETURN = Claim("ReDo returns more", Quantity("eval_return"), "ReDo", "DQN", "higher", 0.1)
GROWS = Claim("Dormancy grows", Quantity(DORMANT), "DQN", None, "higher", 0.1)


def runs(arm, ends, metric=DORMANT, environment="MinAtar/Asterix", start=0.0, ages=(None, None)):
    """Rows of runs with seeds 0, 1, ..., each with a first and a last log point. An end of None means no run."""
    table = [
        {"arm": arm, "environment": environment, "seed": seed, "agent_steps": steps, metric: value, "reset_age": age}
        for seed, end in enumerate(ends)
        for steps, value, age in zip((0, 100), (start, end), ages, strict=True)
        if end is not None
    ]
    return pl.DataFrame(table, schema_overrides={"reset_age": pl.Float64, metric: pl.Float64})


def both(redo, dqn, metric=DORMANT, environment="MinAtar/Asterix"):
    return pl.concat([runs("ReDo", redo, metric, environment), runs("DQN", dqn, metric, environment)])


def bounds(verdict):
    return [verdict.estimate, verdict.low, verdict.high]


def t_bounds(effects):
    half = T2 * np.std(effects, ddof=1) / math.sqrt(3)
    return [np.mean(effects), np.mean(effects) - half, np.mean(effects) + half]


def test_a_clear_effect_is_reproduced():
    verdict = judge(FEWER, both([0.10, 0.12, 0.11], [0.40, 0.45, 0.38]))
    # The differences per seed are -0.30, -0.33 and -0.27.
    np.testing.assert_allclose(bounds(verdict), t_bounds([-0.30, -0.33, -0.27]), rtol=1e-6)
    assert (verdict.verdict, verdict.runs, verdict.interval) == ("reproduced", 3, "paired t")
    assert verdict.why == "The whole interval is lower than 0, and the estimate reaches -0.1."
    assert verdict.unit == DORMANT


def test_the_opposite_effect_is_contradicted():
    verdict = judge(FEWER, both([0.40, 0.45, 0.38], [0.10, 0.12, 0.11]))
    np.testing.assert_allclose(bounds(verdict), t_bounds([0.30, 0.33, 0.27]), rtol=1e-6)
    assert (verdict.verdict, verdict.why) == ("contradicted", "The whole interval lies on the other side of 0.")


def test_an_effect_that_is_certainly_too_small_is_contradicted():
    verdict = judge(FEWER, both([0.29, 0.28, 0.30], [0.30, 0.30, 0.31]))
    # The differences are -0.01, -0.02 and -0.01. Their interval is -0.0133 plus or minus 0.0143.
    assert (verdict.verdict, verdict.why) == ("contradicted", "The whole interval falls short of -0.1.")


def test_an_interval_around_no_effect_is_inconclusive():
    verdict = judge(FEWER, both([0.10, 0.30, 0.20], [0.40, 0.35, 0.60]))
    # The differences are -0.3, -0.05 and -0.4. Their interval is -0.25 plus or minus 0.447.
    assert verdict.high > 0
    assert (verdict.verdict, verdict.why) == ("inconclusive", "The interval contains both 0 and the claimed effect.")


def test_an_effect_of_a_size_that_is_open_is_inconclusive():
    verdict = judge(FEWER, both([0.20, 0.21, 0.20], [0.28, 0.30, 0.29]))
    # The differences are -0.08, -0.09 and -0.09. The half width is 0.0143, so the interval contains -0.1.
    assert verdict.low < -0.1 < verdict.estimate
    assert verdict.why == "There is an effect, but the estimate falls short of -0.1."
    assert verdict.verdict == "inconclusive"


@pytest.mark.parametrize(
    ("effects", "ruling"),
    [([0.0, 0.01, -0.01], "reproduced"), ([-0.2, -0.21, -0.19], "contradicted"), ([-0.3, 0.3, 0.0], "inconclusive")],
)
def test_a_claim_of_no_harm_is_judged_at_its_margin(effects, ruling):
    harmless = replace(FEWER, direction="higher", smallest=-0.05)
    verdict = judge(harmless, both([0.5 + effect for effect in effects], [0.5, 0.5, 0.5]))
    assert verdict.verdict == ruling


def test_quotients_are_compared_by_their_logarithms():
    verdict = judge(HALF, both([0.1, 0.05, 0.08], [0.4, 0.4, 0.32]))
    low, high = np.exp(t_bounds(np.log([0.25, 0.125, 0.25])))[1:]
    np.testing.assert_allclose(bounds(verdict), [(0.25 * 0.125 * 0.25) ** (1 / 3), low, high], rtol=1e-6)
    assert (verdict.verdict, verdict.unit) == ("reproduced", "ratio")
    assert judge(HALF, both([0.1, 0.5, 0.3], [0.4, 0.4, 0.32])).verdict == "inconclusive"
    assert judge(HALF, both([0.4, 0.41, 0.33], [0.4, 0.4, 0.32])).verdict == "contradicted"


def test_a_quotient_of_zero_is_a_hundredth_and_of_two_zeros_one():
    verdict = judge(HALF, both([0.0, 0.0, 0.0], [0.4, 0.4, 0.4]))
    np.testing.assert_allclose(bounds(verdict), [0.01, 0.01, 0.01])
    assert verdict.verdict == "reproduced"
    assert judge(HALF, both([0.0, 0.0], [0.0, 0.0])).estimate == 1.0
    assert judge(HALF, both([0.2, 0.2], [0.0, 0.0])).estimate == pytest.approx(100.0)


def test_a_quotient_of_negative_values_is_not_judged():
    verdict = judge(HALF, both([-0.1, 0.1, 0.1], [0.4, 0.4, 0.4]))
    assert verdict.verdict == "inconclusive"
    assert verdict.why.startswith("Some quotients are undefined")
    assert math.isnan(verdict.estimate)


def test_an_infinite_value_is_not_judged():
    verdict = judge(replace(FEWER, quantity=Quantity("loss")), both([1.0, math.inf, 1.0], [2.0, 2.0, 2.0], "loss"))
    assert verdict.verdict == "inconclusive"
    assert verdict.why.startswith("Some differences are undefined")


def test_returns_are_shares_of_what_they_are_compared_with_in_each_environment():
    easy = both([120.0, 130.0, 110.0], [100.0, 90.0, 110.0], "eval_return", "MinAtar/Breakout")
    hard = both([1.2, 1.1, 1.3], [1.0, 1.1, 0.9], "eval_return", "MinAtar/Asterix")
    verdict = judge(RETURN, pl.concat([easy, hard]))
    # Relative to DQN's return, the differences are 0.2, 0.4 and 0 in one game and 0.2, 0 and 0.4 in the other. Each
    # game's mean has standard error 0.2 / sqrt(3). That of both is smaller by sqrt(2), with four degrees of freedom.
    half = 2.776445 * 0.2 / math.sqrt(6)
    np.testing.assert_allclose(bounds(verdict), [0.2, 0.2 - half, 0.2 + half], rtol=1e-6)
    assert (verdict.runs, verdict.unit) == (6, "share of DQN")
    assert verdict.interval == "paired t, stratified by environment, Welch-Satterthwaite"


def test_a_share_of_a_negative_return_is_positive_if_the_arm_is_better():
    verdict = judge(RETURN, both([-50.0, -60.0, -40.0], [-100.0, -110.0, -90.0], "eval_return", "MinAtar/Breakout"))
    assert verdict.estimate == pytest.approx(0.5)


def test_returns_of_atari_are_human_normalised():
    pong = both([14.6, 14.6, 14.6], [-20.7, -20.7, -20.7], "eval_return", "ALE/Pong")
    verdict = judge(RETURN, pong)
    assert (verdict.estimate, verdict.unit, verdict.verdict) == (1.0, "human-normalised return", "reproduced")
    worse_than_random = both([-21.0, -21.0], [14.6, 14.6], "eval_return", "ALE/Pong")
    assert judge(replace(RETURN, by="ratio", smallest=1.1), worse_than_random).estimate == pytest.approx(0.01)


def test_a_share_of_nothing_is_not_judged():
    verdict = judge(RETURN, both([1.0, 1.0], [0.0, 0.0], "eval_return"))
    assert verdict.verdict == "inconclusive"
    assert verdict.why.endswith("they are divided by a mean return of zero.")


def test_an_arm_is_compared_with_its_own_start():
    frame = runs("DQN", [0.5, 0.6, 0.4], start=0.1)
    verdict = judge(GROWS, frame)
    np.testing.assert_allclose(bounds(verdict), t_bounds([0.4, 0.5, 0.3]), rtol=1e-6)
    assert (verdict.verdict, verdict.interval) == ("reproduced", "t of each run's change")
    several = pl.concat([frame, runs("DQN", [0.5, 0.6, 0.4], environment="MinAtar/Breakout", start=0.1)])
    half = T2 * 0.1 / math.sqrt(6)
    np.testing.assert_allclose(bounds(judge(GROWS, several)), [0.4, 0.4 - half, 0.4 + half], rtol=1e-6)


def test_runs_are_paired_by_seed_whatever_their_order():
    frame = both([0.10, 0.20, 0.30], [0.30, 0.40, 0.50])
    verdict = judge(FEWER, frame.sample(fraction=1.0, shuffle=True, seed=0))
    np.testing.assert_allclose(bounds(verdict), [-0.2, -0.2, -0.2], rtol=1e-9)


def test_a_seed_without_its_pair_is_left_out_and_said():
    verdict = judge(FEWER, both([0.10, None, 0.12, 0.2], [0.40, 0.9, 0.40]))
    assert (verdict.runs, round(verdict.estimate, 6)) == (2, -0.29)
    assert verdict.why.endswith("2 of 4 pairs are missing.")


def test_an_environment_with_one_pair_is_left_out_and_said():
    frame = pl.concat([both([0.1, 0.1], [0.4, 0.41]), both([0.9], [0.1], environment="MinAtar/Freeway")])
    verdict = judge(FEWER, frame)
    assert (verdict.verdict, verdict.runs, round(verdict.estimate, 6)) == ("reproduced", 2, -0.305)
    assert verdict.why.endswith("Environments with too few pairs: MinAtar/Freeway.")


def test_one_pair_is_inconclusive_and_said():
    verdict = judge(FEWER, both([0.1], [0.4]))
    assert (verdict.verdict, verdict.runs, round(verdict.estimate, 6)) == ("inconclusive", 1, -0.3)
    assert math.isnan(verdict.low) and math.isnan(verdict.high)
    assert verdict.why == "There are fewer than two pairs of runs in every environment."


@pytest.mark.parametrize("claim", [FEWER, HALF, RETURN, GROWS], ids=["difference", "ratio", "return", "own start"])
def test_without_runs_a_claim_is_inconclusive_and_says_whose_are_missing(claim):
    verdict = judge(claim, both([0.1], [0.1]).clear())
    assert (verdict.verdict, verdict.runs) == ("inconclusive", 0)
    assert verdict.why == f"No finished run of {claim.arm} has measured {claim.quantity.metric}."


def test_a_metric_that_was_never_measured_is_named():
    verdict = judge(replace(FEWER, quantity=Quantity("overlap")), both([0.1, 0.1], [0.4, 0.4]))
    assert verdict.why == "No finished run of ReDo has measured overlap."


def test_every_claim_is_judged():
    experiment = Experiment("fig00", "", {}, claims=(FEWER, HALF, replace(FEWER, arm="DQN", against="ReDo")))
    verdicts = judged(experiment, both([0.10, 0.12, 0.11], [0.40, 0.45, 0.38]))
    assert [verdict.verdict for verdict in verdicts] == ["reproduced", "reproduced", "contradicted"]
    assert [verdict.claim for verdict in verdicts] == list(experiment.claims)


@pytest.mark.parametrize(
    ("ages", "reset_age", "quotient"),
    [
        ((0.9, 0.1), (0.0, math.inf), 9.0),
        ((0.9, 0.1), (0.5, math.inf), 5 / 4),
        ((0.9, 0.1), (0.0, 0.5), 9.0),
        ((0.9, 0.1), (0.1, 0.9), 9.0),
        ((0.0, 0.1), (0.0, 0.1), 5 / 4),  # the lower bound is included, the upper one is not
    ],
)
def test_a_reset_network_is_compared_at_these_ages_and_the_other_arm_at_the_same_times(ages, reset_age, quotient):
    reset = runs("Reset", [9.0, 9.0], "eval_return", start=5.0, ages=ages)
    plain = runs("DQN", [1.0, 1.0], "eval_return", start=4.0)
    claim = Claim("", Quantity("eval_return", reset_age=reset_age), "Reset", "DQN", "higher", 1.1, "ratio")
    assert judge(claim, pl.concat([reset, plain])).estimate == pytest.approx(quotient)


STEPS = np.array([0, 100, 200, 300, 1000])


@pytest.mark.parametrize(
    ("reduce", "after", "values", "expected"),
    [
        ("start", 0.0, [math.nan, 3.0, 4.0, 5.0, 6.0], 3.0),
        ("end", 0.0, [1.0, 2.0, 3.0, 4.0, 5.0], 5.0),
        ("end", 0.0, [1.0, 2.0, 3.0, 4.0, math.nan], 4.0),  # no value in the last tenth: takes the last one
        ("mean", 0.0, [0.0, 2.0, 2.0, 2.0, 0.0], (100 + 200 + 200 + 700) / 1000),
        ("mean", 0.2, [9.0, 9.0, 1.0, 1.0, 2.0], (100 * 1.0 + 700 * 1.5) / 800),
        ("mean", 0.0, [math.nan, math.nan, 7.0, math.nan, math.nan], 7.0),
    ],
)
def test_a_curve_comes_down_to_one_number(reduce, after, values, expected):
    assert reduced(reduce, after, STEPS, np.array(values)) == pytest.approx(expected)


def test_training_returns_are_weighted_by_their_episodes():
    claim = replace(RETURN, quantity=Quantity("train_return", "per episode", after=0.5), by="ratio", smallest=1.1)
    rows = [(25, 9.0, 9), (50, 9.0, 9), (75, 1.0, 3), (100, None, 0)]  # the row at 50 holds episodes of the first half
    table = [
        {"arm": arm, "environment": "MinAtar/Asterix", "seed": 0, "agent_steps": steps, "reset_age": None}
        | {"train_return": returned, "train_episodes": episodes}
        for arm, last in (("ReDo", (90, 5.0, 1)), ("DQN", (90, 1.0, 2)))
        for steps, returned, episodes in (*rows, last)
    ]
    frame = pl.DataFrame(table, infer_schema_length=None).with_columns(pl.col("reset_age").cast(pl.Float64))
    assert judge(claim, frame).estimate == pytest.approx((3 * 1.0 + 5.0) / 4)


def test_a_curve_without_values_comes_to_nothing():
    assert math.isnan(reduced("mean", 0.0, STEPS, np.full(5, math.nan)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quantity("loss", "mean", after=1.0), r"after must be a fraction of the run in \[0, 1\), got 1.0"),
        (lambda: Quantity("loss", after=0.5), "after needs reduce='mean' or 'per episode', got reduce='end'"),
        (lambda: Quantity("eval_return", "per episode"), "needs the metric train_return, got 'eval_return'"),
        (
            lambda: Quantity("loss", reset_age=(0.5, 0.5)),
            r"reset_age must be two increasing numbers .* got \(0.5, 0.5\)",
        ),
        (lambda: replace(HALF, smallest=0.0), "smallest must be positive for a ratio, got 0.0"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_lowest_value_is_one_measured_after_the_start():
    steps, values = np.array([0, 10, 20, 30]), np.array([0.0, 0.3, np.nan, 0.1])
    assert reduced("lowest", 0.0, steps, values) == 0.1
    assert reduced("lowest", 0.0, steps[:1], values[:1]) == 0.0


def test_a_claim_about_every_time_is_one_about_the_lowest():
    rises = [(0.0, 0.2, 0.05), (0.0, 0.1, 0.3), (0.0, 0.06, 0.06)]
    table = [
        {"arm": "DQN", "environment": "Line", "seed": seed, "agent_steps": step, "rise": value, "reset_age": None}
        for seed, values in enumerate(rises)
        for step, value in enumerate(values)
    ]
    frame = pl.DataFrame(table, schema_overrides={"reset_age": pl.Float64})
    verdict = judge(Claim("Each raises it", Quantity("rise", "lowest"), "DQN", None, "higher", 0.02), frame)
    np.testing.assert_allclose(bounds(verdict), t_bounds([0.05, 0.1, 0.06]), rtol=1e-6)
    assert verdict.verdict == "reproduced"


def test_the_end_of_a_curve_is_its_last_tenth():
    steps = np.array([0, 50, 89, 90, 100])
    assert at_end(steps, np.ones(5, bool)).tolist() == [False, False, False, True, True]
