"""Files that are written completely or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """The path of a new file beside `file`. It replaces `file` when the block ends without an error.

    A process that is killed leaves either the old content or the new content. An existing file or link at the new
    path is removed first, so nothing is ever written through a link.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "spec.json"
    ...     with replacing(file) as part:
    ...         _ = part.write_text("{}")
    ...     file.read_text(), part.exists()
    ('{}', False)

    Raises OSError if the folder cannot be written to.
    """
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    try:
        yield part
        os.replace(part, file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_whole(file: Path, text: str) -> None:
    """Writes a text file completely or not at all.

    Raises OSError if the disk is full or the folder cannot be written to. The old content is kept.
    """
    with replacing(file) as part:
        part.write_text(text)
