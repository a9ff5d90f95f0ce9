"""`python -m dormant` and the `dormant` command."""

import os
import signal
import sys
from typing import NoReturn

EXTRAS = {
    "tyro": "cli",
    "rich": "cli",
    "matplotlib": "cli",
    "orbax": "cli",
    "pgx": "minatar",
    "polars": "lab",
    "ray": "ray",
    "submitit": "slurm",
    "tensorboardX": "tensorboard",
}


def main() -> None:
    """Runs the command line; a missing optional package ends it with the line that installs it, Ctrl-C with 130."""
    try:
        # An exception that a signal raises while compiled modules load is lost, or ends the process with a fault.
        signal.signal(signal.SIGINT, _leave)
        from dormant.cli import run

        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.exit(run(sys.argv[1:]))
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            raise
        extra = EXTRAS[package]
        print(f"dormant: {package} is not installed; run: pip install 'dormant[{extra}]'", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        _leave()


def _leave(*signal_and_frame: object) -> NoReturn:
    os.write(2, b"dormant: interrupted.\n")
    os._exit(130)


if __name__ == "__main__":
    main()
