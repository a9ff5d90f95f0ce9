"""`dormant figure` and `dormant runs` on random walks. Processes, pictures and pages are real."""

import csv
import json
import os
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from walks import Place, Walk, Walker

from dormant.cli import figure, report, run, terminal
from dormant.cli.runs import Runs, matching
from dormant.lab import Arm, Claim, Design, Experiment, Panel, Quantity
from dormant.lab.crews import Board, Job, Standing, jobs
from dormant.lab.runs.costs import Kind, Speed, Speeds, kind_of, paces, read_table, speeds
from dormant.lab.runs.folder import RunFolder, claimed
from dormant.lab.runs.runner import run as train


def experiment(name="walks", **wrong):
    arms = (Arm("near", Walk()), Arm("far", Walk(agent=Walker("long legs"), **wrong)))
    design = Design(arms, (Place("Line"),), (0, 1), "Everything else.")
    claim = Claim("Far is no nearer", Quantity("eval_return"), "far", "near", "higher", 0.5, "ratio")
    panels = (Panel("Return", "eval_return"), Panel("Dormant", "dormant/0.1/all"))
    return Experiment(name, "Two walks", {"smoke": design, "pilot": design}, panels, (claim,))


@pytest.fixture
def laboratory(monkeypatch, tmp_path):
    """A function that takes experiments. It returns a function that runs `dormant figure` and returns the exit code."""

    def command(*experiments):
        there = (*experiments, replace(experiment("larger"), designs={"paper": experiment().designs["smoke"]}))
        for module in (figure, report):
            monkeypatch.setattr(module, "EXPERIMENTS", there)
        return lambda *arguments: run(["figure", *arguments, "--run-dir", str(tmp_path / "runs")])

    monkeypatch.setenv("COLUMNS", "160")
    return command


def refused(capsys, call, *arguments):
    with pytest.raises(SystemExit) as exit:
        call(*arguments)
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_it_runs_what_is_missing_judges_and_draws_it(laboratory, tmp_path, capsys):
    call, folder = laboratory(experiment()), tmp_path / "runs" / "smoke"
    assert call("walks", "--workers", "1") == 0
    said = capsys.readouterr().out
    assert "[4/4] done: far on Place/Line, seed 1" in said
    assert "4 runs made, 0 failed." in said
    assert "no verdicts at the smoke scale" in said and "Far is no nearer" not in said
    assert (folder / "figures" / "walks.png").read_bytes().startswith(b"\x89PNG")
    assert "Far is no nearer" in (folder / "report.html").read_text()
    assert call("all", "--workers", "1") == 0
    said = capsys.readouterr().out
    assert "0 runs made, 0 failed." in said
    assert "larger has no smoke scale, only paper." in said


def test_the_page_has_only_the_experiments_that_were_asked_for(laboratory, tmp_path, capsys):
    """The two experiments share their runs. So the experiment that the command does not name also has runs."""
    call, page = laboratory(experiment(), experiment("others")), tmp_path / "runs" / "smoke" / "report.html"
    assert call("walks", "--workers", "1") == 0
    assert "1 experiment, " in capsys.readouterr().out
    assert 'id="walks"' in page.read_text() and "others" not in page.read_text() and "larger" not in page.read_text()
    assert call("all", "--workers", "1") == 0
    assert "2 experiments, " in capsys.readouterr().out
    assert 'id="walks"' in page.read_text() and 'id="others"' in page.read_text() and "larger" in page.read_text()


