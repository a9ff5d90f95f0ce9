"""Evaluates and draws two Atari runs, DQN and DQN + ReDo, and copies their data to results/breakout.

    for arm in none redo; do
      dormant train --run-dir runs/breakout/$arm --intervention $arm --env ALE/Breakout --steps 100000 \
        --min-replay 5000 --epsilon-steps 20000 --replay-capacity 100000 --eval-period 10000 --eval-agent-steps 5000
    done
    python results/breakout.py runs/breakout

Evaluates the agent of each run's last checkpoint, and an agent that acts at random. Each agent plays episodes for
--agent-steps agent steps. The runs need not be finished. Without a folder, it draws the copied data again.
"""

import argparse
import csv
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dormant.cli.changes import TrainLike
from dormant.cli.train import parse, training_of
from dormant.lab.drawing import demo_picture
from dormant.lab.judging import mean_interval
from dormant.lab.runs.checkpoints import checkpoints, restore
from dormant.lab.runs.folder import RunFolder, curve, origin_of
from dormant.lab.runs.runner import owner_of
from dormant.rl.atari import AtariTraining

HERE = Path(__file__).parent / "breakout"
FLAGS = ["--env", "ALE/Breakout", "--steps", "100000", "--min-replay", "5000", "--epsilon-steps", "20000"]
FLAGS += ["--replay-capacity", "100000", "--eval-period", "10000", "--eval-agent-steps", "5000"]
ARMS = {"DQN": "none", "DQN + ReDo": "redo"}
TAU = 0.1


def training(arm: str, folder: Path) -> AtariTraining:
    """The training of a run."""
    flags = [*FLAGS, "--intervention", ARMS[arm], "--run-dir", str(folder)]
    parsed = parse(flags)
    assert not isinstance(parsed, TrainLike)
    described = training_of(parsed)
    assert isinstance(described, AtariTraining)
    return described


def episodes(arm: str, folder: RunFolder, agent_steps: int) -> dict[str, Sequence[float]]:
    """Plays evaluation episodes with the agent of the last checkpoint. Maps a label of the agent to their returns."""
    plan = replace(training(arm, folder.path), eval_agent_steps=agent_steps)
    with checkpoints(folder) as manager:
        step = manager.latest_step()
        assert step is not None
        state, _ = restore(manager, step, plan.init(), owner_of(training(arm, folder.path)))
    done = plan.agent_steps_done(state)
    played = plan.evaluate([_first(state.agent.learner.params)], done, folder.path).returns[0].tolist()
    return {f"{arm} after {done:,} agent steps": played}


def random_episodes(agent_steps: int) -> dict[str, Sequence[float]]:
    """Plays evaluation episodes at random. Maps the label "random play" to their returns."""
    plan = replace(training("DQN", Path("random")), eval_agent_steps=agent_steps, eval_epsilon=1.0)
    return {"random play": plan.evaluate([], 0, Path()).returns[0].tolist()}


def _first(tree: dict) -> dict:
    return {name: {leaf: value[0] for leaf, value in layer.items()} for name, layer in tree.items()}


def keep(folder: RunFolder, arm: str) -> None:
    """Copies the files that the picture needs to results/breakout."""
    copy = RunFolder(HERE / ARMS[arm])
    copy.path.mkdir(parents=True, exist_ok=True)
    for file in (folder.spec, folder.metrics, folder.scores):
        shutil.copy(file, copy.path)


def draw() -> Figure:
    """Draws the copied data."""
    kept = {arm: RunFolder(HERE / name) for arm, name in ARMS.items()}
    steps = min(int(curve(folder, f"dormant/{TAU:g}/all").agent_steps[-1]) for folder in kept.values())
    caption = f"python results/breakout.py; one seed per arm, {steps:,} agent steps; "
    caption += f"revision {origin_of(kept['DQN'])['revision']}."
    return demo_picture(kept, TAU, "ALE/Breakout at replay ratio 1", caption)


def judge(runs: Path, agent_steps: int) -> None:
    """Copies the data of both runs, plays the episodes of all agents, writes them, and prints their mean returns."""
    folders = {arm: RunFolder(runs / name) for arm, name in ARMS.items()}
    played = random_episodes(agent_steps)
    for arm, folder in folders.items():
        played |= episodes(arm, folder, agent_steps)
        keep(folder, arm)
    with (HERE / "episodes.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("agent", "return"))
        table.writerows((agent, value) for agent, values in played.items() for value in values)
    for agent, values in played.items():
        mean, low, high = mean_interval(np.array(values))
        print(f"{agent}: {mean:.2f} [{low:.2f}, {high:.2f}] ({len(values)} episodes)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="?", help="folder that contains the two run folders `none` and `redo`")
    parser.add_argument("--agent-steps", type=int, default=10_000, help="agent steps of evaluation per agent")
    options = parser.parse_args()
    if options.runs:
        judge(options.runs, options.agent_steps)
    draw().savefig(HERE / "breakout.png")


if __name__ == "__main__":
    main()
