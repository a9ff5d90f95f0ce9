"""The machine: the cores and devices that are found and used, and errors for missing packages."""

import subprocess
import sys

import jax
import pytest

from dormant.cli import run
from dormant.lab import machine


@pytest.mark.parametrize(("package", "extra"), [("tyro", "cli"), ("rich", "cli")])
def test_a_missing_extra_names_the_line_that_installs_it(package, extra):
    program = f"import sys; sys.modules[{package!r}] = None; from dormant.__main__ import main; main()"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.returncode == 2
    assert answer.stderr.strip() == f"dormant: {package} is not installed; run: pip install 'dormant[{extra}]'"


def test_a_missing_environment_names_the_line_that_installs_it(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "pgx.minatar.freeway", None)
    # Uses a setting that no other test uses. Otherwise, compiled code from an earlier test would not need the import.
    assert "pip install 'dormant[minatar]'" in refused("--env", "MinAtar/Freeway", "--sticky", "0.123")


def test_the_doctor_names_device_and_versions(capsys):
    assert run(["doctor"]) == 0
    report = capsys.readouterr().out
    assert jax.__version__ in report
    assert "MinAtar/Asterix runs." in report
    assert str(jax.devices()[0]) in report


def test_pinning_keeps_to_one_core_and_one_device():
    program = """
import os
from dormant.lab.machine import cores, pin
core = cores()[-1]
pin(core)
import jax
print(core, *os.sched_getaffinity(0), jax.device_count())
"""
    core, *pinned, devices = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert pinned == [core] and devices == "1"


@pytest.mark.parametrize(("seeds", "devices"), [(1, 1), (2, 2), (3, 3), (4, 2), (6, 2), (11, 1), (14, 2)])
def test_seeds_are_spread_evenly_over_two_cores(monkeypatch, seeds, devices):
    chosen = {"jax_num_cpu_devices": 1}
    monkeypatch.setattr(machine.jax.config, "update", chosen.__setitem__)
    monkeypatch.setattr(machine, "cores", lambda: (0, 1))
    machine.spread_seeds(seeds)
    assert chosen["jax_num_cpu_devices"] == devices


def test_compiled_code_is_kept_where_the_user_wants_it(monkeypatch, tmp_path):
    chosen = {}
    monkeypatch.setattr(machine.jax.config, "update", chosen.__setitem__)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    machine.keep_compiled_code()
    assert chosen == {}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    machine.keep_compiled_code()
    assert chosen == {"jax_compilation_cache_dir": str(tmp_path / "dormant")}
