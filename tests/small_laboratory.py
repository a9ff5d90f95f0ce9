"""Small runs of one experiment, two games and several arms, shared by all tests of a session."""

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
    """Returns a folder of finished runs. The first process that calls it trains them, while the others wait."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        todo = jobs([experiment], "smoke", root, together=True)[:-1]  # pages must handle a missing run
        assert run_all(todo, Processes((None,), short=True)).count("done") == len(todo)
    return root
