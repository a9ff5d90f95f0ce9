"""The metrics of a run as TensorBoard's event files."""

from pathlib import Path

from dormant.lab.store import RunFolder, rows

SUFFIX = ".dormant"  # of the files that are ours to replace
KEYS = ("seed", "agent_steps")


def write_events(folder: RunFolder, to: Path) -> None:
    """Writes every metric of a run over agent steps, and its specification as text, to a folder `seed<k>` a seed.

    What was written there before is replaced, so that a run that has gone on can be written again. A value that was not
    measured is left out. Raises RunRefused if the run is damaged, ModuleNotFoundError without tensorboardX.
    """
    from tensorboardX import SummaryWriter

    table = list(rows(folder.metrics))
    for seed in sorted({row["seed"] for row in table}):
        place = to / f"seed{seed}"
        for old in place.glob(f"*{SUFFIX}"):
            old.unlink()
        with SummaryWriter(str(place), filename_suffix=SUFFIX) as writer:
            writer.add_text("spec", f"```\n{folder.spec.read_text()}\n```")
            for row in table:
                if row["seed"] == seed:
                    for name, value in row.items():
                        if name not in KEYS and value is not None:
                            writer.add_scalar(name, value, row["agent_steps"])
