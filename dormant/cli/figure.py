"""`dormant figure`: runs what is missing of some experiments, then judges their claims and draws them."""

import difflib
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from dormant.cli.clusters import Places, Site, crew, number_of, site
from dormant.cli.flags import check_seconds
from dormant.cli.progress import KNOWN_SPEEDS, plan, watching
from dormant.cli.refusal import refuse
from dormant.cli.report import Report, report
from dormant.experiments import EXPERIMENTS
from dormant.lab.crews.cluster import NoCluster
from dormant.lab.crews.jobs import Job, cells, jobs, log
from dormant.lab.crews.scheduler import Board, Crew, DiskFull, work_off
from dormant.lab.design import Arm, Experiment, Scale
from dormant.lab.runs.costs import Speeds, speeds
from dormant.lab.runs.description import place
from dormant.lab.runs.folder import RunRefused
from dormant.rl.offline import OfflineTraining
from dormant.rl.offline_data import DopamineReplay, TransitionFiles, given
from dormant.supervised.images import ImageSet


@dataclass(frozen=True)
class Figure:
    """Run what is missing of experiments, judge their claims and draw them; the same command goes on after a stop."""

    names: tyro.conf.Positional[tuple[str, ...]]
    """Experiments, such as fig07 fig09, or all."""
    scale: Scale = "smoke"
    """How long and in how many environments: smoke shows that it runs, laptop takes hours, paper is the paper's."""
    run_dir: Path = Path("runs")
    """Folder of the runs, shared by all experiments."""
    dry_run: bool = False
    """Only say what is missing, and what it will cost."""
    checkpoint_seconds: float = 30.0
    """Seconds of training between two checkpoints."""
    data: Path | None = None
    """The user's own copy of a data set: CIFAR-10's archive, or the folder of Fashion-MNIST or of DQN-replay."""
    places: Annotated[Places, tyro.conf.arg(name="")] = field(default_factory=Places)


def figure(flags: Figure) -> int:
    """0 when every run is done and drawn, 1 if some failed, 2 if refused, 130 if interrupted."""
    console = Console()
    try:
        check_seconds(flags.checkpoint_seconds)
        wanted = [with_data(each, flags.scale, flags.data) for each in chosen(flags.names, flags.scale)]
        where = site(flags.places)
        known = speeds(flags.run_dir, KNOWN_SPEEDS, where.backend)
        wanted = wanted if flags.dry_run else list(with_data_there(console, flags, wanted))
        todo = jobs(wanted, flags.scale, flags.run_dir, together=where.together)
        at_once = number_of(flags.places, len(todo))
        given = flags.places, flags.run_dir, flags.checkpoint_seconds, len(todo), flags.scale
        workers = None if flags.dry_run else crew(*given)
    except ValueError as error:
        refuse(error)
    _name_left_out(console, flags)
    if workers is None:
        console.print(plan(wanted, flags.scale, todo, flags.run_dir, known, at_once))
        return 0
    board = train(console, flags.run_dir, todo, workers, known, where)
    return _finish(console, flags, wanted, board)


def chosen(names: Sequence[str], scale: Scale) -> list[Experiment]:
    """The experiments of these names that have a design at that scale, in the paper's order.

    Raises ValueError for no name, for one that there is not, with those near it, and if none can be run, with why not.
    """
    there = {each.name: each for each in EXPERIMENTS}
    unknown = [name for name in names if name not in there and name != "all"]
    if unknown or not names:
        near = [each for name in unknown for each in difflib.get_close_matches(name, there, n=3, cutoff=0.6)]
        meant = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(there)}, and all."
        raise ValueError(f"no experiment is named {', '.join(unknown)}; {meant}" if unknown else f"name one: {meant}")
    named = [each for each in EXPERIMENTS if each.name in names or "all" in names]
    found = [each for each in named if scale in each.designs]
    if not found:
        raise ValueError("; ".join(f"{each.name} {why_not(each, scale)}" for each in named) + ".")
    return found


def with_data_there(console: Console, flags: Figure, wanted: Sequence[Experiment]) -> Iterator[Experiment]:
    """The experiments whose data are there. Raises ValueError for one that was asked for by its name and has not."""
    for each in wanted:
        try:
            for job in jobs([each], flags.scale, flags.run_dir, together=False):
                refuse_without_data(job.training)
        except ValueError as error:
            if each.name in flags.names:
                raise
            console.print(f"{each.name} is left out: {error}", style="dim", soft_wrap=True)
        else:
            yield each


def why_not(experiment: Experiment, scale: Scale) -> str:
    """Why an experiment is not run at a scale."""
    return f"has no {scale} scale; it has {', '.join(experiment.designs)}"


