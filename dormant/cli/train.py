"""`dormant train`: trains one agent with one intervention in one environment, with several seeds."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from dormant.cli.changes import Saving, Training, TrainLike, like
from dormant.cli.interventions import Settings, dqn_for, for_sac, intervention, sac_for
from dormant.cli.parsing import check_finite, most_used_first
from dormant.cli.terminal import check_folder, check_seconds, held_back, not_written, progress_bar, refuse
from dormant.files import available_memory
from dormant.hints import suggestion
from dormant.lab.machine import keep_compiled_code, pin, spread_seeds
from dormant.lab.runs.description import describe
from dormant.lab.runs.folder import RunFolder, RunRefused
from dormant.lab.runs.live import sending, sinks_of
from dormant.lab.runs.runner import FULL, Diverged, Progress, run
from dormant.rl.agents import ATARI_100K_GAME, ATARI_100K_RUN, atari_dqn, atari_drq, minatar_dqn, minatar_drq
from dormant.rl.agents.dqn import DQN
from dormant.rl.agents.sac import SAC
from dormant.rl.atari import AtariTraining
from dormant.rl.control import ControlTraining
from dormant.rl.device import DeviceTraining
from dormant.rl.envs.atari import SCORES, Atari
from dormant.rl.envs.minatar import GAMES, MinAtar
from dormant.rl.envs.mujoco import TASKS, MuJoCo
from dormant.rl.networks.convolutional import ImpalaResNet, NatureCNN

ATARI, MINATAR = "ALE/", "MinAtar/"
MOST_SEEDS = 10_000
NETWORKS = {"nature": NatureCNN(), "impala": ImpalaResNet()}
# Markers for a part of the flags, such as `Length`. The flags of a part marked with PART have no prefix in their names.
# `--help` shows each part as a group.
PART, FLAT = tyro.conf.OmitArgPrefixes, tyro.conf.AvoidSubcommands


@dataclass(frozen=True)
class Choice:
    """The flags that decide which other flags exist and what their defaults are."""

    agent: Literal["", "dqn", "drq", "sac"] = ""
    env: str = ""
    replay_ratio: float = 1.0
    network: str = "nature"
    steps: int = DeviceTraining.agent_steps


@dataclass(frozen=True)
class Length:
    """The length of a run, and when it is measured. Steps and periods are agent steps per seed."""

    seeds: int = 3
    """Number of seeds, trained side by side."""
    steps: int = DeviceTraining.agent_steps
    """Agent steps per seed. On Atari, an agent step is four frames."""
    replay_ratio: float = 1.0
    """Gradient steps per agent step: n or 1/n for a whole number n. DQN's default target period depends on it."""
    log_period: int = DeviceTraining.log_period
    """Agent steps between two rows of metrics."""
    score_batch: int = DeviceTraining.score_batch
    """Number of states on which neurons are scored."""
    eval_period: int = DeviceTraining.eval_period
    """Agent steps between two evaluations."""
    eval_episodes: int = DeviceTraining.eval_episodes
    """Episodes per evaluation. On Atari, an evaluation has at least this many episodes."""


@dataclass(frozen=True)
class TrainMinAtar:
    """Train an agent; the same command resumes a run that was interrupted.

    These are the flags of DQN and DrQ on MinAtar. To see the flags for other trainings, add --help to: `dormant train
    --env ALE/Pong` for Atari games, `--agent sac` for SAC, and `--like RUN` to use an earlier run's settings.
    """

    run_dir: Path
    """Folder of the run. A new folder is created, an unfinished run is resumed, a finished run is left unchanged."""
    algorithm: Annotated[Literal["dqn", "drq"], tyro.conf.arg(name="agent")] = "dqn"
    """The agent. With drq, the defaults of some flags differ from those of dqn."""
    env: str = "MinAtar/Asterix"
    """The environment."""
    length: Annotated[Length, PART] = field(default_factory=Length)
    settings: Annotated[Settings, PART, tyro.conf.arg(name="intervention")] = field(default_factory=Settings)
    sticky: float = MinAtar.sticky
    """Probability that the environment repeats the last action instead of the chosen action."""
    time_limit: int = MinAtar.time_limit
    """Agent steps after which an episode is truncated."""
    eval_epsilon: float = DeviceTraining.eval_epsilon
    """Probability of a random action in evaluation episodes."""
    rank_batch: int = DeviceTraining.rank_batch
    """Number of states on which ranks, norms and churn are measured at each evaluation. 0 disables them."""
    agent: Annotated[DQN, PART, FLAT] = field(default_factory=lambda: minatar_dqn(DeviceTraining.agent_steps))
    saving: Annotated[Saving, PART] = field(default_factory=Saving)


