"""Every training loop in examples/ runs as a user would run it. In each, neurons become dormant and are recycled."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
LINE = re.compile(r"gradient step (\d+): ([\d.]+)% of the neurons dormant, ([\d.]+)% after recycling")
LOOPS = ["optax_loop", "flax_loop", "nnx_loop", "equinox_loop", "haiku_loop", "scan_loop"]
MARK = "# <- ours"


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_measures_and_recycles(name):
    measured = [ast.literal_eval(line) for line in run(name).splitlines() if line.startswith("{")]
    assert len(measured) == 10
    assert max(float(each["dormant/0.1/all"]) for each in measured) > 0.05
    recycled = [sum(float(count) for key, count in each.items() if key.startswith("recycled")) for each in measured]
    assert recycled[0] < recycled[-1] and recycled[-1] > 10


# Name -> arguments, and a text that the loop prints even without our lines.
TORCH_LOOPS = {
    "cleanrl_style_dqn": (("--agent-steps", "2000"), "agent step 1296: {'return': "),
    "sb3_dqn_cartpole": (("--agent-steps", "2000"), "2000 agent steps, "),
    "sb3_sac_pendulum": (("--agent-steps", "400"), "400 agent steps, "),
    "sb3_contrib_qrdqn": (("--agent-steps", "2000"), "2000 agent steps, "),
    "torchrl_dqn": (("--agent-steps", "600"), "gradient step 100: {'loss': "),
}


@pytest.mark.parametrize("name", TORCH_LOOPS)
def test_a_torch_loop_has_at_most_three_lines_of_ours_and_runs_without_them(name, tmp_path):
    arguments, expected = TORCH_LOOPS[name]
    lines = (EXAMPLES / f"{name}.py").read_text().splitlines()
    assert 2 <= sum(line.endswith(MARK) for line in lines) <= 3
    (tmp_path / "loop.py").write_text("\n".join(line for line in lines if not line.endswith(MARK)))
    command = [sys.executable, "loop.py", *arguments]
    said = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert expected in said and "recycled" not in said and "dormant" not in (tmp_path / "loop.py").read_text()


@pytest.mark.parametrize("name", LOOPS)
def test_at_most_three_lines_are_ours_and_the_loop_runs_without_them(name, tmp_path):
    lines = (EXAMPLES / f"{name}.py").read_text().splitlines()
    assert 2 <= sum(line.endswith(MARK) for line in lines) <= 3
    (tmp_path / "loop.py").write_text("\n".join(line for line in lines if not line.endswith(MARK)))
    said = subprocess.run([sys.executable, "loop.py"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert said.count("gradient step") == 10 and "recycled" not in said


def test_a_single_file_wakes_dormant_neurons():
    steps = [(int(step), float(before), float(after)) for step, before, after in LINE.findall(run("redo_in_one_file"))]
    assert [step for step, *_ in steps] == [100, 200, 300, 400, 500, 600]
    assert max(before for _, before, _ in steps) > 5
    assert sum(before for _, before, _ in steps) > 2 * sum(after for *_, after in steps)


def run(name, *arguments):
    command = [sys.executable, f"{name}.py", *arguments]
    return subprocess.run(command, cwd=EXAMPLES, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("name", "agent_steps"), [("sb3_dqn_cartpole", 4_000), ("sb3_sac_pendulum", 800), ("sb3_contrib_qrdqn", 4_000)]
)
def test_agents_of_stable_baselines3_are_recycled_saved_loaded_and_go_on(name, agent_steps):
    said = run(name, "--agent-steps", str(agent_steps))
    steps = [int(number) for number in re.findall(r"(\d+) agent steps", said)]
    recycled = [int(number) for number in re.findall(r"(\d+) neurons recycled so far", said)]
    assert steps == [agent_steps // 2, agent_steps]
    assert len(recycled) == 2 and 0 <= recycled[0] <= recycled[1] > 0


@pytest.mark.parametrize(("name", "arguments"), [("cleanrl_style_dqn", ()), ("torchrl_dqn", ("--agent-steps", "1000"))])
def test_a_torch_loop_recycles(name, arguments):
    found = re.findall(r"(?:agent|gradient) step \d+: \{.*'recycled': (\{.*?\})\}", run(name, *arguments))
    assert len(found) >= 2
    assert any(int(number) for counts in found for number in re.findall(r": (\d+)", counts))
