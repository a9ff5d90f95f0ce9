"""`dormant report`: every figure, claim and run on one page."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dormant.cli.refusal import refuse
from dormant.experiments import EXPERIMENTS
from dormant.lab.design import SCALES, Experiment, Scale
from dormant.lab.runs.folder import RunRefused, write_whole


@dataclass(frozen=True)
class Report:
    """Write one HTML page that loads nothing: claims with their verdicts, plots, settings, runs."""

    runs: tyro.conf.Positional[Path]
    """Folder of the runs, as `dormant figure` fills it."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html")
    """The page's file."""
    scale: Scale | None = None
    """Scale of the runs; need not be said where the folder has one only."""


def report(flags: Report) -> int:
    """Writes the page: 0 when it is there; what is wrong with the input is one line, with code 2."""
    from dormant.lab.page.document import page  # drawing loads slowly, and bad input is known before

    scale = _scale(flags)
    _check_writable(flags.out)
    try:
        chapters, others = _read(flags.runs, scale, EXPERIMENTS)
        if not chapters:
            refuse(f"{flags.runs} has no finished run of an experiment at scale {scale}; `dormant figure` makes them.")
        write_whole(flags.out, page(chapters, scale, others, flags.out))
    except (RunRefused, ValueError) as error:
        refuse(error)
    except OSError as error:
        refuse(f"{error.filename or flags.out}: {error.strerror}. Mend that, or choose another --out.")
    judged = sum(len(each.verdicts) for each in chapters)
    print(f"{flags.out}: {len(chapters)} experiments, {judged} claims judged, {flags.out.stat().st_size / 1e6:.1f} MB.")
    return 0


def _scale(flags: Report) -> Scale:
    """The scale that was asked for, or the only one there is."""
    if not flags.runs.is_dir():
        refuse(f"{flags.runs} is no folder; give the one that `dormant figure` fills.")
    there: list[Scale] = [scale for scale in SCALES if (flags.runs / scale).is_dir()]
    if not there:
        refuse(f"{flags.runs} has no runs: expected a folder named {', '.join(SCALES[:-1])} or {SCALES[-1]} in it.")
    if flags.scale is None and len(there) > 1:
        refuse(f"{flags.runs} has runs at several scales; choose one with --scale: {', '.join(there)}.")
    if flags.scale is not None and flags.scale not in there:
        refuse(f"{flags.runs} has no runs at scale {flags.scale}; it has {', '.join(there)}.")
    return flags.scale or there[0]


def _check_writable(file: Path) -> None:
    """Before minutes of reading rather than after."""
    if file.is_dir():
        refuse(f"--out {file} is a folder; give a file.")
    if not file.parent.is_dir():
        refuse(f"--out {file}: there is no folder {file.parent}; make it, or choose another file.")
    if not os.access(file.parent, os.W_OK):
        refuse(f"--out {file}: {file.parent} cannot be written to; choose another file.")


def _read(root: Path, scale: Scale, experiments: Sequence[Experiment]):
    """The chapters of experiments with finished runs, and the other experiments."""
    from dormant.lab.judging.claims import judged
    from dormant.lab.judging.table import read
    from dormant.lab.page.document import chapter

    chapters, others = [], []
    for experiment in experiments:
        frame = read(root, scale, experiment)
        if frame.is_empty():
            others.append(experiment)
        else:
            chapters.append(chapter(root, scale, experiment, frame, judged(experiment, frame)))
    return [*chapters, *_compared(root, scale)], others


def _compared(root: Path, scale: Scale):
    """The chapter of the comparison that was made last, if one was."""
    from dormant.experiments.comparison import kept
    from dormant.experiments.ranking import HEADS, table, told
    from dormant.lab.judging.claims import judged
    from dormant.lab.judging.table import read
    from dormant.lab.page.document import chapter

    record = kept(root, scale)
    if record is not None:
        experiment = record.experiment(scale)
        frame = read(root, scale, experiment)
        if not frame.is_empty():
            methods = [HEADS, *told(table(record, frame))]
            yield chapter(root, scale, experiment, frame, judged(experiment, frame), methods)