@dataclass(frozen=True)
class TrainAtari:
    """Train an agent on an Atari game; the same command resumes a run that was interrupted.

    The defaults are the paper's DQN on Atari, or, with `--agent drq`, the paper's DrQ on Atari 100k.
    """

    run_dir: Path
    """Folder of the run. A new folder is created, an unfinished run is resumed, a finished run is left unchanged."""
    algorithm: Annotated[Literal["dqn", "drq"], tyro.conf.arg(name="agent")] = "dqn"
    """The agent. With drq, many other flags have the paper's defaults for Atari 100k."""
    env: str = "ALE/DemonAttack"
    """The environment."""
    length: Annotated[Length, PART] = field(default_factory=Length)
    settings: Annotated[Settings, PART, tyro.conf.arg(name="intervention")] = field(default_factory=Settings)
    sticky: float = Atari.sticky
    """Probability, per frame, that the last action is repeated instead of the chosen action."""
    time_limit: int = Atari.time_limit
    """Agent steps after which an episode is truncated."""
    noops: int = Atari.noops
    """Largest number of no-op frames at the start of an episode."""
    life_loss: bool = Atari.life_loss
    """Whether a lost life ends the return that Q estimates. The game continues."""
    eval_agent_steps: int = AtariTraining.eval_agent_steps
    """Smallest number of agent steps per evaluation. The evaluation then ends with the current episode."""
    eval_epsilon: float = AtariTraining.eval_epsilon
    """Probability of a random action in evaluation episodes."""
    video: bool = False
    """Whether to record the first seed's first episode of each evaluation, in the run's folder `videos`."""
    replay_on: Literal["auto", "device", "host"] = "auto"
    """Where gradient steps read frames: from a copy in the device's memory, or from the host. The results are the same.
    With auto, there is a copy if an accelerator has enough memory."""
    rank_batch: int = AtariTraining.rank_batch
    """Number of states on which ranks, norms and churn are measured at each evaluation. 0 disables them."""
    network: Literal["nature", "impala"] = "nature"
    """The network: the paper's Nature CNN or the paper's ResNet. Each network has flags of its own."""
    agent: Annotated[DQN, PART, FLAT] = field(default_factory=atari_dqn)
    saving: Annotated[Saving, PART] = field(default_factory=Saving)


@dataclass(frozen=True)
class TrainControl:
    """Train SAC on a MuJoCo task; the same command resumes a run that was interrupted.

    The defaults are the paper's SAC.
    """

    run_dir: Path
    """Folder of the run. A new folder is created, an unfinished run is resumed, a finished run is left unchanged."""
    algorithm: Annotated[Literal["sac"], tyro.conf.arg(name="agent")] = "sac"
    """The agent. dqn and drq play MinAtar and Atari games."""
    env: str = MuJoCo.task
    """The environment: HalfCheetah-v5, Hopper-v5, Walker2d-v5, Ant-v5 or Humanoid-v5."""
    length: Annotated[Length, PART] = field(default_factory=Length)
    settings: Annotated[Settings, PART, tyro.conf.arg(name="intervention")] = field(default_factory=Settings)
    time_limit: int = MuJoCo.time_limit
    """Agent steps after which an episode is truncated."""
    agent: Annotated[SAC, PART, FLAT] = field(default_factory=SAC)
    saving: Annotated[Saving, PART] = field(default_factory=Saving)


Flags = TrainMinAtar | TrainAtari | TrainControl  # without `TrainLike`, which has no flags of an agent


def parse(arguments: Sequence[str]) -> Flags | TrainLike:
    """Parses the flags of `dormant train`. `--like`, `--agent` and `--env` determine which other flags exist.

    >>> parse(["--run-dir", "run", "--env", "ALE/Pong", "--replay-ratio", "0.25"]).agent.target_period
    8000
    """
    if _given("like", arguments):
        return tyro.cli(TrainLike, args=arguments, prog="dormant train")
    choice, _ = tyro.cli(Choice, args=arguments, prog="dormant train", return_unknown_args=True, add_help=False)
    with most_used_first(arguments):
        flags = tyro.cli(flags_of(choice), args=arguments, prog="dormant train")
    _refuse_idle(flags, arguments)
    return flags


def _refuse_idle(flags: Flags, arguments: Sequence[str]) -> None:
    """Raises ValueError if the user requests weight decay with a strength of zero."""
    given = [name for name in ("weight-decay", "actor-weight-decay", "critic-weight-decay") if _given(name, arguments)]
    decays = [getattr(flags.agent, name.replace("-", "_")) for name in given]
    if flags.settings.intervention == "weight-decay" and given and not any(decays):
        raise ValueError(f"--intervention weight-decay with --{given[0]} 0 decays nothing; leave out one of the two.")


