"""From typed flags to an intervention and an environment: every flag is used, or refused."""

import argparse
import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from dormant.interventions import (
    Chain,
    ClipWeights,
    ContinualBackprop,
    Dormant,
    Every,
    Gap,
    HareTortoise,
    Intervention,
    PlasticityInjection,
    PooledShare,
    Prune,
    Recycle,
    ReDo,
    Renewal,
    Reset,
    ResetOptimizer,
    Share,
    ShrinkPerturb,
    WhenDormant,
    redo_as_published,
)
from dormant.regularisers import L2Init, Parseval, Spectral
from dormant.rl.agents.dqn import DQN
from dormant.rl.envs.atari import Atari
from dormant.rl.envs.atari_scores import SCORES
from dormant.rl.envs.minatar import GAMES, MinAtar
from dormant.rl.envs.mujoco import TASKS
from dormant.rl.injectable import injectable

ATARI = "ALE/"
MINATAR = "MinAtar/"
Agent = Annotated[DQN, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands, tyro.conf.OmitArgPrefixes]
PAPER_WEIGHT_DECAY = 1e-5  # the best of the paper's grid for DQN, as others quote its appendix

Name = Literal[
    "none",
    "redo",
    "redo-as-published",
    "recycle",
    "regrama",
    "continual-backprop",
    "reset",
    "prune",
    "shrink-perturb",
    "hare-tortoise",
    "clip-weights",
    "reset-optimizer",
    "plasticity-injection",
    "weight-decay",
    "l2-init",
    "parseval",
    "spectral",
]


@dataclass(frozen=True)
class Settings:
    """What is done to the network, and when. A setting left out keeps the intervention's own default."""

    intervention: Name = "none"
    """What is done to the network while it learns. The last four are the agent's own; weight-decay is the paper's 1e-5
    if not set."""
    period: int | None = None
    """Gradient steps between two interventions: 1,000 if not set, 100,000 for reset, 10,000 for hare-tortoise; with SAC
    200,000. Not for continual-backprop and clip-weights, which act at every step."""
    start: int | None = None
    """First gradient step at which the intervention may act; all but prune and those that act at every step."""
    stop: int | None = None
    """Gradient step from which on it does not act any more; the same."""
    when_dormant: float | None = None
    """Act only while at least this share of all neurons is dormant (τ = 0.1); the same."""
    at: int | None = None
    """Gradient step after which new parameters learn in the head's place; plasticity-injection, 100,000 if not set."""
    tau: float | None = None
    """Neurons with at most this score are dormant; redo, redo-as-published (0.1 if not set, with SAC 0), recycle (0.1),
    regrama (0.01), prune (0)."""
    outgoing: Literal["zero", "fresh"] | None = None
    """What a recycled neuron's outgoing weights become; redo, recycle, regrama, continual-backprop, as the next one."""
    incoming: Literal["fresh", "scaled"] | None = None
    """What its incoming weights become: drawn anew, or also scaled to the length of the other neurons'."""
    moments: Literal["fresh", "keep"] | None = None
    """What becomes of the optimizer's moments of changed weights; whatever renews or resets weights."""
    step_count: Literal["keep", "restart"] | None = None
    """What becomes of the optimizer's step count; all that renew neurons, reset, reset-optimizer."""
    coupled: Literal["recycle", "skip"] | None = None
    """What is done with layers whose neurons a normalisation couples; all that renew neurons."""
    layers: tuple[str, ...] | None = None
    """Layers to work on, or networks of SAC: actor, critic1, critic2; all that renew neurons (if not set, everywhere),
    reset (dense, with SAC everything)."""
    keep: float | None = None
    """Share of the old weights that stays; shrink-perturb."""
    score: Literal["activation", "gradient", "contribution", "utility"] | None = None
    """What neurons are ranked by; recycle, as the five below."""
    order: Literal["lowest", "highest", "random"] | None = None
    """Which neurons go first."""
    number: Literal["dormant", "share", "pooled-share", "gap"] | None = None
    """How many neurons go: those up to tau, a share of each layer, up to a share of all, or those under a gap."""
    share: float | None = None
    """That share."""
    recyclings: int | None = None
    """Recyclings over which the share of each layer falls to zero along a cosine."""
    at_most: int | None = None
    """Neurons of a layer that may go at a time; recycle, regrama."""
    replacement_rate: float | None = None
    """Share of the mature neurons replaced at each gradient step; continual-backprop, as the next one."""
    maturity: int | None = None
    """Gradient steps before a new neuron may be replaced."""
    momentum: float | None = None
    """Of the running average of the weights; hare-tortoise."""
    factor: float | None = None
    """How far weights may leave the range that they were drawn in; clip-weights."""
    strength: float | None = None
    """What the penalty is multiplied by; l2-init, parseval, spectral (1e-4 if not set)."""
    misaligned_flatten: bool | None = None
    """Whether this quirk of the released code is on; redo-as-published, as the three below."""
    next_recorded_layer: bool | None = None
    xavier: bool | None = None
    keep_bias_moments: bool | None = None


