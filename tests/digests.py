"""Digests of small runs. A refactoring must not change them.

    python tests/digests.py           compares with tests/digests.json; exits with 1 if anything differs
    python tests/digests.py --write   replaces tests/digests.json; log the reason in LOG.md
    python tests/digests.py sac       runs only the named cases
    python tests/digests.py --against 040619b    compares with that revision, run on this machine

The stored digests are valid for one version of JAX and one kind of CPU; on other CPUs use --against. Everything runs on
one core, in about three minutes, and with --against in twice that time.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

FILE = Path(__file__).with_suffix(".json")
ROOT = FILE.parents[1]
# Compiles without optimisation, because short runs spend most of their time compiling.
QUICK = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
REDO = ("--intervention", "redo", "--period", "50", "--tau", "0.3")
ATARI = (
    *("train", "--env", "ALE/Pong", "--seeds", "1", "--steps", "400", "--log-period", "100", "--score-batch", "8"),
    *("--eval-period", "200", "--eval-agent-steps", "50", "--time-limit", "70", "--width", "0.05", "--batch-size", "8"),
    *("--min-replay", "60", "--replay-capacity", "200", "--rank-batch", "16"),
)
CASES = {
    "minatar": (
        *("train", "--env", "MinAtar/Breakout", *REDO, "--seeds", "2", "--steps", "1000", "--log-period", "100"),
        *("--eval-period", "500", "--eval-episodes", "2", "--filters", "4", "--width", "16", "--min-replay", "200"),
        *("--replay-capacity", "500", "--target-period", "150", "--time-limit", "60", "--rank-batch", "16"),
        *("--epsilon-steps", "20000"),
    ),
    "minatar-drq": (
        *("train", "--agent", "drq", "--env", "MinAtar/Asterix", *REDO, "--seeds", "1", "--steps", "400"),
        *("--log-period", "100", "--eval-period", "200", "--eval-episodes", "2", "--filters", "4", "--width", "16"),
        *("--min-replay", "100", "--replay-capacity", "300", "--replay-ratio", "2"),
        *("--epsilon-steps", "20000"),
    ),
    "atari": (*ATARI, *REDO, "--target-period", "150", "--epsilon-steps", "200", "--replay-ratio", "0.5"),
    "atari-drq": (*ATARI, *REDO, "--agent", "drq", "--eval-episodes", "1", "--replay-ratio", "1"),
    "sac": (
        *("train", "--agent", "sac", "--env", "Hopper-v5", *REDO, "--score-batch", "8", "--seeds", "2"),
        *("--steps", "600", "--log-period", "100", "--eval-period", "300", "--eval-episodes", "2", "--width", "0.1"),
        *("--time-limit", "50", "--min-replay", "100", "--batch-size", "16", "--replay-capacity", "300"),
        *("--replay-ratio", "2"),
    ),
    "fig03": ("figure", "fig03", "--scale", "smoke", "--workers", "1"),
    "fig04": ("figure", "fig04", "--scale", "smoke", "--workers", "1"),
}


def measured(case: str, core: int, root: Path = ROOT) -> dict[str, dict[str, str]]:
    """Runs a case with the package in `root` and returns the digests of each of its runs."""
    with tempfile.TemporaryDirectory() as folder:
        own = ("--core", str(core)) if CASES[case][0] == "train" else ()
        command = [sys.executable, "-m", "dormant", *CASES[case], *own, "--run-dir", str(Path(folder) / case)]
        own_path = {"PYTHONPATH": str(root)}
        said = subprocess.run(command, env=os.environ | QUICK | own_path, cwd=root, capture_output=True, text=True)
        assert said.returncode == 0, said.stderr[-2_000:]
        return {name_of(done.parent, Path(folder)): dict(digests(done.parent)) for done in finished(Path(folder))}


def finished(folder: Path) -> list[Path]:
    return sorted(folder.rglob("done"))


def name_of(run: Path, root: Path) -> str:
    """Returns the path of a run's folder without the eight-character hash of its configuration."""
    parts = run.relative_to(root).parts
    return "/".join(part.rpartition("-")[0] if index == 3 else part for index, part in enumerate(parts))


def digests(run: Path) -> Iterator[tuple[str, str]]:
    """Yields pairs of name and digest: per kind of array in the last checkpoint, and per file of logged rows.

    The digests of arrays do not depend on the names or the order of the arrays.
    """
    arrays = last_state(run / "checkpoint")
    kinds = {name: kind_of(name) for name in arrays}
    for kind in ("parameters", "optimizer", "other"):
        yield kind, combined(arrays[name] for name in arrays if kinds[name] == kind)
    for file in ("metrics.jsonl", "scores.jsonl"):
        rows = [json.loads(line) for line in (run / file).read_text().splitlines()]
        yield file.partition(".")[0], combined(json.dumps(row, sort_keys=True).encode() for row in rows)


def kind_of(array: str) -> str:
    if "opt_state" in array:
        return "optimizer"
    return "parameters" if "params" in array or "target" in array else "other"


def last_state(checkpoint: Path) -> dict[str, bytes]:
    with ocp.CheckpointManager(checkpoint, item_names=("default", "seal")) as manager:
        args = ocp.args.Composite(default=ocp.args.StandardRestore())
        state = manager.restore(manager.latest_step(), args=args)["default"]
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in jax.tree.leaves_with_path(state)}


def combined(parts: Iterator[bytes]) -> str:
    return hashlib.sha256("".join(sorted(hashlib.sha256(part).hexdigest() for part in parts)).encode()).hexdigest()[:16]


def at_revision(revision: str, cases: list[str], core: int) -> dict[str, dict[str, dict[str, str]]]:
    """Runs the cases with the package of a revision of git."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", revision, "dormant"], cwd=ROOT, check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        return {case: measured(case, core, Path(folder)) for case in cases}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="case", help=f"any of {', '.join(CASES)}; all by default")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--write", action="store_true", help="replace the stored digests")
    source.add_argument("--against", metavar="REVISION", help="compare with a revision instead of the stored digests")
    flags = parser.parse_args()
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    stored = json.loads(FILE.read_text()) if FILE.exists() else {}
    cases = flags.cases or [*CASES]
    if flags.against:
        stored |= at_revision(flags.against, cases, core)
    found = {case: measured(case, core) for case in cases}
    if flags.write:
        FILE.write_text(json.dumps(stored | {"jax": jax.__version__} | found, indent=1, sort_keys=True) + "\n")
        return 0
    changed = [
        f"{run}: {what}"
        for case, runs in found.items()
        for run in sorted({*runs, *stored.get(case, {})})
        for what in ("parameters", "optimizer", "other", "metrics", "scores")
        if runs.get(run, {}).get(what) != stored.get(case, {}).get(run, {}).get(what)
    ]
    other = f"digests of {flags.against}" if flags.against else "stored digests"
    print("\n".join(changed) or f"{sum(map(len, found.values()))} runs have the {other}.")
    if changed and not flags.against and stored.get("jax") != jax.__version__:
        print(f"The stored digests come from JAX {stored.get('jax')}; the installed version is {jax.__version__}.")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
