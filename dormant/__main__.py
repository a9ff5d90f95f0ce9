"""`python -m dormant` and the `dormant` command.

The exit code is 0 on success, 1 if some runs failed, 2 for bad input and 130 after Ctrl-C. The command reports an error
in one line on stderr. A traceback is always a bug.
"""

import contextlib
import os
import shutil
import signal
import sys
import threading
from typing import NoReturn

from dormant.hints import extra_of

NARROWEST = 40  # the help text is formatted for at least this many columns


def main() -> None:
    """Runs the command line and exits. If an optional package is missing, prints the command that installs it."""
    # Hides XLA's log. XLA logs a long, false error whenever it loads code from the compilation cache.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        # During the imports, Ctrl-C ends the process directly. An exception that a signal handler raises while a
        # compiled module is imported would be lost, or would crash the process.
        signal.signal(signal.SIGINT, _leave)
        from dormant.cli import run

        signal.signal(signal.SIGINT, _interrupted)
        # Python ignores exceptions that are raised during garbage collection, even the KeyboardInterrupt of a Ctrl-C.
        # This hook then interrupts the process again.
        sys.unraisablehook = lambda error: (
            _interrupt_again() if issubclass(error.exc_type, KeyboardInterrupt) else sys.__unraisablehook__(error)
        )
        _open_streams()
        try:
            code = run(sys.argv[1:])
        finally:
            sys.stdout.flush()
        sys.exit(code)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        extra = extra_of(package)
        if extra is None:
            raise
        print(f"dormant: {package} is not installed; run: pip install 'dormant[{extra}]'", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        _leave()
    except OSError as error:
        _refuse_output(error)


def _open_streams() -> None:
    """Prepares stdout and stderr. Both then accept all characters, and a closed stream writes to the null device."""
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)  # in a narrower terminal, formatting the help text never ends
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        # Characters that the terminal can't encode become "?".
        getattr(sys, name).reconfigure(errors="replace")


def _refuse_output(error: OSError) -> NoReturn:
    """Exits with code 2 after a failed write. Prints the error, except if the program that reads the pipe has ended."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # discards what is still in the buffer
    if not isinstance(error, BrokenPipeError):
        with contextlib.suppress(OSError):  # stderr may be on the same full disk
            os.write(2, f"dormant: {error.filename or 'standard output'}: {error.strerror or error}.\n".encode())
    sys.exit(2)


def _interrupted(*signal_and_frame: object) -> NoReturn:
    """Raises KeyboardInterrupt at the first Ctrl-C. A second one ends the process at once."""
    signal.signal(signal.SIGINT, _leave)
    raise KeyboardInterrupt


def _interrupt_again() -> None:
    """Repeats a Ctrl-C that was ignored because it came during garbage collection."""
    signal.signal(signal.SIGINT, _interrupted)
    # Sends the signal again after 0.05 seconds. By that time, garbage collection has ended.
    threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), signal.SIGINT)).start()


def _leave(*signal_and_frame: object) -> NoReturn:
    os.write(2, b"dormant: interrupted.\n")
    os._exit(130)


if __name__ == "__main__":
    main()
