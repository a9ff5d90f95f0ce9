"""`dormant compare`: tunes methods with equal budgets and judges them against plain DQN in one table."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from dormant.cli.figure import ClusterFlags, Site, crew, draw, revisions, runs_at_once, site, train
from dormant.cli.report import Report, report
from dormant.cli.terminal import KNOWN_SPEEDS, check_folder, check_seconds, plan, refuse
from dormant.experiments.comparison import (
    GROUNDS,
    Record,
    Suite,
    comparison,
    read_record,
    tuning,
    tuning_text,
    write_record,
)
from dormant.experiments.methods import GROUPS, METHODS, PLAIN, candidates, title
from dormant.hints import canonical, suggestion
from dormant.lab import Experiment, Scale
from dormant.lab.crews import jobs
from dormant.lab.runs.costs import relative_times, speeds
from dormant.lab.runs.folder import RunRefused


@dataclass(frozen=True)
class Compare:
    """Tune methods against dormant neurons with equal budgets, and judge them against plain DQN.

    The same command resumes an interrupted comparison.
    """

    interventions: str = "default"
    """Methods to compare: names separated by commas, or one of the groups default, thresholds, renewals and all."""
    suite: Suite = "minatar"
    """Games on which the methods are compared."""
    scale: Scale = "smoke"
    """Size of the comparison. smoke takes seconds and only tests that the command runs. laptop takes hours. paper is
    for Atari only."""
    run_dir: Path = Path("runs")
    """Folder of the runs, shared with `dormant figure`."""
    dry_run: bool = False
    """Print the missing runs and their estimated time. Start no run."""
    checkpoint_seconds: float = 30.0
    """Seconds of training between two checkpoints."""
    cluster: Annotated[ClusterFlags, tyro.conf.arg(name="")] = field(default_factory=ClusterFlags)


def compare(flags: Compare) -> int:
    """Runs the comparison. Returns 0, or 1 if some runs failed. Exits with 2 for bad input, 130 on Ctrl-C."""
    console = Console()
    try:
        check_seconds(flags.checkpoint_seconds)
        check_folder(flags.run_dir)
        names = methods(flags.interventions)
        _check_scale(flags)
        where = site(flags.cluster)
    except ValueError as error:
        refuse(error)
    if flags.dry_run:
        return _plan(console, flags, names, where)
    if _train(console, flags, tuning(flags.suite, flags.scale, names), where):
        return 1
    record = _tuned(console, flags, names)
    failed = _train(console, flags, record.experiment(flags.scale), where)
    return 1 if failed else _show(console, flags, record)


def methods(text: str) -> list[str]:
    """Parses the names of methods. Raises ValueError if there is no name, a repeated name or an unknown name."""
    named = [canonical(name.strip(), METHODS) for name in text.split(",") if name.strip()]
    names = [each for name in named for each in GROUPS.get(name, [name])]
    for name in names:
        if name not in METHODS:
            known = [*METHODS, *GROUPS]
            raise ValueError(f"--interventions: no method is named {name}; {suggestion(name, known)}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"--interventions expects at least one method, and each method only once, got {text!r}.")
    return names


def _check_scale(flags: Compare) -> None:
    scales = GROUNDS[flags.suite]
    if flags.scale not in scales:
        raise ValueError(f"--suite {flags.suite} has no {flags.scale} scale, only {', '.join(scales)}.")


def _plan(console: Console, flags: Compare, names: Sequence[str], where: Site) -> int:
    """Prints the missing runs and the estimated time of tuning and comparison. Returns 0."""
    bench = GROUNDS[flags.suite][flags.scale].bench
    first = {name: next(iter(candidates(name, bench, 1))) for name in (PLAIN, *names)}
    both = [tuning(flags.suite, flags.scale, names), comparison(flags.suite, flags.scale, first)]
    todo = jobs(both, flags.scale, flags.run_dir, together=where.together)
    known = speeds(flags.run_dir, KNOWN_SPEEDS, where.backend)
    console.print(plan(both, flags.scale, todo, flags.run_dir, known, runs_at_once(flags.cluster, len(todo))))
    return 0


def _train(console: Console, flags: Compare, experiment: Experiment, where: Site) -> int:
    """Runs the missing runs of an experiment. Returns the number of failed runs."""
    todo = jobs([experiment], flags.scale, flags.run_dir, together=where.together)
    try:
        workers = crew(flags.cluster, flags.run_dir, flags.checkpoint_seconds, len(todo), flags.scale)
    except ValueError as error:
        refuse(error)
    known = speeds(flags.run_dir, KNOWN_SPEEDS, where.backend)
    return train(console, flags.run_dir, todo, workers, known, where).count("failed")


def _tuned(console: Console, flags: Compare, names: Sequence[str]) -> Record:
    from dormant.experiments.ranking import chosen  # imported late, because it needs polars
    from dormant.lab.judging.table import read

    frame = read(flags.run_dir, flags.scale, tuning(flags.suite, flags.scale, names))
    try:
        settings = chosen(flags.suite, flags.scale, names, frame)
        before = read_record(flags.run_dir, flags.scale)
    except (ValueError, RunRefused) as error:
        refuse(error)
    for name, setting in settings.items():
        console.print(f"{title(name)}: {setting}", highlight=False)
    same = before is not None and before.suite == flags.suite
    # If a setting has changed, measures the times of all methods again, although times hardly depend on settings.
    cost = before.cost if before is not None and same and before.chosen == settings else {}
    said = tuning_text(GROUNDS[flags.suite][flags.scale].tuning)
    record = Record(suite=flags.suite, chosen=settings, cost=cost, tuning=said)
    write_record(flags.run_dir, flags.scale, record)
    return record


def _timed(console: Console, flags: Compare, record: Record) -> Record:
    """Measures the relative time of each method if the record lacks these times. Writes and returns the record."""
    if record.cost:
        write_record(flags.run_dir, flags.scale, record)
        return record
    design = record.experiment(flags.scale).designs[flags.scale]
    names = {title(name): name for name in record.chosen}
    trainings = {names[arm.name]: replace(arm.training, env=design.environments[0]) for arm in design.arms}
    with console.status("Measuring how long each method takes") as status:
        cost = relative_times(trainings, PLAIN, lambda name: status.update(f"Measuring {title(name)}"))
    record = record.model_copy(update={"cost": cost})
    write_record(flags.run_dir, flags.scale, record)
    return record


def _show(console: Console, flags: Compare, record: Record) -> int:
    from dormant.experiments.ranking import table
    from dormant.lab.judging.table import read

    experiment = record.experiment(flags.scale)
    made_by = revisions(experiment, flags.run_dir, flags.scale)
    record = _timed(console, flags, record.model_copy(update={"revisions": made_by}))
    draw(console, flags.run_dir, flags.scale, experiment)
    heads, *rows = table(record, read(flags.run_dir, flags.scale, experiment), flags.scale)
    shown = Table(*heads, title=f"{experiment.title} ({flags.suite}, {flags.scale} scale)")
    for cells in rows:
        shown.add_row(*cells)
    console.print(shown)
    return report(Report(flags.run_dir, flags.run_dir / flags.scale / "report.html", flags.scale))
