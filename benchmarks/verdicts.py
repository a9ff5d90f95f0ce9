"""Simulates studies whose true effects are known, and counts their verdicts.

    python benchmarks/verdicts.py [--simulations 20000] [--output benchmarks/verdicts.csv]

Each row is one kind of claim with one true effect, judged with some seeds and games by the rules of `dormant.lab`. The
columns are the fractions of studies with each verdict, the fraction of studies whose verdict is false, and how often
the interval contains the true effect. A verdict is false if it is "reproduced", "weaker than claimed" or "opposite"
without an effect, or if it is "weaker than claimed", "no such effect" or "opposite" with an effect that matters. For a
bound, "reproduced" is false if the bound does not hold, and "opposite" is false if it holds.

- *returns*: a quotient of returns of at least 1.1 is claimed. Returns are lognormal. The standard deviations of their
  logarithms over seeds are those of the pilot: 0.25 and 0.42 for training episodes, 0.93 for evaluations.
- *no harm*: a quotient of at least 0.9 is claimed.
- *dormant*: a difference of 5 percentage points between two arms is claimed. Dormant fractions have a beta
  distribution: their standard deviation over seeds is 3 points around a mean of 2 %, and 9 points around 40 %.
- *own change*: a difference of 5 percentage points between the end and the start of a run is claimed. At the start 2 %
  are dormant. Small fractions are skewed.
- *Atari*: a quotient of 1.1 is claimed for 17 games. In some games, agents stay at random play. "Scores" is our rule: a
  difference of 0.05 of the human-normalised score. "Quotients" is a different rule, shown for comparison.
- *primary*: the three primary claims of figure 10a, and none of them is true. A study is false if any of its three
  verdicts is false.
- *overlap*: figure 5's claims. Either neurons are dormant at random, or nine in ten dormant neurons stay dormant until
  the next log point. As many neurons are dormant as in the pilot.
"""

import argparse
import csv
import math
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dormant.experiments.phenomenon import FIG05
from dormant.lab.judging import LEVEL, Degrees, half_width, holm_levels, mean, p_value
from dormant.lab.judging.claims import RULINGS, SMALLEST_SCORE, log_quotients, ruling
from dormant.lab.judging.table import overlaps
from dormant.lab.judging.wording import Bounds
from dormant.lab.machine import revision

SEEDS, GAMES = (3, 5, 10), (1, 3, 17)
SPREADS = (0.25, 0.42, 0.93)
SMALLEST_RATIO, HARM, SMALLEST_SHARE = math.log(1.1), math.log(0.9), 0.05
BY_INTERVAL = RULINGS[:5]  # the verdicts that are based on an interval
FALSE_WITHOUT_EFFECT = {"reproduced", "weaker than claimed", "opposite"}
FALSE_WITH_EFFECT = {"weaker than claimed", "no such effect", "opposite"}
NEURONS, POINTS = 128, 50  # neurons of the pilot's dense layer, and log points
CONCENTRATION = 30  # parameter of the beta distributions of dormant fractions
SHARES = {"0": (0.0, 0.09), "0.1": (0.02, 0.45)}  # threshold -> dormant fraction at the start and at the end


class Row(NamedTuple):
    """The verdicts on many studies of one kind."""

    claim: str
    truth: str
    seeds: int
    games: int
    reproduced: float
    weaker: float
    none: float
    opposite: float
    unsettled: float
    false: float
    coverage: float


def judged(effects: np.ndarray, smallest: float, degrees: Degrees = "welch", levels: np.ndarray | float = LEVEL):
    """Returns the verdict on each table [seeds, games] of effects, and the bounds of its interval."""
    estimates = mean(effects)
    half = _half_widths(effects, degrees, levels) if isinstance(levels, np.ndarray) else half_width(effects, degrees)
    bounds = np.stack([estimates, estimates - half, estimates + half], axis=-1)
    return [ruling(Bounds(*each), smallest) for each in bounds.tolist()], bounds


def _half_widths(effects: np.ndarray, degrees: Degrees, levels: np.ndarray) -> np.ndarray:
    halves = np.empty(len(effects))
    for level in np.unique(levels):
        halves[levels == level] = half_width(effects[levels == level], degrees, float(level))
    return halves


