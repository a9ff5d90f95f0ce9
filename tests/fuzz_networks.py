"""Searches for networks for which `dormant` gives wrong results without an error.

    python tests/fuzz_networks.py --programs 4000 --seed 1
    python tests/fuzz_networks.py --framework torch --only 17

Draws random programs, runs the library on each, and checks the result with oracles that do not use the tracer. Prints
a table, and a short script for each kind of failure. Exits with 1 if a program fails, or if fewer than 60 % of the
programs have a layer that can be recycled.
"""

import argparse
import collections
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

LEAST_RECYCLED = 0.6
# Small programs compile faster without optimisation.
XLA_FLAGS = (
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_multi_thread_eigen=false "
    "--xla_cpu_use_fusion_emitters=false"
)


class Job(NamedTuple):
    """One program to run."""

    framework: Any
    seed: int
    number: int


class Planted(NamedTuple):
    """One fault to look for."""

    fault: str
    framework: Any
    seed: int
    limit: int


class Result(NamedTuple):
    """The outcome of one program."""

    job: Job
    status: str
    operations: list[str]
    failures: list[tuple[str, str]]
    refused: str
    acted: bool


def run_job(job: Job) -> Result:
    """Draws and runs one program."""
    from fuzz.generator import generate
    from fuzz.running import run

    program = generate(job.framework, job.seed, job.number)
    outcome = run(program, job.framework)
    failures = [(failure.kind, failure.seen) for failure in outcome.failures]
    return Result(job, outcome.status, sorted(program.operations), failures, outcome.refused, outcome.acted)


def shrink_job(job: Job) -> tuple[Job, str]:
    """Shrinks a failing program. Returns the job and a script that reproduces the failure."""
    from fuzz.generator import generate
    from fuzz.printing import script
    from fuzz.running import run
    from fuzz.shrinking import shrunk

    program = generate(job.framework, job.seed, job.number)
    kind = run(program, job.framework).failures[0].kind

    def fails(candidate: Any) -> bool:
        try:
            return any(failure.kind == kind for failure in run(candidate, job.framework).failures)
        except Exception:  # a smaller program may not be a valid network
            return False

    small = shrunk(program, fails)
    failure = next(failure for failure in run(small, job.framework).failures if failure.kind == kind)
    return job, script(small, job.framework, failure, f"program {job.number} of seed {job.seed}")


def plant_job(job: Planted) -> tuple[Planted, int | None, str]:
    """Looks for a planted fault. Returns the job, the number of the first program that finds it, and the failure."""
    from fuzz.faults import first_found

    return job, *first_found(*job)


def prepared() -> None:
    """Initialises a worker process."""
    import torch

    torch.set_num_threads(1)


def pool(workers: int) -> Any:
    import torch  # noqa: F401  (fails here without torch, because a pool would restart failing workers forever)

    os.environ["XLA_FLAGS"] = XLA_FLAGS
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    return context.Pool(workers, prepared, maxtasksperchild=400)


def table(results: list[Result]) -> Iterator[str]:
    """Yields the lines of a table: counts per framework, then per operation."""
    columns = ("recycled", "measured", "refused", "failed")
    yield f"{'':24}{'programs':>10}" + "".join(f"{name:>10}" for name in columns)
    rows: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for result in results:
        for row in (result.job.framework, *(f"{result.job.framework} {name}" for name in result.operations)):
            rows[row].update(["programs", result.status])
    for row, counts in sorted(rows.items()):
        yield f"{row:24}" + "".join(f"{counts[name]:10}" for name in ("programs", *columns))


def by_kind(results: Iterable[Result]) -> dict[str, list[Result]]:
    kinds: dict[str, list[Result]] = collections.defaultdict(list)
    for result in results:
        if result.failures:
            kinds[f"{result.job.framework}: {result.failures[0][0]}"].append(result)
    return dict(sorted(kinds.items(), key=lambda item: -len(item[1])))


def reasons(results: Iterable[Result]) -> Iterator[str]:
    """Yields one line for each of the most frequent reasons to refuse a program."""
    counts = collections.Counter(re.sub(r" in .*?:", ":", result.refused)[:100] for result in results if result.refused)
    for reason, count in counts.most_common(8):
        yield f"{count:6} refused: {reason}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=4000, help="number of programs per framework")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--framework", choices=("jax", "torch", "both"), default="both")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--only", type=int, help="number of the only program to run, shrink and print")
    parser.add_argument("--scripts", type=int, default=1, help="number of scripts per kind of failure")
    parser.add_argument("--plant", metavar="FAULT", help="plant this past fault, or 'all'; check that it is found")
    parser.add_argument("--into", type=Path, help="write the scripts into this folder instead of printing them")
    return parser.parse_args()


def plant(name: str, frameworks: Iterable[str], options: argparse.Namespace) -> int:
    """Plants one fault or all faults. Prints which program found each fault. Returns 1 if a fault was not found."""
    from fuzz.faults import faults_of

    jobs = [
        Planted(fault, framework, options.seed, 1_000)
        for framework in frameworks
        for fault in (faults_of(framework) if name == "all" else [name])
    ]
    missed = 0
    print(f"{'fault':34}{'framework':>10}{'program':>9}  seen as")
    with pool(options.workers) as workers:
        for job, number, kind in workers.imap(plant_job, jobs):
            missed += number is None
            print(f"{job.fault:34}{job.framework:>10}{'-' if number is None else number:>9}  {kind}", flush=True)
    return 1 if missed else 0


def main() -> int:
    options = arguments()
    frameworks = ("torch", "jax") if options.framework == "both" else (options.framework,)
    if options.plant:
        return plant(options.plant, frameworks, options)
    numbers = range(options.programs) if options.only is None else [options.only]
    jobs = [Job(framework, options.seed, number) for framework in frameworks for number in numbers]
    start = time.monotonic()
    with pool(options.workers) as workers:
        results = []
        for result in workers.imap_unordered(run_job, jobs, chunksize=1 if len(jobs) < 50 else 10):
            results.append(result)
            if len(results) % 500 == 0:
                print(f"{len(results)} programs, {time.monotonic() - start:.0f} s", file=sys.stderr)
        print(*table(results), *reasons(results), sep="\n")
        kinds = by_kind(results)
        chosen = []
        for kind, found in kinds.items():
            found.sort(key=lambda result: (len(result.operations), result.job))
            print(f"{len(found):6} {kind}: {[result.job.number for result in found[:8]]}, {found[0].failures[0][1]}")
            chosen += [result.job for result in found[: options.scripts]]
        for job, text in workers.imap_unordered(shrink_job, chosen):
            shown(job, text, options.into)
    share = sum(result.status == "recycled" for result in results) / len(results)
    print(f"{time.monotonic() - start:.0f} s; {share:.0%} of the programs have a layer that is recycled")
    return 1 if kinds or (options.only is None and share < LEAST_RECYCLED) else 0


def shown(job: Job, text: str, folder: Path | None) -> None:
    if folder is None:
        print(f"\n# {job.framework}, program {job.number} of seed {job.seed}\n{text}")
        return
    name = re.sub(r"[^a-z]+", "_", text[3:50].split(".")[0].lower()).strip("_")
    (folder / job.framework).mkdir(parents=True, exist_ok=True)
    (folder / job.framework / f"{name}_{job.seed}_{job.number}.py").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
