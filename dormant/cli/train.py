"""`dormant train`: one agent, one environment, one intervention, several seeds."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro

from dormant.cli.atari import TrainAtari, atari_training
from dormant.cli.control import TrainControl, control_training
from dormant.cli.flags import Agent, Settings, agent_for, check_seconds, environment, first_look, intervention, seeds_of
from dormant.cli.progress import progress_bar
from dormant.cli.refusal import held_back, refuse
from dormant.lab.machine import keep_compiled_code, pin, spread_seeds
from dormant.lab.runs.folder import RunFolder, RunRefused
from dormant.lab.runs.runner import FULL, run
from dormant.rl.control_loop import ControlTraining
from dormant.rl.envs.minatar import MinAtar
from dormant.rl.host_loop import HostTraining
from dormant.rl.loops import DeviceTraining
from dormant.rl.presets import minatar_dqn, minatar_drq


@dataclass(frozen=True)
class Train:
    """Train an agent; the same command resumes a run that was interrupted."""

    run_dir: Path
    """Folder of the run: created, resumed, or left alone if it is done."""
    algorithm: Annotated[Literal["dqn", "drq"], tyro.conf.arg(name="agent")] = "dqn"
    """Agent; drq has other defaults below. SAC has flags of its own: add --agent sac."""
    env: str = "MinAtar/Asterix"
    """Environment. Atari games, ALE/DemonAttack for one, have flags of their own: add --env ALE/DemonAttack."""
    sticky: float = MinAtar.sticky
    """Probability that the environment repeats the last action instead of the chosen one."""
    time_limit: int = MinAtar.time_limit
    """Agent steps after which an episode is cut off."""
    seeds: int = 3
    """Number of seeds, trained side by side."""
    steps: int = DeviceTraining.agent_steps
    """Agent steps of each seed."""
    replay_ratio: float = DeviceTraining.replay_ratio
    """Gradient steps per agent step: a whole number or one over it."""
    log_period: int = DeviceTraining.log_period
    """Agent steps between two rows of metrics."""
    score_batch: int = DeviceTraining.score_batch
    """States on which neurons are scored."""
    eval_period: int = DeviceTraining.eval_period
    """Agent steps between two evaluations."""
    eval_episodes: int = DeviceTraining.eval_episodes
    """Episodes of an evaluation."""
    eval_epsilon: float = DeviceTraining.eval_epsilon
    """Probability of a random action in evaluation episodes."""
    rank_batch: int = DeviceTraining.rank_batch
    """States on which the rank of the last layer's features is measured with each evaluation; 0 for none."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)
    agent: Agent = field(default_factory=lambda: minatar_dqn(DeviceTraining.agent_steps))
    checkpoint_seconds: float = 30.0
    """Seconds of training between two checkpoints."""
    core: int | None = None
    """Keep to this CPU core, with one thread, so that runs on other cores are not disturbed."""


@dataclass(frozen=True)
class TrainDrQ(Train):
    """Train DrQ on a MinAtar game; the same command resumes a run that was interrupted."""

    agent: Agent = field(default_factory=lambda: minatar_drq(DeviceTraining.agent_steps))


def game_flags(arguments: Sequence[str]) -> type[Train]:
    """The flags of a MinAtar game, with the defaults of the agent that the arguments name.

    >>> game_flags(["train", "--agent", "drq"]).__name__
    'TrainDrQ'
    """
    return TrainDrQ if first_look(arguments, agent="").agent == "drq" else Train


def training(flags: Train) -> DeviceTraining:
    """The training that the flags describe. Raises ValueError for a value that it does not accept."""
    env = environment(flags.env, sticky=flags.sticky, time_limit=flags.time_limit)
    return DeviceTraining(
        agent=agent_for(flags.agent, flags.settings),
        env=env,  # pyright: ignore[reportArgumentType]  # Atari's flags are `TrainAtari`
        intervention=intervention(flags.settings),
        replay_ratio=flags.replay_ratio,
        agent_steps=flags.steps,
        log_period=flags.log_period,
        seeds=seeds_of(flags.seeds),
        score_batch=flags.score_batch,
        eval_episodes=flags.eval_episodes,
        eval_period=flags.eval_period,
        eval_epsilon=flags.eval_epsilon,
        rank_batch=flags.rank_batch,
    )


def train(flags: Train | TrainAtari | TrainControl) -> int:
    """Runs the training to its end: 0 when it is done, 130 when it was interrupted."""
    folder = RunFolder(flags.run_dir)
    try:
        what = _prepared(flags, folder)
    except (ValueError, OverflowError, KeyError, ImportError) as error:
        refuse(error.args[0])
    try:
        done = folder.done.exists()
        with progress_bar(folder, flags.steps, frames=isinstance(flags, TrainAtari)) as update, held_back():
            run(what, flags.run_dir, update, flags.checkpoint_seconds)
    except RunRefused as error:
        refuse(error)
    except OSError as error:
        refuse(f"{error.filename or flags.run_dir}: {error.strerror}. {_way_out(error)}")
    except KeyboardInterrupt:
        print(f"\nStopped; the same command continues {flags.run_dir}.", file=sys.stderr)
        return 130
    if done:
        print(f"{flags.run_dir} was already done.")
    return 0


def _prepared(
    flags: Train | TrainAtari | TrainControl, folder: RunFolder
) -> DeviceTraining | HostTraining | ControlTraining:
    """The training, once it is certain that it can run here."""
    check_seconds(flags.checkpoint_seconds)
    if flags.core is not None:
        pin(flags.core)
    elif isinstance(flags, Train):
        spread_seeds(flags.seeds)
    keep_compiled_code()
    what = _described(flags)
    # Whether the intervention fits the network shows when both are put together; this computes nothing.
    jax.eval_shape(what.init)
    if isinstance(what, HostTraining | ControlTraining) and not folder.done.exists():
        what.refuse_without_room(folder.replay)
    return what


def _described(flags: Train | TrainAtari | TrainControl) -> DeviceTraining | HostTraining | ControlTraining:
    match flags:
        case TrainControl():
            return control_training(flags)
        case TrainAtari():
            return atari_training(flags)
        case _:
            return training(flags)


def _way_out(error: OSError) -> str:
    if error.errno in FULL:
        return "What was written before is kept; free some space, and the same command continues from it."
    return "Choose another --run-dir, or mend this one: what was written before is kept."
