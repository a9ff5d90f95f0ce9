"""The page as a file: its size, its links, and its texts about missing, unfinished and damaged runs."""

import json
import re
import shutil
from dataclasses import replace
from html import escape
from pathlib import Path

import polars as pl
import pytest
from small_laboratory import FIGURE

from dormant.cli import run
from dormant.experiments import EXPERIMENTS
from dormant.lab import Design, Experiment
from dormant.lab.judging.claims import judged
from dormant.lab.judging.table import read
from dormant.lab.page import LARGEST, chapter, page


def chapter_of(root: Path, figure: Experiment = FIGURE):
    frame = read(root, "smoke", figure)
    return chapter(root, "smoke", figure, frame, judged(figure, frame, "pilot"))


def numbers(text: str):
    return json.loads(re.search(r'id="numbers">(.*?)</script>', text, re.DOTALL)[1])


@pytest.fixture
def copied(runs, tmp_path) -> Path:
    """A copy of the runs. It has no checksums of the final files, so a test may change the files."""
    shutil.copytree(runs / "smoke", tmp_path / "runs" / "smoke")
    for done in (tmp_path / "runs").rglob("done"):
        content = json.loads(done.read_text())
        done.write_text(json.dumps({name: content[name] for name in content if name not in ("files", "checksum")}))
    return tmp_path / "runs"


def test_the_page_is_small_and_names_nothing_to_load(report):
    text = report.read_text()
    assert len(text) < 300_000
    assert not re.findall(r"(?:src|href)=\"(?!data:|#|\.\.|small-laboratory)[^\"]*\"", text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


def test_the_links_lead_to_the_runs(report):
    links = re.findall(r'href="([^"#]*spec\.json)"', report.read_text())
    assert len(links) == 3
    assert all((report.parent / link).is_file() for link in links)


def test_what_is_not_run_is_listed_with_its_reason(report):
    listed = report.read_text().partition('id="not-run"')[2]
    others = [each for each in EXPERIMENTS if each.name != FIGURE.name]
    assert all(f"<b>{each.name}</b> {escape(each.title)} " in listed for each in others)
    assert listed.count("no finished run") == len(others)


def test_every_claim_is_printed(report):
    text = report.read_text()
    claims = [claim for each in (*EXPERIMENTS, FIGURE) for claim in each.claims]
    assert text.count('role="rowheader"') == len(claims) - len(FIGURE.claims)


def test_one_seed_one_arm_and_no_evaluation_still_make_a_page(copied):
    for scores in copied.rglob("scores.jsonl"):
        scores.unlink()
    (arm, *_), (game, *_) = FIGURE.designs["smoke"].arms, FIGURE.designs["smoke"].environments
    for other in copied.glob("smoke/*Breakout*"):
        shutil.rmtree(other)
    one = replace(FIGURE, designs={"smoke": Design((arm,), (game,), (0,))})
    for metrics in copied.rglob("metrics.jsonl"):
        rows = [json.loads(line) | {"eval_return": None} for line in metrics.read_text().splitlines()]
        metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for figure, counted in ((one, "Claims judged: 0. Not measured: 4."), (FIGURE, "Claims judged: 4 (")):
        text = page([chapter_of(copied, figure)], "smoke", [], copied.parent / "report.html")
        (drawn,) = numbers(text)
        assert {plot["x_name"] for plot in drawn["plots"] if not plot["published"]} == {"agent_steps"}
        assert counted in text and '<figure class="map"' not in text
    assert "not run" in text


def test_twenty_long_figures_would_stay_below_six_megabytes(runs, tmp_path):
    found = chapter_of(runs)
    # Each figure has as many log points (250) and seeds (5) as at laptop scale, and more score maps.
    frame = found.frame.filter(seed=0, agent_steps=800)
    long = [
        frame.with_columns(seed=seed, agent_steps=steps) for seed in range(5) for steps in range(0, 200_000, 800)
    ]  # fmt: skip
    table = pl.concat([each.cast(frame.schema) for each in long])
    figure = replace(FIGURE, name="long", published=())
    both = [found, replace(found, experiment=figure, frame=table, maps=found.maps * 6)]
    without, text = (page(chapters, "smoke", [], tmp_path / "report.html") for chapters in (both[:1], both))
    assert len(numbers(text)) == 2
    assert len(without.encode()) + 20 * (len(text.encode()) - len(without.encode())) < LARGEST


def test_a_page_that_would_be_too_large_shows_fewer_maps_and_says_so(runs, tmp_path):
    found = chapter_of(runs)
    arm, game, picture = found.maps[0]
    heavy = picture._replace(image="data:image/png;base64," + "A" * 2_000_000)
    maps = tuple((arm, place, heavy) for place in ("a", "b", game, game))
    text = page([replace(found, maps=maps)], "smoke", [], tmp_path / "report.html")
    assert len(text) < LARGEST and text.count("<figure class=") == 1 and "environments are left out" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["empty"], "empty has no runs: expected a folder named smoke"),
        (["runs", "--scale", "pilot"], "has no runs at scale pilot; it has smoke"),
        (["runs", "--scale", "huge"], "huge"),
        (["runs", "-o", "nowhere/report.html"], "the folder nowhere does not exist"),
        (["runs", "-o", "empty"], "empty is a folder"),
        (["runs", "-o", "/proc/report.html"], "/proc"),
        (["two"], "several scales; choose one with --scale: smoke, pilot"),
        (["two", "--scale", "pilot"], "no finished run of an experiment at scale pilot"),
    ],
)
def test_bad_input_is_one_line_and_code_2(runs, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("runs").symlink_to(runs)
    for scale in ("smoke", "pilot"):
        (Path("two") / scale).mkdir(parents=True)
    with pytest.raises(SystemExit) as end:
        run(["report", *arguments])
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1 and said in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "runs", "two"]


def test_a_damaged_run_is_refused_and_an_older_page_kept(copied, tmp_path, capsys):
    file = tmp_path / "report.html"
    file.write_text("old")
    metrics = next(copied.rglob("metrics.jsonl"))
    metrics.write_text("{]\n" + metrics.read_text())
    with pytest.raises(SystemExit) as end:
        run(["report", str(copied), "--out", str(file)])
    assert end.value.code == 2 and "line 1 of" in capsys.readouterr().err
    assert file.read_text() == "old"


def test_the_command_writes_the_page(runs, tmp_path, capsys):
    assert run(["report", str(runs), "-o", str(tmp_path / "report.html")]) == 0
    said = capsys.readouterr().out
    assert "claims judged" in said and (tmp_path / "report.html").read_text().startswith("<!doctype html>")
