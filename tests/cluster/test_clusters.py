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


@pytest.mark.parametrize(
    ("package", "extra", "flags"), [("ray", "ray", ("--ray", "auto")), ("submitit", "slurm", ("--slurm",))]
)
def test_a_missing_extra_is_named(tmp_path, package, extra, flags):
    program = f"import sys; sys.modules[{package!r}] = None; from dormant.__main__ import main; main()"
    command = [sys.executable, "-c", program, "figure", "fig09", *flags, "--run-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        f"dormant: {package} is not installed; run: pip install 'dormant[{extra}]'\n",
    )


def test_a_dry_run_needs_no_cluster(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COLUMNS", "160")
    assert run(["figure", "fig09", "--dry-run", "--slurm", "--workers", "3", "--run-dir", str(tmp_path)]) == 0
    assert "Estimated time with 3 workers" in capsys.readouterr().out


def test_the_head_of_a_cluster_makes_no_device(tmp_path):
    program = (
        "from dormant.cli import run; from jax._src import xla_bridge\n"
        f"run(['figure', 'fig09', '--dry-run', '--slurm', '--run-dir', {str(tmp_path)!r}])\n"
        "assert not xla_bridge.backends_are_initialized()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
