"""`dormant figure`: runs experiments on this machine or a cluster, judges their claims and draws their figures."""

import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from rich.console import Console

from dormant.cli.changes import Changes, with_variants
from dormant.cli.report import Report, report
from dormant.cli.terminal import KNOWN_SPEEDS, check_folder, check_seconds, counted, live_board, plan, refuse
from dormant.experiments import EXPERIMENTS
from dormant.hints import canonical, suggestion
from dormant.lab import Arm, Experiment, Scale, Trainable
from dormant.lab.crews import Board, Crew, DiskFull, Job, cells, jobs, log_file, run_all
from dormant.lab.crews.cluster import NoCluster, Resources
from dormant.lab.crews.local import Processes
from dormant.lab.machine import accelerated, cores
from dormant.lab.runs.costs import Speeds, speeds
from dormant.lab.runs.folder import RunRefused, end_of, runs_of
from dormant.rl.data.sources import DopamineReplay, TransitionFiles, given
from dormant.rl.offline import OfflineTraining
from dormant.supervised.images import ImageSet

OF_A_RUN = ("cpus", "gpus", "memory_gb")
OF_SLURM = ("hours", "partition", "account", "qos", "constraint")


@dataclass(frozen=True)
class ClusterFlags:
    """Where to run: in processes on this machine, or on a cluster whose machines share the folder of the runs."""

    workers: int | None = None
    """Number of runs at the same time. Default: one per CPU core here, one on a GPU, no limit on a cluster."""
    ray: str | None = None
    """Run on a Ray cluster: HOST:PORT of its head, or auto for the cluster of this machine."""
    slurm: bool = False
    """Run as an array of SLURM jobs. The jobs continue if this command ends; the same command shows them again."""
    cpus: int | None = None
    """CPU cores per run on a cluster (default 1). The number of cores can change the last bits of a result."""
    gpus: float | None = None
    """GPUs per run on a cluster (default 0). With a GPU, a run has all seeds of an arm. With Ray, 0.5 puts two runs on
    each GPU."""
    memory_gb: float | None = None
    """Memory per run on a cluster, in GB. By default, SLURM uses its default, and Ray reserves no memory."""
    hours: float | None = None
    """Time limit of a SLURM job in hours (default 24). A run that takes longer is queued again and resumes."""
    partition: str | None = None
    """SLURM partition."""
    account: str | None = None
    """SLURM account."""
    qos: str | None = None
    """SLURM quality of service."""
    constraint: str | None = None
    """SLURM constraint on the nodes."""


class Site(NamedTuple):
    """Properties of the machine or cluster on which the runs are made."""

    backend: str
    together: bool  # whether one run has all seeds of an arm
    stopped: str  # the message when the command is interrupted


def site(flags: ClusterFlags) -> Site:
    """The site that the flags describe. Raises ValueError for contradictory flags.

    On a cluster, the flags determine JAX's backend, because this machine's backend may differ from the cluster's.
    """
    if flags.ray is not None and not flags.ray.strip():
        raise ValueError("--ray expects HOST:PORT or auto, got an empty text; is a variable of the shell unset?")
    if flags.ray and flags.slurm:
        raise ValueError("--ray and --slurm exclude each other; choose one.")
    unused = [*([] if flags.ray or flags.slurm else OF_A_RUN), *([] if flags.slurm else OF_SLURM)]
    given = [each.name for each in fields(flags) if each.name in unused and getattr(flags, each.name) is not None]
    if given:
        flag, needed = given[0].replace("_", "-"), "--slurm" if given[0] in OF_SLURM else "--ray or --slurm"
        raise ValueError(f"--{flag} needs {needed}; add {needed}, or leave out --{flag}.")
    if flags.slurm:
        stopped = (
            "Stopped; the SLURM jobs continue (scancel --name=dormant ends them), and the same command follows the runs"
        )
    else:
        stopped = "Stopped; the same command resumes the runs"
    gpu = bool(flags.gpus) if flags.ray or flags.slurm else accelerated()
    return Site("gpu" if gpu else "cpu", gpu, stopped)


def runs_at_once(flags: ClusterFlags, wanted: int) -> int:
    """The number of concurrent runs that the flags and this machine allow. Does not ask the cluster for its limit.

    Raises ValueError if --workers is out of range.
    """
    if not flags.ray and not flags.slurm:
        return len(cores_of(flags.workers))
    if flags.workers is not None and flags.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {flags.workers}.")
    return max(1, min(flags.workers or wanted, wanted))


