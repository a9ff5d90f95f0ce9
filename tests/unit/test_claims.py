"""Verdicts on a few pairs of runs, compared with values computed by hand."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from dormant.lab import Claim, Experiment, Precondition, Quantity
from dormant.lab.judging import holm_levels, p_value
from dormant.lab.judging.claims import judge, judged

T2 = 4.302653  # the t quantile for a 95 % interval with two degrees of freedom
DORMANT = "dormant/0.1/all"
FEWER = Claim("ReDo has fewer", Quantity(DORMANT), "ReDo", "DQN", "lower", -0.1)
HALF = replace(FEWER, smallest=0.5, by="ratio")
RETURN = Claim("ReDo returns more", Quantity("eval_return"), "ReDo", "DQN", "higher", 0.1)
GROWS = Claim("Dormancy grows", Quantity(DORMANT), "DQN", None, "higher", 0.1)


def runs(arm, ends, metric=DORMANT, environment="MinAtar/Asterix", start=0.0, ages=(None, None)):
    """Returns a table of runs with seeds 0, 1, ... A run has two log points. None in `ends` leaves out a run."""
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
    assert verdict.why == (
        "The effect is -30.0 percentage points [-37.5, -22.5]: it goes the claimed way, and the estimate reaches "
        "-10.0 percentage points, which matters."
    )
    assert (verdict.unit, verdict.level) == ("percentage points", 0.95)


def test_an_effect_that_goes_the_other_way_is_opposite():
    verdict = judge(FEWER, both([0.40, 0.45, 0.38], [0.10, 0.12, 0.11]))
    np.testing.assert_allclose(bounds(verdict), t_bounds([0.30, 0.33, 0.27]), rtol=1e-6)
    assert verdict.verdict == "opposite"
    assert verdict.why == "The effect is +30.0 percentage points [+22.5, +37.5]: it goes the other way."


def test_an_effect_the_claimed_way_that_is_certainly_too_small_is_weaker_than_claimed():
    verdict = judge(FEWER, both([0.27, 0.28, 0.29], [0.30, 0.30, 0.32]))
    # The differences are -0.03, -0.02 and -0.03. Their interval is -0.0267 plus or minus 0.0143.
    assert verdict.verdict == "weaker than claimed"
    assert verdict.why == (
        "The effect is -2.7 percentage points [-4.1, -1.2]: it goes the claimed way, but falls short of "
        "-10.0 percentage points, the smallest effect that matters."
    )


def test_an_interval_within_what_matters_both_ways_is_no_such_effect():
    verdict = judge(FEWER, both([0.29, 0.28, 0.30], [0.30, 0.30, 0.31]))
    # The differences are -0.01, -0.02 and -0.01. Their interval is -0.0133 plus or minus 0.0143.
    assert verdict.verdict == "no such effect"
    assert verdict.why == (
        "The effect is -1.3 percentage points [-2.8, +0.1]: in both directions it falls short of -10.0 "
        "percentage points, the smallest effect that matters."
    )
    # This effect has the opposite direction. Its interval excludes zero, but it is too small to matter.
    assert judge(FEWER, both([0.33, 0.32, 0.34], [0.30, 0.30, 0.31])).verdict == "no such effect"


def test_an_interval_around_no_effect_is_not_settled():
    verdict = judge(FEWER, both([0.10, 0.30, 0.20], [0.40, 0.35, 0.60]))
    # The differences are -0.3, -0.05 and -0.4. Their interval is -0.25 plus or minus 0.447.
    assert verdict.high > 0
    assert verdict.verdict == "not settled"
    assert verdict.why.endswith("these runs fit both no effect and -10.0 percentage points, which would matter.")


def test_an_effect_of_a_size_that_is_open_is_not_settled():
    verdict = judge(FEWER, both([0.20, 0.21, 0.20], [0.28, 0.30, 0.29]))
    # The differences are -0.08, -0.09 and -0.09. Their interval is -0.0867 plus or minus 0.0143. It contains -0.1.
    assert verdict.low < -0.1 < verdict.estimate
    assert verdict.why.endswith(
        "it goes the claimed way, but may fall short of -10.0 percentage points, the smallest effect that matters."
    )
    assert verdict.verdict == "not settled"


def test_an_effect_that_may_be_opposite_but_not_as_claimed_is_not_settled():
    verdict = judge(FEWER, both([0.40, 0.30, 0.36], [0.30, 0.30, 0.30]))
    # The differences are 0.1, 0 and 0.06. Their interval is 0.053 plus or minus 0.125.
    assert -0.1 < verdict.low < 0 and verdict.high > 0.1
    assert (verdict.verdict, verdict.why[-41:]) == ("not settled", "these runs do not show which way it goes.")


@pytest.mark.parametrize(
    ("effects", "ruling", "why"),
    [
        ([0.0, 0.01, -0.01], "reproduced", "it keeps within the bound of -5.0 percentage points."),
        ([-0.2, -0.21, -0.19], "opposite", "it lies beyond the bound of -5.0 percentage points."),
        ([-0.3, 0.3, 0.0], "not settled", "it can lie on either side of the bound of -5.0 percentage points."),
        ([-0.03, -0.02, -0.025], "reproduced", "it keeps within the bound of -5.0 percentage points."),
    ],
)
def test_a_bound_is_judged_at_the_bound(effects, ruling, why):
    harmless = replace(FEWER, direction="higher", smallest=-0.05)
    assert harmless.is_bound and not FEWER.is_bound
    verdict = judge(harmless, both([0.5 + effect for effect in effects], [0.5, 0.5, 0.5]))
    assert verdict.verdict == ruling
    assert verdict.why.endswith(why)


def test_quotients_are_compared_by_their_logarithms():
    verdict = judge(HALF, both([0.1, 0.05, 0.08], [0.4, 0.4, 0.32]))
    low, high = np.exp(t_bounds(np.log([0.25, 0.125, 0.25])))[1:]
    np.testing.assert_allclose(bounds(verdict), [(0.25 * 0.125 * 0.25) ** (1 / 3), low, high], rtol=1e-6)
    assert (verdict.verdict, verdict.unit) == ("reproduced", "times")
    assert judge(HALF, both([0.1, 0.5, 0.3], [0.4, 0.4, 0.32])).verdict == "not settled"
    assert judge(HALF, both([0.4, 0.41, 0.33], [0.4, 0.4, 0.32])).verdict == "no such effect"
    assert judge(HALF, both([0.3, 0.31, 0.29], [0.4, 0.4, 0.4])).verdict == "weaker than claimed"
    assert judge(HALF, both([0.4, 0.5, 0.45], [0.1, 0.1, 0.1])).verdict == "opposite"


def test_a_quotient_of_zero_is_a_hundredth_and_of_two_zeros_one():
    verdict = judge(HALF, both([0.0, 0.0, 0.0], [0.4, 0.4, 0.4]))
    np.testing.assert_allclose(bounds(verdict), [0.01, 0.01, 0.01])
    assert verdict.verdict == "reproduced"
    assert verdict.why.startswith("The effect is at most 0.01 times in every pair: it goes the claimed way")
    assert judge(HALF, both([0.0, 0.0], [0.0, 0.0])).estimate == 1.0
    many = judge(HALF, both([0.2, 0.2], [0.0, 0.0]))
    assert many.estimate == pytest.approx(100.0)
    assert many.why.startswith("The effect is at least 100 times in every pair: it goes the other way")


def test_a_quotient_that_may_be_anything_is_said_to_be_unknown():
    verdict = judge(HALF, both([0.0, 0.4], [0.4, 0.0]))
    np.testing.assert_allclose(bounds(verdict), [1.0, 0.01, 100.0])
    assert verdict.verdict == "not settled"
    assert verdict.why == "The quotient cannot be estimated: these runs fit anything from a hundredth to 100 times."


def test_a_bound_of_a_quotient_beyond_the_largest_is_clipped_and_said():
    verdict = judge(replace(HALF, direction="higher", smallest=2.0), both([0.4, 4.0], [0.1, 0.1]))
    np.testing.assert_allclose(bounds(verdict), [math.sqrt(160), 0.01, 100.0], rtol=1e-6)
    one_sided = judge(replace(HALF, direction="higher", smallest=2.0), both([4.0, 6.0, 8.0], [0.1, 0.1, 0.1]))
    assert one_sided.high == 100.0 and one_sided.low > 2
    assert "[24.3, at least 100]" in one_sided.why


def test_a_quotient_of_negative_values_is_not_judged():
    verdict = judge(HALF, both([-0.1, 0.1, 0.1], [0.4, 0.4, 0.4]))
    assert verdict.verdict == "not testable"
    assert verdict.why.startswith("Some quotients are undefined")
    assert math.isnan(verdict.estimate)


def test_an_infinite_value_is_not_judged():
    verdict = judge(replace(FEWER, quantity=Quantity("loss")), both([1.0, math.inf, 1.0], [2.0, 2.0, 2.0], "loss"))
    assert verdict.verdict == "not testable"
    assert verdict.why.startswith("Some differences are undefined")


def test_returns_are_shares_of_what_they_are_compared_with_in_each_environment():
    easy = both([120.0, 130.0, 110.0], [100.0, 90.0, 110.0], "eval_return", "MinAtar/Breakout")
    hard = both([1.2, 1.1, 1.3], [1.0, 1.1, 0.9], "eval_return", "MinAtar/Asterix")
    verdict = judge(RETURN, pl.concat([easy, hard]))
    # Relative to DQN's return, the differences are 0.2, 0.4 and 0 in one game and 0.2, 0 and 0.4 in the other. The mean
    # of a game has the standard error 0.2 / sqrt(3). The mean over games has the standard error 0.2 / sqrt(6), with
    # four degrees of freedom.
    half = 2.776445 * 0.2 / math.sqrt(6)
    np.testing.assert_allclose(bounds(verdict), [0.2, 0.2 - half, 0.2 + half], rtol=1e-6)
    assert (verdict.runs, verdict.unit) == (6, "% of DQN")
    assert verdict.why.startswith("The effect is +20 % of DQN [-3, +43]: ")
    assert verdict.interval == "paired t, stratified by environment, Welch-Satterthwaite"


def test_a_share_of_a_negative_return_is_positive_if_the_arm_is_better():
    verdict = judge(RETURN, both([-50.0, -60.0, -40.0], [-100.0, -110.0, -90.0], "eval_return", "MinAtar/Breakout"))
    assert verdict.estimate == pytest.approx(0.5)


def test_returns_of_atari_are_human_normalised():
    pong = both([14.6, 14.6, 14.6], [-20.7, -20.7, -20.7], "eval_return", "ALE/Pong")
    verdict = judge(RETURN, pong)
    assert (verdict.estimate, verdict.unit, verdict.verdict) == (1.0, "of the human-normalised score", "reproduced")


def test_a_quotient_of_returns_of_atari_is_judged_as_a_difference_of_scores():
    more = replace(RETURN, by="ratio", smallest=1.1)
    pong = both([-3.05, -3.05, -1.0], [-6.0, -4.0, -4.0], "eval_return", "ALE/Pong")  # human minus random score: 35.3
    verdict = judge(more, pong)
    np.testing.assert_allclose(bounds(verdict), t_bounds(np.array([2.95, 0.95, 3.0]) / 35.3), rtol=1e-6)
    assert (verdict.claim.by, verdict.claim.smallest) == ("difference", 0.05)
    lower = judge(replace(more, direction="lower", smallest=0.9), pong)
    harmless = judge(replace(more, direction="higher", smallest=0.9), pong)
    assert lower.claim.smallest == harmless.claim.smallest == -0.05
    assert harmless.claim.is_bound and not lower.claim.is_bound
    random = both([-20.7, -20.7], [-20.7, -20.7], "eval_return", "ALE/Pong")
    assert judge(more, random).verdict == "no such effect"


def test_a_share_of_nothing_is_not_judged():
    verdict = judge(RETURN, both([1.0, 1.0], [0.0, 0.0], "eval_return"))
    assert verdict.verdict == "not testable"
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


def test_one_pair_is_not_settled_and_said():
    verdict = judge(FEWER, both([0.1], [0.4]))
    assert (verdict.verdict, verdict.runs, round(verdict.estimate, 6)) == ("not settled", 1, -0.3)
    assert math.isnan(verdict.low) and math.isnan(verdict.high)
    assert verdict.why == "There are fewer than two pairs of runs in every environment."


@pytest.mark.parametrize("claim", [FEWER, HALF, RETURN, GROWS], ids=["difference", "ratio", "return", "own start"])
def test_without_runs_a_claim_is_not_measured_and_says_whose_are_missing(claim):
    verdict = judge(claim, both([0.1], [0.1]).clear())
    assert (verdict.verdict, verdict.runs) == ("not measured", 0)
    assert verdict.why == f"No finished run of {claim.arm} has measured {claim.quantity.metric}."


def test_a_metric_that_was_never_measured_is_named():
    verdict = judge(replace(FEWER, quantity=Quantity("overlap")), both([0.1, 0.1], [0.4, 0.4]))
    assert (verdict.verdict, verdict.why) == ("not measured", "No finished run of ReDo has measured overlap.")


def test_every_claim_is_judged():
    experiment = Experiment("fig00", "", {}, claims=(FEWER, HALF, replace(FEWER, arm="DQN", against="ReDo")))
    frame = both([0.10, 0.12, 0.11], [0.40, 0.45, 0.38])
    verdicts = judged(experiment, frame, "pilot")
    assert [verdict.verdict for verdict in verdicts] == ["reproduced", "reproduced", "opposite"]
    assert [verdict.claim for verdict in verdicts] == list(experiment.claims)
    assert judged(experiment, frame, "smoke") == []


def test_holms_levels_reject_what_holm_rejects():
    # Sorted by p-value, the four claims have the thresholds 0.05 / 4, 0.05 / 3, 0.05 / 2 and 0.05.
    np.testing.assert_allclose(holm_levels([0.03, 0.01, 0.016, 0.2]), [1 - 0.025, 1 - 0.0125, 1 - 0.05 / 3, 0.975])
    np.testing.assert_allclose(holm_levels([0.02, 0.04]), [0.975, 0.95])
    np.testing.assert_allclose(holm_levels([math.nan, 0.02]), [0.95, 0.975])
    assert holm_levels([]) == []


def test_primary_claims_are_corrected_together_and_exploratory_ones_are_not():
    # The first claim has a mean difference of about -0.3 and a p-value of 0.026. The second has a p-value of 0.39.
    frame = pl.concat([both([0.2, 0.1, 0.0], [0.45, 0.35, 0.4]), runs("Reset", [0.4, 0.2, 0.7])])
    first = replace(FEWER, primary=True)
    second = replace(first, arm="Reset", against="ReDo", direction="higher", smallest=0.1)
    experiment = Experiment("fig00", "", {}, claims=(first, second, FEWER))
    alone = judge(FEWER, frame)
    assert 0.025 < float(p_value(np.array([[-0.25], [-0.25], [-0.4]]))) < 0.05
    corrected, other, exploratory = judged(experiment, frame, "laptop")
    assert (alone.verdict, exploratory.verdict, corrected.verdict) == ("reproduced", "reproduced", "not settled")
    assert (exploratory.level, corrected.level, other.level) == (0.95, 0.975, 0.975)
    assert corrected.low < alone.low < alone.high < 0 < corrected.high
    assert judged(replace(experiment, claims=(first, FEWER)), frame, "laptop")[0].verdict == "reproduced"


ENOUGH = Precondition(Quantity(DORMANT, "start"), "DQN", least=0.1)


def test_a_claim_whose_precondition_fails_is_not_testable():
    fall = Claim("It falls", Quantity(DORMANT), "DQN", None, "lower", -0.1, requires=(ENOUGH,))
    verdict = judge(fall, runs("DQN", [0.0, 0.0, 0.01], start=0.02))
    assert verdict.verdict == "not testable"
    assert (
        verdict.why
        == "The claim needs at least 10.0 % dormant neurons (τ = 0.1) of DQN, at the start, but finds 2.0 %."
    )
    assert verdict.estimate == pytest.approx(-0.0166667, abs=1e-6)  # every verdict has an estimate
    assert judge(fall, runs("DQN", [0.0, 0.0, 0.01], start=0.12)).verdict == "reproduced"
    room = replace(fall, requires=(Precondition(Quantity(DORMANT), "DQN", most=0.9),))
    assert judge(room, runs("DQN", [0.95, 0.97, 0.96])).why == (
        "The claim needs at most 90.0 % dormant neurons (τ = 0.1) of DQN, at the end, but finds 96.0 %."
    )


def test_a_precondition_counts_each_environment_alike_and_needs_to_be_measured():
    frame = pl.concat(
        [runs("DQN", [0.0] * 3, start=0.3), runs("DQN", [0.0], environment="MinAtar/Freeway", start=0.02)]
    )
    fall = Claim("It falls", Quantity(DORMANT), "DQN", None, "lower", -0.1, requires=(replace(ENOUGH, least=0.17),))
    assert "but finds 16.0 %." in judge(fall, frame).why
    unmeasured = replace(ENOUGH, quantity=Quantity("srank"))
    verdict = judge(replace(fall, requires=(unmeasured,)), frame)
    assert (verdict.verdict, verdict.why[:42]) == ("not measured", "No finished run of DQN has measured srank.")


def test_a_primary_claim_that_cannot_be_tested_still_counts_for_the_correction():
    frame = both([0.1, 0.1, 0.12], [0.4, 0.4, 0.4])
    untested = replace(FEWER, statement="untested", primary=True, requires=(ENOUGH,))
    verdicts = judged(Experiment("fig00", "", {}, claims=(replace(FEWER, primary=True), untested)), frame, "pilot")
    assert [(each.verdict, each.level) for each in verdicts] == [("reproduced", 0.975), ("not testable", 0.95)]


def test_a_claim_may_compare_two_quantities_of_the_same_run():
    table = [
        {"arm": "DQN", "environment": "Line", "seed": seed, "agent_steps": step, "overlap/a": high, "overlap/b": low}
        for seed, (high, low) in enumerate([(0.6, 0.4), (0.7, 0.4), (0.6, 0.5)])
        for step in (0, 100)
    ]
    frame = pl.DataFrame(table).with_columns(reset_age=pl.lit(None, pl.Float64))
    claim = Claim("a above b", Quantity("overlap/a"), "DQN", None, "higher", 0.05, baseline=Quantity("overlap/b"))
    np.testing.assert_allclose(bounds(judge(claim, frame)), t_bounds([0.2, 0.3, 0.1]), rtol=1e-6)
    verdict = judge(replace(claim, baseline=Quantity("overlap/c")), frame)
    assert (verdict.verdict, verdict.why) == ("not measured", "No finished run of DQN has measured overlap/c.")


@pytest.mark.parametrize(
    ("ages", "reset_age", "quotient"),
    [
        ((0.9, 0.1), (0.0, math.inf), 9.0),
        ((0.9, 0.1), (0.5, math.inf), 5 / 4),
        ((0.9, 0.1), (0.0, 0.5), 9.0),
        ((0.9, 0.1), (0.1, 0.9), 9.0),
        ((0.0, 0.1), (0.0, 0.1), 5 / 4),  # the lower bound is included, the upper bound is not
    ],
)
def test_a_reset_network_is_compared_at_these_ages_and_the_other_arm_at_the_same_times(ages, reset_age, quotient):
    reset = runs("Reset", [9.0, 9.0], "eval_return", start=5.0, ages=ages)
    plain = runs("DQN", [1.0, 1.0], "eval_return", start=4.0)
    claim = Claim("", Quantity("eval_return", reset_age=reset_age), "Reset", "DQN", "higher", 1.1, "ratio")
    assert judge(claim, pl.concat([reset, plain])).estimate == pytest.approx(quotient)


def test_training_returns_are_weighted_by_their_episodes():
    claim = replace(RETURN, quantity=Quantity("train_return", "per episode", after=0.5), by="ratio", smallest=1.1)
    rows = [(25, 9.0, 9), (50, 9.0, 9), (75, 1.0, 3), (100, None, 0)]  # the row at 50 has episodes of the first half
    table = [
        {"arm": arm, "environment": "MinAtar/Asterix", "seed": 0, "agent_steps": steps, "reset_age": None}
        | {"train_return": returned, "train_episodes": episodes}
        for arm, last in (("ReDo", (90, 5.0, 1)), ("DQN", (90, 1.0, 2)))
        for steps, returned, episodes in (*rows, last)
    ]
    frame = pl.DataFrame(table, infer_schema_length=None).with_columns(pl.col("reset_age").cast(pl.Float64))
    assert judge(claim, frame).estimate == pytest.approx((3 * 1.0 + 5.0) / 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quantity("loss", "mean", after=1.0), r"after must be a fraction of the run in \[0, 1\), got 1.0"),
        (lambda: Quantity("loss", after=0.5), "after needs reduce='mean' or 'per episode', got reduce='end'"),
        (lambda: Quantity("loss", until=0.5), "until needs reduce='mean' or 'per episode', got reduce='end'"),
        (lambda: Quantity("loss", "mean", after=0.5, until=0.5), r"until must be a fraction of the run in \(0.5, 1\]"),
        (lambda: Quantity("eval_return", "per episode"), "needs the metric train_return, got 'eval_return'"),
        (lambda: Precondition(Quantity("loss"), "DQN", 0.5, 0.5), "least must be below most, got 0.5 and 0.5"),
        (
            lambda: Quantity("loss", reset_age=(0.5, 0.5)),
            r"reset_age must be two increasing numbers .* got \(0.5, 0.5\)",
        ),
        (lambda: replace(HALF, smallest=0.0), 'smallest must be positive if by="ratio", got 0.0'),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


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
