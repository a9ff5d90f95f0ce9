"""The flag `--data`. Also tests trainings that only take gradient steps: names, estimated durations, lines of lists."""

import json

import pytest
from rich.console import Console
from walks import Place, Walk

from dormant.cli import run
from dormant.cli.figure import Figure, _with_data_present, refuse_without_data, with_data
from dormant.cli.runs import entry
from dormant.experiments.causes import FIG03, FIG04
from dormant.experiments.redo import FIG09
from dormant.lab import name_of
from dormant.lab.runs.costs import Speed, Speeds, kind_of, paces
from dormant.lab.runs.description import describe, run_path
from dormant.lab.runs.folder import RunFolder
from dormant.supervised import SupervisedTraining
from dormant.supervised.images import CIFAR10, Digits

TRAINING = SupervisedTraining(env=Digits(), images=1_000, epochs=2, seeds=(0, 1))


def test_an_archive_is_put_where_the_environment_reads_it_and_moves_no_run_folder(tmp_path):
    (plain, *_), (named, *_) = (
        list(each.designs["paper"].cells()) for each in (FIG03, with_data(FIG03, "paper", tmp_path / "archive"))
    )
    assert named.training.env == CIFAR10() and named.training.env.path == tmp_path / "archive"
    assert run_path(tmp_path, "paper", plain.training) == run_path(tmp_path, "paper", named.training)
    assert with_data(FIG03, "paper", None) is FIG03


def test_offline_training_reads_its_transitions_from_there(tmp_path):
    for arm in with_data(FIG04, "paper", tmp_path).designs["paper"].arms:
        assert arm.training.data.path == tmp_path
        refuse_without_data(arm.training)
    with pytest.raises(ValueError, match="no folder of the data set was named; name it with --data"):
        refuse_without_data(FIG04.designs["paper"].arms[0].training)
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere; name the folder of the data set with --data"):
        refuse_without_data(with_data(FIG04, "paper", tmp_path / "nowhere").designs["paper"].arms[0].training)


def test_data_that_nothing_reads_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--data: fig09 reads no data set at the smoke scale; leave --data out"):
        with_data(FIG09, "smoke", tmp_path)


@pytest.mark.parametrize("data", [[], ["--data", "nowhere.tar.gz"]])
def test_a_missing_archive_is_one_line_before_anything_runs(tmp_path, capsys, data):
    with pytest.raises(SystemExit) as end:
        run(["figure", "fig03", "--scale", "paper", "--run-dir", str(tmp_path / "runs"), *data])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "cifar-10-python.tar.gz" in said and "--data" in said
    assert not (tmp_path / "runs").exists()
    refuse_without_data(TRAINING)
    refuse_without_data(Walk())


def test_all_leaves_out_what_has_no_data_and_says_where_to_get_it(tmp_path, capsys):
    flags = Figure(("all",), scale="paper", run_dir=tmp_path)
    assert list(_with_data_present(Console(), flags, [FIG03, FIG09])) == [FIG09]
    assert "fig03 is left out: " in (said := capsys.readouterr().out) and "cifar-10-python.tar.gz" in said


def test_a_dry_run_needs_no_data(tmp_path, capsys):
    assert run(["figure", "fig03", "--scale", "paper", "--dry-run", "--run-dir", str(tmp_path / "runs")]) == 0
    assert "fig03" in capsys.readouterr().out


def test_images_name_their_folder_and_what_learns_begins_the_next(tmp_path):
    assert (name_of(CIFAR10()), name_of(Place())) == ("CIFAR-10", "Place/Line")
    where = run_path(tmp_path, "smoke", TRAINING).relative_to(tmp_path)
    assert where.parts[:2] == ("smoke", "Digits") and where.parts[2].startswith("classifier-fixed-")


def test_where_nothing_acts_only_gradient_steps_cost(tmp_path):
    kind = kind_of(TRAINING, "cpu")
    assert (kind.environment, kind.network) == ("Digits", "ImageCNN(filters=[32, 64, 64], width=64)")
    # Two seeds take two epochs of 31 batches each, at 4 gradient steps per second: 31 s.
    assert Speeds({}, {kind: Speed(1.0, 4.0)}).cost(TRAINING) == (31.0, "table")
    folder = RunFolder(tmp_path)
    folder.spec.write_text(json.dumps({"training": describe(TRAINING)}))
    folder.done.write_text(json.dumps({"backend": "cpu"}))
    (tmp_path / "timing.json").write_text(json.dumps({"agent_steps": 10, "seconds": 5.0}))
    known = paces([folder.done])
    assert known == {(kind, None): 0.25}
    assert Speeds(known, {}).cost(TRAINING) == (31.0, "runs")


def test_a_run_of_epochs_is_listed(tmp_path):
    folder = RunFolder(tmp_path)
    folder.spec.write_text(json.dumps({"training": describe(TRAINING)}))
    folder.metrics.write_text(json.dumps({"seed": 0, "agent_steps": 31, "dormant/0.1/all": 0.25}) + "\n")
    found = entry(tmp_path)
    assert (found.status, found.environment, found.agent_steps, found.wanted) == ("stopped", "Digits", 31, 0)
    assert found.unit == " gradient"
    assert found.settings == "Supervised, Classifier, ImageCNN([32, 64, 64], 64), fixed labels"
