"""What a run leaves to those that go on from it."""

from pathlib import Path
from typing import Any, NamedTuple


class Ended(NamedTuple):
    """A finished run: its last state, and the folder that keeps what it did not hold there, such as frames."""

    state: Any
    replay: Path
