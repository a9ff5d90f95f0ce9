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


def run(name, *arguments):
    command = [sys.executable, f"{name}.py", *arguments]
    return subprocess.run(command, cwd=EXAMPLES, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(("name", "agent_steps"), [("sb3_dqn_cartpole", 4_000), ("sb3_sac_pendulum", 800)])
def test_agents_of_stable_baselines3_are_recycled_saved_loaded_and_go_on(name, agent_steps):
    said = run(name, "--agent-steps", str(agent_steps))
    steps = [int(number) for number in re.findall(r"(\d+) agent steps", said)]
    recycled = [int(number) for number in re.findall(r"(\d+) neurons recycled", said)]
    assert steps == [agent_steps // 2, agent_steps]
    assert len(recycled) == 2 and sum(recycled) > 0


def test_a_loop_in_the_style_of_cleanrl_recycles():
    found = re.findall(r"agent step (\d+): recycled (\{.*?\}), mean return (\d+)", run("cleanrl_style_dqn"))
    assert len(found) > 2
    assert any(int(number) for _, counts, _ in found for number in re.findall(r": (\d+)", counts))
