"""Films of games."""

from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from numpy import ndarray

FRAMES_PER_SECOND = 15  # agent steps, at 60 emulator frames a second
SCALE = 2  # the Atari's screen is small today


class Film:
    """An MP4 file, that is there when it is complete. Raises OSError if it cannot be written."""

    def __init__(self, path: Path) -> None:
        self._path, self._part, self._writer = path, path.with_suffix(".part.mp4"), None
        path.parent.mkdir(parents=True, exist_ok=True)

    def show(self, screen: UInt8[ndarray, "rows columns 3"]) -> None:
        """Adds a picture."""
        import cv2

        rows, columns = screen.shape[:2]
        size = (SCALE * columns, SCALE * rows)
        self._writer = self._writer or self._opened(size)
        self._writer.write(cv2.resize(screen[..., ::-1], size, interpolation=cv2.INTER_NEAREST))

    def close(self) -> None:
        """Completes the file."""
        if self._writer:
            self._writer.release()
            self._part.replace(self._path)

    def _opened(self, size: tuple[int, int]) -> Any:
        import cv2

        writer = cv2.VideoWriter(str(self._part), cv2.VideoWriter.fourcc(*"mp4v"), FRAMES_PER_SECOND, size)
        if not writer.isOpened():
            raise OSError(f"OpenCV cannot write the video {self._part}; run without --video.")
        return writer
