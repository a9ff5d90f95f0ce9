"""The intervention flags of `dormant train`. A flag that the chosen intervention does not use is an error."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dormant.cli.scan import function
from dormant.hints import suggestion
from dormant.interventions import (
    FIRE,
    SNR,
    SWR,
    Chain,
    ClipWeights,
    ContinualBackprop,
    Dormant,
    DrM,
    Every,
    Gap,
    HareTortoise,
    Intervention,
    NaP,
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
    SoftShrinkPerturb,
    WhenDormant,
    redo_as_published,
)
from dormant.interventions.how_many import Number
from dormant.interventions.schedule import checked_intervention
from dormant.perturbed_descent import UPGD
from dormant.regularisers import CChain, L2Init, Parseval, Spectral
from dormant.rl.agents.dqn import DQN
from dormant.rl.agents.sac import NETWORKS, SAC
from dormant.rl.networks import injectable

PAPER_WEIGHT_DECAY = 1e-5  # the best value of the paper's grid for DQN, according to secondary sources
PAPER_SAC_PERIOD = 200_000  # gradient steps, according to secondary sources

Given = dict[str, Any]  # given flag -> its value
Name = Literal[
    "none",
    "redo",
    "redo-as-published",
    "recycle",
    "regrama",
    "continual-backprop",
    "reset",
    "prune",
    "snr",
    "swr",
    "shrink-perturb",
    "soft-shrink-perturb",
    "drm",
    "fire",
    "nap",
    "hare-tortoise",
    "clip-weights",
    "reset-optimizer",
    "plasticity-injection",
    "weight-decay",
    "l2-init",
    "parseval",
    "spectral",
    "c-chain",
    "upgd",
]


@dataclass(frozen=True)
class Settings:
    """Which intervention acts on the network, and when. A setting that is left out keeps the intervention's default."""

    intervention: Name | str = "none"
    """The intervention that acts on the network during training. The default strength of weight-decay is 1e-5, as in
    the paper. To use a class of your own, give module:Class. It is called at every gradient step, or on a schedule if
    you give one of --period, --start, --stop and --when-dormant."""
    period: int | None = None
    """Gradient steps between two interventions. Default: 1,000; reset, drm and fire 100,000; hare-tortoise 10,000; nap
    1. With SAC, 200,000 for all that have --start, except nap. For snr, gradient steps between two updates of the
    limits on silences (default: 10,000). Not for continual-backprop and clip-weights, which act at every gradient
    step."""
    tau: float | None = None
    """Neurons with at most this score are dormant. Default: redo and redo-as-published 0.1 (with SAC 0), recycle 0.1,
    regrama 0.01, drm 0.025, prune 0."""
    start: int | None = None
    """Gradient step at which the intervention first acts (default: after one period). Not for prune or interventions
    that act at every step."""
    stop: int | None = None
    """Gradient step from which the intervention no longer acts. Not for prune or interventions that act at every
    step."""
    when_dormant: float | None = None
    """Act only while at least this fraction of all neurons is dormant (tau = 0.1). Not for prune or interventions that
    act at every step."""
    at: int | None = None
    """plasticity-injection: gradient step after which the head is frozen and a new head learns. Default: 100,000."""
    outgoing: Literal["zero", "fresh"] | None = None
    """Outgoing weights of a recycled neuron: zero, or drawn anew. For redo, recycle, regrama, continual-backprop."""
    incoming: Literal["fresh", "scaled"] | None = None
    """Incoming weights of a recycled neuron: drawn anew, or drawn anew and scaled to the mean norm of other neurons."""
    moments: Literal["fresh", "keep"] | None = None
    """Whether changed weights get fresh optimizer moments. For interventions that renew or reset weights."""
    step_count: Literal["keep", "restart"] | None = None
    """Keep or restart the optimizer's step count. For interventions that renew neurons, reset and reset-optimizer."""
    coupled: Literal["recycle", "skip"] | None = None
    """Recycle or skip layers in which a normalisation couples the neurons. For interventions that renew neurons."""
    layers: tuple[str, ...] | None = None
    """Layers to change, or networks of SAC: actor, critic1, critic2. For interventions that renew neurons (default:
    all layers) and reset (default: dense, with SAC all networks)."""
    keep: float | None = None
    """shrink-perturb: factor by which old weights are multiplied."""
    least: float | None = None
    """drm: lower bound of the factor by which old weights are multiplied. Default: 0.2."""
    most: float | None = None
    """drm: upper bound of the factor by which old weights are multiplied. Default: 0.9."""
    rate: float | None = None
    """soft-shrink-perturb: fraction of fresh weights mixed in per gradient step. Default: 1e-6."""
    iterations: int | None = None
    """fire: steps of the Newton-Schulz iteration. Default: 10."""
    heads: Literal["project", "keep", "fresh"] | None = None
    """fire: project output layers, keep them, or draw them anew."""
    everywhere: bool | None = None
    """nap: project all hidden kernels, also those without a normalisation after them."""
    quantile: float | None = None
    """snr: a neuron is recycled if its silence is longer than this quantile of its past silences. Default: 0.98."""
    score: Literal["activation", "gradient", "contribution", "utility"] | None = None
    """recycle: score by which neurons are ranked."""
    order: Literal["lowest", "highest", "random"] | None = None
    """recycle: which neurons are recycled first."""
    number: Literal["dormant", "share", "pooled-share", "gap"] | None = None
    """recycle: how many neurons are recycled. dormant: all dormant neurons. share: a share of each layer. pooled-share:
    a share of all layers together. gap: all neurons with scores below the largest gap."""
    share: float | None = None
    """recycle: fraction of neurons to recycle, for --number share or pooled-share. c-chain: size of the penalty after
    its first 10,000 gradient steps, as a fraction of the loss."""
    recyclings: int | None = None
    """recycle: the number of times that neurons are recycled while --share falls to zero along a cosine."""
    at_most: int | None = None
    """recycle, regrama: largest number of neurons per layer recycled at a time."""
    replacement_rate: float | None = None
    """continual-backprop: fraction of the mature neurons replaced per gradient step."""
    maturity: int | None = None
    """continual-backprop: gradient steps before a new neuron may be replaced."""
    momentum: float | None = None
    """hare-tortoise: momentum of the running average of the weights."""
    factor: float | None = None
    """clip-weights: bound on weights, as a multiple of --bound. swr: weights with a utility of at most this factor
    times the mean utility are drawn anew, or with --choice proportional this fraction of all weights (default:
    5e-4)."""
    bound: Literal["initial", "fan_in"] | None = None
    """clip-weights: the largest initial weight of the layer, or 1 / sqrt(inputs), the authors' bound."""
    utility: Literal["gradient", "magnitude"] | None = None
    """swr: what ranks weights: gradient times weight, or the weight alone."""
    choice: Literal["threshold", "proportional"] | None = None
    """swr: draw anew all weights whose utility is below a threshold, or a fixed fraction of the weights."""
    strength: float | None = None
    """l2-init, parseval, spectral: factor of the penalty. Default: 1e-4. c-chain: factor in its first 10,000 gradient
    steps. Default: 50."""
    noise: float | None = None
    """upgd: standard deviation of the noise that is added to weights of low utility. Default: 1e-3."""
    misaligned_flatten: bool | None = None
    """redo-as-published: choose outgoing weights after a flatten with the published code's misaligned mask."""
    next_recorded_layer: bool | None = None
    """redo-as-published: assume that the next recorded layer reads the neurons, as the published code does."""
    xavier: bool | None = None
    """redo-as-published: draw fresh weights of every layer from Xavier uniform."""
    keep_bias_moments: bool | None = None
    """redo-as-published: keep the optimizer moments of biases."""


