"""A small part of the campaign against faults; `python tests/campaign.py` is the whole."""

import subprocess
import sys
from pathlib import Path

from campaign import inputs, runs
from campaign.outcomes import Tally

PROGRAM = Path(__file__).parents[1] / "campaign.py"


def test_damaged_inputs_are_refused_or_read_alike():
    tally = Tally()
    inputs.campaign(tally, 150, seed=7)
    assert not tally.failed and set(tally.counts) == set(inputs.INPUTS)


def test_damaged_runs_are_refused_or_end_alike():
    tally = Tally()
    runs.campaign(tally, 16, seed=7, names=("MinAtar",))
    assert not tally.failed, tally.table()
    assert any(count["recovered"] for count in tally.counts.values())


def test_malformed_command_lines_are_refused_in_one_line():
    """In a process of its own, because it forks before JAX computes."""
    command = [sys.executable, str(PROGRAM), "--files", "0", "--commands", "12", "--seed", "7"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