def _given(name: str, arguments: Sequence[str]) -> bool:
    return any(each.split("=")[0].replace("_", "-") == f"--{name}" for each in arguments)


def flags_of(choice: Choice) -> type[Flags]:
    """The flags class for an agent in an environment, with the defaults for both.

    >>> flags_of(Choice(agent="drq"))(Path("run")).agent.n_step, flags_of(Choice(env="Hopper-v5")).__name__
    (10, 'TrainControl')
    """
    if choice.agent == "sac" or (not choice.agent and choice.env in TASKS):
        return _with_defaults(TrainControl, length=_length(ControlTraining), saving=Saving(60.0))
    if choice.env.startswith(ATARI):
        return _with_defaults(TrainAtari, **_atari_defaults(choice))
    # The defaults of MinAtar's agents depend on the length of the run, as in `dormant figure`.
    steps = max(choice.steps, 1)
    if choice.agent == "drq":
        return _with_defaults(TrainMinAtar, agent=minatar_drq(steps))
    return _with_defaults(TrainMinAtar, agent=minatar_dqn(steps, _ratio(choice)))


def _ratio(choice: Choice) -> float:
    # Replaces a ratio out of range by 1. The training later raises an error for such a ratio.
    return choice.replay_ratio if 1e-6 <= choice.replay_ratio <= 1e6 else 1.0


def _with_defaults(kind: type[Flags], **defaults: object) -> type[Flags]:
    """A copy of a class of flags, with the given defaults."""
    types = {each.name: each.type for each in fields(kind)}
    changed = [(name, types[name], field(default=value)) for name, value in defaults.items()]
    return make_dataclass(kind.__name__, changed, bases=(kind,), frozen=True, namespace={"__doc__": kind.__doc__})


def _atari_defaults(choice: Choice) -> dict[str, object]:
    # Uses the Nature CNN for an unknown network, for which tyro later reports an error.
    network = NETWORKS.get(choice.network, NatureCNN())
    saving = {"saving": Saving(300.0)}
    if choice.agent == "drq":
        run = ATARI_100K_RUN
        length = _length(AtariTraining, run["agent_steps"], run["eval_period"], run["eval_episodes"])
        own = {"eval_agent_steps": run["eval_agent_steps"], "length": length, "agent": atari_drq(network), **saving}
        return {**ATARI_100K_GAME, **own}
    return {"length": _length(AtariTraining), "agent": atari_dqn(_ratio(choice), network), **saving}


def _length(
    kind: type[AtariTraining | ControlTraining],
    steps: int | None = None,
    eval_period: int | None = None,
    eval_episodes: int | None = None,
) -> Length:
    return Length(
        seeds=len(kind.seeds),
        steps=steps or kind.agent_steps,
        replay_ratio=kind.replay_ratio,
        log_period=kind.log_period,
        score_batch=kind.score_batch,
        eval_period=eval_period or kind.eval_period,
        eval_episodes=eval_episodes or kind.eval_episodes,
    )


def training_of(flags: Flags) -> Training:
    """The training that the flags describe. Raises ValueError for an invalid value."""
    length = flags.length
    if length.seeds < 1 or length.seeds > MOST_SEEDS:
        bound = "at least 1" if length.seeds < 1 else f"at most {MOST_SEEDS:,}"
        raise ValueError(f"--seeds must be {bound}, got {length.seeds}.")
    schedule: dict[str, Any] = {
        "replay_ratio": length.replay_ratio,
        "agent_steps": length.steps,
        "log_period": length.log_period,
        "seeds": tuple(range(length.seeds)),
        "score_batch": length.score_batch,
        "eval_period": length.eval_period,
        "eval_episodes": length.eval_episodes,
    }
    match flags:
        case TrainControl():
            return ControlTraining(
                sac_for(flags.agent, flags.settings),
                MuJoCo(_task(flags.env), flags.time_limit),
                intervention(for_sac(flags.settings)),
                **schedule,
            )
        case TrainAtari():
            return AtariTraining(
                dqn_for(flags.agent, flags.settings),
                Atari(flags.env.removeprefix(ATARI), flags.sticky, flags.time_limit, flags.noops, flags.life_loss),
                intervention(flags.settings),
                eval_agent_steps=flags.eval_agent_steps,
                eval_epsilon=flags.eval_epsilon,
                rank_batch=flags.rank_batch,
                video=flags.video,
                replay_on=flags.replay_on,
                **schedule,
            )
        case TrainMinAtar():
            return DeviceTraining(
                dqn_for(flags.agent, flags.settings),
                MinAtar(_minatar_game(flags.env), flags.sticky, flags.time_limit),
                intervention(flags.settings),
                eval_epsilon=flags.eval_epsilon,
                rank_batch=flags.rank_batch,
                **schedule,
            )


