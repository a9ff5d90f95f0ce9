"""Whether a long `dormant train` stays as it began: the slopes of its memory and of its seconds per chunk.

    python benchmarks/long_run.py --minutes 120

A checkpoint is written every minute. The slopes are least squares lines over the second half of the run, so that
compiling and filling the replay do not count.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

SECONDS = 2.0  # between two looks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "run" / "metrics.jsonl"
        command = [sys.executable, "-m", "dormant", "train", "--run-dir", str(metrics.parent), "--seeds", "1"]
        command += ["--steps", "1000000000", "--log-period", "200", "--eval-period", "1000000000"]
        command += ["--intervention", "redo", "--checkpoint-seconds", "60"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            report(np.array(list(looks(process, metrics, options.minutes * 60))))
        finally:
            process.terminate()
            process.wait()


def looks(process: subprocess.Popen[bytes], metrics: Path, seconds: float):
    """Rows of seconds since the start, megabytes of resident memory, and rows of metrics."""
    watched, began = psutil.Process(process.pid), time.monotonic()
    while process.poll() is None and time.monotonic() - began < seconds:
        time.sleep(SECONDS)
        count = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        yield time.monotonic() - began, watched.memory_info().rss / 1e6, count


def report(table: np.ndarray) -> None:
    """Prints the slopes over the second half."""
    late = table[len(table) // 2 :]
    hours = late[:, 0] / 3600
    memory, _ = np.polyfit(hours, late[:, 1], 1)
    print(f"resident memory {late[:, 1].mean():.0f} MB, slope {memory:+.1f} MB per hour")
    # The time at which each row was seen first, for rows that were logged in the second half.
    rows, first = np.unique(late[:, 2], return_index=True)
    pace = np.diff(late[first, 0]) / np.diff(rows)
    slope, _ = np.polyfit(hours[first][1:], pace, 1)
    print(f"{np.median(pace):.3f} seconds per chunk of 200 agent steps, slope {slope:+.4f} seconds per hour")
    print(f"{len(table) * SECONDS / 60:.0f} minutes, {int(late[-1, 2])} chunks")


if __name__ == "__main__":
    main()
