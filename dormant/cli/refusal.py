"""Bad input ends in one line on stderr and exit code 2."""

import sys
from typing import NoReturn


def refuse(message: object) -> NoReturn:
    """Ends the command with one line that says what is wrong. Raises SystemExit with code 2."""
    print(f"dormant: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(2)