def _task(env: str) -> str:
    """Returns `env`, the name of a MuJoCo task. Raises ValueError for the name of a game."""
    if env.startswith((ATARI, MINATAR)):
        raise ValueError(f"--agent sac trains on {', '.join(TASKS)}, not on {env}; use --agent dqn.")
    return env


def _minatar_game(env: str) -> str:
    """The game of a MinAtar environment. Raises ValueError for any other environment, and suggests similar names.

    >>> _minatar_game("MinAtar/Breakout")
    'Breakout'
    """
    if env in TASKS:
        raise ValueError(f"{env} needs --agent sac; dqn and drq play MinAtar/GAME and ALE/GAME.")
    names = [MINATAR + game for game in GAMES]
    if env not in names:
        known = [*names, *TASKS, *(ATARI + game for game in SCORES)]
        families = f"there are {', '.join(names)}, ALE/GAME, and with --agent sac {', '.join(TASKS)}."
        raise ValueError(f"unknown environment {env!r}; {suggestion(env, known, families)}")
    return env.removeprefix(MINATAR)


def train(flags: Flags | TrainLike) -> int:
    """Runs the training to its end. Returns 0 if it is done, 1 if it diverged, 130 on Ctrl-C."""
    folder = RunFolder(flags.run_dir)
    try:
        training = _prepared(flags, folder)
    except (ValueError, OverflowError, KeyError, ImportError, RunRefused) as error:
        refuse(error.args[0])
    except (FileNotFoundError, NotADirectoryError) as error:
        refuse(f"--like: there is no run at {error.filename}.")
    except (MemoryError, TypeError, jax.errors.JaxRuntimeError) as error:
        refuse(f"a size is too large for this machine ({' '.join(str(error).split())[:200]}); choose a smaller one.")
    try:
        done = folder.done.exists()
        with progress_bar(folder, training.agent_steps, frames=isinstance(training, AtariTraining)) as update:
            _run(training, flags, update)
    except Diverged as error:
        print(f"dormant: {error}", file=sys.stderr)
        return 1
    except RunRefused as error:
        refuse(error)
    except KeyboardInterrupt:
        print(f"\nStopped; the same command resumes {flags.run_dir}.", file=sys.stderr)
        return 130
    if done:
        print(f"{flags.run_dir} was already done.")
    return 0


def _run(training: Training, flags: Flags | TrainLike, progress: Progress) -> None:
    """Runs the training. Ends the command if a file of the run cannot be written."""
    saving = flags.saving
    try:
        name = flags.run_dir.absolute().name
        sinks = sinks_of(saving.tensorboard, saving.wandb, name, describe(training), training.seeds)
    except ValueError as error:
        refuse(error)
    try:
        with held_back(), sending(RunFolder(flags.run_dir), sinks, progress) as both:
            run(training, flags.run_dir, both, saving.checkpoint_seconds, saving.stop_when_diverged)
    except OSError as error:
        not_written(error, flags.run_dir, _advice(error))


def _prepared(flags: Flags | TrainLike, folder: RunFolder) -> Training:
    """Sets up JAX and the cores. Returns the training after all checks that are possible before it starts."""
    saving = flags.saving
    check_seconds(saving.checkpoint_seconds)
    check_folder(flags.run_dir)
    if saving.tensorboard is not None:
        check_folder(saving.tensorboard, "--tensorboard")
    training = like(RunFolder(flags.like), flags.changes) if isinstance(flags, TrainLike) else training_of(flags)
    if saving.core is not None:
        pin(saving.core)
    elif isinstance(training, DeviceTraining):
        spread_seeds(len(training.seeds))
    keep_compiled_code()
    for part in (training.agent,) if isinstance(flags, TrainLike) else (flags.settings, flags.agent):
        check_finite(part)
    _refuse_large_batches(training)
    # Traces the initialisation without computing it. An intervention that does not fit the network raises here.
    jax.eval_shape(training.init)
    if not isinstance(training, DeviceTraining) and not folder.done.exists():
        training.refuse_without_room(folder.replay)
    return training


def _refuse_large_batches(training: Training) -> None:
    """Raises ValueError for a batch of states that does not fit into memory."""
    shape = getattr(training.env, "observation_shape", None) or (getattr(training.env, "observations", 1),)
    most = available_memory() // (4 * math.prod(shape))
    sizes = {"score-batch": training.score_batch, "rank-batch": training.rank_batch}
    for flag, number in {**sizes, "batch-size": training.agent.batch_size}.items():
        if number > most:
            raise ValueError(f"--{flag} {number} does not fit into memory; at most {most:,} states do.")


def _advice(error: OSError) -> str:
    if error.errno in FULL:
        return "Everything written before is kept. Free some space and run the same command to resume."
    return "Choose another --run-dir, or fix this one; everything written before is kept."
