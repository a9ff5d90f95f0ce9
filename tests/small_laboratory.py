"""Trains the small runs of one experiment, with two games and several arms. All tests of a session share them."""

import fcntl
from dataclasses import replace
from pathlib import Path

from dormant.experiments.redo import FIG09
from dormant.lab import Design, Experiment
from dormant.lab.crews import jobs, run_all
from dormant.lab.crews.local import Processes
from dormant.rl.envs.minatar import MinAtar

GAMES = (MinAtar("Asterix", time_limit=100), MinAtar("Breakout", time_limit=100))
ARMS = FIG09.designs["smoke"].arms
FIGURE = replace(FIG09, designs={"smoke": Design(ARMS, GAMES, (0, 1), "All that could be learnt from.")})


def trained(root: Path, experiment: Experiment = FIGURE) -> Path:
    """Returns a folder of finished runs. The first process that calls this function trains them. The others wait."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Leaves out the last run, because the tests need a page with a missing run.
        todo = jobs([experiment], "smoke", root, together=True)[:-1]
        assert run_all(todo, Processes((None,), short=True)).count("done") == len(todo)
    return root
