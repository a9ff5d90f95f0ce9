"""Draws SAC, SAC + ReDo and sbx's SAC on HalfCheetah-v5 in one figure, and copies their data to results/halfcheetah.

    dormant figure fig14 --scale pilot
    python results/halfcheetah.py --run-dir runs

Our runs are those of figure 14. This script trains the missing runs of sbx, one seed after another. All runs have
100,000 agent steps, batch 256, two hidden layers of 256, 10,000 steps of random play, rewards times 0.1, and the same
target entropy. Every 5,000 agent steps, an evaluation plays five episodes with the policy's mean action.
"""

import argparse
import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from dormant.experiments import alternatives
from dormant.lab import name_of
from dormant.lab.drawing.curves import ends, stratified_band
from dormant.lab.judging import mean_interval
from dormant.lab.machine import pin
from dormant.lab.runs.description import run_path
from dormant.lab.runs.folder import RunFolder, curve
from dormant.plots import COLOURS, LINES, STYLE, finish, marked, name_lines
from dormant.rl.agents.sac import NETWORKS
from dormant.rl.control import ControlTraining

HERE = Path(__file__).parent / "halfcheetah"
DESIGN = alternatives.FIG14.designs["pilot"]
OURS = {"SAC": "SAC", "ReDo": "SAC + ReDo"}
TAU = "0.1"


class Seeds(NamedTuple):
    """One metric of an arm, per seed."""

    agent_steps: Int[np.ndarray, " points"]
    values: Float[np.ndarray, "seeds points"]


def train_sbx(seed: int, folder: Path) -> None:
    """Trains sbx's SAC with our settings. Writes each evaluation to a file in `folder`."""
    import gymnasium
    from sbx import SAC
    from stable_baselines3.common.callbacks import EvalCallback

    ours, task = DESIGN.arms[0].training, name_of(DESIGN.environments[0])
    assert isinstance(ours, ControlTraining)
    scaled = gymnasium.wrappers.TransformReward(
        gymnasium.make(task), lambda reward: ours.agent.reward_scale * float(reward)
    )
    entropy = ours.agent.target_entropy * math.prod(scaled.action_space.shape or ())
    model = SAC("MlpPolicy", scaled, learning_starts=ours.agent.min_replay, target_entropy=entropy, seed=seed)
    evaluation = EvalCallback(
        gymnasium.make(task),
        n_eval_episodes=ours.eval_episodes,
        eval_freq=ours.eval_period,
        log_path=str(folder),
        verbose=0,
        warn=False,
    )
    model.learn(ours.agent_steps, callback=evaluation)
    (folder / "done").touch()


def theirs(folder: Path) -> Seeds:
    """The returns of sbx's evaluations."""
    files = [np.load(folder / f"seed{seed}" / "evaluations.npz") for seed in DESIGN.seeds]
    return Seeds(files[0]["timesteps"], np.stack([file["results"].mean(axis=1) for file in files]))


def ours(arm: str, metric: str) -> Seeds:
    """A metric of one of our arms, at the log points at which it was measured for every seed."""
    found = [curve(RunFolder(HERE / arm / f"seed{seed}"), metric) for seed in DESIGN.seeds]
    values = np.stack([each.values[0] for each in found])
    measured = ~np.isnan(values).any(axis=0)
    return Seeds(found[0].agent_steps[measured], values[:, measured])


def keep(run_dir: Path) -> None:
    """Copies the files that the picture needs to results/halfcheetah."""
    for cell in DESIGN.cells():
        for seed in DESIGN.seeds if cell.arm in OURS else ():
            run, copy = (
                RunFolder(run_path(run_dir, "pilot", replace(cell.training, seeds=(seed,)))),
                HERE / cell.arm / f"seed{seed}",
            )
            copy.mkdir(parents=True, exist_ok=True)
            for file in (run.spec, run.metrics):
                shutil.copy(file, copy)


def draw() -> Figure:
    """Draws the returns of all arms, and the dormant fractions of each network, from the copied data."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.9), dpi=130, layout="constrained")
        figure.suptitle("SAC on HalfCheetah-v5", fontsize=14, fontweight="bold", x=0.01, ha="left")
        caption = "python results/halfcheetah.py; three seeds. Lines are means over seeds, bands are 95 % t-intervals."
        figure.supxlabel(caption, fontsize=8, color="#555555", x=0.01, ha="left")
        left, right = figure.subplots(1, 2)
        for number, (label, seeds) in enumerate(returns().items()):
            mean, low, high = stratified_band(seeds.values[:, None])
            colour, mark = COLOURS[number], marked(number, len(mean))
            left.plot(seeds.agent_steps, mean, color=colour, linewidth=1.8, label=label, **mark)
            left.fill_between(seeds.agent_steps, low, high, color=colour, alpha=0.13, linewidth=0)
        for arm, colour in zip(OURS, COLOURS, strict=False):
            for number, (network, line) in enumerate(zip(NETWORKS, LINES, strict=False)):
                seeds = ours(arm, f"dormant/{TAU}/{network}/all")
                mean, mark = seeds.values.mean(0), marked(number, len(seeds.agent_steps))
                right.plot(seeds.agent_steps, mean, line, color=colour, label=f"{OURS[arm]}, {network}", **mark)
        lowest = left.get_ylim()[0]
        finish(left, "Return", "agent steps", "return of evaluation episodes")
        left.set_ylim(bottom=lowest)  # some returns are negative
        name_lines(left)
        finish(right, f"Dormant neurons (τ = {TAU})", "agent steps", "dormant fraction", percent=True)
    return figure


def returns() -> dict[str, Seeds]:
    """The evaluation returns of each arm."""
    return {label: ours(arm, "eval_return") for arm, label in OURS.items()} | {"sbx's SAC": theirs(HERE / "sbx")}


def at_end(label: str, seeds: Seeds) -> str:
    """The mean over the last tenth of the run, with its interval over seeds."""
    mean, low, high = mean_interval(ends(seeds.agent_steps.astype(float), seeds.values[:, None])[:, 0])
    return f"{label}: {mean:,.0f} [{low:,.0f}, {high:,.0f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, default=Path("runs"))
    parser.add_argument("--core", type=int, help="CPU core on which sbx is trained")
    parser.add_argument("--sbx-only", action="store_true", help="only train the missing runs of sbx")
    parser.add_argument("--redraw", action="store_true", help="only draw the copied data again")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if not options.redraw:
        train(options.core)
        if options.sbx_only:
            return
        keep(options.run_dir)
    print("Returns over the last tenth of 100,000 agent steps, three seeds each, mean and 95 % t-interval:")
    print("\n".join(at_end(label, seeds) for label, seeds in returns().items()))
    draw().savefig(HERE / "halfcheetah.png")


def train(core: int | None) -> None:
    """Trains the missing runs of sbx on a CPU core."""
    if core is not None:
        pin(core)
    for seed in DESIGN.seeds:
        folder = HERE / "sbx" / f"seed{seed}"
        if not (folder / "done").exists():
            train_sbx(seed, folder)


if __name__ == "__main__":
    main()
