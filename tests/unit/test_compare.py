"""`dormant compare`: the tuning runs, the chosen settings, the rows of the table, and the command on random walks."""

import json
from typing import get_args

import polars as pl
import pytest
from numpy.testing import assert_allclose
from walks import Place, Walk, Walker

from dormant.cli import report, run
from dormant.cli.compare import methods
from dormant.cli.interventions import Name
from dormant.experiments.comparison import (
    GROUNDS,
    METHODS,
    PLAIN,
    TUNING_SEED,
    Ground,
    Method,
    Record,
    candidates,
    read_record,
    tuning,
    write_record,
)
from dormant.experiments.ranking import chosen, rows, table
from dormant.lab.runs.costs import relative_times
from dormant.lab.runs.description import digest
from dormant.lab.runs.schema import Damaged

SCALES = [(suite, scale) for suite, scales in GROUNDS.items() for scale in scales]


@pytest.mark.parametrize(("suite", "scale"), SCALES)
def test_every_method_has_the_same_budget_and_a_seed_of_its_own_to_tune_on(suite, scale):
    ground = GROUNDS[suite][scale]
    for name in (PLAIN, *METHODS):
        assert len({digest(training) for training in candidates(name, ground.bench).values()}) == 3, name
    assert TUNING_SEED not in ground.seeds
    design = tuning(suite, scale, ["redo", "layer-norm"]).designs[scale]
    assert (len(design.arms), len(design.environments), design.seeds) == (9, 1, (TUNING_SEED,))


def curves(arms):
    """Returns a table like `judging.table.read` does. `arms` has a return and a dormant fraction per arm and seed."""
    rows = [
        {"arm": arm, "environment": "Line", "seed": seed, "agent_steps": steps, "gradient_steps": steps}
        | {"eval_return": returned, "dormant/0.1/all": dormant, "reset_age": None}
        for arm, runs in arms.items()
        for seed, (returned, dormant) in enumerate(runs)
        for steps in (0, 100)
    ]
    return pl.DataFrame(rows, schema_overrides={"reset_age": pl.Float64})


def test_the_setting_with_the_highest_return_is_chosen():
    returns = {"τ 0": 2.0, "τ 0.025": 5.0, "τ 0.1": 3.0}
    arms = {f"ReDo, {setting}": [(value, 0.5)] for setting, value in returns.items()}
    arms |= {f"DQN, {setting}": [(1.0, 0.5)] for setting in candidates(PLAIN, GROUNDS["minatar"]["smoke"].bench)}
    assert chosen("minatar", "smoke", ["redo"], curves(arms))["redo"] == "τ 0.025"


def test_a_method_without_a_tuning_run_is_refused():
    with pytest.raises(ValueError, match="no finished tuning run of DQN"):
        chosen("minatar", "smoke", [], curves({"ReDo, τ 0": [(1.0, 0.5)]}))


def test_rows_tell_returns_as_a_share_of_the_plain_agents():
    frame = curves({"DQN": [(8.0, 0.4), (12.0, 0.6)], "ReDo": [(15.0, 0.1), (25.0, 0.3)]})
    record = Record(suite="minatar", chosen={PLAIN: "learning rate 1", "redo": "τ 0.1"}, cost={"redo": 1.5})
    plain, redo = rows(record, frame)
    assert_allclose(plain.returns.estimate, 1.0)
    assert (plain.higher_return, plain.cost, plain.runs) == (None, None, 2)
    assert_allclose(redo.returns, (2.0, 1.5, 2.5))
    assert_allclose(redo.dormant.estimate, 0.2)
    assert redo.fewer_dormant is not None and redo.fewer_dormant.runs == 2
    _, first, second = table(record, frame)
    assert first == ("ReDo", "τ 0.1", "2.00 [1.50, 2.50]", first[3], "1.50", "2")
    assert first[3].startswith("20.0% [") and second[4] == "not measured"


def test_what_takes_twice_as_long_costs_twice_as_much():
    told_of = []
    walks = {"plain": Walk(seconds=0.02), "slow": Walk(seconds=0.06)}
    ratios = relative_times(walks, "plain", told_of.append)
    assert ratios["plain"] == 1.0 and 1.5 < ratios["slow"] < 3.5
    assert told_of == ["plain", "slow"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("redoo", "no method is named redoo; did you mean redo?"),
        ("xyz", "no method is named xyz; expected one of redo, "),
        ("redo,redo", "expects each method once, and at least one"),
        (",", "expects each method once, and at least one"),
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

    def settings(name):
        return lambda bench: {f"legs {count}": Walk(agent=Walker(f"{count} {name}")) for count in (2, 4, 6)}

    monkeypatch.setitem(METHODS, "redo", Method("ReDo", settings("long legs")))
    monkeypatch.setattr("dormant.experiments.comparison._PLAIN", Method(PLAIN, settings("legs")))
    ground = Ground(GROUNDS["minatar"]["smoke"].bench, (Place("Line"),), (0, 1), "Everything else.")
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
    write_record(tmp_path, "smoke", replace_setting(record))
    assert read_record(tmp_path, "smoke") is not None


@pytest.mark.parametrize(("old", "new"), [("0.5", "0.6"), ('"cost": {', '"cost": 3, "old": {'), ("}", "")])
def test_a_damaged_record_is_refused_and_not_left_out(tmp_path, old, new):
    (tmp_path / "smoke").mkdir()
    chosen = {PLAIN: next(iter(candidates(PLAIN, GROUNDS["minatar"]["smoke"].bench)))}
    write_record(tmp_path, "smoke", Record(suite="minatar", chosen=chosen, cost={"redo": 0.5}))
    file = tmp_path / "smoke" / "comparison.json"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(Damaged, match=r"comparison\.json is damaged"):
        read_record(tmp_path, "smoke")


def replace_setting(record):
    setting = next(iter(candidates(PLAIN, GROUNDS["minatar"]["smoke"].bench)))
    return record.model_copy(update={"chosen": {PLAIN: setting}})


def test_a_record_with_older_names_of_methods_is_read(tmp_path):
    chosen = {PLAIN: next(iter(candidates(PLAIN, GROUNDS["minatar"]["smoke"].bench)))}
    older = {"cbp": "continual-backprop", "shrink_perturb": "shrink-perturb", "layer_norm": "layer-norm"}
    for old, new in older.items():
        chosen[old] = next(iter(candidates(new, GROUNDS["minatar"]["smoke"].bench)))
    (tmp_path / "smoke").mkdir()
    record = {"suite": "minatar", "chosen": chosen, "cost": {"cbp": 1.5}}
    (tmp_path / "smoke" / "comparison.json").write_text(json.dumps(record))
    read = read_record(tmp_path, "smoke")
    assert read is not None
    assert list(read.chosen) == [PLAIN, *older.values()] and read.cost == {"continual-backprop": 1.5}


def test_methods_have_the_names_that_train_has():
    trained = set(get_args(Name)) - {"none"}
    # These methods have no name in `dormant train`. Gap is `--intervention recycle --number gap`. The others are flags
    # of the network.
    assert set(METHODS) - trained == {"gap", "gap-head", "layer-norm", "crelu"}
    assert methods("shrink_perturb,Continual-Backprop") == ["shrink-perturb", "continual-backprop"]
