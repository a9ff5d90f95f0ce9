"""Finished runs of the laptop scale are archived, and unpacked in another folder with the same files."""

import runpy
from pathlib import Path

from dormant.experiments import EXPERIMENTS
from dormant.lab.crews import jobs

FILE = Path(__file__).parents[2] / "results" / "laptop.py"


def command(packed):
    functions = runpy.run_path(str(FILE))
    for name in ("pack", "unpack"):
        functions[name].__globals__.update(PACKED=packed, HERE=packed.parent)
    return functions["pack"], functions["unpack"], functions["KEPT_FILES"]


def test_kept_runs_are_not_made_again(tmp_path):
    pack, unpack, files = command(tmp_path / "kept" / "runs")
    suite = [each for each in EXPERIMENTS if each.name == "fig09"]
    finished, begun, *others = jobs(suite, "laptop", tmp_path / "old", together=False)
    for job in (finished, begun):
        for file in (*files, "checkpoint") if job is finished else ("spec.json", "metrics.jsonl"):
            job.path.mkdir(parents=True, exist_ok=True)
            (job.path / file).write_text(f"{file} of {job.name}")
    pack(tmp_path / "old")
    unpack(tmp_path / "new")
    left = jobs(suite, "laptop", tmp_path / "new", together=False)
    assert [job.name for job in left] == [job.name for job in (begun, *others)]
    there = finished.path.relative_to(tmp_path / "old")
    assert {file.name for file in (tmp_path / "new" / there).iterdir()} == set(files)
    for file in files:
        assert (tmp_path / "new" / there / file).read_text() == f"{file} of {finished.name}"


def one_kept(tmp_path):
    """Packs one finished run. Returns the functions, the names of the kept files, and the run's path in its folder."""
    pack, unpack, files = command(tmp_path / "kept" / "runs")
    (job, *_) = jobs([each for each in EXPERIMENTS if each.name == "fig09"], "laptop", tmp_path / "old", together=False)
    job.path.mkdir(parents=True)
    for file in files:
        (job.path / file).write_text("kept")
    pack(tmp_path / "old")
    return pack, unpack, files, job.path.relative_to(tmp_path / "old")


def test_packing_and_unpacking_again_changes_nothing(tmp_path, capsys):
    pack, unpack, *_ = one_kept(tmp_path)
    assert "seed" in capsys.readouterr().out
    pack(tmp_path / "old")
    unpack(tmp_path / "old")
    assert capsys.readouterr().out == ""


def test_a_run_that_was_unpacked_in_part_is_unpacked_again(tmp_path):
    _, unpack, files, run = one_kept(tmp_path)
    unpacked = tmp_path / "new" / run
    unpacked.mkdir(parents=True)
    (unpacked / "metrics.jsonl").write_text("cut sh")
    unpack(tmp_path / "new")
    assert [(unpacked / file).read_text() for file in files] == ["kept"] * len(files)
