"""docs/which.md follows from the committed comparisons, and docs/cures.md has the measured costs."""

import re
import runpy
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from documentation.pages import DOCS

from dormant.experiments.comparison import Record
from dormant.experiments.methods import METHODS

ROOT = Path(__file__).parents[2]
MAKER = runpy.run_path(str(ROOT / "results" / "leaderboard.py"))
PAGE = (DOCS / "which.md").read_text()


def test_the_page_is_what_the_command_writes():
    assert MAKER["page"]() == PAGE, "run python results/leaderboard.py"


def test_the_first_five_lines_answer_and_tell_what_the_answer_rests_on():
    first = "\n".join(PAGE.split("\n")[:5])
    assert "To raise the return" in first or "No method is shown to return more" in first
    assert "dormancy" in first or "dormant" in first
    assert re.search(r"rests on \d+ games? \(.+\), \d+ seeds per method and [\d,]+ agent steps", first)


def test_a_quotient_of_the_page_is_that_of_the_runs():
    """Computes Reset's quotient in the pilot without the package: weighted means, then the mean of log quotients."""
    frame = pl.read_parquet(ROOT / "results" / "pilot" / "metrics.parquet").filter(
        pl.col("experiment") == "compare", pl.col("agent_steps") > 160_000, pl.col("train_episodes") > 0
    )
    weighted = (pl.col("train_return") * pl.col("train_episodes")).sum() / pl.col("train_episodes").sum()
    means = {arm: frame.filter(arm=arm).group_by("seed").agg(weighted).sort("seed") for arm in ("Reset", "DQN")}
    reset, plain = (means[arm]["train_return"].to_numpy() for arm in ("Reset", "DQN"))
    row = next(line for line in PAGE.splitlines() if line.startswith("| Reset | "))
    assert row.split(" | ")[4].startswith(f"{np.exp(np.log(reset / plain).mean()):.3g} times [")
    assert f"{(reset / plain.mean()).mean():.2f} [" in row


def submission(returns, suite="minatar", scale="pilot", dormant=0.5):
    """Returns a comparison of DQN with Reset and SNR. `returns` has the factor of each method's returns."""
    rows = [
        {"arm": arm, "environment": "Line", "seed": seed, "agent_steps": steps, "gradient_steps": steps}
        | {"train_return": factor * (1 + 0.01 * seed * (len(arm) - 3)), "train_episodes": 2.0, "reset_age": None}
        | {"dormant/0.1/all": dormant if arm == "SNR" else 0.5 + 0.01 * seed, "replay_ratio": 1.0}
        for arm, factor in returns.items()
        for seed in range(3)
        for steps in (0, 100)
    ]
    frame = pl.DataFrame(rows, schema_overrides={"reset_age": pl.Float64})
    record = Record(suite=suite, chosen={"DQN": "rate 1", "reset": "period 9", "snr": "x 1"}, tuning="By hand.")
    return MAKER["Submission"]("results/x", scale, record, frame, 0)


@pytest.mark.parametrize(
    ("returns", "said"),
    [
        ({"DQN": 1.0, "Reset": 2.0, "SNR": 1.0}, "**To raise the return, use Reset.**"),
        ({"DQN": 1.0, "Reset": 2.0, "SNR": 3.0}, "**To raise the return, use SNR or Reset.**"),
        ({"DQN": 1.0, "Reset": 0.5, "SNR": 1.0}, "**No method is shown to return more than tuned plain DQN.** Try SNR"),
        ({"DQN": 1.0, "Reset": 0.5, "SNR": 1.0}, " Reset returned less."),
    ],
)
def test_the_answer_follows_from_the_verdicts(returns, said):
    text = "".join(MAKER["answer"](submission(returns)))
    assert said in text and text.count("\n") == 3
    assert "No method is shown to halve the share of dormant neurons." in text
    assert "use SNR**, which at least halved" in "".join(MAKER["answer"](submission(returns, dormant=0.1)))


def test_published_numbers_stand_only_beside_runs_of_their_protocol():
    returns = {"DQN": 1.0, "Reset": 2.0, "SNR": 1.0}
    assert "none here" in "".join(MAKER["published"]([submission(returns)]))
    theirs = "".join(MAKER["published"]([submission(returns, "atari", "paper")]))
    assert "Theirs" in theirs and "| redo | 0.63 | Sokar et al. 2023 |" in theirs


def test_the_page_of_cures_has_the_measured_costs():
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "methods.py"))
    assert "\n".join(benchmark["table"]()) in (DOCS / "cures.md").read_text(), "run benchmarks/methods.py --table"
    measured = {row[0] for row in benchmark["kept"]()}
    assert measured <= set(METHODS)
