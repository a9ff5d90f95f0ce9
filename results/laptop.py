"""Screens the games of the laptop scale, copies the metrics of its runs to results/laptop, and judges its claims.

    python results/laptop.py --screen --run-dir runs        makes the screening runs, and prints which games pass
    dormant figure fig10a fig13 fig09 fig07 --scale laptop --run-dir runs
    python results/laptop.py --run-dir runs                 copies the metrics of the finished runs, judges the claims
    python results/laptop.py                                judges the claims again from the copied metrics

The first two commands also resume interrupted runs. Finished runs can be archived before the suite is complete:

    python results/laptop.py --pack --run-dir runs          archives each finished run in results/laptop/runs
    python results/laptop.py --unpack --run-dir runs        unpacks the archives, for example on another machine

An archive has no checkpoints, so `dormant runs --check` reports each unpacked run as damaged.
LOG.md has the plan, which was written before any judged run was made.
"""

import argparse
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl
from rich.console import Console

from dormant.cli.figure import ClusterFlags, crew, site, train
from dormant.cli.terminal import KNOWN_SPEEDS
from dormant.experiments import EXPERIMENTS
from dormant.experiments.benches import THREE
from dormant.experiments.screening import LEARNS, MANY_NEURONS, screened, screening
from dormant.lab import Experiment
from dormant.lab.crews import cells, jobs
from dormant.lab.judging.claims import judged
from dormant.lab.judging.table import read, read_all
from dormant.lab.runs.costs import speeds
from dormant.lab.runs.folder import RunFolder, runs_of
from dormant.rl.envs.minatar import GAMES

HERE = Path(__file__).parent / "laptop"
PACKED = HERE / "runs"
KEPT_FILES = ("spec.json", "metrics.jsonl", "scores.jsonl", "timing.json", "done")  # all but the checkpoints
SUITE = ("fig07", "fig09", "fig10a", "fig13")
SCALE = "laptop"


def suite() -> list[Experiment]:
    """The experiments of the suite."""
    return [each for each in EXPERIMENTS if each.name in SUITE]


def finished(run_dir: Path) -> Iterator[RunFolder]:
    """Yields the finished runs of the suite and of the screening."""
    for cell in cells([*suite(), screening(GAMES)], SCALE):
        yield from (run for run in runs_of(run_dir, SCALE, cell.training) if run.done.exists())


def pack(run_dir: Path) -> None:
    """Archives each finished run that has no archive yet. Leaves out the checkpoints."""
    if not run_dir.is_dir():
        raise ValueError(f"expected a folder of runs, got {run_dir}; name it with --run-dir.")
    for run in finished(run_dir):
        name = run.path.relative_to(run_dir)
        archive = PACKED / name.with_name(f"{name.name}.tar.xz")
        if not archive.exists():
            archive.parent.mkdir(parents=True, exist_ok=True)
            whole = archive.with_suffix(".part")  # so that an interrupted command leaves no incomplete archive
            with tarfile.open(whole, "w:xz") as stream:
                for file in KEPT_FILES:
                    stream.add(run.path / file, name / file)
            whole.replace(archive)
            print(f"{archive.relative_to(HERE)}  {archive.stat().st_size:,} bytes")


def unpack(run_dir: Path) -> None:
    """Unpacks the archives of runs that are not finished in `run_dir`. Replaces unfinished runs."""
    for archive in sorted(PACKED.rglob("*.tar.xz")):
        name = archive.relative_to(PACKED)
        run = run_dir / name.with_name(name.name.removesuffix(".tar.xz"))
        if not (run / "done").exists():
            shutil.rmtree(run, ignore_errors=True)  # removes an unfinished run, because the archive has a finished run
            with tarfile.open(archive) as stream:
                stream.extractall(run_dir, filter="data")
            print(f"{name} is unpacked")


def screen(run_dir: Path, games: list[str], workers: int | None) -> int:
    """Makes the screening runs and prints a line for each game. Returns 0 if all games pass."""
    what, flags, console = screening(games), ClusterFlags(workers=workers), Console()
    where = site(flags)
    todo = jobs([what], SCALE, run_dir, together=where.together)
    known = speeds(run_dir, KNOWN_SPEEDS, where.backend)
    train(console, run_dir, todo, crew(flags, run_dir, 30.0, len(todo), SCALE), known, where)
    frame = read(run_dir, SCALE, what)
    print(
        f"A game passes if its return grows at least {LEARNS:g} times (replay ratio 0.25), and the dormant fraction by"
    )
    print(f"at least {MANY_NEURONS:.0%} of all neurons (replay ratio 2), with both seeds.")
    found = [screened(game, frame) for game in games]
    for each in found:
        returns, growth = (", ".join(f"{value:.2f}" for value in values) for values in (each.returns, each.growth))
        print(f"{each.game:14} {'pass' if each.passes else 'fail'}  return x {returns}  dormant + {growth}")
    return 0 if all(each.passes for each in found) else 1


def judge(frame: pl.DataFrame) -> None:
    """Prints the verdict on each claim of the suite."""
    for experiment in EXPERIMENTS:
        if experiment.name in SUITE and experiment.name in set(frame["experiment"]):
            for verdict in judged(experiment, frame.filter(experiment=experiment.name), SCALE):
                print(f"{experiment.name}  {verdict.verdict}: {verdict.claim.statement} ({verdict.why})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--screen", action="store_true", help="make and judge the screening runs")
    what.add_argument("--pack", action="store_true", help="archive the finished runs")
    what.add_argument("--unpack", action="store_true", help="unpack the archives into the folder of the runs")
    parser.add_argument("--games", nargs="+", default=list(THREE), choices=GAMES, help="games to screen")
    parser.add_argument("--run-dir", type=Path, help="folder of the runs")
    parser.add_argument("--workers", type=int, help="screening runs at the same time (default: one per core)")
    flags = parser.parse_args()
    if flags.screen:
        return screen(flags.run_dir or Path("runs"), flags.games, flags.workers)
    kept = HERE / "metrics.parquet"
    try:
        if flags.pack or flags.unpack:
            (pack if flags.pack else unpack)(flags.run_dir or Path("runs"))
            return 0
        if flags.run_dir:
            frame = read_all(flags.run_dir, SCALE, suite())
            HERE.mkdir(exist_ok=True)
            frame.write_parquet(kept, compression="zstd")
        judge(pl.read_parquet(kept))
    except (ValueError, OSError, tarfile.TarError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