def crew(flags: ClusterFlags, root: Path, checkpoint_seconds: float, wanted: int, scale: Scale) -> Crew:
    """Returns the crew that runs the jobs: processes on this machine, or a connection to a cluster.

    Raises ValueError for invalid resources, NoCluster if no cluster answers.
    """
    if not wanted or not (flags.ray or flags.slurm):  # without missing runs, no cluster is needed
        return Processes(cores_of(flags.workers) if wanted else (), checkpoint_seconds, scale == "smoke")
    chosen = {name: getattr(flags, name) for name in OF_A_RUN if getattr(flags, name) is not None}
    resources = Resources(**chosen)
    if flags.ray:
        from dormant.lab.crews.on_ray import RayCluster

        return RayCluster(flags.ray, root, resources, flags.workers, checkpoint_seconds)
    from dormant.lab.crews.on_slurm import SlurmArray, Terms

    terms = Terms(**{name: getattr(flags, name) for name in OF_SLURM if getattr(flags, name) is not None})
    return SlurmArray(root, resources, terms, flags.workers, checkpoint_seconds)


def cores_of(number: int | None) -> tuple[int | None, ...]:
    """The core of each worker, or None if it may use all cores. Raises ValueError if --workers is out of range."""
    usable: tuple[int | None, ...] = (None,) if accelerated() else cores()
    if number is not None and not 1 <= number <= len(usable):
        raise ValueError(f"--workers must be between 1 and {len(usable)} here, got {number}.")
    return usable[:number]


@dataclass(frozen=True)
class Figure:
    """Run experiments, judge their claims and draw their figures. The same command resumes interrupted runs."""

    names: tyro.conf.Positional[tuple[str, ...]]
    """Names of experiments, such as fig07 fig09, or all. The HTML page of results has only these experiments."""
    scale: Scale = "smoke"
    """Size of the experiments. smoke takes seconds and only tests that the code runs. laptop takes hours. paper has the
    paper's size."""
    run_dir: Path = Path("runs")
    """Folder of the runs. Experiments share this folder."""
    dry_run: bool = False
    """Print the missing runs and their estimated time. Start no run."""
    checkpoint_seconds: float = 30.0
    """Seconds of training between two checkpoints."""
    changes: Changes = ()
    """Also run a variant of each arm with a changed setting, such as tau=0.3. Several --set are combined in one
    variant. Variants are exploratory: no claim refers to them."""
    data: Path | None = None
    """Your copy of a data set: the CIFAR-10 archive, or the folder of Fashion-MNIST or DQN-replay."""
    cluster: Annotated[ClusterFlags, tyro.conf.arg(name="")] = field(default_factory=ClusterFlags)


def figure(flags: Figure) -> int:
    """Runs and draws experiments. Returns 0, or 1 if some runs failed. Exits with 2 for bad input, 130 on Ctrl-C."""
    console = Console()
    try:
        check_seconds(flags.checkpoint_seconds)
        check_folder(flags.run_dir)
        asked = with_variants(chosen(flags.names, flags.scale), flags.scale, flags.changes)
        wanted = [with_data(each, flags.scale, flags.data) for each in asked]
        where = site(flags.cluster)
        known = speeds(flags.run_dir, KNOWN_SPEEDS, where.backend)
        wanted = wanted if flags.dry_run else list(_with_data_present(console, flags, wanted))
        todo = jobs(wanted, flags.scale, flags.run_dir, together=where.together)
        at_once = runs_at_once(flags.cluster, len(todo))
        given = flags.cluster, flags.run_dir, flags.checkpoint_seconds, len(todo), flags.scale
        workers = None if flags.dry_run else crew(*given)
    except ValueError as error:
        refuse(error)
    for each in EXPERIMENTS:
        if flags.scale not in each.designs and (each.name in flags.names or "all" in flags.names):
            console.print(f"{_no_design(each, flags.scale)}.", style="dim", soft_wrap=True)
    if workers is None:
        console.print(plan(wanted, flags.scale, todo, flags.run_dir, known, at_once))
        return 0
    board = train(console, flags.run_dir, todo, workers, known, where)
    try:
        drawn = [draw(console, flags.run_dir, flags.scale, each) for each in wanted]
    except RunRefused as error:
        refuse(error)
    if any(drawn):
        page = Report(flags.run_dir, flags.run_dir / flags.scale / "report.html", flags.scale)
        report(page, None if "all" in flags.names else wanted)
    return 1 if board.count("failed") else 0


def chosen(names: Sequence[str], scale: Scale) -> list[Experiment]:
    """The named experiments that have a design at a scale, in the paper's order.

    Raises ValueError if no name is given, if a name is unknown (suggests similar names), or if no experiment has a
    design at the scale.
    """
    known = [*(each.name for each in EXPERIMENTS), "all"]
    names = [canonical(name, known) for name in names]
    if not names:
        raise ValueError(f"name an experiment: {', '.join(known)}.")
    for name in names:
        if name not in known:
            raise ValueError(f"no experiment is named {name}; {suggestion(name, known)}")
    named = [each for each in EXPERIMENTS if each.name in names or "all" in names]
    found = [each for each in named if scale in each.designs]
    if not found:
        raise ValueError("; ".join(_no_design(each, scale) for each in named) + ".")
    return found