def test_a_setting_makes_variants_beside_the_arms_that_no_claim_is_about(laboratory, tmp_path, capsys):
    call, folder = laboratory(experiment()), tmp_path / "runs" / "smoke"
    assert call("walks", "--workers", "1", "--set", "seconds=0.001", "--set", "log-period=6") == 0
    assert "8 runs made, 0 failed." in capsys.readouterr().out
    label = "(exploratory: seconds=0.001 and log_period=6)"
    page = (folder / "report.html").read_text()
    assert f"near {label}" in page and f"far {label}" in page
    assert "Exploratory variants, to which no claim refers: seconds=0.001 and log_period=6" in page
    assert "dormant figure walks --scale smoke --set seconds=0.001 --set log_period=6" in page
    assert call("walks", "--workers", "1", "--set", "network=long legs") == 0
    # The variant of `near` has the settings of the arm `far`, so it shares that arm's runs.
    assert "0 runs made, 0 failed." in capsys.readouterr().out
    page = (folder / "report.html").read_text()
    assert "near (exploratory: network=long legs)" in page and "far (exploratory" not in page


def test_a_run_that_fails_is_reported_at_the_end_and_the_others_are_drawn(laboratory, tmp_path, capsys):
    call = laboratory(experiment(wrong="raise"))
    assert call("walks", "--workers", "1") == 1
    said = capsys.readouterr()
    assert "tried again: far on Place/Line, seed 0: RuntimeError: the walker fell" in said.out
    assert "2 runs made, 2 failed." in said.out
    line, _ = said.err.strip().splitlines()
    assert line.startswith("dormant: far on Place/Line, seed 0 failed: RuntimeError: the walker fell (")
    assert (tmp_path / "runs" / "smoke" / "figures" / "walks.svg").exists()


def test_a_dry_run_counts_and_costs_and_makes_nothing(laboratory, tmp_path, capsys, monkeypatch):
    table = tmp_path / "speeds.csv"
    table.write_text(
        "environment,network,backend,agent_steps_per_second,gradient_steps_per_second\nPlace,none,cpu,0.1,0.05\n"
    )
    for module in (figure, terminal):
        monkeypatch.setattr(module, "KNOWN_SPEEDS", table)
    call = laboratory(experiment(), experiment("same"))
    assert call("all", "--scale", "pilot", "--dry-run", "--workers", "1") == 0
    said = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line.split("│") for line in said.splitlines() if line.count("│") > 3}
    assert [cell.strip() for cell in rows["walks"][2:8]] == ["2", "1", "2", "4", "0", "4"]
    # Two seeds take 12 agent steps of 10 s and 12 gradient steps of 20 s each.
    assert rows["walks"][8].strip() == rows["total, shared runs once"][8].strip() == "12 min, without 2 runs"
    assert rows["total, shared runs once"][7].strip() == "4"
    assert "2 experiments at scale pilot" in said and "with 1 worker," in said
    assert "Runs without an estimate: " in said and "walks leaves out: Everything else." in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["walsk"], "dormant: no experiment is named walsk; did you mean walks?"),
        (["fig99"], "dormant: no experiment is named fig99; expected one of walks, larger, all."),
        ([], "dormant: name an experiment: walks, larger, all."),
        (["larger"], "dormant: larger has no smoke scale, only paper."),
        (["walks", "--scale", "paper"], "dormant: walks has no paper scale, only smoke, pilot."),
        (["walks", "--set", "seconds"], "dormant: --set expects FIELD=VALUE, such as tau=0.3, got 'seconds'."),
        (["walks", "--set", "second=1"], "dormant: --set second=1: no field has this name; did you mean seconds?"),
        (
            ["walks", "--set", "at=soon"],
            "dormant: --set at=soon: expected a value like 8, which is of type int.",
        ),
        (["walks", "--set", "at=8"], "dormant: --set at=8: every arm of walks has this value already."),
        (
            ["walks", "--set", "seeds=7"],
            "dormant: --set seeds=7: the experiment sets the environments and the seeds.",
        ),
        (["walks", "--workers", "0"], "dormant: --workers must be between 1 and"),
        (["walks", "--checkpoint-seconds", "-1"], "dormant: --checkpoint-seconds must be at least 0, got -1.0."),
    ],
    ids=str,
)
def test_bad_input_is_one_line(laboratory, capsys, arguments, line):
    assert refused(capsys, laboratory(experiment()), *arguments).startswith(line)


