"""Sends metrics to TensorBoard and Weights & Biases during a run, or during a training loop that you write."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from dormant.lab.runs.folder import RunFolder
from dormant.lab.runs.rows import NewRows
from dormant.lab.runs.schema import Described

SUFFIX = ".dormant"  # the end of the names of our event files; a later call replaces these files
KEYS = ("seed", "agent_steps")
Numbers = Mapping[str, int | float | None]


@runtime_checkable
class Sink(Protocol):
    """A destination for metrics. `write` takes the metrics of one seed at one agent step.

    A value of None was not measured.
    """

    def write(self, seed: int, agent_steps: int, values: Numbers) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Writes the event files of each seed to a subfolder `seed<k>`. Replaces event files that an earlier call wrote.

    TensorBoard shows `text` in its Text tab.
    Raises ModuleNotFoundError if tensorboardX is not installed (extra `tensorboard`).
    """

    def __init__(self, folder: Path, text: str = "") -> None:
        from tensorboardX import SummaryWriter

        self.folder, self.text, self.new = folder, text, SummaryWriter
        self.writers: dict[int, SummaryWriter] = {}

    def write(self, seed: int, agent_steps: int, values: Numbers) -> None:
        """Writes each number as a scalar."""
        writer = self.writers[seed] if seed in self.writers else self._opened(seed)
        for name, value in values.items():
            if value is not None:
                writer.add_scalar(name, value, agent_steps)
        writer.flush()

    def _opened(self, seed: int):
        target = self.folder / f"seed{seed}"
        for old in target.glob(f"*{SUFFIX}"):
            old.unlink()
        self.writers[seed] = writer = self.new(str(target), filename_suffix=SUFFIX)
        if self.text:
            writer.add_text("spec", f"```\n{self.text}\n```")
        return writer

    def close(self) -> None:
        """Closes the files."""
        for writer in self.writers.values():
            writer.close()


class WeightsAndBiases:
    """Logs to a project of Weights & Biases. Each seed is one run of the project, named `<name>/seed<k>`.

    Set WANDB_MODE=offline to log only to the folder `wandb`. The command `wandb sync` uploads this folder later. The
    metric `agent_steps` is the x-axis of every chart. The runs of `seeds` begin at once. The run of any other seed
    begins when its first numbers are written.
    Raises ModuleNotFoundError if wandb is not installed (extra `wandb`). Raises ValueError if W&B refuses a run, for
    example because there is no API key.
    """

    def __init__(
        self, project: str, name: str, config: Mapping[str, object] | None = None, seeds: Sequence[int] = ()
    ) -> None:
        import wandb

        self.project, self.name, self.config, self.wandb = project, name, dict(config or {}), wandb
        self.runs: dict[int, wandb.Run] = {}
        for seed in seeds:
            self._opened(seed)

    def write(self, seed: int, agent_steps: int, values: Numbers) -> None:
        """Logs the numbers."""
        run = self.runs[seed] if seed in self.runs else self._opened(seed)
        measured = {name: value for name, value in values.items() if value is not None}
        run.log({"agent_steps": agent_steps, **measured})

    def _opened(self, seed: int):
        try:
            self.runs[seed] = run = self.wandb.init(
                project=self.project,
                group=self.name,
                name=f"{self.name}/seed{seed}",
                config={**self.config, "seed": seed},
                reinit="create_new",
                settings=self.wandb.Settings(silent=True, console="off"),
            )
        except self.wandb.errors.Error as error:
            remedy = "set WANDB_MODE=offline to log without an account."
            raise ValueError(f"Weights & Biases refused the run: {str(error).rstrip('.')}; {remedy}") from error
        run.define_metric("*", step_metric="agent_steps")
        return run

    def close(self) -> None:
        """Ends the runs. This also writes the remaining numbers."""
        for run in self.runs.values():
            run.finish()


def sinks_of(tensorboard: Path | None, wandb: str, name: str, described: Described, seeds: Sequence[int]) -> list[Sink]:
    """Returns the sinks: one for the folder `tensorboard`, and one for the W&B project `wandb`.

    There is no sink for an argument that is None or empty. Raises the errors of `TensorBoard` and `WeightsAndBiases`.
    """
    found: list[Sink] = []
    if tensorboard is not None:
        found.append(TensorBoard(tensorboard, json.dumps(described, indent=1)))
    if wandb:
        found.append(WeightsAndBiases(wandb, name, {"training": described}, seeds))
    return found


def send(rows: Sequence[Numbers], sinks: Sequence[Sink]) -> None:
    """Writes rows of metrics to all sinks. The rows have the form of `metrics.jsonl`."""
    for row in rows:
        values = {name: value for name, value in row.items() if name not in KEYS}
        for sink in sinks:
            sink.write(int(row["seed"] or 0), int(row["agent_steps"] or 0), values)


@contextlib.contextmanager
def sending(
    folder: RunFolder, sinks: Sequence[Sink], progress: Callable[[int], None] = lambda agent_steps: None
) -> Iterator[Callable[[int], None]]:
    """Yields a function that calls `progress` and then sends the new rows of a run to the sinks.

    The first call of the yielded function also sends the rows that an earlier process has written. The sinks are closed
    at the end of the block.
    """
    rows = NewRows(folder.metrics)

    def both(agent_steps: int) -> None:
        progress(agent_steps)
        if sinks:
            send(rows.update(), sinks)

    try:
        yield both
    finally:
        for sink in sinks:
            sink.close()
