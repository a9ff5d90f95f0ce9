"""Tests of the architecture: layers of modules (floors), imports between them, and sizes of files and functions."""

import ast
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dormant"
FLOORS = {
    1: {
        *(
            "",
            "files",
            "hints",
            "reasons",
            "scores",
            "settings",
            "wiring",
            "tracing",
            "surgery",
            "interventions",
            "regularisers",
            "metrics",
            "plots",
        ),
        *("optimizer", "reporting", "torch", "trainability", "perturbed_descent"),
    },
    2: {"rl", "supervised"},
    3: {"lab"},
    4: {"experiments"},
    5: {"cli", "__main__"},
}
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_FILES = 149  # raise this limit if a new file has one whole idea
MEDIAN_LINES, MOST_LINES, FEWEST_LINES = 110, 400, 40
MOST_ANY = 218  # lines with Any
LONGEST_FUNCTION = 60  # lines of a function, without signature and docstring


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> Iterator[str]:
    """Yields the absolute names of all imports of a file, also of imports inside functions."""
    package = file.parent.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            source = ".".join([*above, *([node.module] if node.module else [])])
            # `from . import scores` imports a module; `from .scores import dormant_mask` imports a name from a module.
            yield from (f"{source}.{alias.name}" for alias in node.names)


def floor(module: str) -> int:
    top = [*module.split("."), ""][1]
    floors = [number for number, names in FLOORS.items() if top in names]
    return floors[0] if floors else floor("dormant")  # a name without a floor is defined in dormant/__init__.py


def functions(file: Path) -> Iterator[tuple[str, int]]:
    """Yields each function's name and number of lines, without the signature and docstring."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            yield f"{module_name(file)}.{node.name}", body[-1].end_lineno - body[0].lineno + 1 if body else 0


def lines(files: list[Path]) -> list[int]:
    return [len(file.read_text().splitlines()) for file in files]


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_every_module_has_a_floor(file):
    top = [*module_name(file).split("."), ""][1]
    assert any(top in names for names in FLOORS.values()), f"{file}: add {top!r} to a floor in FLOORS"


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_point_downwards(file):
    inside = [name for name in imports(file) if name.split(".")[0] == "dormant"]
    assert not [name for name in inside if floor(name) > floor(module_name(file))]


@pytest.mark.parametrize("file", [file for file in FILES if floor(module_name(file)) == 1], ids=module_name)
def test_the_method_needs_only_its_four_packages(file):
    adapter = module_name(file).startswith("dormant.torch")
    allowed = {"numpy", "jaxtyping"} | ({"torch", "stable_baselines3"} if adapter else {"jax", "optax"})
    allowed |= {"matplotlib"} if module_name(file) in ("dormant.plots", "dormant.reasons") else set()
    third_party = {name.split(".")[0] for name in imports(file)} - sys.stdlib_module_names - {"dormant"}
    assert third_party <= allowed


def test_importing_dormant_is_light_and_leaves_xla_alone():
    program = """
import os, sys
before = dict(os.environ)
import dormant
dormant.trace, dormant.ReDo
heavy = {"tyro", "rich", "matplotlib", "pgx", "orbax", "flax", "torch"} & set(sys.modules)
assert not heavy, heavy
assert dict(os.environ) == before
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "importing dormant chose a device"
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_no_circle_among_modules():
    """Includes imports inside functions and under TYPE_CHECKING."""
    graph = {module_name(file): set() for file in FILES}
    for file in FILES:
        for name in imports(file):
            # The imported name is a module, or a name that a module defines.
            found = next((each for each in (name, name.rpartition(".")[0]) if each in graph), None)
            if found and found != module_name(file):
                graph[module_name(file)].add(found)
    assert not circles(graph), "break the circle, or merge its files"


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Returns the groups of modules that import each other, directly or indirectly."""

    def reached(start: str) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            for each in graph[todo.pop()] - seen:
                seen.add(each)
                todo.append(each)
        return seen

    reach = {module: reached(module) for module in graph}
    groups = {frozenset({module, *(each for each in reach[module] if module in reach[each])}) for module in graph}
    return {group for group in groups if len(group) > 1}


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}
    assert circles(graph) == {frozenset("abc")}


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_any_is_no_alias_of_a_class(file):
    """An alias such as `DeviceTraining = Any` would hide a dependency on a higher floor."""
    assignments = [
        node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Assign | ast.AnnAssign)
    ]
    hidden = [ast.unparse(node) for node in assignments if node.value and ast.unparse(node.value) == "Any"]
    assert not hidden


def test_any_becomes_rarer():
    assert sum(len(re.findall(r"^.*\bAny\b.*$", file.read_text(), re.MULTILINE)) for file in FILES) <= MOST_ANY


def test_files_are_whole_and_stay_small():
    sizes = dict(zip(map(module_name, FILES), lines(FILES), strict=True))
    assert not {name: size for name, size in sizes.items() if size > MOST_LINES}
    short = {module_name(file) for file in FILES if file.stem != "__init__"} & {
        name for name, size in sizes.items() if size < FEWEST_LINES
    }
    assert not short, "merge each with another file"
    assert statistics.median(sizes.values()) >= MEDIAN_LINES
    assert len(FILES) <= MOST_FILES


def test_functions_stay_small():
    bodies = dict(size for file in FILES for size in functions(file))
    assert not {name: size for name, size in bodies.items() if size > LONGEST_FUNCTION}
    assert statistics.quantiles(bodies.values(), n=10)[-1] <= 30


def test_git_ignores_no_source():
    """git must not ignore source files, because the wheel would not contain them."""
    ignored = subprocess.run(["git", "check-ignore", "--no-index", *FILES], capture_output=True, text=True, cwd=ROOT)
    assert not ignored.stdout


def test_imported_packages_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [
        requirement
        for name, of_extra in project["optional-dependencies"].items()
        if name != "dev"
        for requirement in of_extra
    ]
    declared = {plain(re.split(r"[^\w.-]", requirement)[0]) for requirement in [*project["dependencies"], *extras]}
    distributions = packages_distributions()
    imported = {name.split(".")[0] for file in FILES for name in imports(file)} - sys.stdlib_module_names - {"dormant"}
    undeclared = {name for name in imported if not {plain(each) for each in distributions[name]} & declared}
    assert not undeclared


def plain(distribution: str) -> str:
    return distribution.lower().replace("_", "-")


def test_tests_keep_pace_with_the_library():
    tests = sorted((ROOT / "tests").rglob("*.py"))
    assert sum(lines(tests)) >= 0.6 * sum(lines(FILES))


def test_journeys_name_files_that_exist_and_an_atari_step_passes_six():
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("**Where to read.**")[2].partition("**How it is")[0]
    rows = [row for row in table.splitlines() if "`" in row]
    journeys = {row.split("|")[1].strip(): re.findall(r"`([\w/]+\.py)`", row) for row in rows}
    assert len(journeys) == 6 and len(set(journeys["an Atari agent step"])) <= 6
    missing = {file for files in journeys.values() for file in files if not (PACKAGE / file).is_file()}
    assert not missing


def test_no_file_is_named_after_nothing():
    empty = {"utils", "common", "helper", "helpers", "manager", "base", "misc"}
    assert not [file for file in FILES if file.stem in empty or file.parent.name in empty]