def test_a_full_disk_is_one_line(laboratory, capsys, monkeypatch):
    def full(*arguments):
        raise figure.DiskFull("runs/smoke: No space left on device")

    monkeypatch.setattr(figure, "run_all", full)
    line = refused(capsys, laboratory(experiment()), "walks")
    assert line == (
        "dormant: runs/smoke: No space left on device. The runs so far are kept; free some space, and the same "
        "command resumes them."
    )


def test_ctrl_c_ends_all_processes_with_130_and_says_how_to_go_on(tmp_path):
    program = f"""
import sys
sys.path[:0] = {[str(tmp_path), *sys.path]!r}
from dormant.__main__ import main
from dormant.cli import figure
from dormant.lab import Arm, Design, Experiment
from walks import Place, Walk
if __name__ == "__main__":
    design = Design((Arm("slow", Walk(seconds=1.0, agent_steps=4000)),), (Place(),), (0, 1))
    figure.EXPERIMENTS = (Experiment("slow", "", {{"smoke": design}}),)
    main()
"""
    (tmp_path / "slow.py").write_text(program)
    command = [sys.executable, str(tmp_path / "slow.py"), "figure", "slow", "--run-dir", str(tmp_path / "runs")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("metrics.jsonl")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.strip()) == (
        130,
        f"Stopped; the same command resumes the runs in {tmp_path / 'runs'}.",
    )
    # Waits, because Python's resource tracker ends shortly after the other processes.
    while subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True).stdout:
        assert time.monotonic() < deadline + 30
        time.sleep(0.1)


class TestCosts:
    def test_finished_runs_on_this_machine_come_before_the_table(self, tmp_path):
        folder = train(Walk(seeds=(0, 1), seconds=0.01), tmp_path / "runs" / "deep" / "seed0-1")
        kind = kind_of(Walk(), "cpu")
        known = speeds(tmp_path / "runs", terminal.KNOWN_SPEEDS, "cpu")
        # Two seeds share the time of the run, so each seed takes half of it.
        pace = folder.timing.seconds / 12 / 2
        assert known.runs == {(kind, 1.0): pytest.approx(pace)}
        assert known.cost(Walk(agent_steps=120)) == pytest.approx((120 * pace, "runs"))
        assert known.cost(Walk(replay_ratio=2.0)) is None
        assert Speeds({}, {kind: Speed(4.0, 2.0)}).cost(Walk(replay_ratio=2.0)) == (12 / 4 + 24 / 2, "table")

    def test_runs_that_tell_nothing_are_left_out(self, tmp_path):
        files = [tmp_path / name / "done" for name in ("empty", "damaged", "untimed")]
        for file, content in zip(files, ("{}", "?", '{"backend": "cpu"}'), strict=True):
            file.parent.mkdir()
            file.write_text(content)
        (tmp_path / "untimed" / "spec.json").write_text(
            json.dumps({"training": {"env": {"is": "E"}, "agent": {"network": 1}, "replay_ratio": 1, "seeds": [0]}})
        )
        assert paces(files) == {}

    def test_the_committed_table_was_measured_and_covers_the_laptop_scale(self):
        table = read_table(terminal.KNOWN_SPEEDS)
        from dormant.experiments import EXPERIMENTS

        todo = jobs(EXPERIMENTS, "laptop", terminal.KNOWN_SPEEDS.parent / "none", together=False)
        assert {kind_of(each.training, "cpu") for each in todo} <= table.keys()
        assert all(isinstance(kind, Kind) and min(speed) > 0 for kind, speed in table.items())
        with terminal.KNOWN_SPEEDS.open() as stream:
            assert all(row["revision"] and row["time"] for row in csv.DictReader(stream))


def scalars(file, name):
    """Returns the steps and values of a metric in a TensorBoard file. A record has a length, an event and checksums."""
    from tensorboardX.proto.event_pb2 import Event

    data, at, found = file.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + length])
        found += [(event.step, value.simple_value) for value in event.summary.value if value.tag == name]
        at += 16 + length
    return found


