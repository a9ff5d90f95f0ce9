"""Writes docs/which.md, a page that compares the methods, from the committed runs of `dormant compare`.

    python results/leaderboard.py                                      writes docs/which.md
    python results/leaderboard.py --add runs --scale pilot --name NAME copies a comparison to results/compare/NAME first

A committed comparison has a record (comparison.json), and the metrics of its judged runs and of its tuning runs
(metrics.parquet).
"""

import argparse
import csv
import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import polars as pl

import dormant.lab.drawing
from dormant.experiments.comparison import Record, claims, read_record, record_file, stored_record, tuning
from dormant.experiments.methods import PLAIN
from dormant.experiments.ranking import Row, rows, table
from dormant.lab import SCALES, Experiment, Scale
from dormant.lab.judging.claims import Verdict, judged
from dormant.lab.judging.table import read_all
from dormant.lab.judging.wording import effect

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "which.md"
PUBLISHED = Path(dormant.lab.drawing.__file__).with_name("published.csv")
INTRODUCTION = """
This page is made by `python results/leaderboard.py` from committed runs, and every number on it comes from there.
[Cures](cures.md) describes the methods and what each costs.

- *Rank*: the mean rank over games of the return of training episodes in the last fifth of a run. 1 is the best.
- *Return / plain DQN*: the interquartile mean over runs of that return, divided by plain DQN's mean in the same game.
  The bounds of ranks and of these returns are by the bootstrap, and too narrow for few seeds.
- *Pairs / plain DQN*: the quotient in pairs of runs with the same seed and game, with a t-interval that has Holm's
  correction for the number of methods. Judge by this one.
- *Dormant neurons* (τ = 0.1): those of the second half of a run, with a t-interval.
- *Time*: measured in turn, the median over chunks of training. Differences below a tenth are noise.
"""
LIMITS = """
## What does not follow

- These games are no sample of games. Nothing here tells about other games, other replay ratios or longer runs.
- An interval that contains 1 does not mean that there is no effect. It means that these runs cannot tell.
- Methods with a setting of their own keep plain DQN's default learning rate. Only the plain agent, and methods
  without a setting of their own, tune it.
- Fewer dormant neurons are no proof of a higher return. Compare the two columns.
"""
SUBMIT = """
## Add a method and submit its runs

1. Write the method ([add a cure](howto/add-a-cure.md)), and add it to `METHODS` in `dormant/experiments/methods.py`
   with the ranges of its hyperparameters.
2. Run the comparison with your method, here `fire`. It tunes every method with the same budget, on other seeds than the
   judged ones. If it is interrupted, the same command resumes it. `--dry-run` prints how long it takes.
3. Copy its metrics into the repository, which also writes this page.
4. Commit `results/compare/fire` and `docs/which.md`. A test checks that the page follows from the committed runs. Do
   not change ranges, budget, outcome or seeds after you have seen judged runs.

```bash
dormant compare --interventions redo,reset,fire --scale pilot --run-dir runs
python results/leaderboard.py --add runs --scale pilot --name fire
```

The scale `laptop` has three games, five seeds and a larger budget of tuning.
"""
NO_PROTOCOL = """
## Published numbers

No committed comparison has the protocol of a published table. A number of another protocol would mislead, so there is
none here.
"""
THEIRS = """
## Published numbers

Theirs, not ours, at the protocol of `--suite atari --scale paper`: interquartile means of human-normalised scores over
17 Atari games at replay ratio 1 after 10 million frames, read from figure 13 of Sokar et al. 2023.

"""


class Submission(NamedTuple):
    """A committed comparison. `frame` has the metrics of its judged runs, `tuned` is the number of its tuning runs."""

    name: str
    scale: Scale
    record: Record
    frame: pl.DataFrame
    tuned: int

    def rows(self) -> list[Row]:
        """The rows of its table, the best rank first."""
        return sorted(rows(self.record, self.frame, self.scale), key=lambda row: row.rank.estimate)

    def verdicts(self) -> list[Verdict]:
        """The verdicts on its claims."""
        return judged(Experiment("compare", "", {}, claims=claims(self.record.chosen)), self.frame, self.scale)

    @property
    def games(self) -> list[str]:
        return sorted(set(self.frame["environment"]))


def submissions() -> list[Submission]:
    """The committed comparisons, those with most judged runs first."""
    folders = [HERE, *sorted(HERE.glob("compare/*"))]
    found = []
    for root, scale in itertools.product(folders, SCALES):
        if not record_file(root, scale).exists():
            continue
        frame = pl.read_parquet(root / scale / "metrics.parquet")
        tuned = frame.filter(experiment="compare-tuning").n_unique(["arm", "environment", "seed"])
        name = f"{root.relative_to(HERE.parent) / scale}"
        found.append(Submission(name, scale, stored_record(root, scale), frame.filter(experiment="compare"), tuned))
    return sorted(found, key=lambda each: -each.frame.n_unique(["arm", "environment", "seed"]))


def page() -> str:
    """The text of docs/which.md."""
    found = submissions()
    parts = ["# Which one should I use?\n\n", *answer(found[0]), INTRODUCTION]
    for each in found:
        parts += ["\n", *section(each)]
    return "".join([*parts, LIMITS, *published(found), SUBMIT])


