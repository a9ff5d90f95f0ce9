"""Pydantic models of a run's files, and functions that read them. Errors name the file, the line and the field."""

import json
import zlib
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

LARGEST_FILE = 16 * 2**20  # limit in bytes for a file with one JSON object; a normal file has a few thousand bytes

Count = Annotated[int, Field(ge=0, lt=2**63)]
Checksum = Annotated[int, Field(ge=0, lt=2**32)]
Described = dict[str, JsonValue]
Values = dict[str, Any]


class RunRefused(Exception):
    """A run folder cannot be used. The message gives the reason and the remedy."""


class Damaged(RunRefused):
    """A file of a run is missing or has changed since it was written."""


class Model(BaseModel):
    """A frozen model with strict types: text and Booleans are not converted to numbers."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")


class Row(Model):
    """A row of metrics.jsonl. Its other fields are numbers (including NaN), or null if a metric was not measured."""

    __pydantic_extra__: dict[str, int | float | None]  # pyright: ignore[reportIncompatibleVariableOverride]
    seed: Count
    agent_steps: Count


class ScoresRow(Model):
    """A row of scores.jsonl. Its other fields are the scores of a layer's neurons."""

    __pydantic_extra__: dict[str, list[float]]  # pyright: ignore[reportIncompatibleVariableOverride]
    seed: Count
    agent_steps: Count


class Origin(Model):
    """The code and machine that wrote a file."""

    time: str
    command: list[str]
    revision: str
    packages: dict[str, str | None]
    device: str
    backend: str


class Spec(Model):
    """The content of spec.json: the training, and the fields of `Origin` for the process that started the run."""

    training: Described
    checksum: Checksum | None = None


class Mark(Model):
    """The length in bytes of a file, or of the first part of a file, and the checksum of these bytes."""

    bytes: Count = 0
    checksum: Checksum = 0


class Done(Origin):
    """The content of `done`: the code and machine that ended the run, and the marks of the final files.

    The marks are missing if an old version of dormant wrote the file.
    """

    files: dict[str, Mark] = Field(default_factory=dict)
    checksum: Checksum | None = None


class Seal(Model):
    """The data that is stored with a checkpoint to detect damage.

    A seal holds the owner number of the run, the agent step, and the checksum of each array. For each file of rows, it
    holds a `Mark` of the content that the file had when the checkpoint was written.
    """

    owner: Checksum
    agent_steps: Count
    leaves: dict[str, Checksum]
    files: dict[str, Mark]


class Timing(Model):
    """The agent steps per seed that were timed, and the seconds they took, summed over all processes of a run."""

    agent_steps: Count = 0
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class Holder(Model):
    """The content of a lease: its holder, and a counter that each renewal increases."""

    held: bool
    count: Count
    machine: str
    host: str
    pid: Count


AnyModel = TypeVar("AnyModel", bound=Model)


def parsed(model: type[AnyModel], text: bytes | str, place: str) -> AnyModel:
    """Parses a JSON text. If it does not fit the model, raises Damaged with `place` and the first wrong field."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise damaged(place, f"{field}: {first['msg']}" if field else first["msg"]) from None


def read(model: type[AnyModel], file: Path) -> AnyModel:
    """Reads a file. Raises Damaged if it is too large, does not fit the model, or does not match its checksum.

    Raises OSError if the file cannot be read.
    """
    if file.stat().st_size > LARGEST_FILE:
        raise damaged(str(file), f"it has {file.stat().st_size:,} bytes")
    content = file.read_bytes()
    found = parsed(model, content, str(file))
    kept = getattr(found, "checksum", None)
    if kept is not None and kept != _sum(json.loads(content)):
        raise damaged(str(file), "checksum: its content has changed")
    return found


def sealed(content: Values) -> str:
    """Returns the text of a JSON file with `content`. An additional field has the checksum of `content`."""
    return json.dumps(content | {"checksum": _sum(content)}, indent=1) + "\n"


def _sum(content: Values) -> int:
    rest = {name: value for name, value in content.items() if name != "checksum"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def damaged(place: str, reason: str = "") -> Damaged:
    """The error for a damaged file."""
    return Damaged(f"{place} is damaged{reason and f' ({reason})'}; restore it, or choose another --run-dir.")
