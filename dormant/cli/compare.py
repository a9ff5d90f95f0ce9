"""`dormant compare`: tunes methods on one small budget each, and judges them beside plain DQN in one table."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from dormant.cli.clusters import Places, Site, crew, number_of, site
from dormant.cli.figure import draw, train
from dormant.cli.flags import check_seconds
from dormant.cli.progress import KNOWN_SPEEDS, plan
from dormant.cli.refusal import refuse
from dormant.cli.report import Report, report
from dormant.experiments.comparison import GROUNDS, Record, Suite, comparison, keep, kept, tuning
from dormant.experiments.methods import METHODS, PLAIN, candidates, title
from dormant.lab.crews.jobs import jobs
from dormant.lab.design import Experiment, Scale
from dormant.lab.runs.costs import relative_times, speeds

DEFAULT = "redo,regrama,cbp,shrink_perturb,reset,l2_init,layer_norm"


@dataclass(frozen=True)
class Compare:
    """Tune methods against dormant neurons on one budget, and judge them beside plain DQN; goes on after a stop."""

    interventions: str = DEFAULT
    """Names of methods with commas between them, or all."""
    suite: Suite = "minatar"
    """Games on which they are compared."""
    scale: Scale = "smoke"
    """How long and in how many environments: smoke shows that it runs, laptop takes hours, paper is Atari only."""
    run_dir: Path = Path("runs")
    """Folder of the runs, shared with `dormant figure`."""
    dry_run: bool = False
    """Only say what is missing, and what it will cost."""
    checkpoint_seconds: float = 30.0
    """Seconds of training between two checkpoints."""
    places: Annotated[Places, tyro.conf.arg(name="")] = field(default_factory=Places)


def compare(flags: Compare) -> int:
    """0 when every run is done and the table is told, 1 if some failed, 2 if refused, 130 if interrupted."""
    console = Console()
    try:
        check_seconds(flags.checkpoint_seconds)
        names = methods(flags.interventions)
        _check_scale(flags)
        where = site(flags.places)
    except ValueError as error:
        refuse(error)
    if flags.dry_run:
        return _plan(console, flags, names, where)
    if _train(console, flags, tuning(flags.suite, flags.scale, names), where):
        return 1
    record = _tuned(console, flags, names)
    failed = _train(console, flags, record.experiment(flags.scale), where)
    return 1 if failed else _tell(console, flags, record)


def methods(text: str) -> list[str]:
    """The methods that a flag names. Raises ValueError for none, twice the same, or one that there is not."""
    if text == "all":
        return list(METHODS)
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        near = difflib.get_close_matches(unknown[0], METHODS, n=3, cutoff=0.5)
        meant = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(METHODS)}, and all."
        raise ValueError(f"--interventions: no method is named {unknown[0]}; {meant}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"--interventions expects each method once, and at least one, got {text!r}.")
    return names


def _check_scale(flags: Compare) -> None:
    there = GROUNDS[flags.suite]
    if flags.scale not in there:
        raise ValueError(f"--suite {flags.suite} has no {flags.scale} scale; it has {', '.join(there)}.")


def _plan(console: Console, flags: Compare, names: Sequence[str], where: Site) -> int:
    """What both stages cost; which settings are chosen does not change it."""
    bench = GROUNDS[flags.suite][flags.scale].bench
    first = {name: next(iter(candidates(name, bench))) for name in (PLAIN, *names)}
    both = [tuning(flags.suite, flags.scale, names), comparison(flags.suite, flags.scale, first)]
    todo = jobs(both, flags.scale, flags.run_dir, together=where.together)
    known = speeds(flags.run_dir, KNOWN_SPEEDS, where.backend)
    console.print(plan(both, flags.scale, todo, flags.run_dir, known, number_of(flags.places, len(todo))))
    return 0


def _train(console: Console, flags: Compare, experiment: Experiment, where: Site) -> int:
    """Makes what is missing of an experiment, and returns how many runs failed."""
    todo = jobs([experiment], flags.scale, flags.run_dir, together=where.together)
    try:
        workers = crew(flags.places, flags.run_dir, flags.checkpoint_seconds, len(todo), flags.scale)
    except ValueError as error:
        refuse(error)
    known = speeds(flags.run_dir, KNOWN_SPEEDS, where.backend)
    return train(console, flags.run_dir, todo, workers, known, where).count("failed")


def _tuned(console: Console, flags: Compare, names: Sequence[str]) -> Record:
    from dormant.experiments.ranking import chosen  # reading runs takes polars, which other commands do without
    from dormant.lab.judging.table import read

    frame = read(flags.run_dir, flags.scale, tuning(flags.suite, flags.scale, names))
    try:
        settings = chosen(flags.suite, flags.scale, names, frame)
    except ValueError as error:
        refuse(error)
    for name, setting in settings.items():
        console.print(f"{title(name)}: {setting}", highlight=False)
    before = kept(flags.run_dir, flags.scale)
    same = before is not None and before.suite == flags.suite
    # What a method costs does not change with its setting by much, but it is measured anew when any does.
    cost = before.cost if before is not None and same and before.chosen == settings else {}
    record = Record(flags.suite, settings, cost)
    keep(flags.run_dir, flags.scale, record)
    return record


def _timed(console: Console, flags: Compare, record: Record) -> Record:
    """The record with the time of each method, measured here if it was not."""
    if record.cost:
        return record
    design = record.experiment(flags.scale).designs[flags.scale]
    names = {title(name): name for name in record.chosen}
    trainings = {names[arm.name]: replace(arm.training, env=design.environments[0]) for arm in design.arms}
    with console.status("Measuring how long each method takes") as status:
        cost = relative_times(trainings, PLAIN, lambda name: status.update(f"Measuring {title(name)}"))
    record = record._replace(cost=cost)
    keep(flags.run_dir, flags.scale, record)
    return record


def _tell(console: Console, flags: Compare, record: Record) -> int:
    from dormant.experiments.ranking import HEADS, table, told
    from dormant.lab.judging.table import read

    record = _timed(console, flags, record)
    experiment = record.experiment(flags.scale)
    draw(console, flags.run_dir, flags.scale, experiment)
    shown = Table(*HEADS, title=f"{experiment.title} ({flags.suite}, {flags.scale} scale)")
    for cells in told(table(record, read(flags.run_dir, flags.scale, experiment))):
        shown.add_row(*cells)
    console.print(shown)
    return report(Report(flags.run_dir, flags.run_dir / flags.scale / "report.html", flags.scale))
