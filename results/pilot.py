"""Copies the runs at pilot scale to results/pilot: metrics (parquet), verdicts, figures, the report and its screenshot.

    dormant figure fig03 fig04 fig05 fig06 fig07 fig08 fig09 fig10a fig13 --scale pilot
    dormant compare --scale pilot
    python results/pilot.py --run-dir runs

The data also has some runs of figure 14: three seeds of SAC and of ReDo, and one seed of Reset. Without --run-dir, the
command judges the claims again from the parquet file and prints the table of the comparison. The screenshot needs
playwright and Chromium.
"""

import argparse
import csv
import math
import shutil
from collections import Counter
from pathlib import Path

import polars as pl

from dormant.cli.report import Report, report
from dormant.experiments import EXPERIMENTS
from dormant.experiments.comparison import claims, read_record, record_file, stored_record
from dormant.experiments.ranking import table as method_table
from dormant.lab import Experiment
from dormant.lab.judging.claims import RULINGS, Verdict, judged
from dormant.lab.judging.table import read_all
from dormant.lab.judging.wording import bare, effect

HERE = Path(__file__).parent / "pilot"
COLUMNS = ("verdict", "estimate", "low", "high", "unit", "level", "runs", "interval", "why")


def experiments(root: Path) -> list[Experiment]:
    """The experiments with a pilot scale. If there is a record of a comparison in `root`, also the comparison."""
    record = read_record(root, "pilot")
    compared = [record.experiment("pilot")] if record else []
    return [*(each for each in EXPERIMENTS if "pilot" in each.designs), *compared]


def judgeable(root: Path) -> list[Experiment]:
    """Returns `experiments(root)`, and the claims of the stored comparison even if this version lacks its settings."""
    found, stored = experiments(root), stored_record(root, "pilot")
    old = Experiment("compare", "", {}, claims=claims(stored.chosen))
    return found if any(each.name == old.name for each in found) else [*found, old]


def verdicts(frame: pl.DataFrame) -> dict[str, list[Verdict]]:
    """The verdicts on each experiment's claims, from the metrics in `frame`."""
    found = [each for each in judgeable(HERE.parent) if each.name in set(frame["experiment"])]
    return {each.name: judged(each, frame.filter(experiment=each.name), "pilot") for each in found}


def tabulate(found: dict[str, list[Verdict]]) -> None:
    """Prints the verdicts and their counts. Writes the verdicts to a table, in the units of the report."""
    with (HERE / "verdicts.csv").open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("experiment", "claim", *COLUMNS))
        for name, verdicts in found.items():
            for each in verdicts:
                bounds = ["" if math.isnan(value) else bare(each.unit, value) for value in each.bounds]
                others = (each.unit, f"{each.level:.4g}", each.runs, each.interval, each.why)
                table.writerow((name, each.claim.statement, each.verdict, *bounds, *others))
                print(f"{name}  {each.verdict}: {each.claim.statement} ({effect(each.unit, each.bounds)})")
    counts = Counter(each.verdict for verdicts in found.values() for each in verdicts)
    print(", ".join(f"{counts[ruling]} {ruling}" for ruling in RULINGS))


def compare(frame: pl.DataFrame) -> None:
    """Prints the table of the comparison and writes it to comparison.csv."""
    rows = method_table(stored_record(HERE.parent, "pilot"), frame.filter(experiment="compare"), "pilot")
    with (HERE / "comparison.csv").open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)
    print("\n".join("  ".join(cell.ljust(24) for cell in row) for row in rows))


def photograph(page: Path, picture: Path) -> None:
    """Writes a screenshot of the top of the page to the file `picture`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1200, "height": 1600})
        tab.goto(page.absolute().as_uri())
        tab.screenshot(path=picture)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, help="folder of the runs to copy")
    options = parser.parse_args()
    HERE.mkdir(exist_ok=True)
    metrics = HERE / "metrics.parquet"
    if options.run_dir:
        shutil.copy(record_file(options.run_dir, "pilot"), record_file(HERE.parent, "pilot"))
        read_all(options.run_dir, "pilot", experiments(options.run_dir)).write_parquet(metrics, compression="zstd")
        for file in (options.run_dir / "pilot" / "figures").iterdir():
            shutil.copy(file, HERE)
        report(Report(options.run_dir, HERE / "report.html", "pilot"))
        photograph(HERE / "report.html", HERE / "page.png")
    frame = pl.read_parquet(metrics)
    tabulate(verdicts(frame))
    compare(frame)


if __name__ == "__main__":
    main()
