"""The README is short, its code runs if pasted, and the targets of its links exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


SECTIONS = """Install
In JAX
In PyTorch
In Stable-Baselines3
See it
What you get
Three results
Where next
Extras
Cite
Licence"""


def test_it_says_the_most_important_first():
    assert re.findall(r"^## (.+)$", TEXT, re.MULTILINE) == SECTIONS.splitlines()
    assert TEXT.index("![") < TEXT.index("## Install")


def test_it_is_short():
    assert len(TEXT.split()) <= 900 and len(TEXT.splitlines()) <= 130
    assert not re.search(r"\[-?[\d.]+, -?[\d.]+\]", TEXT), "intervals belong into docs/results.md"


@pytest.mark.parametrize("block", BLOCKS, ids=["jax", "torch", "sb3"])
def test_its_code_runs_when_it_is_pasted(block, tmp_path):
    assert sum(bool(line.strip()) for line in block.splitlines()) <= 14
    ran = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ("dormant" in ran.stdout) or "DQN" in block


def test_its_links_lead_to_files():
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", TEXT) if not target.startswith("http")]
    assert len(targets) > 8 and not [target for target in targets if not (ROOT / target).exists()]