def answer(best: Submission) -> Iterator[str]:
    """Yields three lines that answer the question from the largest comparison."""
    others = [row for row in best.rows() if row.method != PLAIN]
    shown = [row for row in others if row.higher_return and row.higher_return.verdict == "reproduced"]
    worse = [row for row in others if row.higher_return and row.higher_return.verdict == "opposite"]
    fewer = [row for row in others if row.fewer_dormant and row.fewer_dormant.verdict == "reproduced"]
    if shown:
        yield f"**To raise the return, use {listed(shown)}.** It returned more than tuned plain DQN."
    else:
        first = " and ".join(f"{row.method} ({row.returns.estimate:.1f} times its mean return)" for row in others[:2])
        yield f"**No method is shown to return more than tuned plain DQN.** Try {first} first."
    yield f" {listed(worse)} returned less.\n" if worse else "\n"
    if fewer:
        yield f"**To lower dormancy, use {listed(fewer)}**, which at least halved the share of dormant neurons.\n"
    else:
        yield "No method is shown to halve the share of dormant neurons.\n"
    games, seeds, steps = best.games, best.frame["seed"].n_unique(), best.frame["agent_steps"].max()
    yield f"This rests on {counted(len(games), 'game')} ({', '.join(games)}), {seeds} seeds per method and {steps:,} "
    yield "agent steps per run: a hint and no proof. Try two or three methods on your own task.\n"


def listed(rows: Sequence[Row]) -> str:
    """The names of methods as a list in a sentence, such as "ReDo, Reset or SNR"."""
    *front, last = [row.method for row in rows]
    return f"{', '.join(front)} or {last}" if front else last


def counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def section(each: Submission) -> Iterator[str]:
    """Yields the part of the page about one comparison: its runs, the table of methods and the verdicts."""
    frame, record = each.frame, each.record
    ratio = ", ".join(f"{value:g}" for value in sorted(set(frame["replay_ratio"].drop_nulls())))
    yield f"## {record.suite} at scale {each.scale}\n\n"
    yield f"{', '.join(each.games)}; replay ratio {ratio}; {frame['agent_steps'].max():,} agent steps per run; seeds "
    yield f"{', '.join(map(str, sorted(set(frame['seed']))))}; revision {', '.join(record.revisions) or 'unknown'}; "
    yield f"metrics in [{each.name}](../{each.name}/metrics.parquet), with {counted(each.tuned, 'tuning run')}.\n\n"
    yield f"*Tuning.* {record.tuning}\n\n"
    yield f"*Note.* {record.note}\n\n" if record.note else ""
    heads, *cells = table(record, frame, each.scale)
    yield from markdown(heads, cells)
    yield "\n"
    yield from markdown(("Claim", "Verdict", "Effect"), map(_claim, each.verdicts()))


def _claim(verdict: Verdict) -> tuple[str, str, str]:
    return verdict.claim.statement, verdict.verdict, effect(verdict.unit, verdict.bounds)


def markdown(heads: Sequence[str], cells) -> Iterator[str]:
    """Yields the lines of a table."""
    for row in (heads, ["---"] * len(heads), *cells):
        yield f"| {' | '.join(row)} |\n"


def published(found: Sequence[Submission]) -> Iterator[str]:
    """Yields a table of published numbers if a committed comparison has their protocol. Otherwise yields a note."""
    if not any(each.record.suite == "atari" and each.scale == "paper" for each in found):
        yield NO_PROTOCOL
        return
    yield THEIRS
    with PUBLISHED.open(newline="") as stream:
        theirs = [
            (row["arm"], f"{float(row['value']):.2f}", "Sokar et al. 2023")
            for row in csv.DictReader(stream)
            if (row["figure"], row["panel"], row["x"]) == ("fig13", "atari17 replay_ratio=1", "10")
        ]
    yield from markdown(("Method", "Score", "Theirs"), theirs)


def add(root: Path, scale: Scale, name: str) -> None:
    """Copies the record and the metrics of a comparison and of its tuning to results/compare.

    Raises ValueError if there is no comparison.
    """
    record = read_record(root, scale)
    if record is None:
        raise ValueError(f"{root} has no comparison at scale {scale}; run dormant compare --scale {scale} first.")
    names = [each for each in record.chosen if each != PLAIN]
    frame = read_all(root, scale, [record.experiment(scale), tuning(record.suite, scale, names)])
    target = HERE / "compare" / name
    record_file(target, scale).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(record_file(root, scale), record_file(target, scale))
    kept = ["eval_return", "train_return", "train_episodes", "gradient_steps", "replay_ratio", "reset_age", "diverged"]
    kept += [column for column in frame.columns if column.startswith("dormant/") and column.endswith("/all")]
    frame = frame.select("experiment", "arm", "environment", "seed", "agent_steps", *kept)
    frame.write_parquet(target / scale / "metrics.parquet", compression="zstd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", type=Path, help="folder of the runs of a comparison to copy")
    parser.add_argument("--scale", choices=get_args(Scale), default="pilot")
    parser.add_argument("--name", help="name of the copy in results/compare")
    flags = parser.parse_args()
    try:
        if flags.add:
            if not flags.name:
                raise ValueError("--add needs --name.")
            add(flags.add, flags.scale, flags.name)
        PAGE.write_text(page())
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print("".join(answer(submissions()[0])), end="")


if __name__ == "__main__":
    main()