def row(claim: str, truth: str, effects: np.ndarray, smallest: float, true: float, degrees: Degrees = "welch") -> Row:
    """Judges tables of effects whose true mean is known. Returns the row with the fractions of each verdict."""
    verdicts, bounds = judged(effects, smallest, degrees)
    count = Counter(verdicts)
    shares = [count[each] / len(effects) for each in BY_INTERVAL]
    held = ((bounds[:, 1] <= true) & (true <= bounds[:, 2])).mean()
    false = sum(count[each] for each in false_verdicts(true, smallest)) / len(effects)
    return Row._make([claim, truth, effects.shape[1], effects.shape[2], *shares, false, float(held)])


def false_verdicts(true: float, smallest: float) -> set[str]:
    """The verdicts that are false for a true effect. The effect is either zero or large enough to matter."""
    if smallest < 0:
        return {"opposite"} if true > smallest else {"reproduced"}
    return FALSE_WITH_EFFECT if true >= smallest else FALSE_WITHOUT_EFFECT


def of_returns(rng: np.random.Generator, shape: tuple[int, int, int]) -> Iterator[Row]:
    """Yields rows for claims about quotients of two arms."""
    for spread in SPREADS:
        for times in (1.0, 1.3, 1.5, 1.8):
            arm, against = np.exp(spread * rng.standard_normal((2, *shape)))
            effects = log_quotients(times * arm, against)
            yield row(f"returns, SD {spread}", f"{times:g} times", effects, SMALLEST_RATIO, math.log(times))
    for times in (0.9, 1.0):
        arm, against = np.exp(SPREADS[0] * rng.standard_normal((2, *shape)))
        effects = log_quotients(times * arm, against)
        yield row(f"no harm, SD {SPREADS[0]}", f"{times:g} times", effects, HARM, math.log(times))


def of_fractions(rng: np.random.Generator, shape: tuple[int, int, int]) -> Iterator[Row]:
    """Yields rows for claims about differences between two arms, and about the change since the start of a run."""

    def fraction(expected: float) -> np.ndarray:
        return rng.beta(CONCENTRATION * expected, CONCENTRATION * (1 - expected), shape)

    for change in (0.0, 0.1, 0.2):
        truth = f"{100 * change:.0f} points"
        for start in (0.02, 0.4):
            effects = fraction(start + change) - fraction(start)
            yield row(f"dormant, {100 * start:.0f} %", truth, effects, SMALLEST_SHARE, change)
        own = fraction(0.02 + change) - rng.binomial(NEURONS, 0.02, shape) / NEURONS
        yield row("own change", truth, own, SMALLEST_SHARE, change, "fewest")


def on_atari(rng: np.random.Generator, simulations: int, seeds: int = 5) -> Iterator[Row]:
    """Yields rows for a claim about the returns of 17 games. In some of the games, agents stay at random play."""
    levels = np.geomspace(0.03, 3.0, 17)  # human-normalised scores of the agents that learn
    for idle, times in product((0, 1, 3), (1.0, 1.3)):
        learn = np.arange(17) >= idle
        arm, against = levels * np.exp(SPREADS[1] * rng.standard_normal((2, simulations, seeds, 17)))
        at_random = 0.01 * rng.standard_normal((2, simulations, seeds, 17))
        arm, against = np.where(learn, times * arm, at_random[0]), np.where(learn, against, at_random[1])
        truth = f"{times:g} times, {idle} at random"
        quotients = log_quotients(np.maximum(arm, 0.0), np.maximum(against, 0.0))
        yield row("Atari, quotients", truth, quotients, SMALLEST_RATIO, math.log(times) * (17 - idle) / 17)
        gain = (times - 1) * math.exp(SPREADS[1] ** 2 / 2) * float((levels * learn).mean())
        yield row("Atari, scores", truth, arm - against, SMALLEST_SCORE, gain)


def of_primary(rng: np.random.Generator, shape: tuple[int, int, int]) -> Iterator[Row]:
    """Yields rows for three claims without an effect, with and without Holm's correction.

    The claims share arms as in figure 10a.
    """
    low, high, mid, redo_mid, redo_high = SPREADS[0] * rng.standard_normal((5, *shape))
    claims = (low - high, redo_mid - mid, redo_high - high)
    p_values = np.stack([p_value(effects) for effects in claims], axis=-1)
    corrected = np.array([holm_levels(each) for each in p_values.tolist()])
    for name, levels in (("primary, Holm", corrected), ("primary, not corrected", np.full_like(corrected, LEVEL))):
        verdicts = [judged(each, SMALLEST_RATIO, levels=levels[:, n])[0] for n, each in enumerate(claims)]
        false = [bool(FALSE_WITHOUT_EFFECT & set(study)) for study in zip(*verdicts, strict=True)]
        yield Row._make([name, "no effect", *shape[1:], *[math.nan] * 5, float(np.mean(false)), math.nan])


