"""`dormant compare`: drawn settings, tuning runs, chosen settings, the table, and the command on random walks."""

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from walks import Place, Walk, Walker

from dormant.cli import report, run
from dormant.cli.compare import methods
from dormant.cli.interventions import Name
from dormant.experiments.benches import LAPTOP_SEEDS
from dormant.experiments.comparison import (
    GROUNDS,
    Budget,
    Ground,
    Record,
    claims,
    read_record,
    stored_record,
    tuning,
    tuning_arm,
    write_record,
)
from dormant.experiments.methods import DEFAULT, GROUPS, LEARNING_RATE, METHODS, PLAIN, Method, Range, candidates
from dormant.experiments.ranking import chosen, rows, table
from dormant.experiments.screening import SEEDS
from dormant.lab.runs.costs import relative_times, time_quotients
from dormant.lab.runs.description import digest
from dormant.lab.runs.schema import Damaged

RATES = (LEARNING_RATE,)
SCALES = [(suite, scale) for suite, scales in GROUNDS.items() for scale in scales]


@pytest.mark.parametrize(("suite", "scale"), SCALES)
def test_every_method_has_the_same_budget_and_seeds_of_its_own_to_tune_on(suite, scale):
    ground = GROUNDS[suite][scale]
    budget = ground.tuning
    for name in (PLAIN, *METHODS):
        settings = candidates(name, ground.bench, budget.draws)
        assert len({digest(training) for training in settings.values()}) == budget.draws, name
    assert set(budget.seeds).isdisjoint(ground.seeds)
    design = tuning(suite, scale, ["redo", "layer-norm"]).designs[scale]
    assert (len(design.arms), design.seeds) == (3 * budget.draws, budget.seeds)
    assert design.environments == ground.environments[: budget.environments]


def test_the_pilot_and_the_laptop_scale_judge_seeds_that_nobody_has_seen():
    pilot, laptop = (set(GROUNDS["minatar"][scale].seeds) for scale in ("pilot", "laptop"))
    seen = {0, 1, 2, 3, 4, *LAPTOP_SEEDS, *SEEDS}
    assert pilot.isdisjoint(laptop) and seen.isdisjoint(pilot | laptop) and len(pilot) == 3 and len(laptop) == 5
    assert len(DEFAULT) >= 12 and len(GROUNDS["minatar"]["pilot"].environments) == 2


def test_draws_lie_in_their_ranges_and_more_draws_begin_with_the_same_settings():
    bench = GROUNDS["minatar"]["pilot"].bench
    for name in (PLAIN, *METHODS):
        many = list(candidates(name, bench, 16))
        assert many[:5] == list(candidates(name, bench, 5))
        for text in many:
            for each, value in zip(METHODS[name].ranges if name in METHODS else RATES, text.split(", "), strict=True):
                value = float(value.removeprefix(f"{each.name} "))
                assert each.value(0.0, bench) * 0.99 <= value <= each.value(1.0, bench) * 1.01


def test_draws_are_spread_evenly_on_a_logarithmic_scale():
    bench = GROUNDS["minatar"]["pilot"].bench
    values = [float(text.split(" ")[1]) for text in candidates("l2-init", bench, 400)]
    counts, _ = np.histogram(np.log10(values), bins=4, range=(-6, -2))
    assert counts.sum() == 400 and (abs(counts - 100) <= 3).all()


def test_a_range_is_relative_to_its_bench():
    bench = GROUNDS["minatar"]["pilot"].bench
    assert Range("period", 0.5, 2.0, "reset_period").value(0.5, bench) == bench.reset_period
    assert Range("rate", 0.5, 2.0, "learning_rate").value(1.0, bench) == 2 * bench.dqn().agent.learning_rate
    assert (
        Range("warm-up", 1.0, 1_000.0, "steps").value(0.1, bench) == 2
        and Range("x", 1.0, 100.0).value(0.25, bench) == 3.16
    )
    with pytest.raises(ValueError, match="0 < low < high"):
        Range("x", 0.0, 1.0)


