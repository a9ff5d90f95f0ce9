"""A training as plain data, how two of them differ, and the folder that belongs to each."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dormant.lab.design import Scale, name_of
from dormant.later import LATER


def describe(value: Any) -> Any:
    """A specification as JSON data: dataclasses become mappings that keep their class's name under "is".

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


def _deciding(value: Any) -> Iterator[dataclasses.Field[Any]]:
    for field in dataclasses.fields(value):
        unset = field.metadata == LATER and getattr(value, field.name) == field.default
        # What does not count when two values are compared does not decide a result either.
        if field.compare and not unset:
            yield field


def differences(old: Any, new: Any) -> list[str]:
    """One phrase for each setting in which two descriptions differ.

    >>> differences({"tau": 0.1, "seeds": [0, 1]}, {"tau": 0.2, "seeds": [0, 1]})
    ['tau is 0.1 there and 0.2 here']
    """
    return list(_differing(old, new))


def _differing(old: Any, new: Any, name: str = "") -> Iterator[str]:
    # The settings of two classes have nothing to do with each other, so both are shown whole.
    if isinstance(old, dict) and isinstance(new, dict) and old.get("is") == new.get("is"):
        for key in {**old, **new}:
            yield from _differing(old.get(key, "absent"), new.get(key, "absent"), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{name or 'the training'} is {shown(old)} there and {shown(new)} here"


def shown(description: Any) -> str:
    """A description of `describe` on one line.

    >>> shown({"is": "Every", "period": 1000, "what": {"is": "ReDo", "tau": 0.1}})
    'Every(period=1000, what=ReDo(tau=0.1))'
    """
    if isinstance(description, dict):
        settings = (f"{name}={shown(item)}" for name, item in description.items() if name != "is")
        return f"{description.get('is', '')}({', '.join(settings)})"
    if isinstance(description, list):
        return f"[{', '.join(map(shown, description))}]"
    return str(description)


def digest(training: Any) -> str:
    """Eight characters that name all that decides a run's result but its seeds: equal for two figures' same arm."""
    description = {name: value for name, value in describe(training).items() if name != "seeds"}
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:8]


def place(root: Path, scale: Scale, training: Any, seeds: tuple[int, ...]) -> Path:
    """The run folder of some seeds of a training: no figure's name is in it, since figures share runs."""
    environment = re.sub(r"\W+", "-", name_of(training.env))
    return root / scale / environment / _name(training) / f"seed{'-'.join(map(str, seeds))}"


def kind(training: Any) -> str:
    """What the names of a training's run folders begin with: its agent and replay ratio, or what it says itself.

    >>> from dormant.rl.loops import DeviceTraining
    >>> from dormant.supervised.training import SupervisedTraining
    >>> kind(DeviceTraining(replay_ratio=0.5)), kind(SupervisedTraining(labels="shuffled"))
    ('dqn-rr0.5', 'classifier-shuffled')
    """
    own = getattr(training, "kind", None)
    return own or f"{type(training.agent).__name__.lower()}-rr{training.replay_ratio:g}"


def beside(path: Path, training: Any) -> Path:
    """The run folder of another training in the same environment, of the same seeds."""
    return path.parent.parent / _name(training) / path.name


def _name(training: Any) -> str:
    return f"{kind(training)}-{digest(training)}"
