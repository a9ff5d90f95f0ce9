"""Writes docs/networks.md: a table of the networks in tests/networks and tests/foreign, with their recycled layers.

    python docs/make_networks.py                    # writes the page
    python docs/make_networks.py --record 0ae57e9   # counts layers with that revision, writes docs/networks-0ae57e9.csv
    python docs/make_networks.py --count FILE       # counts layers with the imported dormant, writes FILE (CSV)

The page shows today's counts next to those in docs/networks-0ae57e9.csv.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from networks.case import Case  # noqa: E402 (only possible after tests/ is on the path)
from networks.everything import everything  # noqa: E402
from networks.torch_case import TorchCase  # noqa: E402

AnyCase = Case | TorchCase
BEFORE = "0ae57e9"
COLUMNS = ("network", "framework", "recycled", "measured", "refused")
HEAD = """# Networks

Made by `make networks` from `tests/networks` and `tests/foreign`. Widths are small; wiring does not depend on them.
For each network a test silences neurons and recycles them at tau = 0: outputs stay the same to the last bit. The
test also moves the outgoing entries of silent neurons, which changes nothing, and of others, which does.

- *Recycled*: dormant neurons of the layer are replaced. *Coupled* layers are recycled by default too, but a
  normalisation lets their neurons influence one another, so fresh incoming weights change the others' outputs even
  at tau = 0. `ReDo(coupled="skip")` leaves them alone.
- *Measured only*: scores are known; no safe way to replace a neuron is known, for the reason given.
- *Refused*: the tracer raises an error, or does not find the layer.
- The two columns of counts are recycled / measured / refused layers, today and at revision {before}.
"""
KINDS = (  # part of a reason -> text on the page; the first part that a reason contains is used
    ("summed", "summed with another layer"),
    ("product of two activations", "enters a product of two activations"),
    ("feeds and reads", "its kernel both feeds and reads it"),
    ("not zero when silent", "not zero when silent"),
    ("returned", "also an output"),
    ("also returns", "also an output"),
    ("without weights of its own", "reaches a reader without weights of its own"),
    ("computed with", "its weights are also computed with"),
    ("another use", "its weights have another use"),
)


class Counts(NamedTuple):
    """How many hidden layers are recycled, measured only, and refused."""

    recycled: int
    measured: int
    refused: int

    def __str__(self) -> str:
        return " / ".join(map(str, self))

    def __add__(self, other: "Counts") -> "Counts":  # type: ignore[override]
        return Counts(*(one + two for one, two in zip(self, other, strict=True)))


NONE = Counts(0, 0, 0)


@dataclass(frozen=True)
class Outcome:
    """The layers of a network that a trace recycles or only measures, or the error that the trace raises."""

    recycled: Sequence[str] = ()
    measured: Mapping[str, str] = field(default_factory=dict)  # name of a layer -> why it is not recycled
    refused: str = ""

    def counts(self, case: AnyCase) -> Counts:
        """Counts layers by outcome. A layer that the case names and the trace does not find is counted as refused."""
        found = len(self.recycled) + len(self.measured)
        # Layers that only some traces merge have names that begin with the same layer. Counts them once.
        named = len({name.partition("+")[0] for name in case.layers if name != "..."})
        missing = max(named, 1) if self.refused else max(0, named - found)
        return Counts(len(self.recycled), len(self.measured), missing)


def outcome(case: AnyCase) -> Outcome:
    """Traces the network of a case. Returns its layers, or the error of the trace."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return of_wiring(case.trace())
        except Exception as error:  # other revisions also raise errors other than TraceError
            return refusal(error)


def of_wiring(wiring: object) -> Outcome:
    """The outcome of a trace that returned this wiring, of JAX or PyTorch."""
    layers = wiring.layers  # type: ignore[attr-defined]
    safe = [f"{layer.name} (coupled)" if layer.coupled_by else layer.name for layer in layers if layer.recyclable]
    return Outcome(safe, {layer.name: layer.reasons[0] for layer in layers if not layer.recyclable})


def refusal(error: Exception) -> Outcome:
    """The outcome of a trace that raised this error. Keeps the first sentence of the message."""
    return Outcome(refused=re.split(r"\. (?=[A-Z])", f"{error or type(error).__name__}".splitlines()[0])[0])