class TestRuns:
    @pytest.fixture
    def there(self, tmp_path, monkeypatch):
        monkeypatch.setenv("COLUMNS", "200")
        train(Walk(), tmp_path / "a" / "seed0")
        train(Walk(agent=Walker("wide"), replay_ratio=2.0, env=Place("Ring")), tmp_path / "b")
        RunFolder(tmp_path / "b").done.unlink()
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / "spec.json").write_text("?")
        return tmp_path

    def listed(self, capsys, *arguments):
        assert run(["runs", *map(str, arguments)]) == 0
        lines = capsys.readouterr().out.splitlines()
        return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]

    def test_it_lists_settings_progress_and_last_values(self, there, capsys):
        first, second, third = self.listed(capsys, there)
        returned = [
            json.loads(line)["eval_return"] for line in (there / "a/seed0/metrics.jsonl").read_text().splitlines()
        ][-1]
        assert first[:5] == ["a/seed0", "Place/Line", "Walker, none, RR 1, none", "done", "12 of 12"]
        assert first[5] == f"{returned:.2f}" and first[6].endswith("%")
        assert second[:4] == ["b", "Place/Ring", "Walker, wide, RR 2, none", "stopped"]
        assert third == ["c", "", "", "damaged", "", "", ""]

    def test_a_narrow_terminal_gets_paths_on_lines_of_their_own(self, there, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        assert run(["runs", str(there)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if not line.startswith(" ")] == [f"{there}/a/seed0", f"{there}/b", f"{there}/c"]
        head, _, first, settings, *_, last = lines
        assert head.split("  ")[1:3] == ["status ", " agent steps"] or head.startswith("  status")
        assert first.startswith("  done") and first[first.index("Place") :] == "Place/Line"
        assert [head.index(name) for name in ("agent", "environment")] == [
            first.index("12 of 12"),
            first.index("Place"),
        ]
        assert settings == "  Walker, none, RR 1, none" and last == "  damaged"

    def test_it_prints_json_without_nan(self, there, capsys):
        with (there / "b" / "metrics.jsonl").open("a") as stream:
            stream.write('{"seed": 0, "agent_steps": 13, "eval_return": NaN}\n')
        assert run(["runs", str(there), "--json"]) == 0
        first, second, third = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
        assert first["path"] == str(there / "a/seed0") and first["status"] == "done" and first["wanted_steps"] == 12
        assert first["unit"] == "agent steps" and first["diverged"] is None and 0 <= first["dormant_fraction"] <= 1
        assert second["eval_return"] is None and second["diverged"] == "diverged at 13"
        assert third["status"] == "damaged"

    def test_it_filters_and_sorts(self, there, capsys):
        assert [row[0] for row in self.listed(capsys, there, "--env", "ring")] == ["b"]
        assert [row[0] for row in self.listed(capsys, there, "--status", "done")] == ["a/seed0"]
        numbers = [float(row[5]) for row in self.listed(capsys, there, "--sort", "return")[:2]]
        assert numbers == sorted(numbers, reverse=True)
        with claimed(there / "b", Walk(agent=Walker("wide"), replay_ratio=2.0, env=Place("Ring"))):
            assert [row[0] for row in self.listed(capsys, there, "--status", "running")] == ["b"]

    def test_every_environment_that_it_lists_is_found_by_its_name(self):
        results = Path(__file__).parents[2] / "results"
        names = {each.environment for each in matching(Runs(results))}
        assert "ALE/Breakout" in names
        for name in names:
            for spelling in (name, name.lower(), name.replace("-", "_")):
                assert {each.environment for each in matching(Runs(results, env=spelling))} == {name}

    def test_it_compares_two_runs(self, there, capsys):
        rows = self.listed(capsys, "--compare", there / "a/seed0", there / "b")
        assert rows[:3] == [
            ["env.game", "Line", "Ring"],
            ["agent.network", "none", "wide"],
            ["replay_ratio", "1.0", "2.0"],
        ]
        assert [row[0] for row in rows[3:5]] == ["last agent_steps", "last gradient_steps"]
        assert rows[3][1:] == ["12", "12"]

    def test_it_writes_event_files_of_what_it_lists_in_place_of_older_ones(self, there, tmp_path, capsys):
        for _ in range(2):
            self.listed(capsys, there, "--tensorboard", tmp_path / "events")
        files = sorted((tmp_path / "events").rglob("events*"))
        assert [str(file.parent.relative_to(tmp_path)) for file in files] == ["events/a/seed0/seed0", "events/b/seed0"]
        rows = [json.loads(line) for line in (there / "b" / "metrics.jsonl").read_text().splitlines()]
        metric = "dormant/0.1/all"
        expected = [(row["agent_steps"], pytest.approx(row[metric])) for row in rows]
        assert expected and scalars(files[1], metric) == expected

    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            (["nowhere"], "dormant: nowhere is not a folder; name a folder that contains runs."),
            (["{}", "--env", "Moon"], "dormant: no run in {} matches (3 runs found, in Place/Line, Place/Ring)."),
            (["{}/a"], None),
            (["--compare", "{}/a", "{}/b"], "dormant: {}/a is not a run folder: it has no spec.json."),
            (
                ["--compare", "{}/c", "{}/b"],
                "dormant: {}/c/spec.json is damaged (Invalid JSON: expected value at line 1 column "
                "1); restore it, or choose another --run-dir.",
            ),
            (["{}", "--tensorboard", "{}/c/spec.json"], "dormant: {}/c/spec.json/a: Not a directory."),
            (
                ["--compare", "{}/a", "{}/b", "--tensorboard", "e"],
                "dormant: --tensorboard and --compare exclude each other; leave out one of them.",
            ),
            (
                ["{}", "--json", "--tensorboard", "e"],
                "dormant: --json prints the list of runs alone; leave out --compare and --tensorboard.",
            ),
        ],
        ids=str,
    )
    def test_bad_input_is_one_line(self, there, capsys, arguments, line):
        filled = [each.format(there) for each in arguments]
        if line is None:
            assert run(["runs", *filled]) == 0
        else:
            assert refused(capsys, lambda *given: run(["runs", *given]), *filled) == line.format(there)


