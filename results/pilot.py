"""Keeps the laboratory's pilot in results/pilot: metrics as parquet, verdicts, pictures, and the page with its picture.

    dormant figure fig03 fig04 fig05 fig06 fig07 fig08 fig09 fig10a fig13 --scale pilot
    dormant compare --scale pilot
    python results/pilot.py --run-dir runs

What is kept has a part of figure 14's runs too: SAC's and ReDo's three seeds, and one of Reset.
`python results/pilot.py` alone judges the claims again from the parquet file, and prints the comparison's table. The
page's picture needs playwright and Chromium.
"""

import argparse
import csv
import shutil
from pathlib import Path

import polars as pl

from dormant.cli.report import Report, report
from dormant.experiments import EXPERIMENTS
from dormant.experiments.comparison import read_record, record_file
from dormant.experiments.ranking import table as method_table
from dormant.lab import Experiment
from dormant.lab.judging.claims import Verdict, judged
from dormant.lab.judging.table import read

HERE = Path(__file__).parent / "pilot"
COLUMNS = ("verdict", "estimate", "low", "high", "runs", "unit", "interval", "why")


def experiments(root: Path) -> list[Experiment]:
    """Those with a pilot, and the comparison whose record lies under a folder."""
    record = read_record(root, "pilot")
    compared = [record.experiment("pilot")] if record else []
    return [*(each for each in EXPERIMENTS if "pilot" in each.designs), *compared]


def gather(run_dir: Path) -> pl.DataFrame:
    """The metrics of all finished runs of the pilot, under the name of each experiment that has them."""
    frames = {each.name: read(run_dir, "pilot", each) for each in experiments(run_dir)}
    named = [frame.with_columns(experiment=pl.lit(name)) for name, frame in frames.items() if not frame.is_empty()]
    return pl.concat(named, how="diagonal")


def verdicts(frame: pl.DataFrame) -> dict[str, list[Verdict]]:
    """What the metrics say of each experiment's claims."""
    found = [each for each in experiments(HERE.parent) if each.name in set(frame["experiment"])]
    return {each.name: judged(each, frame.filter(experiment=each.name)) for each in found}


def tabulate(found: dict[str, list[Verdict]]) -> None:
    """Prints the verdicts, and writes them to a table."""
    with (HERE / "verdicts.csv").open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("experiment", "claim", *COLUMNS))
        for name, all_of_it in found.items():
            for each in all_of_it:
                table.writerow((name, each.claim.statement, *(getattr(each, column) for column in COLUMNS)))
                numbers = f"{each.estimate:.3g} [{each.low:.3g}, {each.high:.3g}] {each.unit}, {each.runs} pairs"
                print(f"{name}  {each.verdict}: {each.claim.statement} ({numbers})")


def compare(frame: pl.DataFrame) -> None:
    """Prints the comparison's table, and writes it."""
    record = read_record(HERE.parent, "pilot")
    assert record is not None, "run dormant compare --scale pilot first"
    rows = method_table(record, frame.filter(experiment="compare"))
    with (HERE / "comparison.csv").open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)
    print("\n".join("  ".join(cell.ljust(24) for cell in row) for row in rows))


def photograph(page: Path, picture: Path) -> None:
    """The top of the page as a browser shows it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1200, "height": 1600})
        tab.goto(page.absolute().as_uri())
        tab.screenshot(path=picture)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, help="folder of the runs, to be kept anew")
    options = parser.parse_args()
    HERE.mkdir(exist_ok=True)
    metrics = HERE / "metrics.parquet"
    if options.run_dir:
        shutil.copy(record_file(options.run_dir, "pilot"), record_file(HERE.parent, "pilot"))
        gather(options.run_dir).write_parquet(metrics, compression="zstd")
        for file in (options.run_dir / "pilot" / "figures").iterdir():
            shutil.copy(file, HERE)
        report(Report(options.run_dir, HERE / "report.html", "pilot"))
        photograph(HERE / "report.html", HERE / "page.png")
    frame = pl.read_parquet(metrics)
    tabulate(verdicts(frame))
    compare(frame)


if __name__ == "__main__":
    main()