SCHEDULE = ("period", "start", "stop")
SCHEDULED = (*SCHEDULE, "when_dormant")
RENEWAL = ("outgoing", "incoming", "moments", "step_count")
WHERE = ("coupled", "layers")
QUIRKS = ("misaligned_flatten", "next_recorded_layer", "xavier", "keep_bias_moments")
PENALTIES = {"l2-init": L2Init, "parseval": Parseval, "spectral": Spectral, "c-chain": CChain}
OCCASIONAL = {"swr": SWR, "drm": DrM, "fire": FIRE, "nap": NaP, "reset-optimizer": ResetOptimizer}
# The papers' periods. The period of resets is the best of several in the paper, according to secondary sources. In
# FIRE's paper, FIRE acts once, so its period is our choice.
PERIODS = {"reset": 100_000, "drm": 100_000, "fire": 100_000, "nap": 1}
NUMBERS = {
    "dormant": (Dormant, ("tau",)),
    "share": (Share, ("share", "recyclings")),
    "pooled-share": (PooledShare, ("share",)),
    "gap": (Gap, ()),
}
USES: dict[str, tuple[str, ...]] = {
    "none": (),
    "weight-decay": (),
    "redo": ("tau", *RENEWAL, *WHERE, *SCHEDULED),
    "redo-as-published": ("tau", *QUIRKS, *SCHEDULED),
    "recycle": ("score", "number", "tau", "share", "recyclings", "order", "at_most", *RENEWAL, *WHERE, *SCHEDULED),
    "regrama": ("tau", "at_most", *RENEWAL, *WHERE, *SCHEDULED),
    "continual-backprop": ("replacement_rate", "maturity", *RENEWAL, *WHERE),
    "reset": ("layers", "moments", "step_count", *SCHEDULED),
    "prune": ("tau", "period"),
    "snr": ("quantile", "period", *RENEWAL, *WHERE),
    "swr": ("utility", "choice", "factor", "moments", *SCHEDULED),
    "shrink-perturb": ("keep", "moments", *SCHEDULED),
    "soft-shrink-perturb": ("rate", "period"),
    "drm": ("least", "most", "tau", "layers", "moments", "step_count", *SCHEDULED),
    "fire": ("iterations", "heads", "moments", *SCHEDULED),
    "nap": ("everywhere", *SCHEDULED),
    "hare-tortoise": ("momentum", "period", "moments"),
    "clip-weights": ("factor", "bound"),
    "reset-optimizer": ("moments", "step_count", *SCHEDULED),
    "plasticity-injection": ("at",),
    "l2-init": ("strength",),
    "parseval": ("strength",),
    "spectral": ("strength",),
    "c-chain": ("strength", "share"),
    "upgd": ("noise",),
}


