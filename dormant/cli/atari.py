"""The flags of `dormant train --env ALE/...`, whose defaults are the paper's DQN on Atari, or its DrQ(eps)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dormant.cli.flags import ATARI, Agent, Settings, agent_for, environment, first_look, intervention, seeds_of
from dormant.rl.atari_networks import ImpalaResNet, NatureCNN
from dormant.rl.envs.atari import Atari
from dormant.rl.host_loop import HostTraining
from dormant.rl.presets import ATARI_100K_GAME, ATARI_100K_RUN, atari_dqn, atari_drq

NETWORKS = {"nature": NatureCNN(), "impala": ImpalaResNet()}
DRQ = {"steps" if name == "agent_steps" else name: value for name, value in (ATARI_100K_GAME | ATARI_100K_RUN).items()}


@dataclass(frozen=True)
class TrainAtari:
    """Train an agent on an Atari game; the same command resumes a run that was interrupted."""

    run_dir: Path
    """Folder of the run: created, resumed, or left alone if it is done."""
    algorithm: Annotated[Literal["dqn", "drq"], tyro.conf.arg(name="agent")] = "dqn"
    """Agent; drq brings the paper's defaults for Atari 100k, its own and the game's."""
    env: str = "ALE/DemonAttack"
    """Environment."""
    sticky: float = Atari.sticky
    """Probability, at each frame, that the last action goes on instead of the chosen one."""
    time_limit: int = Atari.time_limit
    """Agent steps after which an episode is cut off."""
    noops: int = Atari.noops
    """Most frames without action before an episode."""
    life_loss: bool = Atari.life_loss
    """Whether a lost life ends the return."""
    seeds: int = 1
    """Number of seeds, trained side by side."""
    steps: int = HostTraining.agent_steps
    """Agent steps of each seed, four frames each."""
    replay_ratio: float = HostTraining.replay_ratio
    """Gradient steps per agent step: a whole number or one over it. The target period follows it if it is not set."""
    log_period: int = HostTraining.log_period
    """Agent steps between two rows of metrics."""
    score_batch: int = HostTraining.score_batch
    """States on which neurons are scored."""
    eval_period: int = HostTraining.eval_period
    """Agent steps between two evaluations; more than there are for none."""
    eval_agent_steps: int = HostTraining.eval_agent_steps
    """Agent steps of an evaluation at least, which ends with the episode in which they are reached."""
    eval_episodes: int = HostTraining.eval_episodes
    """Episodes of an evaluation at least."""
    eval_epsilon: float = HostTraining.eval_epsilon
    """Probability of a random action in evaluation episodes."""
    video: bool = False
    """Whether the first episode of each evaluation is filmed, of the first seed, in the folder's videos."""
    rank_batch: int = HostTraining.rank_batch
    """States on which the rank of the last layer's features is measured with each evaluation; 0 for none."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)
    network: Literal["nature", "impala"] = "nature"
    """The network: the paper's Nature CNN or its ResNet. Some flags below are the network's own."""
    agent: Agent = field(default_factory=atari_dqn)
    checkpoint_seconds: float = 300.0
    """Seconds of training between two checkpoints."""
    core: int | None = None
    """Keep to this CPU core, with one thread, so that runs on other cores are not disturbed."""


def atari_flags(arguments: Sequence[str]) -> type[TrainAtari] | None:
    """The flags of an Atari game if the arguments name one, with the defaults of their replay ratio; else None.

    >>> atari_flags(["train", "--env", "ALE/Pong", "--replay-ratio", "0.25"])(Path("run")).agent.target_period
    8000
    """
    # Which flags there are, and what they are by default, depends on four of them.
    known = first_look(arguments, env="", agent="", replay_ratio="", network="nature")
    if not known.env.startswith(ATARI):
        return None
    # What is wrong with another network, the flag itself says.
    network, changed = NETWORKS.get(known.network), {}
    agent = partial(atari_dqn, _ratio(known.replay_ratio), network)
    if known.agent == "drq":
        agent, changed = partial(atari_drq, network), DRQ
    fields = [(name, type(value), field(default=value)) for name, value in changed.items()]
    return make_dataclass(
        "TrainAtari", [("agent", Agent, field(default_factory=agent)), *fields], bases=(TrainAtari,), frozen=True
    )


def _ratio(said: str) -> float:
    """The replay ratio, or the default where what is wrong with it will be said by the flag or by the training."""
    try:
        ratio = float(said)
    except ValueError:
        return HostTraining.replay_ratio
    return ratio if ratio > 0 else HostTraining.replay_ratio


def atari_training(flags: TrainAtari) -> HostTraining:
    """The training that the flags describe. Raises ValueError for a value that it does not accept."""
    settings = {name: getattr(flags, name) for name in ("sticky", "time_limit", "noops", "life_loss")}
    env = environment(flags.env, **settings)
    assert isinstance(env, Atari)
    return HostTraining(
        agent=agent_for(flags.agent, flags.settings),
        env=env,
        intervention=intervention(flags.settings),
        replay_ratio=flags.replay_ratio,
        agent_steps=flags.steps,
        log_period=flags.log_period,
        seeds=seeds_of(flags.seeds),
        score_batch=flags.score_batch,
        eval_agent_steps=flags.eval_agent_steps,
        eval_period=flags.eval_period,
        eval_epsilon=flags.eval_epsilon,
        rank_batch=flags.rank_batch,
        eval_episodes=flags.eval_episodes,
        video=flags.video,
    )
