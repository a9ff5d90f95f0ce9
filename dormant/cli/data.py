"""Data sets of the user's own, put where an experiment reads them from."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from dormant.lab.spec import Arm, Experiment, Scale
from dormant.rl.offline import OfflineTraining
from dormant.rl.offline_data import DopamineReplay, TransitionFiles, given
from dormant.supervised.images import ImageSet


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