def _name_left_out(console: Console, flags: Figure) -> None:
    for each in EXPERIMENTS:
        if flags.scale not in each.designs and (each.name in flags.names or "all" in flags.names):
            console.print(f"{each.name} {why_not(each, flags.scale)}.", style="dim", soft_wrap=True)


def train(console: Console, run_dir: Path, todo: Sequence[Job], workers: Crew, known: Speeds, where: Site) -> Board:
    """Works off the jobs while a table of their progress is shown, and tells which failed."""

    def weight(job: Job) -> float:
        cost = known.cost(job.training)
        return cost.seconds if cost else job.training.agent_steps * len(job.training.seeds)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers are ended too
    try:
        with watching(console, weight) as watch:
            board = work_off(todo, workers, watch)
    except KeyboardInterrupt:
        print(f"\n{where.stopped} with {run_dir}.", file=sys.stderr)
        raise SystemExit(130) from None
    except NoCluster as error:
        refuse(error)
    except DiskFull as error:
        refuse(f"{error}. What was written is kept; free some space, and the same command goes on from it.")
    except OSError as error:
        refuse(f"{error.filename or run_dir}: {error.strerror}. Choose another --run-dir, or mend this one.")
    failed = [each for each in board.standings if each.state == "failed"]
    console.print(f"{board.count('done')} runs made, {len(failed)} failed.")
    for each in failed:
        print(f"dormant: {each.job.name} failed: {each.message} ({log(each.job.path)})", file=sys.stderr)
    return board


def _finish(console: Console, flags: Figure, wanted: Sequence[Experiment], board: Board) -> int:
    try:
        drawn = [draw(console, flags.run_dir, flags.scale, each) for each in wanted]
    except RunRefused as error:
        refuse(error)
    if any(drawn):
        report(Report(flags.run_dir, flags.run_dir / flags.scale / "report.html", flags.scale))
    return 1 if board.count("failed") else 0


def draw(console: Console, root: Path, scale: Scale, experiment: Experiment) -> bool:
    """Judges and draws what is finished of an experiment; whether there was anything."""
    from dormant.lab.drawing.figure import (  # drawing loads slowly, and only finished runs are drawn
        experiment_figure,
        save,
    )
    from dormant.lab.judging.claims import judged
    from dormant.lab.judging.table import read

    frame = read(root, scale, experiment)
    if frame.is_empty():
        return False
    verdicts = judged(experiment, frame)
    picture = experiment_figure(experiment, scale, frame, verdicts, revisions(experiment, root, scale))
    folder = root / scale / "figures"
    folder.mkdir(exist_ok=True)
    console.print(f"{experiment.name}: {', '.join(map(str, save(picture, folder / experiment.name)))}", soft_wrap=True)
    for verdict in verdicts:
        console.print(f"  {verdict.verdict}: {verdict.claim.statement}", soft_wrap=True, markup=False, highlight=False)
    return True


def revisions(experiment: Experiment, root: Path, scale: Scale) -> list[str]:
    """The revisions of the code that made the finished runs of an experiment."""
    folders = {place(root, scale, cell.training, cell.training.seeds).parent for cell in cells([experiment], scale)}
    done = [file for folder in folders for file in folder.glob("seed*/done")]
    return sorted({json.loads(file.read_text())["revision"] for file in done})


def with_data(experiment: Experiment, scale: Scale, path: Path | None) -> Experiment:
    """The experiment with all that reads files of the user's reading them from `path`; as it is, where none is named.

    Raises ValueError if nothing in it does.
    """
    if path is None:
        return experiment
    design = experiment.designs[scale]
    environments = tuple(_reading(each, path.absolute()) for each in design.environments)
    arms = tuple(_learning_from(arm, path.absolute()) for arm in design.arms)
    named = replace(design, environments=environments, arms=arms)
    if not any(map(_reads, (*environments, *(arm.training.data for arm in arms if _is_offline(arm))))):
        raise ValueError(f"--data: {experiment.name} reads no data set at the {scale} scale; leave it out.")
    return replace(experiment, designs={**experiment.designs, scale: named})


def refuse_without_data(training: Any) -> None:
    """Does nothing if what a training reads is there. Raises ValueError that says where to get it, if it is not."""
    if isinstance(training.env, ImageSet):
        training.env.refuse_unless_there()
    if isinstance(training, OfflineTraining) and isinstance(training.data, DopamineReplay | TransitionFiles):
        given(training.data.path)


def _learning_from(arm: Arm, path: Path) -> Arm:
    if not _is_offline(arm):
        return arm
    return replace(arm, training=replace(arm.training, data=_reading(arm.training.data, path)))


def _is_offline(arm: Arm) -> bool:
    return isinstance(arm.training, OfflineTraining)


def _reading(value: Any, path: Path) -> Any:
    return replace(value, path=path) if _reads(value) else value


def _reads(value: Any) -> bool:
    return is_dataclass(value) and "path" in {field.name for field in fields(value)}
