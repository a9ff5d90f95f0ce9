"""Mutation tests: changes one line at a time and runs the tests that should fail.

    python tests/mutants.py                  runs all mutants; exits with 1 if more than five survive
    python tests/mutants.py --slice 2/4      runs the second quarter of the mutants
    python tests/mutants.py --numbers 38:44  runs mutants 38 to 43
    python tests/mutants.py claims resets    runs mutants with one of these words in their file name or test names

A mutant in `MUTANTS` has a file, a text that occurs once in the file, a replacement, and tests. The tests also run on
unchanged code, because a test that always fails would kill every mutant. Mutants are made in a copy of the working
tree, and share compiled code. A mutant takes about ten seconds on one core.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
MOST_SURVIVORS = 5
SECONDS = 300  # limit of CPU time for the tests of one mutant, which may loop forever


class Mutant(NamedTuple):
    """A change of one line, and the pytest arguments that select the tests. At least one of these tests should fail."""

    file: str
    line: str
    replacement: str
    tests: tuple[str, ...]


def of(file: str, tests: str, *changes: tuple[str, str]) -> list[Mutant]:
    """Returns mutants of one file that have the same tests. `tests` uses | for " or " in expressions of pytest's -k."""
    return [Mutant(f"dormant/{file}", line, replacement, tuple(tests.split())) for line, replacement in changes]


SCORES = "tests/unit/test_scores.py"
WIRING = "tests/unit/test_wiring.py dormant/wiring.py"
SURGERY = "tests/unit/test_surgery.py"
CURES = "tests/unit/test_interventions.py tests/unit/test_cures.py"
SCHEDULE = (
    f"{CURES} tests/unit/test_misuse.py dormant/interventions/schedule.py -k fires|links|acts_only|schedule|bad|mistake"
)
RESETS = f"{CURES} -k hare|tortoise|reset|acts_only|bad"
NEWER = "tests/unit/test_newer_cures.py"
HOLDING = f"{CURES} -k pruned|clipped|bounds|injection"
RECYCLE = f"{CURES} -k which|share|random|continual"
RENEWAL = f"{CURES} -k option|scaled|outgoing|coupled"
HOW_MANY = "tests/unit/test_cures.py dormant/interventions/how_many.py -k which|how_many"
DQN = "tests/unit/test_dqn.py -k target|huber|exploration|greedy|update"
DRQ = "tests/unit/test_drq.py -k shift|offsets|factors|noise|chooses|dueling|without"
SAC = "tests/unit/test_sac.py tests/unit/test_tanh_normal.py tests/golden/test_sac_parity.py"
REPLAY, FRAMES, STEPS = "tests/unit/test_replay.py", "tests/unit/test_frames.py", "tests/unit/test_steps.py"
INTERVALS = "tests/unit/test_intervals.py dormant/lab/judging/__init__.py"
CLAIMS = "tests/unit/test_claims.py tests/unit/test_curves_of_claims.py"
TABLE = "tests/unit/test_table.py tests/unit/test_overlap.py"
TRACING = "tests/unit/test_tracing.py tests/unit/test_kinds_of_networks.py"