def row(case: AnyCase, found: Outcome, before: Counts) -> str:
    """The row of a network in the table of the page."""
    why: dict[str, list[str]] = {}
    for name, reason in found.measured.items():
        why.setdefault(kind(reason), []).append(short(name))
    kept = "<br>".join(f"{reason}: {', '.join(names)}" for reason, names in why.items())
    safe = ", ".join(map(short, found.recycled))
    cells = (case.title, safe, kept or found.refused, str(found.counts(case)), str(before))
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def kind(reason: str) -> str:
    """A short form of a reason, without the names of layers."""
    return next((text for part, text in KINDS if part in reason), reason.partition(";")[0])


def short(name: str) -> str:
    """The name of a layer on the page. If more than two layers are merged, names only the first."""
    first, *others = name.removeprefix("params/").split("+")
    return "+".join((first, *others)) if len(others) < 2 else f"{first} and {len(others)} more"


def table(framework: str, rows: Iterable[str]) -> str:
    """The heading and the table of one framework."""
    head = f"| network | recycled | measured only or refused, and why | now | {BEFORE} |\n|---|---|---|---|---|\n"
    return f"\n## {framework}\n\n{head}" + "\n".join(rows) + "\n"


def rows_of(tables: str) -> list[list[str]]:
    """The cells of each network's row in the tables."""
    lines = (line for line in tables.splitlines() if line.startswith("| ") and not line.startswith("| network |"))
    return [line.strip("| ").split(" | ") for line in lines]


def summary(tables: str) -> str:
    """The paragraph at the top of the page, with the totals of the tables."""
    rows = rows_of(tables)
    now, before = (sum((Counts(*map(int, row[cell].split(" / "))) for row in rows), NONE) for cell in (-2, -1))
    torch = len(rows_of(tables.partition("## PyTorch")[2]))
    agents = sum(re.search(r"\d{4}\)$", row[0]) is not None for row in rows)
    return (
        f"\n**{len(rows)} networks, {len(rows) - torch} in JAX and {torch} in PyTorch; {agents} are those of "
        f"published agents. Of {sum(now)} hidden layers {now.recycled} are recycled, {now.measured} are measured only "
        f"and {now.refused} are refused. At revision {BEFORE} these counts were {before}.**\n"
    )


def recorded(revision: str = BEFORE) -> dict[tuple[str, str], Counts]:
    """Reads the counts of a revision from its CSV file. Returns them by network and framework."""
    with (ROOT / "docs" / f"networks-{revision}.csv").open() as file:
        return {
            (line["network"], line["framework"]): Counts(*(int(line[column]) for column in COLUMNS[2:]))
            for line in csv.DictReader(file)
        }


def page() -> str:
    """Traces all networks. Returns the whole page."""
    lines: dict[str, list[str]] = {"JAX": [], "PyTorch": []}
    before = recorded()
    for case in everything():
        lines[case.framework].append(row(case, outcome(case), before.get((case.title, case.framework), NONE)))
    tables = "".join(table(framework, rows) for framework, rows in lines.items())
    return HEAD.format(before=BEFORE) + summary(tables) + tables


def counted() -> Iterator[tuple[str, ...]]:
    """Yields the rows of the CSV file. Counts layers with the version of dormant that is imported."""
    yield COLUMNS
    for case in everything():
        yield case.title, case.framework, *map(str, outcome(case).counts(case))


def record(revision: str) -> None:
    """Writes the CSV file of a revision. It traces today's networks with that revision of dormant."""
    target = ROOT / "docs" / f"networks-{revision}.csv"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", folder, revision], check=True, cwd=ROOT)
        try:
            program = [sys.executable, __file__, "--count", str(target)]
            subprocess.run(program, env=os.environ | {"PYTHONPATH": folder}, check=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", folder], check=True, cwd=ROOT)


def main() -> None:
    """Writes the page or a CSV file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", metavar="REV", help="count layers with this revision of dormant")
    parser.add_argument("--count", metavar="FILE", help="write a CSV file with the counts of the imported dormant")
    options = parser.parse_args()
    if options.record:
        record(options.record)
    elif options.count:
        lines = list(counted())
        with Path(options.count).open("w") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)
    else:
        (ROOT / "docs" / "networks.md").write_text(page())


if __name__ == "__main__":
    main()
