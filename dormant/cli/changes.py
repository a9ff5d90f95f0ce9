"""The flags `--like` and `--set`. `--like` rebuilds the training of an earlier run; `--set` changes fields."""

import ast
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple, TypeVar

import tyro

from dormant import perturbed_descent, regularisers
from dormant.hints import suggestion
from dormant.interventions import Chain, holding, how_many, perturbing, projecting, recycle, resets, schedule, silence
from dormant.lab import Arm, Experiment, Scale
from dormant.lab.runs.description import describe, differences
from dormant.lab.runs.folder import RunFolder, origin_of
from dormant.rl import atari as atari_loop
from dormant.rl import control, device, networks
from dormant.rl.agents import dqn, sac
from dormant.rl.envs import atari, minatar, mujoco
from dormant.rl.networks import convolutional

Made = TypeVar("Made")
Training = device.DeviceTraining | atari_loop.AtariTraining | control.ControlTraining
FieldPath = tuple[str | int, ...]  # path from a training to one of its fields: field names, and positions in tuples
# The flag --set FIELD=VALUE. It may be given several times.
Changes = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="FIELD=VALUE"), tyro.conf.UseAppendAction]
# The modules whose dataclasses a run's spec.json can name.
PARTS: tuple[ModuleType, ...] = (
    *(schedule, recycle, silence, resets, perturbing, projecting, holding, how_many, regularisers, perturbed_descent),
    *(dqn, sac, networks, convolutional),
    *(minatar, atari, mujoco, device, atari_loop, control),
)


@dataclass(frozen=True)
class Saving:
    """When a run is saved, where else its metrics are written, and which CPU core it uses."""

    checkpoint_seconds: float = 30.0
    """Seconds of training between two checkpoints."""
    stop_when_diverged: bool = False
    """End the run when a network diverges: when its loss, dormant fraction or another metric is NaN or infinite."""
    tensorboard: Path | None = None
    """Folder for TensorBoard event files. The run writes every metric there while it trains, in one folder per seed."""
    wandb: str = ""
    """Weights & Biases project in which the run is logged. With WANDB_MODE=offline, nothing is sent."""
    core: int | None = None
    """Use only this CPU core, with one thread, to leave the other cores to other runs. Default: all cores."""


@dataclass(frozen=True)
class TrainLike:
    """Train with the settings of an earlier run; the same command resumes a run that was interrupted."""

    run_dir: Path
    """Folder of the run. A new folder is created, an unfinished run is resumed, a finished run is left unchanged."""
    like: Path
    """Folder of the earlier run."""
    changes: Changes = ()
    """Change a setting of the earlier run, such as tau=0.3, agent_steps=50000 or seeds=7,8. If several settings have
    this name, an error lists their full names."""
    saving: Annotated[Saving, tyro.conf.arg(name="")] = field(default_factory=Saving)


class Change(NamedTuple):
    """A new value for a field. `field` is the end of the field's path, such as `tau` or `agent.gamma`."""

    field: str
    value: str

    def __str__(self) -> str:
        return f"{self.field}={self.value}"


def parsed(text: str) -> Change:
    """The change that a text such as tau=0.3 describes. Raises ValueError if the text is not FIELD=VALUE.

    >>> parsed("tau=0.3")
    Change(field='tau', value='0.3')
    """
    name, sign, value = (part.strip() for part in text.partition("="))
    if not (name and sign and value):
        raise ValueError(f"--set expects FIELD=VALUE, such as tau=0.3, got {text!r}.")
    return Change(name.replace("-", "_"), value)


def changed(training: Made, changes: Sequence[Change]) -> Made:
    """A copy of the training with changed fields.

    >>> from dormant.rl.device import DeviceTraining
    >>> changed(DeviceTraining(), [Change("gamma", "0.9"), Change("seeds", "4,5")]).seeds
    (4, 5)

    Raises KeyError if the training does not have the field. Raises ValueError if several fields have that name, or if
    the field cannot have that value.
    """
    for change in changes:
        known = {_shown(path): path for path in _paths(training)}
        found = [path for name, path in known.items() if f".{name}".endswith(f".{change.field}")]
        found = [known[change.field]] if change.field in known else found
        if not found:
            names = dict.fromkeys(str(path[-1]) for path in known.values())
            raise KeyError(f"--set {change}: no field has this name; {suggestion(change.field, names)}")
        if len(found) > 1:
            raise ValueError(f"--set {change}: several fields have this name; use {' or '.join(map(_shown, found))}.")
        training = _with(training, found[0], change)
    return training


def _shown(path: FieldPath) -> str:
    return ".".join(map(str, path))


def _paths(value: object) -> Iterator[FieldPath]:
    """The paths of all fields that hold a plain value."""
    if dataclasses.is_dataclass(value):
        parts = [(each.name, getattr(value, each.name)) for each in dataclasses.fields(value)]
    elif isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        parts = list(enumerate(value))
    else:
        yield ()
        return
    for name, part in parts:
        yield from ((name, *path) for path in _paths(part))


