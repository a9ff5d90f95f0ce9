"""The flags of `dormant train --agent sac`, whose defaults are the paper's SAC on MuJoCo."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dormant.cli.flags import (
    ATARI,
    MINATAR,
    PAPER_WEIGHT_DECAY,
    PENALTIES,
    USES,
    Settings,
    first_look,
    intervention,
    penalty,
    seeds_of,
)
from dormant.rl.agents.sac import NETWORKS, SAC
from dormant.rl.control_loop import ControlTraining
from dormant.rl.envs.mujoco import TASKS, MuJoCo

ControlAgent = Annotated[SAC, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands, tyro.conf.OmitArgPrefixes]
PERIOD = 200_000  # gradient steps between two of the paper's interventions in SAC, as others quote its appendix


@dataclass(frozen=True)
class TrainControl:
    """Train SAC on one of MuJoCo's tasks; the same command resumes a run that was interrupted."""

    run_dir: Path
    """Folder of the run: created, resumed, or left alone if it is done."""
    algorithm: Annotated[Literal["sac"], tyro.conf.arg(name="agent")] = "sac"
    """Agent; with --agent dqn or none, games have flags of their own."""
    env: str = MuJoCo.task
    """Environment: HalfCheetah-v5, Hopper-v5, Walker2d-v5, Ant-v5 or Humanoid-v5."""
    time_limit: int = MuJoCo.time_limit
    """Agent steps after which an episode is cut off."""
    seeds: int = 1
    """Number of seeds, trained side by side."""
    steps: int = ControlTraining.agent_steps
    """Agent steps of each seed."""
    replay_ratio: float = ControlTraining.replay_ratio
    """Gradient steps per agent step: a whole number or one over it."""
    log_period: int = ControlTraining.log_period
    """Agent steps between two rows of metrics."""
    score_batch: int = ControlTraining.score_batch
    """Steps of the replay on which neurons are scored."""
    eval_period: int = ControlTraining.eval_period
    """Agent steps between two evaluations; more than there are for none."""
    eval_episodes: int = ControlTraining.eval_episodes
    """Episodes of an evaluation."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)
    agent: Annotated[SAC, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands, tyro.conf.OmitArgPrefixes] = field(
        default_factory=SAC
    )
    checkpoint_seconds: float = 60.0
    """Seconds of training between two checkpoints."""
    core: int | None = None
    """Keep to this CPU core, with one thread, so that runs on other cores are not disturbed."""


def control_flags(arguments: Sequence[str]) -> type[TrainControl] | None:
    """The flags of SAC if the arguments name it, or a task that only it plays; else None.

    >>> control_flags(["train", "--env", "MinAtar/Asterix"]) is None
    True
    """
    known = first_look(arguments, agent="", env="")
    mistaken = known.agent in ("dqn", "drq")  # which the flags of games then say
    return TrainControl if known.agent == "sac" or (known.env in TASKS and not mistaken) else None


def control_training(flags: TrainControl) -> ControlTraining:
    """The training that the flags describe. Raises ValueError for a value that it does not accept."""
    if flags.env.startswith((ATARI, MINATAR)):
        raise ValueError(f"--agent sac plays {', '.join(TASKS)}, not {flags.env}; --agent dqn does.")
    return ControlTraining(
        agent=_regularised(flags.agent, flags.settings),
        env=MuJoCo(flags.env, flags.time_limit),
        intervention=intervention(_papers(flags.settings)),
        replay_ratio=flags.replay_ratio,
        agent_steps=flags.steps,
        log_period=flags.log_period,
        seeds=seeds_of(flags.seeds),
        score_batch=flags.score_batch,
        eval_episodes=flags.eval_episodes,
        eval_period=flags.eval_period,
    )


def _papers(settings: Settings) -> Settings:
    """The settings with the paper's for SAC where they were not set: it recycles at tau 0 and resets all networks."""
    uses = USES[settings.intervention]
    defaults = {"period": PERIOD} if "start" in uses else {}
    defaults |= {"tau": 0.0} if settings.intervention in ("redo", "redo-as-published") else {}
    defaults |= {"layers": NETWORKS} if settings.intervention == "reset" else {}
    missing = {name: value for name, value in defaults.items() if name in uses and getattr(settings, name) is None}
    return dataclasses.replace(settings, **missing)


def _regularised(agent: SAC, settings: Settings) -> SAC:
    """The agent with a penalty or weight decay in all networks, if that is the intervention and none was set."""
    if settings.intervention in PENALTIES:
        return dataclasses.replace(agent, regulariser=penalty(settings))
    if settings.intervention == "plasticity-injection":
        raise ValueError("--intervention plasticity-injection is there for --agent dqn and drq, not for sac.")
    if settings.intervention == "weight-decay" and agent.actor_weight_decay == agent.critic_weight_decay == 0:
        return dataclasses.replace(agent, actor_weight_decay=PAPER_WEIGHT_DECAY, critic_weight_decay=PAPER_WEIGHT_DECAY)
    return agent
