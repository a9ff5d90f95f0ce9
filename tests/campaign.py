"""Damages run folders and input files, passes malformed flags, and kills runs; counts the outcomes.

    python tests/campaign.py --files 3000 --commands 500 --kills 60 --seed 1

Every case must raise a one-line error, or give results that are bit-identical to those of an undamaged run. The exit
code is 1 if a case gave wrong results, ended in a traceback or hung. `--only N` runs only case N of each kind.
"""

import argparse
import gc
import os
import signal
import sys
import time
from pathlib import Path

# Without optimisation, small programs compile faster.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()
sys.path.insert(0, str(Path(__file__).parent))

from campaign import commands, inputs, kills, surroundings
from campaign.outcomes import Tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=300, help="number of damaged files")
    parser.add_argument("--commands", type=int, default=50, help="number of command lines with malformed flags")
    parser.add_argument("--kills", type=int, default=0, help="number of runs to kill and resume")
    known = ["MinAtar", "SAC", "Atari", "figure"]
    parser.add_argument("--families", nargs="+", default=known, choices=known, help="kinds of runs to damage and kill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="number of the only case to run, of each kind")
    flags = parser.parse_args()
    tally, began = Tally(), time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM also prints the table
    try:
        everything(tally, flags)
    except KeyboardInterrupt:
        print("stopped early")
    print(tally.table())
    print(f"{time.monotonic() - began:.0f} seconds")
    return 1 if tally.failed else 0


def everything(tally: Tally, flags: argparse.Namespace) -> None:
    """Runs all parts one after another."""
    gc.freeze()  # without this, a garbage collection in a forked process would copy all memory
    # The commands run first, because they fork. Forking is safe only before JAX has computed anything.
    commands.campaign(tally, flags.commands, flags.seed, flags.only)
    surroundings.campaign(tally, min(1.0, flags.commands / 500))
    kills.campaign(tally, flags.kills, flags.seed, flags.only, flags.families)
    inputs.campaign(tally, flags.files // 3, flags.seed, flags.only)
    if flags.files:
        from campaign import runs  # the import compiles training functions

        trained = [name for name in flags.families if name != "figure"]
        runs.campaign(tally, flags.files - flags.files // 3, flags.seed, flags.only, trained)


if __name__ == "__main__":
    raise SystemExit(main())
