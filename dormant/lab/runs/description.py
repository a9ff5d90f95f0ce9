"""Describes a training as plain data, compares two descriptions, and names the run folder of a training."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dormant.lab import Scale, Trainable, name_of
from dormant.settings import ADDED


class Difference(NamedTuple):
    """A setting that differs between two descriptions, with both values as text."""

    setting: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.setting} is {self.old} in the folder and {self.new} in this command"


def describe(value: object) -> Any:
    """Converts a value to JSON data. A dataclass becomes a mapping with the name of its class under "is".

    >>> from fractions import Fraction
    >>> Point = dataclasses.make_dataclass("Point", ["x", "y"])
    >>> describe(Point(1, (2.5, "a")))
    {'is': 'Point', 'x': 1, 'y': [2.5, 'a']}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: describe(getattr(value, field.name)) for field in _deciding(value)}
        return {"is": type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [describe(item) for item in value]
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    return value if isinstance(value, bool | int | float | str | None) else repr(value)


def _deciding(value: Any) -> Iterator[dataclasses.Field]:
    for field in dataclasses.fields(value):
        # A field with `compare=False` is left out, because it does not change the result of a run. A field that older
        # runs do not have is left out while it has its default value, so that older runs still match.
        if field.compare and not (field.metadata.get(ADDED) and getattr(value, field.name) == field.default):
            yield field


def differences(old: object, new: object) -> list[Difference]:
    """The settings in which two descriptions differ.

    >>> print(*differences({"tau": 0.1, "seeds": [0, 1]}, {"tau": 0.2, "seeds": [0, 1]}))
    tau is 0.1 in the folder and 0.2 in this command
    """
    return list(_differing(old, new))


def _differing(old: object, new: object, name: str = "") -> Iterator[Difference]:
    # Values of different classes have unrelated settings, so both are shown completely.
    if isinstance(old, dict) and isinstance(new, dict) and old.get("is") == new.get("is"):
        for key in {**old, **new}:
            yield from _differing(old.get(key, "absent"), new.get(key, "absent"), f"{name}.{key}" if name else key)
    elif old != new:
        yield Difference(name or "the training", shown(old), shown(new))


def shown(description: object) -> str:
    """Returns a description as one line of text.

    >>> shown({"is": "Every", "period": 1000, "what": {"is": "ReDo", "tau": 0.1}})
    'Every(period=1000, what=ReDo(tau=0.1))'
    """
    if isinstance(description, dict):
        settings = (f"{name}={shown(item)}" for name, item in description.items() if name != "is")
        return f"{description.get('is', '')}({', '.join(settings)})"
    if isinstance(description, list):
        return f"[{', '.join(map(shown, description))}]"
    return str(description)


def digest(training: Trainable) -> str:
    """Eight characters that identify a training without its seeds. Figures with the same arm therefore share runs."""
    description = {name: value for name, value in describe(training).items() if name != "seeds"}
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:8]


def run_path(root: Path, scale: Scale, training: Trainable) -> Path:
    """The run folder of a training with its seeds. The path does not name a figure, because figures share runs."""
    environment = re.sub(r"\W+", "-", name_of(training.env))
    return root / scale / environment / _name(training) / f"seed{'-'.join(map(str, training.seeds))}"


def kind(training: Any) -> str:
    """The first part of the name of a training's folder: its `kind` if it has one, otherwise agent and replay ratio.

    >>> from dormant.rl.device import DeviceTraining
    >>> from dormant.supervised import SupervisedTraining
    >>> kind(DeviceTraining(replay_ratio=0.5)), kind(SupervisedTraining(labels="shuffled"))
    ('dqn-rr0.5', 'classifier-shuffled')
    """
    own = getattr(training, "kind", None)
    return own or f"{type(training.agent).__name__.lower()}-rr{training.replay_ratio:g}"


def sibling_path(path: Path, training: Trainable) -> Path:
    """The run folder of another training that has the same environment and seeds as the run at `path`."""
    return path.parent.parent / _name(training) / path.name


def _name(training: Trainable) -> str:
    return f"{kind(training)}-{digest(training)}"
