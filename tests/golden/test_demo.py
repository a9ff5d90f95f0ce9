"""`make demo` installs only three extras. All commands must work without the packages of other extras."""

import os
import subprocess
import sys
from importlib.metadata import packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = "dormant[cli,images,minatar]"  # as in the Makefile
BLOCK = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


def installed_with(extras: str) -> set[str]:
    """Returns the canonical names of all packages that pip would install with these extras."""
    todo, seen = [Requirement(extras)], set()
    while todo:
        wanted = todo.pop()
        if (key := (canonicalize_name(wanted.name), frozenset(wanted.extras))) not in seen:
            seen.add(key)
            for each in map(Requirement, requires(wanted.name) or ()):
                if not each.marker or any(each.marker.evaluate({"extra": extra}) for extra in wanted.extras or {""}):
                    todo.append(each)
    return {name for name, _ in seen}


@pytest.fixture
def bare(tmp_path):
    """A function that runs `dormant` and returns its output. Only the packages of EXTRAS can be imported."""
    there = installed_with(EXTRAS)
    distributions = packages_distributions()
    names = {name for name, owners in distributions.items() if not there & set(map(canonicalize_name, owners))}
    assert {"polars", "ale_py", "torch", "mujoco"} <= names and not {"jax", "pgx", "tyro"} & names
    (tmp_path / "sitecustomize.py").write_text(BLOCK.format(names=names))

    def command(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dormant", *arguments],
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return command


def test_the_demo_needs_nothing_else(bare, tmp_path):
    said = bare("demo", "--steps", "4000", "--seeds", "1", "--run-dir", str(tmp_path / "demo"))
    assert "DQN + ReDo" in said and "nan" not in said and (tmp_path / "demo" / "demo.png").exists()


def test_other_commands_are_there(bare, tmp_path):
    assert "dormant compare" in bare("compare", "--help")
    assert "Estimated time" in bare("figure", "fig09", "--dry-run", "--run-dir", str(tmp_path))
