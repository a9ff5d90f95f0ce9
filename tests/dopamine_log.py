"""Writes small replay logs in Dopamine's format, for tests with results computed by hand."""

import gzip
from pathlib import Path

import numpy as np


def dopamine(folder: Path, part: int, cursor: int, terminal: list[int]) -> None:
    """Writes one part of a log in Dopamine's format. Every pixel and the reward of slot k have the value k."""
    slots = np.arange(len(terminal))
    columns = {
        "$store$_observation": np.broadcast_to(slots[:, None, None], (len(slots), 2, 2)).astype(np.uint8),
        "$store$_action": (slots % 3).astype(np.int32),
        "$store$_reward": slots.astype(np.float32),
        "$store$_terminal": np.array(terminal, np.uint8),
        "add_count": np.array(cursor),
    }
    for name, column in columns.items():
        with gzip.open(folder / f"{name}_ckpt.{part}.gz", "wb") as stream:
            np.save(stream, column, allow_pickle=False)