def curves(arms, environments=("Line",)):
    """Returns a table like `judging.table.read` does. `arms` has a return and a dormant fraction per arm and seed.

    In the environment number n, counted from 0, returns are 10 ** n times as large.
    """
    rows = [
        {"arm": arm, "environment": environment, "seed": seed, "agent_steps": steps, "gradient_steps": steps}
        | {"train_return": returned * 10**scale, "train_episodes": 2.0, "dormant/0.1/all": dormant, "reset_age": None}
        for arm, runs in arms.items()
        for scale, environment in enumerate(environments)
        for seed, (returned, dormant) in enumerate(runs)
        for steps in (0, 100)
    ]
    return pl.DataFrame(rows, schema_overrides={"reset_age": pl.Float64})


def tuned(name, *returns):
    """Returns the arms of the tuning runs of a method at scale smoke, with the given returns."""
    settings = candidates(name, GROUNDS["minatar"]["smoke"].bench, len(returns))
    return {tuning_arm(name, setting): [(value, 0.5)] for setting, value in zip(settings, returns, strict=True)}


def test_the_setting_with_the_highest_return_is_chosen():
    frame = curves(tuned(PLAIN, 1.0, 3.0) | tuned("redo", 5.0, 2.0))
    first, _ = candidates("redo", GROUNDS["minatar"]["smoke"].bench, 2)
    _, second = candidates(PLAIN, GROUNDS["minatar"]["smoke"].bench, 2)
    assert chosen("minatar", "smoke", ["redo"], frame) == {PLAIN: second, "redo": first}


def test_tuning_weighs_environments_by_the_plain_agents_return(monkeypatch):
    ground = GROUNDS["minatar"]["smoke"]
    two = replace(ground, environments=(Place("Line"), Place("Square")), tuning=Budget(2, 2))
    monkeypatch.setitem(GROUNDS["minatar"], "smoke", two)
    frame = curves(tuned(PLAIN, 1.0, 1.0), ("Line", "Square"))
    first, second = tuned("redo", 0.0, 0.0)
    # The first setting is twice as good as plain DQN in the first environment. The second is 1.5 times as good in the
    # second environment, where returns are ten times as large.
    returns = {first: (2.0, 10.0), second: (1.0, 15.0)}
    redo = [
        {"arm": arm, "environment": place, "seed": 0, "agent_steps": steps, "gradient_steps": steps, "reset_age": None}
        | {"train_return": value, "train_episodes": 2.0, "dormant/0.1/all": 0.5}
        for arm, values in returns.items()
        for place, value in zip(("Line", "Square"), values, strict=True)
        for steps in (0, 100)
    ]
    frame = pl.concat([frame, pl.DataFrame(redo, schema=frame.schema)])
    assert tuning_arm("redo", chosen("minatar", "smoke", ["redo"], frame)["redo"]) == first
    without = frame.filter((pl.col("arm") != first) | (pl.col("environment") != "Square"))
    assert tuning_arm("redo", chosen("minatar", "smoke", ["redo"], without)["redo"]) == second


def test_a_method_without_a_tuning_run_is_refused():
    with pytest.raises(ValueError, match="no finished tuning run of DQN"):
        chosen("minatar", "smoke", [], curves(tuned("redo", 1.0, 1.0)))


def test_rows_tell_ranks_returns_and_pairs():
    frame = curves({"DQN": [(8.0, 0.4), (12.0, 0.6)], "ReDo": [(15.0, 0.1), (25.0, 0.3)]}, ("Line", "Square"))
    record = Record(suite="minatar", chosen={PLAIN: "learning rate 1", "redo": "τ 0.1"}, cost={"redo": 1.5})
    plain, redo = rows(record, frame, "pilot")
    assert_allclose(plain.returns.estimate, 1.0)
    assert (plain.higher_return, plain.cost, plain.runs) == (None, None, 4)
    assert (plain.rank, redo.rank) == ((2.0, 2.0, 2.0), (1.0, 1.0, 1.0))
    assert_allclose(redo.returns, (2.0, 1.5, 2.5))
    assert_allclose(redo.dormant.estimate, 0.2)
    assert redo.fewer_dormant is not None and redo.fewer_dormant.runs == 4
    assert redo.higher_return is not None
    assert_allclose(redo.higher_return.estimate, (15 / 8 * 25 / 12) ** 0.5)
    _, first, second = table(record, frame, "pilot")
    assert (first[:4], first[6:]) == (("ReDo", "τ 0.1", "1.0 [1.0, 1.0]", "2.00 [1.50, 2.50]"), ("1.50", "4"))
    assert first[4].startswith("1.98 times [") and first[5].startswith("20.0% [")
    assert (second[4], second[6]) == ("–", "not measured")
    assert [row.higher_return for row in rows(record, frame, "smoke")] == [None, None]
    assert rows(record, frame.filter(arm="ReDo"), "pilot") == []


