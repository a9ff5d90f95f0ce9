"""The command line: `dormant demo`, `train`, `figure`, `compare`, `runs`, `report`, `scan` and `doctor`."""

import logging
from collections.abc import Sequence

import tyro

from dormant.cli import compare, demo, doctor, figure, report, runs, scan, train
from dormant.cli.refusal import check_numbers, parsing

COMMANDS = {
    "demo": demo.Demo,
    "train": train.TrainMinAtar,
    "figure": figure.Figure,
    "compare": compare.Compare,
    "runs": runs.Runs,
    "report": report.Report,
    "scan": scan.Scan,
    "doctor": doctor.Doctor,
}


def run(arguments: Sequence[str]) -> int:
    """The exit code of the command that the arguments name: 0 done, 2 refused, 130 interrupted."""
    # Orbax and asyncio log the stack traces of failed writes, which the command line reports in one line.
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    description = "Measure and cure dormant neurons in deep reinforcement learning."
    with parsing():
        # The flags of `train` depend on its agent and environment.
        command = (
            train.parse(arguments[1:])
            if list(arguments[:1]) == ["train"]
            else tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="dormant", description=description, args=arguments)
        )
        check_numbers(command)
    match command:
        case demo.Demo():
            return demo.demo(command)
        case train.TrainMinAtar() | train.TrainAtari() | train.TrainControl():
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
