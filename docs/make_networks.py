"""Writes docs/networks.md: what dormant does with each network of tests/networks and tests/foreign.

    python docs/make_networks.py                    # writes the page
    python docs/make_networks.py --record 0ae57e9   # counts layers with the library of that revision, in a CSV file
    python docs/make_networks.py --count FILE       # writes that CSV for the library that is imported

The page shows the counts of the file that `--record` made beside today's.
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

from networks.case import Case  # noqa: E402 (the tests' folder has to be on the path first)
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
- *Refused*: the tracer raises an error that names the operation.
- The two columns of counts are recycled / measured / refused layers, today and at revision {before}.
"""
KINDS = (  # a part of a reason, and what the page says; the first that fits counts
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
    """Numbers of hidden layers."""

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
    """What a trace says of a network's layers, or the error that it raises."""

    recycled: Sequence[str] = ()
    measured: Mapping[str, str] = field(default_factory=dict)  # a layer -> why
    refused: str = ""

    def counts(self, case: AnyCase) -> Counts:
        """Layers that the case names and the trace does not find are counted as refused."""
        found = len(self.recycled) + len(self.measured)
        # Names of merged layers begin with the same layer if one trace merges what another keeps apart.
        named = len({name.partition("+")[0] for name in case.layers if name != "..."})
        missing = max(named, 1) if self.refused else max(0, named - found)
        return Counts(len(self.recycled), len(self.measured), missing)


def outcome(case: AnyCase) -> Outcome:
    """From a trace made now."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return of_wiring(case.trace())
        except Exception as error:  # other revisions raise other errors than TraceError
            return refusal(error)


def of_wiring(wiring: object) -> Outcome:
    """Of a wiring of either framework."""
    layers = wiring.layers  # type: ignore[attr-defined]
    safe = [f"{layer.name} (coupled)" if layer.coupled_by else layer.name for layer in layers if layer.recyclable]
    return Outcome(safe, {layer.name: layer.reasons[0] for layer in layers if not layer.recyclable})


def refusal(error: Exception) -> Outcome:
    """Of an error: its first sentence."""
    return Outcome(refused=re.split(r"\. (?=[A-Z])", f"{error or type(error).__name__}".splitlines()[0])[0])


def row(case: AnyCase, found: Outcome, before: Counts) -> str:
    """One line of the page."""
    why: dict[str, list[str]] = {}
    for name, reason in found.measured.items():
        why.setdefault(kind(reason), []).append(short(name))
    kept = "<br>".join(f"{reason}: {', '.join(names)}" for reason, names in why.items())
    safe = ", ".join(map(short, found.recycled))
    cells = (case.title, safe, kept or found.refused, str(found.counts(case)), str(before))
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def kind(reason: str) -> str:
    """What a reason comes down to, without the names of layers."""
    return next((text for part, text in KINDS if part in reason), reason.partition(";")[0])


def short(name: str) -> str:
    """The name of a layer; of many merged layers only the first is named."""
    first, *others = name.removeprefix("params/").split("+")
    return "+".join((first, *others)) if len(others) < 2 else f"{first} and {len(others)} more"


def table(framework: str, rows: Iterable[str]) -> str:
    """The networks of one framework."""
    head = f"| network | recycled | measured only or refused, and why | now | {BEFORE} |\n|---|---|---|---|---|\n"
    return f"\n## {framework}\n\n{head}" + "\n".join(rows) + "\n"


def rows_of(tables: str) -> list[list[str]]:
    """The cells of each network's line."""
    lines = (line for line in tables.splitlines() if line.startswith("| ") and not line.startswith("| network |"))
    return [line.strip("| ").split(" | ") for line in lines]


def summary(tables: str) -> str:
    """The line at the top, from the tables below it."""
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
    """The counts of a revision, by network and framework."""
    with (ROOT / "docs" / f"networks-{revision}.csv").open() as file:
        return {
            (line["network"], line["framework"]): Counts(*(int(line[column]) for column in COLUMNS[2:]))
            for line in csv.DictReader(file)
        }


def page() -> str:
    """The whole page, from traces made now."""
    lines: dict[str, list[str]] = {"JAX": [], "PyTorch": []}
    before = recorded()
    for case in everything():
        lines[case.framework].append(row(case, outcome(case), before.get((case.title, case.framework), NONE)))
    tables = "".join(table(framework, rows) for framework, rows in lines.items())
    return HEAD.format(before=BEFORE) + summary(tables) + tables


def counted() -> Iterator[tuple[str, ...]]:
    """The lines of the CSV file for the library that is imported now."""
    yield COLUMNS
    for case in everything():
        yield case.title, case.framework, *map(str, outcome(case).counts(case))


def record(revision: str) -> None:
    """Writes the CSV file of a revision, with the library as it was then and the networks as they are now."""
    target = ROOT / "docs" / f"networks-{revision}.csv"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", folder, revision], check=True, cwd=ROOT)
        try:
            program = [sys.executable, __file__, "--count", str(target)]
            subprocess.run(program, env=os.environ | {"PYTHONPATH": folder}, check=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", folder], check=True, cwd=ROOT)


def main() -> None:
    """Write the page, or count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", metavar="REV", help="count layers with the library of this revision")
    parser.add_argument("--count", metavar="FILE", help="count layers with the library that is imported")
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