def _no_design(experiment: Experiment, scale: Scale) -> str:
    return f"{experiment.name} has no {scale} scale, only {', '.join(experiment.designs)}"


def train(console: Console, run_dir: Path, todo: Sequence[Job], workers: Crew, known: Speeds, where: Site) -> Board:
    """Runs the jobs and shows their progress. Then prints the failed jobs. Returns the board."""

    def weight(job: Job) -> float:
        cost = known.cost(job.training)
        return cost.seconds if cost else job.training.agent_steps * len(job.training.seeds)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # SystemExit makes `run_all` end the workers too
    try:
        with live_board(console, weight) as watch:
            board = run_all(todo, workers, watch)
    except KeyboardInterrupt:
        print(f"\n{where.stopped} in {run_dir}.", file=sys.stderr)
        raise SystemExit(130) from None
    except NoCluster as error:
        refuse(error)
    except DiskFull as error:
        refuse(f"{error}. The runs so far are kept; free some space, and the same command resumes them.")
    except OSError as error:
        refuse(f"{error.filename or run_dir}: {error.strerror}. Fix this, or choose another --run-dir.")
    failed = [each for each in board.standings if each.state == "failed"]
    console.print(f"{counted(board.count('done'), 'run')} made, {len(failed)} failed.")
    for each in failed:
        print(f"dormant: {each.job.name} failed: {each.message} ({log_file(each.job.path)})", file=sys.stderr)
    return board


def draw(console: Console, root: Path, scale: Scale, experiment: Experiment) -> bool:
    """Judges and draws the finished runs of an experiment. Returns False if there are none."""
    # Imported here and not at the top, because the modules for drawing load slowly.
    from dormant.lab.drawing.figure import experiment_figure, save
    from dormant.lab.judging.claims import WITHOUT_VERDICTS, judged
    from dormant.lab.judging.table import read

    frame = read(root, scale, experiment)
    if frame.is_empty():
        return False
    verdicts = judged(experiment, frame, scale)
    picture = experiment_figure(experiment, scale, frame, revisions(experiment, root, scale))
    folder = root / scale / "figures"
    folder.mkdir(exist_ok=True)
    files = save(picture, folder / experiment.name)
    console.print(f"{experiment.name}: {', '.join(map(str, files))}", soft_wrap=True)
    for verdict in verdicts:
        console.print(f"  {verdict.verdict}: {verdict.claim.statement}", soft_wrap=True, markup=False, highlight=False)
    if scale == WITHOUT_VERDICTS:
        console.print(f"  no verdicts at the {scale} scale", soft_wrap=True)
    return True


def revisions(experiment: Experiment, root: Path, scale: Scale) -> list[str]:
    """The revisions of the code that made the finished runs of an experiment."""
    runs = {run.path: run for cell in cells([experiment], scale) for run in runs_of(root, scale, cell.training)}
    return sorted({end_of(run).revision for run in runs.values() if run.done.exists()})


def with_data(experiment: Experiment, scale: Scale, path: Path | None) -> Experiment:
    """The experiment with the user's data set at `path`, or unchanged if `path` is None.

    Raises ValueError if the experiment reads no data set from the user's files.
    """
    if path is None:
        return experiment
    design = experiment.designs[scale]
    environments = tuple(_at(each, path.absolute()) for each in design.environments)
    arms = tuple(_arm_at(arm, path.absolute()) for arm in design.arms)
    if not any(map(_reads_files, _data_of(arms, environments))):
        raise ValueError(f"--data: {experiment.name} reads no data set at the {scale} scale; leave --data out.")
    changed = replace(design, environments=environments, arms=arms)
    return replace(experiment, designs={**experiment.designs, scale: changed})


def _data_of(arms: Sequence[Arm], environments: Sequence[object]) -> Iterator[object]:
    yield from environments
    yield from (arm.training.data for arm in arms if isinstance(arm.training, OfflineTraining))


def _arm_at(arm: Arm, path: Path) -> Arm:
    if not isinstance(arm.training, OfflineTraining):
        return arm
    return replace(arm, training=replace(arm.training, data=_at(arm.training.data, path)))


def _at(value: Any, path: Path) -> Any:
    return replace(value, path=path) if _reads_files(value) else value


def _reads_files(value: object) -> bool:
    return is_dataclass(value) and "path" in {field.name for field in fields(value)}


def _with_data_present(console: Console, flags: Figure, wanted: Sequence[Experiment]) -> Iterator[Experiment]:
    """Yields the experiments whose data sets are present. Prints which experiments it leaves out.

    Raises ValueError if the data set is missing for an experiment that the user has named.
    """
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


def refuse_without_data(training: Trainable) -> None:
    """Raises ValueError if the data set of a training is missing. The message explains how to get the data."""
    if isinstance(training.env, ImageSet):
        training.env.refuse_unless_there()
    if isinstance(training, OfflineTraining) and isinstance(training.data, DopamineReplay | TransitionFiles):
        given(training.data.path)
