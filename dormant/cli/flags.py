"""From typed flags to an intervention and an environment: every flag is used, or refused."""

import argparse
import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from dormant import Chain, Every, Intervention, Prune, ReDo, Reset, ShrinkPerturb, redo_as_published
from dormant.rl.agents.dqn import DQN
from dormant.rl.envs.atari import Atari
from dormant.rl.envs.atari_scores import SCORES
from dormant.rl.envs.minatar import GAMES, MinAtar
from dormant.rl.envs.mujoco import TASKS

ATARI = "ALE/"
MINATAR = "MinAtar/"
Agent = Annotated[DQN, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands, tyro.conf.OmitArgPrefixes]
PAPER_WEIGHT_DECAY = 1e-5  # the best of the paper's grid for DQN, as others quote its appendix

Name = Literal["none", "redo", "redo-as-published", "reset", "prune", "shrink-perturb", "weight-decay"]


@dataclass(frozen=True)
class Settings:
    """What is done to the network, and when. A setting left out keeps the intervention's own default."""

    intervention: Name = "none"
    """What is done to the network while it learns; weight-decay is the agent's, at the paper's 1e-5 if not set."""
    period: int | None = None
    """Gradient steps between two interventions: 1,000 if not set, and 100,000 for reset; with SAC 200,000 for both."""
    start: int | None = None
    """First gradient step at which the intervention may act; all but prune."""
    stop: int | None = None
    """Gradient step from which on it does not act any more; all but prune."""
    tau: float | None = None
    """Neurons with at most this score are dormant; redo, redo-as-published (0.1 if not set, with SAC 0), prune (0)."""
    outgoing: Literal["zero", "fresh"] | None = None
    """What a recycled neuron's outgoing weights become; redo."""
    moments: Literal["fresh", "keep"] | None = None
    """What becomes of the optimizer's moments of changed weights; redo, reset, shrink-perturb."""
    step_count: Literal["keep", "restart"] | None = None
    """What becomes of the optimizer's step count; redo, reset."""
    coupled: Literal["recycle", "skip"] | None = None
    """What is done with layers whose neurons a normalisation couples; redo."""
    layers: tuple[str, ...] | None = None
    """Layers to work on, or networks of SAC: actor, critic1, critic2; redo (all if not set), reset (dense, SAC all)."""
    keep: float | None = None
    """Share of the old weights that stays; shrink-perturb."""
    misaligned_flatten: bool | None = None
    """Whether this quirk of the released code is on; redo-as-published, as the three below."""
    next_recorded_layer: bool | None = None
    xavier: bool | None = None
    keep_bias_moments: bool | None = None


SCHEDULE = ("period", "start", "stop")
QUIRKS = ("misaligned_flatten", "next_recorded_layer", "xavier", "keep_bias_moments")
USES: dict[Name, tuple[str, ...]] = {
    "none": (),
    "weight-decay": (),
    "redo": ("tau", "outgoing", "moments", "step_count", "coupled", "layers", *SCHEDULE),
    "redo-as-published": ("tau", *QUIRKS, *SCHEDULE),
    "reset": ("layers", "moments", "step_count", *SCHEDULE),
    "prune": ("tau", "period"),
    "shrink-perturb": ("keep", "moments", *SCHEDULE),
}


def intervention(settings: Settings) -> Intervention:
    """The intervention that the settings describe.

    Raises ValueError for a setting that the intervention does not use, and for a value that it does not accept.

    >>> intervention(Settings("prune", tau=0.1))
    Prune(tau=0.1, period=1000)
    """
    given = {name: value for name, value in dataclasses.asdict(settings).items() if value is not None}
    _check_used(given.pop("intervention"), given)
    if settings.layers == ():
        raise ValueError(
            "--layers expects the name of at least one layer, got none; leave the flag out for the default."
        )
    if settings.intervention == "prune":
        return Prune(**given)
    schedule = {name: given.pop(name) for name in SCHEDULE if name in given}
    match settings.intervention:
        case "redo":
            what = ReDo(**given)
        case "redo-as-published":
            what = redo_as_published(**given)
        case "reset":
            # The paper resets the penultimate layer; the period is its best, as others quote its appendix.
            what, schedule = Reset(**{"layers": ("dense",), **given}), {"period": 100_000, **schedule}
        case "shrink-perturb":
            what = ShrinkPerturb(**given)
        case _:
            return Chain()
    return Every(what=what, **{"period": 1_000, **schedule})


def _check_used(name: Name, given: dict[str, Any]) -> None:
    unused = [_flag(setting) for setting in given if setting not in USES[name]]
    if unused:
        used = ", ".join(_flag(setting) for setting in USES[name]) or "no setting"
        raise ValueError(f"--intervention {name} does not use {', '.join(unused)}; it uses {used}.")


def _flag(setting: str) -> str:
    return "--" + setting.replace("_", "-")


def first_look(arguments: Sequence[str], **defaults: str) -> argparse.Namespace:
    """What these flags say before it is known which others there are; their defaults where that cannot be read.

    >>> first_look(["train", "--env=ALE/Pong", "--steps", "10"], env="", agent="dqn")
    Namespace(env='ALE/Pong', agent='dqn')
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name, default in defaults.items():
        parser.add_argument(*{_flag(name), f"--{name}"}, default=default)
    try:
        return parser.parse_known_args(arguments)[0]
    except argparse.ArgumentError:
        return argparse.Namespace(**defaults)


def agent_for(agent: DQN, settings: Settings) -> DQN:
    """The agent with the paper's weight decay, if that is the intervention and no other was set."""
    if settings.intervention == "weight-decay" and agent.weight_decay == 0:
        return dataclasses.replace(agent, weight_decay=PAPER_WEIGHT_DECAY)
    return agent


def seeds_of(number: int) -> tuple[int, ...]:
    """So many seeds. Raises ValueError if it is less than one."""
    if number < 1:
        raise ValueError(f"--seeds must be at least 1, got {number}.")
    return tuple(range(number))


def check_seconds(seconds: float) -> None:
    """Raises ValueError unless checkpoints can be so far apart."""
    if not seconds >= 0:  # NaN is not, and would never be due
        raise ValueError(f"--checkpoint-seconds must be at least 0, got {seconds}.")


def environment(name: str, **settings: Any) -> MinAtar | Atari:
    """The environment of that name. Raises ValueError, with the nearest names, if there is none.

    >>> environment("MinAtar/Breakout", sticky=0.0).game, environment("ALE/Pong").game
    ('Breakout', 'Pong')
    """
    if name.startswith(ATARI):
        return Atari(name.removeprefix(ATARI), **settings)
    names = [MINATAR + game for game in GAMES]
    if name not in names:
        near = difflib.get_close_matches(name, [*names, *TASKS, *(ATARI + game for game in SCORES)], n=2, cutoff=0.7)
        there = (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"there are {', '.join(names)}, ALE/ with a game, and for --agent sac {', '.join(TASKS)}."
        )
        raise ValueError(f"unknown environment {name!r}; {there}")
    return MinAtar(game=name.removeprefix(MINATAR), **settings)
