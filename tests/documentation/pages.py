"""Reads the code blocks of the pages in docs/. Runs the blocks of a page in a folder, from top to bottom."""

import contextlib
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import tyro
from walks import Walk

from dormant import cli
from dormant.cli import figure, train
from dormant.lab import crews
from dormant.lab.runs import runner
from dormant.lab.runs.checkpoints import checkpoints
from dormant.lab.runs.folder import claimed
from dormant.tracing import rules

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r'^```(\w*)(?: title="(.+?)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
# Commands in PARSED are parsed but not run, because they take long or need a cluster. Lines in ELSEWHERE are skipped.
PARSED = ("dormant figure", "dormant report", "dormant doctor", "dormant demo", "dormant compare")
ELSEWHERE = (
    "pip install",
    "make ",
    "git ",
    ".ci/run",
    "python tests/",
    "python benchmarks/",
    "python results/",
    "JAX_DEFAULT_MATMUL",
)


class Block(NamedTuple):
    """A code block of a page: its language, the file that its title names, and its text."""

    language: str
    title: str
    text: str


def pages() -> list[Path]:
    return sorted(page for page in DOCS.rglob("*.md") if page.name != "networks.md")


def blocks(page: Path) -> list[Block]:
    """Returns the blocks that doctest does not run."""
    found = [Block(*match.groups(default="")) for match in FENCE.finditer(page.read_text())]
    return [block for block in found if not block.text.startswith(">>>")]


def follow(page: Path, folder: Path) -> None:
    """Writes the files of a page into a folder, and runs its code and commands there. Raises the first error."""
    space: dict[str, object] = {"__name__": "__main__"}
    with _inside(folder), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        for block in blocks(page):
            if block.title:
                (folder / block.title).write_text(block.text)
            elif block.language == "python":
                exec(compile(block.text, str(page), "exec"), space)
            else:
                for line in block.text.splitlines():
                    command(line)


def command(line: str) -> None:
    """Runs, parses or skips one line for the shell. Raises AssertionError if the line fails."""
    if line.startswith(ELSEWHERE):
        return
    if line.startswith(PARSED):
        parsed(line)
    elif line.startswith("dormant "):
        # Replaces the functions that change settings of the whole process, because other tests need these settings.
        settings = {name: mock.DEFAULT for name in ("keep_compiled_code", "pin", "spread_seeds")}
        with mock.patch.multiple(train, run=walked, **settings):
            assert cli.run(shlex.split(line)[1:]) == 0, line
    elif line.startswith("python "):
        with mock.patch.object(crews, "run", walked):
            runpy.run_path(shlex.split(line)[1], run_name="__main__")
    else:
        assert line.startswith("pytest "), f"{line!r} is not run by the tests: add it to `ELSEWHERE` or run it"
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *shlex.split(line)[1:]]
        ended = subprocess.run(words, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr


def walked(
    training, path: Path, progress: runner.Progress = lambda agent_steps: None, *_: object, **more: object
) -> None:
    """Replaces `runner.run`. Makes the run folder of a training, with the rows of a random walk.

    A real run would compile an agent, which takes a minute. Other tests train agents with the command line.
    """
    walk = Walk(agent_steps=training.agent_steps, log_period=training.agent_steps // 4, seeds=training.seeds)
    with claimed(path, training) as folder, checkpoints(folder) as manager:
        watched = runner.Watched(progress, stop_when_diverged=False)
        folder.finish(runner._train(walk, folder, manager, runner.owner_of(training), watched, 30.0))


def parsed(line: str) -> None:
    """Parses a command, and checks that the experiments in the command exist. Raises an error if not."""
    words = shlex.split(line)[1:]
    flags = tyro.extras.subcommand_cli_from_dict(cli.COMMANDS, prog="dormant", args=words)
    if isinstance(flags, figure.Figure):
        assert figure.chosen(flags.names, flags.scale)
        assert figure.site(flags.cluster)
    assert not isinstance(flags, train.TrainMinAtar)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Enters a folder and makes its modules importable. At the end, restores the tracer's rules, modules and paths."""
    there, known, path = Path.cwd(), dict(rules.RULES), list(sys.path)
    modules = set(sys.modules)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        os.chdir(there)
        sys.path[:] = path
        rules.RULES.clear()
        rules.RULES.update(known)
        for name in set(sys.modules) - modules:
            if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).parent == folder:
                del sys.modules[name]
