"""`dormant figure` refuses wrong uses of --ray and --slurm within seconds. The error has one line."""

import socket
import subprocess
import sys
import time

import pytest
from walks import Place, Walk

from dormant.cli import figure, run
from dormant.lab import Arm, Design, Experiment


@pytest.fixture
def refusal(monkeypatch, tmp_path, capsys):
    """A function that runs `dormant figure` with wrong arguments. It returns the one-line error and the seconds."""
    design = Design((Arm("near", Walk()),), (Place("Line"),), (0,))
    monkeypatch.setattr(figure, "EXPERIMENTS", (Experiment("walks", "", {"smoke": design}),))

    def call(*arguments):
        begun = time.monotonic()
        with pytest.raises(SystemExit) as exit:
            run(["figure", "walks", *arguments, "--run-dir", str(tmp_path / "runs")])
        assert exit.value.code == 2
        assert not list((tmp_path / "runs").rglob("spec.json"))
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line, time.monotonic() - begun

    return call


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--ray auto --slurm", "dormant: --ray and --slurm exclude each other; choose one."),
        ("--gpus 1", "dormant: --gpus needs --ray or --slurm; add --ray or --slurm, or leave out --gpus."),
        ("--ray auto --partition long", "dormant: --partition needs --slurm; add --slurm, or leave out --partition."),
        ("--ray auto --workers 0", "dormant: --workers must be at least 1, got 0."),
        ("--ray auto --cpus 0", "dormant: a run needs at least 1 core and 0 GPUs, got 0 and 0."),
        ("--slurm --memory-gb 0", "dormant: a run's memory must be above 0 GB, got 0."),
        ("--slurm --hours 0", "dormant: a run's time limit must be at least one minute, got 0 hours."),
        (
            "--ray head",
            "dormant: --ray must be HOST:PORT of a cluster's head, or auto for the cluster of this machine, got",
        ),
        ("--ray ray://head:10001", "dormant: --ray must be HOST:PORT of a cluster's head, or auto for the cluster of"),
        ("--slurm", "dormant: there is no SLURM here (Could not detect"),
    ],
)
def test_what_does_not_go_together_is_one_line(refusal, arguments, line):
    assert refusal(*arguments.split())[0].startswith(line)


def test_an_address_that_nobody_answers_is_one_line_within_seconds(refusal):
    with socket.create_server(("127.0.0.9", 0)) as silent:
        port = silent.getsockname()[1]
        line, seconds = refusal("--ray", f"127.0.0.9:{port}")
    assert line.startswith(f"dormant: no Ray cluster answers at 127.0.0.9:{port} (") and seconds < 20
    line, seconds = refusal("--ray", f"127.0.0.9:{port}")
    assert "Connection refused); start one with: ray start --head." in line and seconds < 10


PROGRAM = """
import sys
from jax._src import xla_bridge
from dormant.__main__ import main
def said(*flags):
    sys.argv[1:] = ["figure", "fig09", *flags, "--run-dir", {folder!r}]
    try:
        main()
    except SystemExit as exit:
        return exit.code
print(said("--dry-run", "--slurm"), xla_bridge.backends_are_initialized(), file=sys.stderr)
sys.modules["ray"] = sys.modules["submitit"] = None
print(said("--ray", "auto"), file=sys.stderr)
print(said("--slurm"), file=sys.stderr)
"""


def test_the_head_of_a_cluster_makes_no_device_and_a_missing_extra_is_named(tmp_path):
    """One process checks both, because it takes seconds to start."""
    command = [sys.executable, "-c", PROGRAM.format(folder=str(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr.splitlines() == [
        "0 False",
        "dormant: ray is not installed; run: pip install 'dormant[ray]'",
        "2",
        "dormant: submitit is not installed; run: pip install 'dormant[slurm]'",
        "2",
    ]


def test_a_dry_run_needs_no_cluster(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COLUMNS", "160")
    assert run(["figure", "fig09", "--dry-run", "--slurm", "--workers", "3", "--run-dir", str(tmp_path)]) == 0
    assert "Estimated time with 3 workers" in capsys.readouterr().out