def dormant_sets(
    rng: np.random.Generator, shape: tuple[int, int, int], sizes: Sequence[int], stay: float
) -> np.ndarray:
    """Returns scores [*shape, points, neurons]: 0 for dormant neurons and 1 for active neurons.

    `sizes` is how many neurons are dormant at each point. Each dormant neuron stays dormant with the probability
    `stay`. The remaining dormant neurons are drawn at random.
    """
    scores, before = np.ones((*shape, len(sizes), NEURONS), np.float32), np.zeros((*shape, NEURONS), bool)
    for point, size in enumerate(sizes):
        kept = before & (rng.random(before.shape, np.float32) < stay)
        order = np.argsort(rng.random(before.shape, np.float32) - kept, axis=-1)[..., :size]
        before = np.zeros_like(before)
        np.put_along_axis(before, order, True, axis=-1)
        scores[..., point, :][before] = 0.0
    return scores


def of_overlaps(rng: np.random.Generator, shape: tuple[int, int, int], stay: float) -> Iterator[Row]:
    """Yields rows for figure 5's claims: at the end of the run, the overlap exceeds the overlap of random sets."""
    for tau, (start, end) in SHARES.items():
        sizes = (NEURONS * np.linspace(start, end, POINTS)).round().astype(int)
        scores = dormant_sets(rng, shape, sizes.tolist(), stay).reshape(-1, POINTS, NEURONS)
        for claim in FIG05.claims:
            _, history, at, _ = claim.quantity.metric.split("/")
            if at == tau:
                excess = overlaps(scores, 0.0, history) - overlaps(scores, 0.0, f"{history}-by-chance")
                effects = np.nanmean(excess[:, -POINTS // 10 :], axis=-1).reshape(shape)
                true = 0.0 if not stay else float(mean(effects.reshape(1, -1, 1))[0])
                truth = f"{stay:.0%} stay dormant" if stay else "dormant at random"
                name = f"overlap/{history}, tau {tau}"
                yield row(name, truth, effects, claim.smallest, true, "fewest")


def table(simulations: int) -> Iterator[Row]:
    """Yields all rows of the table."""
    rng = np.random.default_rng(0)
    for seeds, games in product(SEEDS, GAMES):
        shape = (simulations, seeds, games)
        yield from of_returns(rng, shape)
        yield from of_fractions(rng, shape)
        yield from of_primary(rng, shape)
    yield from on_atari(rng, simulations)
    for (seeds, games), stay in product(product(SEEDS[:2], GAMES[:2]), (0.0, 0.9)):
        yield from of_overlaps(rng, (simulations // 20, seeds, games), stay)


def printed(rows: Sequence[Row]) -> None:
    """Prints the table in percent, sorted by claim."""
    print(f"{'claim':26}{'truth':24}{'seeds':>6}{'games':>6}" + "".join(f"{name[:10]:>11}" for name in Row._fields[4:]))
    for each in sorted(rows, key=lambda row: (row.claim, row.truth)):
        numbers = "".join(f"{'–' if math.isnan(value) else f'{100 * value:.1f}':>11}" for value in each[4:])
        print(f"{each.claim:26}{each.truth:24}{each.seeds:6}{each.games:6}{numbers}")
    worst = max((each for each in rows if each.claim not in NOT_OURS), key=lambda row: row.false)
    where = f"{worst.claim}, {worst.truth}, {worst.seeds} seeds, {worst.games} games"
    print(f"\nMost false verdicts: {100 * worst.false:.1f} % ({where}).")


NOT_OURS = ("Atari, quotients", "primary, not corrected")  # rows of rules that are not ours, shown for comparison


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--simulations",
        type=int,
        default=20_000,
        help="simulated studies per row; rows about overlap use 1/20 of this number",
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    rows = list(table(options.simulations))
    printed(rows)
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    with options.output.open("w", newline="") as stream:
        stream.write(f"# {command} at revision {revision()}, {options.simulations} studies per row\n")
        csv.writer(stream, lineterminator="\n").writerows(
            [Row._fields, *([*each[:4], *map(_short, each[4:])] for each in rows)]
        )


def _short(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


if __name__ == "__main__":
    main()
