"""Measures whether memory or the time per chunk grows during a long `dormant train`. Prints the slopes.

    python benchmarks/long_run.py --minutes 120

A checkpoint is written every minute. The slopes are those of least squares lines over the second half of the run. The
first half is left out, because it includes compiling and filling the replay. Prints CPU and wall-clock seconds per
chunk. Other programs on the machine make both longer. Therefore a fixed computation is timed every five seconds, and
CPU seconds are also printed relative to it. Prints a line every ten minutes.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

SECONDS = 5.0  # between two measurements
CHUNK = 200  # agent steps
NUMBERS = np.linspace(-3.0, 3.0, 1_000_000)  # input of the fixed computation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "run" / "metrics.jsonl"
        command = [sys.executable, "-m", "dormant", "train", "--run-dir", str(metrics.parent), "--seeds", "1"]
        command += ["--steps", "1000000000", "--log-period", str(CHUNK), "--eval-period", "1000000000"]
        command += ["--intervention", "redo", "--checkpoint-seconds", "60"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            report(np.array(list(looks(process, metrics, options.minutes * 60))))
        finally:
            process.terminate()
            process.wait()


def looks(process: subprocess.Popen[bytes], metrics: Path, seconds: float) -> Iterator[tuple[float, ...]]:
    """Yields measurements of the run.

    A measurement has five numbers: seconds since the start, CPU seconds, megabytes of resident memory, the number of
    rows of metrics, and CPU seconds of the fixed computation.
    """
    watched, began, said = psutil.Process(process.pid), time.monotonic(), 0.0
    while process.poll() is None and time.monotonic() - began < seconds:
        time.sleep(SECONDS)
        count = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        row = (
            *(time.monotonic() - began, sum(watched.cpu_times()[:2]), watched.memory_info().rss / 1e6),
            *(count, fixed_computation()),
        )
        if row[0] - said >= 600:
            said = row[0]
            print("{:.0f} s, {:.0f} CPU s, {:.0f} MB, {} rows".format(*row), flush=True)
        yield row


def fixed_computation() -> float:
    """Returns the CPU seconds of a computation that is the same at every call."""
    began = time.process_time()
    np.tanh(NUMBERS)
    return time.process_time() - began


def report(table: np.ndarray) -> None:
    """Prints the slopes over the second half of the run."""
    late = table[len(table) // 2 :]
    hours, memory = late[:, 0] / 3600, late[:, 2]
    slope, _ = np.polyfit(hours, memory, 1)
    print(
        f"resident memory {memory.mean():.0f} MB ({memory.min():.0f} to {memory.max():.0f}), {slope:+.1f} MB per hour"
    )
    # One value every two minutes, so that each interval includes at least one checkpoint.
    starts = range(0, len(late), max(1, round(120 / SECONDS)))
    marks = late[starts]
    chunks, hours = np.maximum(np.diff(marks[:, 3]), 1), marks[1:, 0] / 3600
    wall, cpu = (np.diff(marks[:, column]) / chunks for column in (0, 1))
    fixed = np.array([np.median(late[a:b, 4]) for a, b in itertools.pairwise(starts)])
    for name, pace in (
        ("wall-clock seconds", wall),
        ("CPU seconds", cpu),
        ("times the fixed computation", cpu / fixed),
    ):
        slope, _ = np.polyfit(hours, pace, 1)
        median, share = np.median(pace), 100 * slope / np.median(pace)
        print(f"{median:.3f} {name} per chunk of {CHUNK} agent steps, {slope:+.4f} per hour ({share:+.1f} %)")
    print(f"{len(table) * SECONDS / 60:.0f} minutes, {int(late[-1, 3])} chunks")


if __name__ == "__main__":
    main()
