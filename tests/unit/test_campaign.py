"""A small part of the campaign against faults; `python tests/campaign.py` is the whole."""

import subprocess
import sys
from pathlib import Path

from campaign import inputs
from campaign.outcomes import Tally

PROGRAM = Path(__file__).parents[1] / "campaign.py"


def test_damaged_inputs_are_refused_or_read_alike():
    tally = Tally()
    inputs.campaign(tally, 150, seed=7)
    assert not tally.failed and set(tally.counts) == set(inputs.INPUTS)


def test_malformed_commands_are_refused_and_damaged_runs_end_alike():
    """In a process of its own, because it forks before JAX computes, and compiles quickly."""
    numbers = ("--files", "30", "--commands", "12", "--seed", "7", "--families", "MinAtar")
    ended = subprocess.run([sys.executable, str(PROGRAM), *numbers], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "MinAtar, stopped" in ended.stdout