MUTANTS = [
    *of("settings.py", SCORES, ("lambda number: number >= 0)", "lambda number: not number < 0)")),
    *of(
        "settings.py",
        "tests/unit/test_misuse.py -k told",
        ("if number < least:", "if number < least - 1:"),
        ('if (moments, step_count) == ("keep", "keep"):', "if False:"),
        ("or value not in choices:", "and value not in choices:"),
        ("None if isinstance(number, bool) else", ""),
        ("if within and getattr(what", "if getattr(what"),
        ("if isinstance(number, type) or not", "if not"),
    ),
    *of(
        "scores.py",
        SCORES,
        ("jnp.minimum(largest, 2.0**126)", "largest"),
        ("jnp.where(mean > 0, mean, jnp.ones_like(mean))", "mean"),
        ("jnp.maximum(scores, jnp.finfo(scores.dtype).tiny)", "scores"),
        ("<= checked_tau(tau)", "< checked_tau(tau)"),
        ("jnp.isfinite(values).all()", "jnp.isfinite(values).any()"),
        ("jnp.minimum(a.sum(), b.sum())", "jnp.maximum(a.sum(), b.sum())"),
        ("for each in scores.values()]).any()", "for each in scores.values()]).all()"),
    ),
    *of(
        "wiring.py",
        WIRING,
        ("hits[path] | hit if path in hits else hit", "hit"),
        (".at[neurons].max(here)", ".at[neurons].set(here)"),
        ("jnp.asarray(neurons >= 0) & masks[layer]", "masks[layer]"),
        ("np.where(owners.ravel() < 0, width, owners.ravel())", "np.maximum(owners.ravel(), 0)"),
    ),
    *of(
        "surgery.py",
        SURGERY,
        ("if hit.ndim and state.shape != param.shape:", "if hit.ndim and state.ndim != param.ndim:"),
        ("mask if forget is None else forget", "mask"),
        ("*(hits, learner.opt_state, tx.init(params))", "*(hits, learner.opt_state, tx.init(learner.params))"),
        ('"count" in names and ("mu" in names or "nu" in names)', '"count" in names'),
        ("jnp.where(due, jnp.zeros_like(state.count), state.count)", "jnp.zeros_like(state.count)"),
    ),
    *of(
        "interventions/schedule.py",
        SCHEDULE,
        ("(step >= self.start)", "(step > self.start)"),
        ("due & (step < self.stop)", "due & (step <= self.stop)"),
        ("jax.random.fold_in(key, index)", "key"),
        ("now >= self.share", "now > 2 * self.share"),
        (
            "return any(may_change(link, step) for link in links)",
            "return all(may_change(link, step) for link in links)",
        ),
    ),
    *of(
        "interventions/resets.py",
        RESETS,
        (
            "old + (1 - self.momentum) * new, state.params, learner.params",
            "old + (1 - self.momentum) * new, learner.params, state.params",
        ),
        ('plain.startswith(part + "/")', "plain.startswith(part)"),
        (
            "self.keep * old + (1 - self.keep) * new, learner.params, donor",
            "self.keep * old + (1 - self.keep) * new, donor, learner.params",
        ),
        ("when(step % self.period == 0,", "when(step % self.period == 1,"),
    ),
    *of(
        "interventions/projecting.py",
        f"{NEWER} -k fire|nap",
        ("1.5 * near - 0.5 * jnp", "1.5 * near - 0.6 * jnp"),
        ("math.sqrt(outputs / inputs) / math.prod", "math.sqrt(inputs / outputs) / math.prod"),
        ("state.norms[path] / jnp.where", "state.norms[path] * jnp.where"),
    ),
    *of(
        "interventions/perturbing.py",
        f"{NEWER} -k soft|drm",
        ("kept * old + (1 - kept) * mean", "kept * old"),
        ("1.0 - self.slope * fraction", "1.0 - fraction"),
        ("hit & known, self._mask", "hit, self._mask"),
    ),
    *of(
        "interventions/silence.py",
        f"{NEWER} -k limit|snr",
        ("silent & (age >= layer.limit)", "silent & (age > layer.limit)"),
        ("jnp.where(shortest < layer.limit, shortest, grown)", "grown"),
        ("jnp.where(total > 0, jnp.clip", "jnp.where(total >= 0, jnp.clip"),
    ),
    *of(
        "interventions/resets.py",
        f"{NEWER} -k swr|fraction",
        ("(utility <= self.factor * mean) & (mean > 0)", "utility <= self.factor * mean"),
        ("jnp.argsort(jnp.argsort(utility.ravel()))", "jnp.argsort(utility.ravel())"),
    ),
    *of(
        "regularisers.py",
        "tests/unit/test_churn.py -k jax|agent",
        ("state.gradient_steps < self.fixed", "state.gradient_steps <= self.fixed"),
        ("(jnp.abs(loss) - state.loss)", "(loss - state.loss)"),
        ("2.0 / (self.window + 1.0)", "1.0 / (self.window + 1.0)"),
    ),
    *of(
        "perturbed_descent.py",
        "tests/unit/test_upgd.py -k useful|gate|harmful",
        ("jnp.where(highest > 0, highest,", "jnp.where(highest > 0, largest,"),
        ("- (1 - settings.decay) * slope * weight", "+ (1 - settings.decay) * slope * weight"),
    ),
    *of(
        "interventions/holding.py",
        HOLDING,
        ("self.factor * jnp.array(kernels).max()", "self.factor * jnp.array(kernels).min()"),
        ('in ("scale", "offset")', 'in ("scale",)'),
        ("mask | dormant[name]", "dormant[name]"),
        ("old_learns = step <= self.at", "old_learns = step < self.at"),
        ('jnp.where(old_learns, now, then) if role == "old" else then', "then"),
    ),
    *of(
        "interventions/recycle.py",
        RECYCLE,
        ("number if self.at_most is None else jnp.minimum(number, self.at_most)", "number"),
        ("return -scores", "return scores"),
        ("jnp.argsort(jnp.argsort(values)) < number", "jnp.argsort(jnp.argsort(values)) <= number"),
        ("running / (1 - self.decay ** age.astype(jnp.float32))", "running"),
        ("mature = age > self.maturity", "mature = age >= self.maturity"),
        ("owed = owed - number.astype(jnp.float32)", "owed = jnp.zeros_like(owed)"),
        ("jnp.where(mask, 0, age)", "age"),
        ("state.recyclings + 1", "state.recyclings"),
    ),
    *of(
        "surgery.py",
        RENEWAL,
        ("kept = ~masks[layer.name]", "kept = masks[layer.name]"),
        ("if old[path].ndim < 2:", "if old[path].ndim < 1:"),
        ('if renewal.outgoing == "zero":', "if True:"),
        ('(layer.coupled_by and coupled == "skip")', "layer.coupled_by"),
    ),
    *of(
        "interventions/how_many.py",
        HOW_MANY,
        ("jnp.where(ordered[:-1] <= self.highest", "jnp.where(ordered[1:] <= self.highest"),
        ("(now < length)", "(now <= length)"),
        ("len(pooled))) - 1], self.highest)", "len(pooled))) - 1], 1e9)"),
        ("gaps[widest] >= self.least, widest + 1", "gaps[widest] >= self.least, widest"),
        ("jnp.cos(jnp.pi / 2 * now.astype(jnp.float32) / length)", "1.0"),
    ),
    *of(
        "rl/agents/dqn.py",
        DQN,
        ("1.0 - (1.0 - self.epsilon_end) *", "1.0 - self.epsilon_end *"),
        ("jnp.where(explore < epsilon,", "jnp.where(explore > epsilon,"),
        ("after // self.target_period > before", "after // self.target_period >= before"),
        ("huber_loss(errors).mean()", "huber_loss(errors).sum()"),
        ("optax.adam(self.learning_rate, eps=self.adam_epsilon)", "optax.adam(self.learning_rate)"),
    ),
    *of(
        "rl/agents/dqn.py",
        DRQ,
        ("q_t[jnp.argmax(selector_t)]", "q_t[jnp.argmax(q_t)]"),
        ("(2, steps, batch)), -2.0, 2.0)", "(2, steps, batch)), -3.0, 3.0)"),
        ("0, 2 * self.pad + 1)", "0, 2 * self.pad)"),
        ("self._image(batch.observation_t, noise.offset_t,", "self._image(batch.observation_t, noise.offset_tm1,"),
    ),
    *of(
        "rl/agents/sac.py",
        SAC,
        ("- alpha * log_density_t", "+ alpha * log_density_t"),
        ("jnp.minimum(*self._values(state.target", "jnp.maximum(*self._values(state.target"),
        ("self.target_entropy * actions)", "self.target_entropy)"),
        ("jnp.where(new != old, new, target)", "jnp.where(new != old, target, new)"),
        ("- jax.nn.softplus(-2.0 * before)", "- jax.nn.softplus(2.0 * before)"),
        ("optax.incremental_update(critics, state.target, self.polyak)", "critics"),
    ),
    *of(
        "rl/device.py",
        "tests/unit/test_dqn.py -k cut_off",
        ("jnp.where(outcome.terminal, 0.0, agent.gamma)", "jnp.where(ended, 0.0, agent.gamma)"),
    ),
    *of(
        "rl/control.py",
        "tests/unit/test_control_loop.py -k truncated",
        ("np.where(outcome.terminal, np.float32(0)", "np.where(outcome.restarted, np.float32(0)"),
    ),
    *of(
        "rl/replay/device.py",
        REPLAY,
        ("alive &= ~ring.last[step]", "alive &= ring.discount[step] > 0"),
        ("number = held - self.n_step + 1", "number = held"),
        ("final = jnp.where(alive, step, final)", "final = step"),
        ("added % self.capacity, seeds)", "(added + 1) % self.capacity, seeds)"),
        ("jnp.where(alive, discount_t * ring.discount[step], discount_t)", "discount_t * ring.discount[step]"),
    ),
    *of(
        "rl/replay/frames.py",
        FRAMES,
        ("frames[age < back] = 0", "frames[age <= back] = 0"),
        (
            "return added > 0 and bool(ring.last[slot]) and bool(ring.discount[slot] > 0)",
            "return added > 0 and bool(ring.last[slot])",
        ),
        ("final = np.where(alive, first + step, final)", "final = first + step"),
        ("if float(discount_t) > 0:", "if last_t:"),
    ),
    *of(
        "rl/replay/steps.py",
        STEPS,
        ("return added - held + np.minimum(", "return np.minimum("),
        ("rest[..., 0], rest[..., 1]", "rest[..., 1], rest[..., 0]"),
    ),
    *of(
        "lab/judging/__init__.py",
        INTERVALS,
        ("cut, rank = count // 4", "cut, rank = (count + 3) // 4"),
        ("ddof=1", "ddof=0"),
        ("freedom = count.min(axis=-1) - 1.0", "freedom = count.max(axis=-1) - 1.0"),
        ("(weights**2 / (count - 1))", "(weights**2 / count)"),
        ("if count.min() >= 2 else", "if count.max() >= 2 else"),
        ("2 * stdtr(freedom", "stdtr(freedom"),
    ),
    *of(
        "lab/judging/__init__.py",
        f"{CLAIMS} -k holm",
        ("error / (len(p_values) - rank)", "error / len(p_values)"),
        ("rejecting = p_values[place] <= share", "rejecting = True"),
    ),
    *of(
        "lab/judging/wording.py",
        CLAIMS,
        ("if value >= LARGEST_RATIO * (1 - 1e-9):", "if False:"),
        ("100 * value:+.1f", "value:+.1f"),
    ),
    *of(
        "lab/judging/__init__.py",
        f"{CLAIMS} -k curve",
        ("(steps >= 0.9 * steps[-1])", "(steps >= 0.5 * steps[-1])"),
        ("np.flatnonzero(measured)[-1]", "np.flatnonzero(measured)[0]"),
    ),
    *of(
        "lab/judging/claims.py",
        CLAIMS,
        ("return np.abs(np.where", "return (np.where"),
        ("and estimate >= smallest:", "and True:"),
        ("if low > 0 and high < smallest:", "if low > 0:"),
        ("if -smallest < low and high", "if high"),
        ('"opposite" if high < 0', '"opposite" if estimate < 0'),
        ('"reproduced" if low > smallest', '"reproduced" if estimate > smallest'),
        ("math.copysign(SMALLEST_SCORE, math.log(claim.smallest))", "SMALLEST_SCORE"),
        ("if not condition.least <= value", "if not condition.least < -value"),
        ('"fewest" if claim.against is None else "welch"', '"welch"'),
        ("(arm == 0) & (against == 0)", "(arm == 0) | (against == 0)"),
        ("measured &= (steps >= quantity.after", "measured &= (steps > quantity.after"),
        ("values[1:].min()", "values.min()"),
        ('(pl.col("reset_age") >= high)', '(pl.col("reset_age") > high)'),
    ),
    *of(
        "lab/judging/table.py",
        TABLE,
        ("pl.lit(reset.stop - 1)", "pl.lit(reset.stop + reset.period)"),
        ("np.maximum(sizes.min(axis=0), 1)", "np.maximum(sizes.max(axis=0), 1)"),
        ('if history == "union" else now', "if True else now"),
        ("pl.when(until >= reset.start)", "pl.when(until >= 0)"),
    ),
    *of(
        "tracing/ledger.py",
        TRACING,
        ("while True:", "for _ in range(1):"),
        ("(found[entries[inside]] == owners[inside]).all()", "(found[entries[inside]] == owners[inside]).any()"),
    ),
    *of(
        "tracing/layers.py",
        TRACING,
        ("((feeds != feeds_here) | (reads != reads_here)) & use.covers", "(feeds != feeds_here) & use.covers"),
    ),
    *of(
        "tracing/rules.py",
        TRACING,
        ("if value.parts or any(varies(ids, _window_axes", "if any(varies(ids, _window_axes"),
    ),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="run only mutants with one of these words in their file or tests")
    parser.add_argument("--slice", default="1/1", metavar="K/N", help="run only part K of N equal parts")
    parser.add_argument("--numbers", default=f"0:{len(MUTANTS)}", metavar="A:B", help="run mutants A to B - 1")
    flags = parser.parse_args()
    part, parts = map(int, flags.slice.split("/"))
    wanted = chosen(flags.words, slice(*map(int, flags.numbers.split(":"))))
    wanted = wanted[(part - 1) * len(wanted) // parts : part * len(wanted) // parts]
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder))
        for tests in dict.fromkeys(each.tests for each in wanted):
            assert not noticed(copy, tests), f"{' '.join(tests)}: fails without a mutant"
        survivors = [each for each in wanted if not killed(copy, each)]
    print(f"{len(survivors)} of {len(wanted)} mutants survived")
    return int(len(survivors) > MOST_SURVIVORS)