def intervention(settings: Settings) -> Intervention:
    """The intervention that the settings describe.

    Raises ValueError for a setting that the intervention does not use, or a value that it does not accept.

    >>> intervention(Settings("prune", tau=0.1))
    Prune(tau=0.1, period=1000)
    """
    given = {name: value for name, value in dataclasses.asdict(settings).items() if value is not None}
    _check_used(given.pop("intervention"), given)
    if settings.layers == ():
        raise ValueError(
            "--layers expects the name of at least one layer, got none; leave the flag out for the default."
        )
    if ":" in settings.intervention:
        return _own(settings.intervention, given)
    match settings.intervention:
        case "prune":
            return Prune(**given)
        case "continual-backprop":
            return ContinualBackprop(renewal=_renewal(given), **given)
        case "snr":
            return SNR(renewal=_renewal(given), **given)
        case "soft-shrink-perturb":
            return SoftShrinkPerturb(**given)
        case "hare-tortoise":
            return HareTortoise(**given)
        case "clip-weights":
            return ClipWeights(**given)
        case "plasticity-injection":
            return PlasticityInjection(**{"at": 100_000, **given})
    return _scheduled(settings.intervention, given)


def _own(name: str, given: Given) -> Intervention:
    """Builds the user's class `module:Class` without arguments. Returns the intervention, on a schedule if one is set.

    Raises ValueError if the class cannot be imported or built, is not an intervention, or is not a frozen dataclass.
    """
    try:
        made = checked_intervention(function(name, "--intervention")())
    except (Exception, SystemExit) as error:  # the user's class can raise anything
        raise ValueError(f"--intervention {name}: {' '.join(str(error).split())[:300]}") from error
    params = getattr(made, "__dataclass_params__", None)
    if params is None or not params.frozen:
        kind = type(made).__name__
        raise ValueError(f"--intervention {name}: {kind} must be a frozen dataclass, because a run saves its fields.")
    return _every(made, 1_000, given) if given else made


def _every(what: Intervention, period: int, given: Given) -> Intervention:
    """Puts the intervention on the schedule that the settings describe."""
    schedule = {"period": period} | {setting: given[setting] for setting in SCHEDULE if setting in given}
    share = given.get("when_dormant")
    return Every(what=what if share is None else WhenDormant(share, what), **schedule)


