"""What made a run: its configuration as plain data, and the code and machine it ran on."""

import dataclasses
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from dormant.later import LATER

PACKAGES = ("dormant", "jax", "jaxlib", "numpy", "optax", "pgx", "orbax-checkpoint")


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


def origin() -> dict[str, Any]:
    """When, by which command, with which code and on which device this process runs."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "revision": revision(),
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(jax.devices()[0].device_kind),
        "backend": jax.default_backend(),
    }


def version(package: str) -> str | None:
    """The version of an installed package, None where it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def revision() -> str:
    """The git revision of dormant's own checkout, with "-dirty" where it has changes; "unknown" outside of one."""
    # An installed copy may lie inside somebody else's checkout, whose revision says nothing about this code.
    source = Path(__file__).parents[2]
    if not (source / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return answer.stdout.strip() or "unknown"
