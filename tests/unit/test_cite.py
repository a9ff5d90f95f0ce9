"""`dormant cite`, CITATION.cff, and the references of every method."""

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dormant import interventions, regularisers
from dormant.cli import run
from dormant.cli.cite import OURS, SOURCES, bibliography, sources
from dormant.interventions import ContinualBackprop, Every, Recycle, ShrinkPerturb
from dormant.lab.runs.description import describe
from dormant.rl.agents import minatar_drq
from dormant.rl.device import DeviceTraining

ROOT = Path(__file__).parents[2]
TRAINING = DeviceTraining(intervention=Every(1_000, Recycle("gradient")))


def folder(path, training):
    path.mkdir()
    origin = {"time": "", "command": [], "revision": "", "packages": {}, "python": "", "platform": ""}
    spec = {"training": describe(training), **origin, "device": "cpu", "backend": "cpu"}
    (path / "spec.json").write_text(json.dumps(spec))
    return str(path)


def keys(printed):
    return re.findall(r"^@\w+{(\w+),$", printed, re.MULTILINE)


def test_it_cites_what_the_runs_used(tmp_path, capsys):
    one = folder(tmp_path / "one", TRAINING)
    other = folder(tmp_path / "other", replace(TRAINING, intervention=Every(9, ShrinkPerturb(0.8))))
    assert run(["cite", one]) == 0
    used = keys(capsys.readouterr().out)
    assert used == [
        "dormant",
        "sokar2023dormant",
        "liu2025measure",
        "mnih2015human",
        "young2019minatar",
        "koyamada2023pgx",
    ]
    assert run(["cite", one, other]) == 0
    assert set(keys(capsys.readouterr().out)) == {*used, "ash2020warm", "doro2023sample"}


def test_it_cites_everything_without_a_run(capsys):
    assert run(["cite"]) == 0
    printed = capsys.readouterr().out
    assert keys(printed) == ["dormant", *bibliography()]
    assert printed.count("{") == printed.count("}")


def test_a_folder_that_is_no_run_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run(["cite", str(tmp_path)])
    assert ended.value.code == 2 and "is not a run folder" in capsys.readouterr().err


def test_settings_count_as_well_as_classes():
    drq = sources(describe(replace(TRAINING, agent=minatar_drq(100))))
    assert {"vanhasselt2016double", "wang2016dueling", "yarats2021image"} <= drq
    assert not drq & sources(describe(DeviceTraining())) - {"mnih2015human", "young2019minatar", "koyamada2023pgx"}
    assert sources(describe(ContinualBackprop())) == {"dohare2024loss"}


def test_every_method_has_a_source_and_every_entry_a_use():
    modules = (interventions, regularisers)
    methods = {
        name for module in modules for name, each in vars(module).items() if hasattr(each, "__dataclass_fields__")
    }
    cited = {mark.split(".")[0] for mark in SOURCES}
    assert not methods - cited - set(OURS), "add the method's paper to SOURCES in dormant/cli/cite.py"
    assert {key for several in SOURCES.values() for key in several} == set(bibliography())


def test_the_citation_file_has_the_version_and_the_names_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["cff-version"] == "1.2.0" and citation["message"] and citation["title"]
    assert citation["references"][0]["title"].lower() in bibliography()["sokar2023dormant"].lower()