SCHEDULE = ("period", "start", "stop")
SCHEDULED = (*SCHEDULE, "when_dormant")
RENEWAL = ("outgoing", "incoming", "moments", "step_count")
WHERE = ("coupled", "layers")
QUIRKS = ("misaligned_flatten", "next_recorded_layer", "xavier", "keep_bias_moments")
PENALTIES = {"l2-init": L2Init, "parseval": Parseval, "spectral": Spectral}
NUMBERS = {
    "dormant": (Dormant, ("tau",)),
    "share": (Share, ("share", "recyclings")),
    "pooled-share": (PooledShare, ("share",)),
    "gap": (Gap, ()),
}
USES: dict[Name, tuple[str, ...]] = {
    "none": (),
    "weight-decay": (),
    "redo": ("tau", *RENEWAL, *WHERE, *SCHEDULED),
    "redo-as-published": ("tau", *QUIRKS, *SCHEDULED),
    "recycle": ("score", "number", "tau", "share", "recyclings", "order", "at_most", *RENEWAL, *WHERE, *SCHEDULED),
    "regrama": ("tau", "at_most", *RENEWAL, *WHERE, *SCHEDULED),
    "continual-backprop": ("replacement_rate", "maturity", *RENEWAL, *WHERE),
    "reset": ("layers", "moments", "step_count", *SCHEDULED),
    "prune": ("tau", "period"),
    "shrink-perturb": ("keep", "moments", *SCHEDULED),
    "hare-tortoise": ("momentum", "period", "moments"),
    "clip-weights": ("factor",),
    "reset-optimizer": ("moments", "step_count", *SCHEDULED),
    "plasticity-injection": ("at",),
    "l2-init": ("strength",),
    "parseval": ("strength",),
    "spectral": ("strength",),
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
    match settings.intervention:
        case "prune":
            return Prune(**given)
        case "continual-backprop":
            return ContinualBackprop(renewal=_renewal(given), **given)
        case "hare-tortoise":
            return HareTortoise(**given)
        case "clip-weights":
            return ClipWeights(**given)
        case "plasticity-injection":
            return PlasticityInjection(**{"at": 100_000, **given})
    return _scheduled(settings.intervention, given)


def _scheduled(name: Name, given: dict[str, Any]) -> Intervention:
    # The paper's periods; that of resets is its best, as others quote its appendix.
    schedule = {"period": 100_000 if name == "reset" else 1_000}
    schedule |= {setting: given.pop(setting) for setting in SCHEDULE if setting in given}
    share = given.pop("when_dormant", None)
    match name:
        case "redo":
            what = ReDo(**given)
        case "redo-as-published":
            what = redo_as_published(**given)
        case "recycle":
            what = Recycle(number=_number(given), renewal=_renewal(given), **given)
        case "regrama":
            number = Dormant(given.pop("tau", 0.01))
            what = Recycle("gradient", number, renewal=_renewal(given), **given)
        case "reset":
            what = Reset(**{"layers": ("dense",), **given})  # the paper's, its penultimate layer
        case "shrink-perturb":
            what = ShrinkPerturb(**given)
        case "reset-optimizer":
            what = ResetOptimizer(**given)
        case _:
            return Chain()
    return Every(what=what if share is None else WhenDormant(share, what), **schedule)


def _renewal(given: dict[str, Any]) -> Renewal:
    """That of the settings given, which are taken out of them."""
    return Renewal(**{name: given.pop(name) for name in RENEWAL if name in given})


def _number(given: dict[str, Any]) -> Any:
    """How many neurons, of the settings given, which are taken out of them."""
    name = given.pop("number", "dormant")
    kind, uses = NUMBERS[name]
    for setting in ("tau", "share", "recyclings"):
        if setting in given and setting not in uses:
            raise ValueError(
                f"--number {name} does not use {_flag(setting)}; choose another --number, or leave it out."
            )
    return kind(**{setting: given.pop(setting) for setting in uses if setting in given})


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
    """The agent with the paper's weight decay, if that is the intervention and no other was set, or with a penalty."""
    if settings.intervention == "weight-decay" and agent.weight_decay == 0:
        return dataclasses.replace(agent, weight_decay=PAPER_WEIGHT_DECAY)
    if settings.intervention in PENALTIES:
        return dataclasses.replace(agent, regulariser=penalty(settings))
    if settings.intervention == "plasticity-injection":
        return dataclasses.replace(agent, network=injectable(agent.network))
    return agent


def penalty(settings: Settings) -> L2Init | Parseval | Spectral:
    """The regulariser that the settings name."""
    strength = {} if settings.strength is None else {"strength": settings.strength}
    return PENALTIES[settings.intervention](**strength)


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
    if name in TASKS:
        raise ValueError(f"{name} is played by --agent sac; dqn and drq play MinAtar/ and ALE/ with a game.")
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
