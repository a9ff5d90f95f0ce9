"""Every training loop in examples/ runs. In each loop, neurons become dormant and are recycled.

The loops run in the process of the tests, because importing their packages takes longer than most loops. One loop also
runs in a new process, like for users.
"""

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import pytest

# Ignores the warnings of the packages that the loops import.
pytestmark = pytest.mark.filterwarnings("ignore")
EXAMPLES = Path(__file__).parents[2] / "examples"
LINE = re.compile(r"gradient step (\d+): ([\d.]+)% of the neurons dormant, ([\d.]+)% after recycling")
LOOPS = ["optax_loop", "flax_loop", "nnx_loop", "equinox_loop", "haiku_loop", "scan_loop"]
MARK = "# <- ours"


@pytest.fixture
def run(monkeypatch, capsys):
    """A function that runs a file as a program, with JAX's default promotion. Returns what the file prints."""

    def printed(file: Path, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [file.name, *arguments])
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            runpy.run_path(str(file), run_name="__main__")
        return capsys.readouterr().out

    return printed


def without_our_lines(name: str, folder: Path) -> Path:
    """Writes the loop without the two or three lines that use `dormant`. Returns the new file."""
    lines = (EXAMPLES / f"{name}.py").read_text().splitlines()
    assert 2 <= sum(line.endswith(MARK) for line in lines) <= 3
    file = folder / "loop.py"
    file.write_text("\n".join(line for line in lines if not line.endswith(MARK)))
    return file


def test_a_loop_starts_from_the_shell():
    command = [sys.executable, "optax_loop.py"]
    said = subprocess.run(command, cwd=EXAMPLES, check=True, capture_output=True, text=True).stdout
    assert said.count("gradient step") == 10


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_measures_and_recycles(name, run):
    measured = [ast.literal_eval(line) for line in run(EXAMPLES / f"{name}.py").splitlines() if line.startswith("{")]
    assert len(measured) == 10
    assert max(float(each["dormant/0.1/all"]) for each in measured) > 0.05
    recycled = [sum(float(count) for key, count in each.items() if key.startswith("recycled")) for each in measured]
    assert recycled[0] < recycled[-1] and recycled[-1] > 10


@pytest.mark.parametrize("name", LOOPS)
def test_at_most_three_lines_are_ours_and_the_loop_runs_without_them(name, run, tmp_path):
    said = run(without_our_lines(name, tmp_path))
    assert said.count("gradient step") == 10 and "recycled" not in said


# Name of a loop -> its arguments, and a text that it also prints without the lines that use `dormant`.
TORCH_LOOPS = {
    "cleanrl_style_dqn": (("--agent-steps", "1400"), "agent step 1296: {'return': "),
    "sb3_dqn_cartpole": (("--agent-steps", "1200"), "1200 agent steps, "),
    "sb3_sac_pendulum": (("--agent-steps", "250"), "250 agent steps, "),
    "sb3_contrib_qrdqn": (("--agent-steps", "1200"), "1200 agent steps, "),
    "torchrl_dqn": (("--agent-steps", "400"), "gradient step 100: {'loss': "),
}


@pytest.mark.parametrize("name", TORCH_LOOPS)
def test_a_torch_loop_has_at_most_three_lines_of_ours_and_runs_without_them(name, run, tmp_path):
    arguments, expected = TORCH_LOOPS[name]
    file = without_our_lines(name, tmp_path)
    said = run(file, *arguments)
    assert expected in said and "recycled" not in said and "dormant" not in file.read_text()


def test_a_single_file_wakes_dormant_neurons(run):
    said = run(EXAMPLES / "redo_in_one_file.py")
    steps = [(int(step), float(before), float(after)) for step, before, after in LINE.findall(said)]
    assert [step for step, *_ in steps] == [100, 200, 300, 400, 500, 600]
    assert max(before for _, before, _ in steps) > 5
    assert sum(before for _, before, _ in steps) > 2 * sum(after for *_, after in steps)


@pytest.mark.parametrize(
    ("name", "agent_steps"), [("sb3_dqn_cartpole", 2_400), ("sb3_sac_pendulum", 500), ("sb3_contrib_qrdqn", 2_000)]
)
def test_agents_of_stable_baselines3_are_recycled_saved_loaded_and_go_on(name, agent_steps, run):
    said = run(EXAMPLES / f"{name}.py", "--agent-steps", str(agent_steps))
    steps = [int(number) for number in re.findall(r"(\d+) agent steps", said)]
    recycled = [int(number) for number in re.findall(r"(\d+) neurons recycled so far", said)]
    assert steps == [agent_steps // 2, agent_steps]
    assert len(recycled) == 2 and 0 <= recycled[0] <= recycled[1] > 0


@pytest.mark.parametrize(("name", "agent_steps"), [("cleanrl_style_dqn", "2400"), ("torchrl_dqn", "800")])
def test_a_torch_loop_recycles(name, agent_steps, run):
    said = run(EXAMPLES / f"{name}.py", "--agent-steps", agent_steps)
    found = re.findall(r"(?:agent|gradient) step \d+: \{.*'recycled': (\{.*?\})\}", said)
    assert len(found) >= 2
    assert any(int(number) for counts in found for number in re.findall(r": (\d+)", counts))