def test_intervals_of_returns_are_corrected_for_the_number_of_methods():
    names = [PLAIN, "redo", "snr", "reset"]
    arms = {"DQN": 1.0, "ReDo": 1.1, "SNR": 1.2, "Reset": 0.9}
    frame = curves({arm: [(level * (1 + 0.1 * seed), 0.5) for seed in range(3)] for arm, level in arms.items()})
    frame = frame.with_columns(train_return=pl.col("train_return") + 0.05 * pl.col("seed") * (pl.col("arm") == "SNR"))
    found = rows(Record(suite="minatar", chosen=dict.fromkeys(names, "")), frame, "pilot")
    levels = [row.higher_return.level for row in found[1:]]
    assert max(levels) > 0.95 and min(levels) >= 0.95
    assert_allclose(max(levels), 1 - 0.05 / 3)
    assert sum(claim.primary for claim in claims(names)) == 3


def test_a_variant_is_also_compared_with_its_method():
    pairs = {(claim.arm, claim.against) for claim in claims([PLAIN, "redo", "gap", "snr"])}
    assert ("ReDo, largest gap", "ReDo") in pairs and ("ReDo, largest gap", PLAIN) in pairs
    assert ("SNR", "ReDo") not in pairs
    assert not [claim for claim in claims([PLAIN, "gap"]) if claim.against == "ReDo"]


def test_a_group_has_methods_that_there_are():
    for name, group in GROUPS.items():
        assert set(group) <= set(METHODS) and methods(name) == list(group)
    variants = {name for name, each in METHODS.items() if each.variant_of}
    assert variants | {"redo"} == {*GROUPS["thresholds"], *GROUPS["renewals"]}


def test_what_takes_twice_as_long_costs_twice_as_much():
    told_of = []
    walks = {"plain": Walk(seconds=0.02), "slow": Walk(seconds=0.06)}
    ratios = relative_times(walks, "plain", told_of.append)
    assert ratios["plain"] == 1.0 and 1.5 < ratios["slow"] < 3.5
    assert told_of == ["plain", "slow"]


def test_a_quotient_compares_times_of_the_same_turn():
    times = iter([1.0, 2.0, 10.0, 30.0, 5.0, 5.0])  # the machine is ten times slower in the second turn
    now = [0.0]

    def wait():
        now[0] += next(times)

    quotients = time_quotients({"plain": wait, "slow": wait}, "plain", 3, lambda: now[0])
    assert quotients == {"plain": [1.0, 1.0, 1.0], "slow": [2.0, 3.0, 1.0]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("redoo", "no method is named redoo; did you mean redo?"),
        ("xyz", "no method is named xyz; expected one of redo, "),
        ("redo,redo", "expects at least one method, and each method only once"),
        (",", "expects at least one method, and each method only once"),
    ],
)
def test_methods_are_named_once_and_exist(text, said):
    with pytest.raises(ValueError, match=said):
        methods(text)


def test_names_of_methods_are_parted_by_commas():
    assert methods("redo, layer_norm") == ["redo", "layer-norm"]
    assert methods("all") == list(METHODS)


@pytest.fixture
def walking(monkeypatch):
    """Makes `dormant compare` run random walks: a plain agent and one method. Each has three settings to tune."""

    def walker(name):
        return Method(name, (Range("legs", 2.0, 200.0),), lambda bench, legs: Walk(agent=Walker(f"{legs} {name}")))

    monkeypatch.setitem(METHODS, "redo", replace(walker("long legs"), title="ReDo"))
    monkeypatch.setattr("dormant.experiments.methods._PLAIN", replace(walker("legs"), title=PLAIN))
    ground = Ground(GROUNDS["minatar"]["smoke"].bench, (Place("Line"),), (0, 1), Budget(3, 1), "Everything else.")
    monkeypatch.setitem(GROUNDS["minatar"], "smoke", ground)
    monkeypatch.setattr(report, "EXPERIMENTS", ())
    monkeypatch.setenv("COLUMNS", "160")