class TestWatching:
    def board(self):
        standings = [Standing(Job("arm", "Place/Line", Walk(agent_steps=100), None)) for _ in range(4)]
        board = Board(standings)
        board.started -= 10.0
        standings[0].state, standings[0].agent_steps, standings[0].begun_at = "done", 100, 0
        standings[1].state, standings[1].agent_steps, standings[1].begun_at = "running", 50, 0
        standings[3].state, standings[3].message = "failed", "it fell"
        return board

    def test_time_left_is_told_from_what_was_made_here(self):
        # 150 steps took 10 s. 50 + 100 steps are left, so these take 10 s too.
        assert terminal.time_left(self.board(), lambda job: 1.0) == pytest.approx(10.0, abs=0.1)
        assert terminal.summary(self.board(), lambda job: 1.0) == "1 of 4 runs done, 1 running, 1 failed, 10 s left"

    def test_a_resumed_run_is_no_faster_for_what_it_had(self):
        board = self.board()
        board.standings[1].begun_at = 50
        assert terminal.time_left(board, lambda job: 1.0) == pytest.approx(15.0, abs=0.1)

    def test_a_terminal_gets_a_live_table(self):
        console = Console(force_terminal=True, width=100, record=True)
        with terminal.live_board(console, lambda job: 1.0) as watch:
            watch(self.board())
        shown = console.export_text()
        assert "arm on Place/Line, seed 0" in shown and "failed: arm on Place/Line, seed 0: it fell" in shown
        assert "1 of 4 runs done" in shown
