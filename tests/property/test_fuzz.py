"""The fuzzer: its oracles, its draws, planted faults, and the scripts for failures."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzz.faults import first_found, planted
from fuzz.generator import generate
from fuzz.printing import script
from fuzz.program import Node, Program
from fuzz.running import run
from fuzz.shrinking import shrunk
from fuzz.structure import structure

COMMAND = Path(__file__).parents[1] / "fuzz_networks.py"


def parameter(name: str, *shape: int) -> Node:
    return Node("param", (), shape, False, {"name": name, "trained": "yes", "role": "kernel"})


# relu(x @ a + b) @ c, with two hidden neurons
SMALL = Program(
    nodes=(
        Node("input", shape=(3,)),
        parameter("a", 3, 2),
        Node("dense", (0, 1), (2,)),
        parameter("b", 2),
        Node("add", (2, 3), (2,)),
        Node("relu", (4,), (2,)),
        parameter("c", 2, 1),
        Node("dense", (5, 6), (1,)),
    ),
    outputs=(7,),
)


def test_a_unit_is_fed_by_its_column_and_its_bias():
    truth = structure(SMALL)
    assert truth.names == ("a", "b", "c")
    assert truth.units == (("2", 0), ("2", 1), ("7", 0))
    feeds = {name: truth.feeds[0, truth.of(name)].astype(int).tolist() for name in truth.names}
    assert feeds == {"a": [1, 0, 1, 0, 1, 0], "b": [1, 0], "c": [0, 0]}


def test_a_unit_is_read_by_its_row():
    truth = structure(SMALL)
    (hidden,) = (reading for reading in truth.readings if reading.name == "7")
    np.testing.assert_array_equal(hidden.units[:, :2], np.eye(2, dtype=bool))
    assert hidden.read_by[:, truth.of("c")].tolist() == [[True, False], [False, True]]
    assert not hidden.raw.any()


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_a_program_is_the_same_whenever_it_is_drawn(framework):
    assert generate(framework, 1, 5) == generate(framework, 1, 5) != generate(framework, 2, 5)


@pytest.mark.parametrize("fault", ["biases are kept", "one reader is forgotten", "readers off by one"])
def test_a_planted_fault_is_found(fault):
    number, how = first_found(fault, "torch", seed=1, limit=50)
    assert number is not None, how


def test_a_planted_fault_is_found_in_jax():
    command = [sys.executable, str(COMMAND), "--plant", "biases are kept", "--framework", "jax", "--workers", "1"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_failure_is_shrunk_to_a_script_that_runs(tmp_path):
    program = generate("torch", 1, 0)
    with planted("readers off by one", "torch"):
        failure = run(program, "torch").failures[0]
        small = shrunk(program, lambda each: failure.kind in {other.kind for other in run(each, "torch").failures})
    assert len(small.nodes) < len(program.nodes)
    file = tmp_path / "small.py"
    file.write_text(script(small, "torch", failure, "a test"))
    shown = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, cwd=COMMAND.parents[1])
    assert shown.returncode == 0, shown.stderr
    assert "evaluation: outputs moved by [0.0" in shown.stdout  # without the fault


def test_a_script_in_jax_runs(tmp_path):
    from fuzz.oracles import Failure

    small = dataclasses.replace(SMALL, batch=3)
    file = tmp_path / "small.py"
    file.write_text(script(small, "jax", Failure("nothing", "nothing"), "a test"))
    shown = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, cwd=COMMAND.parents[1])
    assert shown.returncode == 0, shown.stderr
    assert "outputs moved by [0.0]" in shown.stdout
