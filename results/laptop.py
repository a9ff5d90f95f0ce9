"""Screens the games of the laptop scale, and keeps its runs in results/laptop: metrics as parquet, and verdicts.

    python results/laptop.py --screen --run-dir runs        makes the screening runs, and prints which games pass
    dormant figure fig10a fig13 fig09 fig07 --scale laptop --run-dir runs
    python results/laptop.py --run-dir runs                 keeps the metrics of the finished runs
    python results/laptop.py                                judges the claims again from the parquet file

If the runs of either command are interrupted, the same command resumes them. LOG.md has the plan, which was written
before any judged run was made.
"""

import argparse
from pathlib import Path

import polars as pl
from rich.console import Console

from dormant.cli.figure import ClusterFlags, crew, site, train
from dormant.cli.terminal import KNOWN_SPEEDS
from dormant.experiments import EXPERIMENTS
from dormant.experiments.benches import THREE
from dormant.experiments.screening import LEARNS, MANY_NEURONS, screened, screening
from dormant.lab.crews import jobs
from dormant.lab.judging.claims import judged
from dormant.lab.judging.table import read, read_all
from dormant.lab.runs.costs import speeds
from dormant.rl.envs.minatar import GAMES

HERE = Path(__file__).parent / "laptop"
SUITE = ("fig07", "fig09", "fig10a", "fig13")
SCALE = "laptop"


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
    parser.add_argument("--screen", action="store_true", help="make and judge the screening runs")
    parser.add_argument("--games", nargs="+", default=list(THREE), choices=GAMES, help="games to screen")
    parser.add_argument("--run-dir", type=Path, help="folder of the runs")
    parser.add_argument("--workers", type=int, help="screening runs at the same time (default: one per core)")
    flags = parser.parse_args()
    if flags.screen:
        return screen(flags.run_dir or Path("runs"), flags.games, flags.workers)
    kept = HERE / "metrics.parquet"
    try:
        if flags.run_dir:
            frame = read_all(flags.run_dir, SCALE, [each for each in EXPERIMENTS if each.name in SUITE])
            HERE.mkdir(exist_ok=True)
            frame.write_parquet(kept, compression="zstd")
        judge(pl.read_parquet(kept))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