def _with(value: Any, path: FieldPath, change: Change) -> Any:
    """A copy of `value` with a new value for the field at the end of `path`."""
    if not path:
        return _converted(value, change)
    name, *rest = path
    if isinstance(name, int):
        return (*value[:name], _with(value[name], tuple(rest), change), *value[name + 1 :])
    part = _with(getattr(value, name), tuple(rest), change)
    return Chain(*part) if isinstance(value, Chain) else replace(value, **{name: part})


def _converted(old: object, change: Change) -> object:
    """The new value, converted to the type of the old value."""
    try:
        new = ast.literal_eval(change.value.capitalize() if change.value in ("true", "false") else change.value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        new = change.value
    if isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool):
        return float(new)
    if isinstance(old, tuple) and not isinstance(new, tuple):
        new = tuple(new.split(",")) if isinstance(new, str) else (new,)
    if old is not None and type(new) is not type(old):
        raise ValueError(f"--set {change}: expected a value like {old!r}, which is of type {type(old).__name__}.")
    return new


def with_variants(experiments: Sequence[Experiment], scale: Scale, texts: Sequence[str]) -> list[Experiment]:
    """Adds variants to experiments. A variant is a copy of an arm with all changes.

    An arm that lacks one of the changed fields gets no variant. Returns the experiments with their variants. A variant
    is marked as exploratory, and no claim refers to it. Without changes, returns the experiments unchanged.

    Raises ValueError if a text is not FIELD=VALUE, if a field cannot have the value, or if no experiment gets a
    variant.
    """
    changes, found, reason = [parsed(text) for text in texts], list(experiments), ""
    for change in changes:
        if change.field.split(".")[0] in ("env", "seeds"):
            raise ValueError(f"--set {change}: the experiment sets the environments and the seeds.")
    for number, experiment in enumerate(experiments if changes else ()):
        try:
            found[number] = _with_variants(experiment, scale, changes)
        except KeyError as error:
            reason = str(error.args[0])
    if changes and found == list(experiments):
        raise ValueError(reason)
    return found


def _with_variants(experiment: Experiment, scale: Scale, changes: Sequence[Change]) -> Experiment:
    """The experiment with its variants. Raises KeyError if it gets no variant; the message is the reason."""
    label, design = " and ".join(map(str, changes)), experiment.designs[scale]
    variants, reason = [], f"--set {label}: every arm of {experiment.name} has this value already."
    for arm in design.arms:
        try:
            training = changed(arm.training, changes)
        except KeyError as error:
            reason = str(error.args[0])
            continue
        if training != arm.training:
            variants.append(Arm(_marked(arm.name, label), training))
    if not variants:
        raise KeyError(reason)
    given = "".join(f" --set {change}" for change in changes)
    return replace(
        experiment,
        designs={**experiment.designs, scale: replace(design, arms=(*design.arms, *variants))},
        command=f"dormant figure {experiment.name} --scale {scale}{given}",
        settings=f"{experiment.settings} Exploratory variants, to which no claim refers: {label}.".strip(),
    )


def _marked(arm: str, label: str) -> str:
    # An arm's family is its name up to the first comma. A variant is not part of the arm's family, so the change is
    # added before the comma.
    name, comma, rest = arm.partition(",")
    return f"{name} (exploratory: {label}){comma}{rest}"


def like(folder: RunFolder, texts: Sequence[str]) -> Training:
    """The training of an earlier run, after the changes in `texts`. Each text is FIELD=VALUE.

    Raises Damaged if spec.json is damaged, OSError if it is missing. Raises ValueError if a text is not FIELD=VALUE, if
    the training has no such field, if the field cannot have the value, or if this version cannot rebuild the training.
    """
    description = origin_of(folder)["training"]
    try:
        training = _rebuilt(description)
        if not isinstance(training, Training):
            raise ValueError("the folder is not a run of `dormant train`")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder.path}: this version of dormant cannot rebuild the training: {error}") from error
    lost = [each for each in differences(description, describe(training)) if each.old != "absent"]
    if lost:
        raise ValueError(
            f"{folder.path}: this version of dormant cannot rebuild the training: {lost[0].setting} would change."
        )
    try:
        return changed(training, [parsed(text) for text in texts])
    except KeyError as error:
        raise ValueError(error.args[0]) from error


def _rebuilt(description: object) -> object:
    """Rebuilds a value from its description by `describe`. Raises ValueError if this version lacks a class or field."""
    if isinstance(description, list):
        return tuple(map(_rebuilt, description))
    if not isinstance(description, dict):
        return description
    found = [each for part in PARTS for each in vars(part).values() if isinstance(each, type)]
    known: dict[str, Callable[..., object]] = {each.__name__: each for each in found if dataclasses.is_dataclass(each)}
    name = description.get("is", "")
    if name not in known:
        raise ValueError(f"`dormant train` has no {name or 'class for a part of the description'}.")
    settings = {key: _rebuilt(value) for key, value in description.items() if key != "is"}
    links = settings.get("links")
    return Chain(*links) if name == "Chain" and isinstance(links, tuple) else known[name](**settings)
