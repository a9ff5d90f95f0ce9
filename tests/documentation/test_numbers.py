"""Numbers in the documentation come from committed runs. Each test looks a page's numbers up in the data."""

import csv
import json
import re

import numpy as np
import pytest
from documentation.pages import DOCS, ROOT

from dormant.cli import demo
from dormant.experiments.redo import FIG09
from dormant.lab.judging import mean_interval

RESULTS = ROOT / "results"
INTERVAL = re.compile(r"\[(-?[\d.]+), (-?[\d.]+)\]")
WORDS = {"a quarter": "0.25"}


def table(page, heading):
    """The rows of the first table after a heading, without the two rows of its head. Each row is a list of cells."""
    text = f"\n{page.read_text()}".split(f"\n{heading}\n", 1)[1]
    lines = re.search(r"^\|.*?(?=\n[^|]|\n*\Z)", text, re.MULTILINE | re.DOTALL)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][2:]


def rounds_to(value, text):
    """Whether a value, rounded to the digits of a number in a text, is this number.

    >>> rounds_to(0.254, "0.25"), rounds_to(0.256, "0.25"), rounds_to(-5.94, "-5.9 points")
    (True, False, True)
    """
    number = re.search(r"-?[\d,]*\.?\d+", WORDS.get(text, text))[0].replace(",", "")
    return abs(value - float(number)) <= 0.5001 * 10.0 ** -len(number.partition(".")[2])


def verdicts():
    """The estimate and the bounds of every verdict on the pilot. Skips those that are not numbers."""
    with (RESULTS / "pilot" / "verdicts.csv").open() as stream:
        rows = [[row["estimate"], row["low"], row["high"]] for row in csv.DictReader(stream)]
    return [[float(each) for each in row] for row in rows if all(re.fullmatch(r"[-+]?[\d.]+", each) for each in row)]


def judged(effect, interval):
    """Whether some verdict has this effect and this interval."""
    wanted = (effect, *INTERVAL.fullmatch(interval).groups())
    return any(all(map(rounds_to, values, wanted)) for values in verdicts())


@pytest.mark.parametrize(
    "row", table(DOCS / "results.md", "## The pilot of the paper's figures"), ids=lambda row: row[0]
)
def test_the_pilots_effects_are_those_of_its_verdicts(row):
    assert judged(*row[1:])
    assert not judged(row[1], INTERVAL.sub("[-9.99, 9.99]", row[2]))


def test_the_comparisons_table_is_the_committed_one():
    with (RESULTS / "pilot" / "comparison.csv").open() as stream:
        _, *rows = csv.reader(stream)
    assert table(DOCS / "which.md", "# Which one should I use?") == rows


def test_breakouts_returns_are_those_of_the_committed_episodes():
    with (RESULTS / "breakout" / "episodes.csv").open() as stream:
        rows = [(row["agent"], float(row["return"])) for row in csv.DictReader(stream)]
    agents = dict.fromkeys(agent for agent, _ in rows)
    (_, *shown), (_, *episodes) = table(DOCS / "results.md", "## DQN on Breakout")
    columns = {"DQN + ReDo after": 1, "DQN after": 0, "random play": 2}
    for agent in agents:
        at = next(column for start, column in columns.items() if agent.startswith(start))
        values = np.array([value for name, value in rows if name == agent])
        interval, text = mean_interval(values), shown[at]
        assert rounds_to(interval[0], text.partition("[")[0]) and episodes[at] == str(len(values))
        assert all(map(rounds_to, interval[1:], INTERVAL.search(text).groups()))


def test_the_numbers_of_drq_are_those_of_the_committed_run():
    found = [json.loads(line) for line in (RESULTS / "drq" / "metrics.jsonl").read_text().splitlines()]
    by_step = {row["agent_steps"]: row for row in found}
    for steps, returned, dormant in table(DOCS / "results.md", "## DrQ(eps) on Atari 100k"):
        row = by_step[int(steps.replace(",", ""))]
        assert returned == "-" or rounds_to(row["eval_return"], returned)
        assert dormant == "-" or rounds_to(100 * row["dormant/0.1/dense"], dormant)
    highest = max(row["dormant/0.1/dense"] for row in found)
    assert f"up to {highest:.0%} were dormant".replace("%", " %") in (DOCS / "results.md").read_text()


def test_the_readmes_results_are_the_pilots():
    text = (ROOT / "README.md").read_text()
    pilot = FIG09.designs["pilot"]
    assert f"{pilot.arms[0].training.agent_steps:,} agent steps, and three seeds per arm" in text
    assert len(pilot.seeds) == 3 and "MinAtar/Asterix" in text
    assert "a quarter of DQN's dormant neurons" in text and judged("a quarter", "[0.17, 0.37]")
    assert "it leaves two thirds" in text and judged("0.665", "[0.481, 0.921]")  # beside DQN with a tuned rate


def test_the_length_of_the_demo_is_that_of_its_page():
    seeds = {2: "two"}[demo.SEEDS]
    assert (
        f"`make demo` trains {seeds} seeds per arm for {demo.AGENT_STEPS:,} agent steps"
        in (DOCS / "results.md").read_text()
    )
