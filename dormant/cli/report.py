"""`dormant report`: writes every figure, claim and run to one HTML page."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dormant.cli.terminal import counted, refuse
from dormant.experiments import EXPERIMENTS
from dormant.files import write_whole
from dormant.lab import SCALES, Experiment, Scale
from dormant.lab.runs.folder import RunRefused


@dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page with claims, verdicts, plots, settings and runs."""

    runs: tyro.conf.Positional[Path]
    """Folder of the runs that `dormant figure` made."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html")
    """File of the page."""
    scale: Scale | None = None
    """Scale of the runs. Needed if the folder has runs at several scales."""


def report(flags: Report, only: Sequence[Experiment] | None = None) -> int:
    """Writes the page and returns 0. Ends the command with a message in one line and code 2 for bad input.

    Without `only` the page has all experiments and the newest comparison.
    """
    from dormant.lab.page import page  # imported after the input is checked, because it loads slowly

    scale = _scale(flags)
    _check_writable(flags.out)
    try:
        chapters, others = _read(flags.runs, scale, EXPERIMENTS if only is None else only)
        chapters += _compared(flags.runs, scale) if only is None else []
        if not chapters:
            refuse(
                f"{flags.runs} has no finished run of an experiment at scale {scale}; make some with `dormant figure`."
            )
        write_whole(flags.out, page(chapters, scale, others, flags.out))
    except (RunRefused, ValueError) as error:
        refuse(error)
    except OSError as error:
        refuse(f"{error.filename or flags.out}: {error.strerror}. Choose another --out.")
    judged = sum(verdict.verdict != "not measured" for each in chapters for verdict in each.verdicts)
    size = f"{flags.out.stat().st_size / 1e6:.1f} MB"
    print(f"{flags.out}: {counted(len(chapters), 'experiment')}, {counted(judged, 'claim')} judged, {size}.")
    return 0


def _scale(flags: Report) -> Scale:
    """The requested scale, or the only scale in the folder. Ends the command if there is no such scale."""
    if not flags.runs.is_dir():
        refuse(f"{flags.runs} is not a folder; name the folder of the runs that `dormant figure` made.")
    present: list[Scale] = [scale for scale in SCALES if (flags.runs / scale).is_dir()]
    if not present:
        refuse(f"{flags.runs} has no runs: expected a folder named {', '.join(SCALES[:-1])} or {SCALES[-1]} in it.")
    if flags.scale is None and len(present) > 1:
        refuse(f"{flags.runs} has runs at several scales; choose one with --scale: {', '.join(present)}.")
    if flags.scale is not None and flags.scale not in present:
        refuse(f"{flags.runs} has no runs at scale {flags.scale}; it has {', '.join(present)}.")
    return flags.scale or present[0]


def _check_writable(file: Path) -> None:
    """Ends the command if the output file cannot be written. Called first, because reading the runs takes minutes."""
    if file.is_dir():
        refuse(f"--out {file} is a folder; name a file.")
    if not file.parent.is_dir():
        refuse(f"--out {file}: the folder {file.parent} does not exist; create it, or choose another file.")
    if not os.access(file.parent, os.W_OK):
        refuse(f"--out {file}: {file.parent} cannot be written to; choose another file.")


def _read(root: Path, scale: Scale, experiments: Sequence[Experiment]):
    """Reads the runs. Returns the chapters of experiments with finished runs, and the other experiments."""
    from dormant.lab.judging.claims import judged
    from dormant.lab.judging.table import read
    from dormant.lab.page import chapter

    chapters, others = [], []
    for experiment in experiments:
        frame = read(root, scale, experiment)
        if frame.is_empty():
            others.append(experiment)
        else:
            chapters.append(chapter(root, scale, experiment, frame, judged(experiment, frame, scale)))
    return chapters, others


def _compared(root: Path, scale: Scale):
    """Yields the chapter of the newest comparison, if it has a finished run."""
    from dormant.experiments.comparison import read_record
    from dormant.experiments.ranking import table
    from dormant.lab.judging.claims import judged
    from dormant.lab.judging.table import read
    from dormant.lab.page import chapter

    record = read_record(root, scale)
    if record is not None:
        experiment = record.experiment(scale)
        frame = read(root, scale, experiment)
        if not frame.is_empty():
            yield chapter(root, scale, experiment, frame, judged(experiment, frame, scale), table(record, frame, scale))