def test_the_command_tunes_judges_tells_and_finds_all_done_the_second_time(walking, tmp_path, capsys):
    arguments = ["compare", "--interventions", "redo", "--run-dir", str(tmp_path), "--workers", "1"]
    assert run(arguments) == 0
    said = capsys.readouterr().out
    assert "6 runs made, 0 failed." in said and "4 runs made, 0 failed." in said
    assert "Return / plain DQN" in said
    record = read_record(tmp_path, "smoke")
    assert record is not None and set(record.cost) == {PLAIN, "redo"}
    page = (tmp_path / "smoke" / "report.html").read_text()
    assert "dormant compare --interventions redo --suite minatar --scale smoke" in page
    assert "Table of methods" in page
    assert run(arguments) == 0
    said = capsys.readouterr().out
    assert said.count("0 runs made, 0 failed.") == 2
    assert read_record(tmp_path, "smoke") == record


def test_a_dry_run_makes_nothing(walking, tmp_path, capsys):
    assert run(["compare", "--interventions", "redo", "--run-dir", str(tmp_path / "runs"), "--dry-run"]) == 0
    assert "compare-tuning" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_a_scale_that_a_suite_has_not_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run(["compare", "--suite", "atari", "--scale", "laptop", "--run-dir", str(tmp_path)])
    assert ended.value.code == 2
    assert "--suite atari has no laptop scale, only smoke, paper." in capsys.readouterr().err


def test_a_record_of_settings_that_are_no_more_is_left_out(tmp_path):
    (tmp_path / "smoke").mkdir()
    record = Record(suite="minatar", chosen={PLAIN: "learning rate 1"})
    write_record(tmp_path, "smoke", record)
    assert read_record(tmp_path, "smoke") is None
    assert stored_record(tmp_path, "smoke") == record
    write_record(tmp_path, "smoke", replace_setting(record))
    assert read_record(tmp_path, "smoke") is not None


@pytest.mark.parametrize(("old", "new"), [("0.5", "0.6"), ('"cost": {', '"cost": 3, "old": {'), ("}", "")])
def test_a_damaged_record_is_refused_and_not_left_out(tmp_path, old, new):
    (tmp_path / "smoke").mkdir()
    chosen = {PLAIN: next(iter(candidates(PLAIN, GROUNDS["minatar"]["smoke"].bench, 1)))}
    write_record(tmp_path, "smoke", Record(suite="minatar", chosen=chosen, cost={"redo": 0.5}))
    file = tmp_path / "smoke" / "comparison.json"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(Damaged, match=r"comparison\.json is damaged"):
        read_record(tmp_path, "smoke")


def replace_setting(record):
    setting = next(iter(candidates(PLAIN, GROUNDS["minatar"]["smoke"].bench, 1)))
    return record.model_copy(update={"chosen": {PLAIN: setting}})


def test_a_record_with_older_names_of_methods_is_read(tmp_path):
    chosen = {PLAIN: next(iter(candidates(PLAIN, GROUNDS["minatar"]["smoke"].bench, 1)))}
    older = {"cbp": "continual-backprop", "shrink_perturb": "shrink-perturb", "layer_norm": "layer-norm"}
    for old, new in older.items():
        chosen[old] = next(iter(candidates(new, GROUNDS["minatar"]["smoke"].bench, 1)))
    (tmp_path / "smoke").mkdir()
    record = {"suite": "minatar", "chosen": chosen, "cost": {"cbp": 1.5}}
    (tmp_path / "smoke" / "comparison.json").write_text(json.dumps(record))
    read = read_record(tmp_path, "smoke")
    assert read is not None
    assert list(read.chosen) == [PLAIN, *older.values()] and read.cost == {"continual-backprop": 1.5}


def test_methods_have_the_names_that_train_has():
    trained = set(get_args(Name)) - {"none"}
    # These methods have no name in `dormant train`. Variants of ReDo are options of it, and the others are flags of the
    # network.
    others = {*GROUPS["thresholds"], *GROUPS["renewals"]} - {"redo"}
    assert set(METHODS) - trained == others | {"gap-head", "layer-norm", "crelu"}
    assert methods("shrink_perturb,Continual-Backprop") == ["shrink-perturb", "continual-backprop"]
