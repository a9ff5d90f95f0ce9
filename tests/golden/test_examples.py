"""Every training loop of examples/ runs as its users run it, with neurons that go dormant and are recycled."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
LINE = re.compile(r"gradient step (\d+): ([\d.]+)% of the neurons dormant, ([\d.]+)% after recycling")


@pytest.fixture(params=["flax_loop", "nnx_loop", "equinox_loop", "redo_in_one_file"], scope="module")
def output(request):
    command = [sys.executable, "-W", "error", f"{request.param}.py"]
    return subprocess.run(command, cwd=EXAMPLES, check=True, capture_output=True, text=True).stdout


def test_neurons_go_dormant_and_recycling_wakes_them(output):
    steps = [(int(step), float(before), float(after)) for step, before, after in LINE.findall(output)]
    assert [step for step, *_ in steps] == [100, 200, 300, 400, 500, 600]
    assert max(before for _, before, _ in steps) > 5
    assert sum(before for _, before, _ in steps) > 2 * sum(after for *_, after in steps)


def test_what_was_recycled_is_counted(output):
    counts = re.search(r"recycled: \{(.*)\}", output)
    assert counts is None or sum(map(int, re.findall(r": (\d+)", counts[1]))) > 10


@pytest.mark.parametrize("name", ["flax_loop", "nnx_loop", "equinox_loop"])
def test_the_lines_that_redo_adds_are_marked(name):
    code = (EXAMPLES / f"{name}.py").read_text()
    marked = [line for line in code.splitlines() if line.endswith("# <- ReDo")]
    assert 4 <= len(marked) <= 5
