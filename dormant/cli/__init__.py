"""The command line: `dormant demo`, `train`, `figure`, `compare`, `runs`, `report`, `scan` and `doctor`."""

import logging
from collections.abc import Sequence

import tyro

from dormant.cli import atari, compare, control, demo, doctor, figure, report, runs, scan, train
from dormant.cli.refusal import parsing

COMMANDS = {
    "demo": demo.Demo,
    "train": train.Train,
    "figure": figure.Figure,
    "compare": compare.Compare,
    "runs": runs.Runs,
    "report": report.Report,
    "scan": scan.Scan,
    "doctor": doctor.Doctor,
}


def _training_flags(arguments: Sequence[str]) -> type:
    return control.control_flags(arguments) or atari.atari_flags(arguments) or train.game_flags(arguments)


def run(arguments: Sequence[str]) -> int:
    """The exit code of the command that the arguments name: 0 done, 2 refused, 130 interrupted."""
    # Orbax logs the stack trace of each failed write, and asyncio those of the others that were under way; the command
    # line says the same in one line.
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    description = "Measure and cure dormant neurons in deep reinforcement learning."
    commands = COMMANDS | {"train": _training_flags(arguments)}
    with parsing():
        command = tyro.extras.subcommand_cli_from_dict(
            commands, prog="dormant", description=description, args=arguments
        )
    match command:
        case demo.Demo():
            return demo.demo(command)
        case train.Train() | atari.TrainAtari() | control.TrainControl():
            return train.train(command)
        case figure.Figure():
            return figure.figure(command)
        case compare.Compare():
            return compare.compare(command)
        case runs.Runs():
            return runs.runs(command)
        case report.Report():
            return report.report(command)
        case scan.Scan():
            return scan.scan(command)
        case _:
            return doctor.doctor()