def chosen(words: list[str], numbers: slice) -> list[Mutant]:
    return [
        each for each in MUTANTS[numbers] if not words or any(word in f"{each.file} {each.tests}" for word in words)
    ]


def copied(folder: Path) -> Path:
    """Copies the files that git tracks into `folder`. Returns the folder."""
    listed = subprocess.run(
        ["git", "ls-files", "dormant", "tests", "benchmarks", "pyproject.toml"], cwd=ROOT, capture_output=True
    )
    for name in listed.stdout.decode().split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def killed(copy: Path, mutant: Mutant) -> bool:
    """Applies the mutant and runs its tests. Prints and returns whether a test fails."""
    file = copy / mutant.file
    text = file.read_text()
    assert text.count(mutant.line) == 1, f"{mutant.file}: {mutant.line!r} occurs {text.count(mutant.line)} times"
    file.write_text(text.replace(mutant.line, mutant.replacement))
    try:
        found = noticed(copy, mutant.tests)
    finally:
        file.write_text(text)
    print(f"{'killed  ' if found else 'SURVIVED'}  {mutant.file}: {mutant.line}  ->  {mutant.replacement}", flush=True)
    return found


def noticed(copy: Path, tests: tuple[str, ...]) -> bool:
    """Returns whether a test fails or the tests exceed the limit of CPU time."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
    own = {
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        "JAX_COMPILATION_CACHE_DIR": str(copy / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    ended = subprocess.run(
        [*command, *(each.replace("|", " or ") for each in tests)],
        cwd=copy,
        env=os.environ | own,
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS)),
    )
    assert ended.returncode != 5, f"{' '.join(tests)}: no such test"
    return ended.returncode != 0


if __name__ == "__main__":
    sys.exit(main())