def _scheduled(name: str, given: Given) -> Intervention:
    schedule = {setting: given.pop(setting) for setting in SCHEDULED if setting in given}
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
            what = Reset(**{"layers": ("dense",), **given})  # the penultimate layer, as in the paper
        case "shrink-perturb":
            what = ShrinkPerturb(**given)
        case "swr" | "drm" | "fire" | "nap" | "reset-optimizer":
            what = OCCASIONAL[name](**given)
        case _:
            return Chain()
    return _every(what, PERIODS.get(name, 1_000), schedule)


def _renewal(given: Given) -> Renewal:
    """Removes the settings of a renewal from `given`. Returns the renewal that they describe."""
    return Renewal(**{name: given.pop(name) for name in RENEWAL if name in given})


def _number(given: Given) -> Number:
    """Removes the settings of `number` from `given`. Returns the number of neurons that they describe."""
    name = given.pop("number", "dormant")
    kind, uses = NUMBERS[name]
    for setting in ("tau", "share", "recyclings"):
        if setting in given and setting not in uses:
            raise ValueError(
                f"--number {name} does not use {_flag(setting)}; choose another --number, or leave it out."
            )
    return kind(**{setting: given.pop(setting) for setting in uses if setting in given})


def _check_used(name: str, given: Given) -> None:
    if name not in USES and ":" not in name:
        known = suggestion(name, get_args(Name))
        raise ValueError(f"--intervention has no choice {name!r}; {known} For a class of your own, give module:Class.")
    uses = USES.get(name, SCHEDULED)
    unused = [_flag(setting) for setting in given if setting not in uses]
    if unused:
        used = ", ".join(map(_flag, uses)) or "no setting"
        raise ValueError(f"--intervention {name} does not use {', '.join(unused)}; it uses {used}.")


def _flag(setting: str) -> str:
    return "--" + setting.replace("_", "-")


def for_sac(settings: Settings) -> Settings:
    """The settings with the paper's defaults for SAC: its period, tau 0 for ReDo, and resets of all networks.

    >>> for_sac(Settings("redo", period=10))
    Settings(intervention='redo', period=10, tau=0.0, ...)
    """
    uses = USES.get(settings.intervention, ())
    defaults = {"period": PAPER_SAC_PERIOD} if "start" in uses and settings.intervention != "nap" else {}
    defaults |= {"tau": 0.0} if settings.intervention in ("redo", "redo-as-published") else {}
    defaults |= {"layers": NETWORKS} if settings.intervention == "reset" else {}
    missing = {name: value for name, value in defaults.items() if name in uses and getattr(settings, name) is None}
    return dataclasses.replace(settings, **missing)


def dqn_for(agent: DQN, settings: Settings) -> DQN:
    """The agent with the weight decay, penalty, optimizer or network that the intervention needs."""
    if settings.intervention == "weight-decay" and agent.weight_decay == 0:
        return dataclasses.replace(agent, weight_decay=PAPER_WEIGHT_DECAY)
    if settings.intervention in PENALTIES:
        return dataclasses.replace(agent, regulariser=_penalty(settings))
    if settings.intervention == "upgd":
        return dataclasses.replace(agent, upgd=UPGD() if settings.noise is None else UPGD(noise=settings.noise))
    if settings.intervention == "plasticity-injection":
        return dataclasses.replace(agent, network=injectable(agent.network))
    return agent


def sac_for(agent: SAC, settings: Settings) -> SAC:
    """The agent with the weight decay or penalty that the intervention needs, in all networks.

    Raises ValueError for plasticity injection, C-CHAIN and UPGD.
    """
    if settings.intervention in ("c-chain", "plasticity-injection", "upgd"):
        raise ValueError(f"--intervention {settings.intervention} works with --agent dqn and drq only, not with sac.")
    if settings.intervention in PENALTIES:
        return dataclasses.replace(agent, regulariser=_penalty(settings))
    if settings.intervention == "weight-decay" and agent.actor_weight_decay == agent.critic_weight_decay == 0:
        return dataclasses.replace(agent, actor_weight_decay=PAPER_WEIGHT_DECAY, critic_weight_decay=PAPER_WEIGHT_DECAY)
    return agent


def _penalty(settings: Settings) -> L2Init | Parseval | Spectral | CChain:
    given = {name: getattr(settings, name) for name in USES[settings.intervention]}
    return PENALTIES[settings.intervention](**{name: value for name, value in given.items() if value is not None})
