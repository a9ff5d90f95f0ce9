"""Data sets of the user's own, put where an experiment reads them from."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from dormant.lab.spec import Experiment, Scale
from dormant.supervised.images import ImageSet


def with_data(experiment: Experiment, scale: Scale, path: Path | None) -> Experiment:
    """The experiment with the data sets of its environments read from `path`; as it is, where none is named.

    Raises ValueError if none of them is read from a file.
    """
    if path is None:
        return experiment
    design = experiment.designs[scale]
    environments = tuple(_read_from(each, path.absolute()) for each in design.environments)
    if not any(_has_path(each) for each in environments):
        raise ValueError(f"--data: {experiment.name} reads no data set at the {scale} scale; leave it out.")
    return replace(experiment, designs={**experiment.designs, scale: replace(design, environments=environments)})


def refuse_without_data(training: Any) -> None:
    """Does nothing if what a training reads is there. Raises ValueError that says where to get it, if it is not."""
    if isinstance(training.env, ImageSet):
        training.env.refuse_unless_there()


def _read_from(value: Any, path: Path) -> Any:
    return replace(value, path=path) if _has_path(value) else value


def _has_path(value: Any) -> bool:
    return is_dataclass(value) and "path" in {field.name for field in fields(value)}
