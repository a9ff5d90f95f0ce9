"""Damages run folders and input files, passes malformed flags, and kills runs; counts the outcomes.

    python tests/campaign.py --files 3000 --commands 500 --kills 60 --seed 1

Every case must raise a one-line error, or give results that are bit-identical to those of an undamaged run. The exit
code is 1 if a case gave wrong results, ended in a traceback or hung. Several workers share the cases. The cases of each
kind are numbered: `--start N` runs the cases from number N on, and `--only N` runs only case N.
"""

import argparse
import faulthandler
import gc
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["XLA_FLAGS"] = (  # without optimisation, small programs compile faster
    f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    " --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_use_fusion_emitters=false"
)
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="campaign-")  # shared by all workers
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
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
    parser.add_argument("--workers", type=int, default=2, help="number of processes that share the cases")
    parser.add_argument("--start", type=int, default=0, help="number of the first case to run, of each kind")
    parser.add_argument("--only", type=int, help="number of the only case to run, of each kind")
    flags = parser.parse_args()
    folder, began = Path(os.environ["JAX_COMPILATION_CACHE_DIR"]), time.monotonic()
    tally = Tally(folder, flags.start, flags.only)
    # Forking is safe only before JAX has computed anything. Workers fork again, for commands and kills.
    gc.freeze()  # without this, a garbage collection in a forked process would copy all memory
    pids = [started(tally, flags, worker) for worker in range(flags.workers)]
    ended = waited(pids)
    print(tally.table())
    failed = tally.failed or any(ended)
    print(f"{time.monotonic() - began:.0f} seconds, {sum(os.times()[:4]):.0f} CPU seconds")
    shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


def started(tally: Tally, flags: argparse.Namespace, worker: int) -> int:
    """Starts a worker. Returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        everything(tally, flags, worker)
        os._exit(0)
    except KeyboardInterrupt:
        os._exit(1)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def waited(pids: list[int]) -> list[int]:
    """The exit codes of the workers. A SIGTERM or Ctrl-C ends the workers, so that it also prints the table."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    codes = []
    for pid in pids:
        try:
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        except KeyboardInterrupt:
            print("stopped early", flush=True)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            for each in pids[len(codes) :]:
                os.kill(each, signal.SIGTERM)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return codes


def everything(tally: Tally, flags: argparse.Namespace, worker: int) -> None:
    """Runs all parts one after another, with the cases that no other worker has taken."""
    faulthandler.enable()
    # The commands run first, because they fork.
    commands.campaign(tally, flags.commands, flags.seed)
    surroundings.campaign(tally, min(1.0, flags.commands / 500))
    kills.campaign(tally, flags.kills, flags.seed, flags.families)
    inputs.campaign(tally, flags.files // 3, flags.seed)
    if flags.files:
        from campaign import runs  # the import compiles training functions

        trained = [name for name in flags.families if name != "figure"]
        # The workers start with different families, so that each can reuse code that another worker has compiled.
        runs.campaign(tally, flags.files - flags.files // 3, flags.seed, trained, backwards=bool(worker % 2))


if __name__ == "__main__":
    raise SystemExit(main())
