"""A fair comparison: tunes methods with equal budgets on a separate seed, then judges them against DQN."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from dormant import (
    FIRE,
    SNR,
    SWR,
    UPGD,
    ClipWeights,
    ContinualBackprop,
    DrM,
    Every,
    HareTortoise,
    Intervention,
    NaP,
    Recycle,
    Reset,
    ResetOptimizer,
    ShrinkPerturb,
    SoftShrinkPerturb,
    how_many,
)
from dormant.experiments.alternatives import LONG_AFTER
from dormant.experiments.benches import (
    HIGHER_RETURN,
    MINATAR,
    NOTHING_LEARNT,
    ONE,
    SMOKE,
    SMOKE_RESNET,
    THREE,
    WEIGHT_DECAY,
    Bench,
    Changes,
    atari_bench,
    halves_dormancy,
)
from dormant.files import write_whole
from dormant.hints import canonical
from dormant.interventions.how_many import Number
from dormant.interventions.recycle import Score
from dormant.lab import Arm, Claim, Design, Experiment, Panel, Quantity, Scale, Trainable
from dormant.lab.runs.schema import Checksum, Model, read, sealed
from dormant.regularisers import CChain, L2Init, Parseval, Spectral
from dormant.rl.envs.atari import DQN_GAMES, Atari
from dormant.rl.envs.minatar import MinAtar

Value = TypeVar("Value")
PLAIN = "DQN"
LEARNING_RATES = (0.5, 1.0, 2.0)  # relative to the bench's learning rate
STRENGTHS = (1e-5, 1e-4, 1e-3)
DECAYS = (WEIGHT_DECAY / 10, WEIGHT_DECAY, 10 * WEIGHT_DECAY)
Candidates = dict[str, Trainable]  # name of a setting -> training
Maker = Callable[[Bench], Candidates]  # makes the candidates of a method
Change = Callable[..., Changes]  # returns changed fields of an agent, given a value or the agent's network


@dataclass(frozen=True)
class Method:
    """A method: its name in tables, and a function that builds its candidates from a bench."""

    title: str
    candidates: Maker


def _by_intervention(
    setting: str, values: Sequence[float], intervention: Callable[[Bench, float], Intervention]
) -> Maker:
    """Returns a function that makes candidates: one per value of a setting of the intervention."""
    return lambda bench: {f"{setting} {each:g}": bench.dqn(intervention=intervention(bench, each)) for each in values}


def _by_agent(setting: str, values: Sequence[float], change: Change) -> Maker:
    """Returns a function that makes candidates: one per value of a setting of the agent."""
    return lambda bench: {f"{setting} {each:g}": bench.dqn(**change(each)) for each in values}


def _by_learning_rate(change: Change) -> Maker:
    """Returns a function that makes one candidate per learning rate. For methods that have no setting to tune."""

    def candidates(bench: Bench) -> Candidates:
        plain = bench.dqn().agent
        rates = [times * plain.learning_rate for times in LEARNING_RATES]
        return {f"learning rate {each:g}": bench.dqn(learning_rate=each, **change(plain.network)) for each in rates}

    return candidates


def _by_period(of: str, times: Sequence[float], intervention: Callable[[int], Intervention]) -> Maker:
    """Returns a function that makes one candidate per period. The periods are the bench's field `of` times `times`."""

    def candidates(bench: Bench) -> Candidates:
        periods = [max(1, round(each * getattr(bench, of))) for each in times]
        return {f"period {each}": bench.dqn(intervention=intervention(each)) for each in periods}

    return candidates


def _recycled(period: int, number: Number, score: Score = "activation") -> Every:
    return Every(period, Recycle(score, number))


def _with_nap(bench: Bench) -> Candidates:
    """The candidates of NaP: its network has LayerNorm, and its learning rate is tuned."""
    plain = bench.dqn().agent
    network, rates = replace(plain.network, layer_norm=True), [times * plain.learning_rate for times in LEARNING_RATES]
    nap = Every(1, NaP())
    return {
        f"learning rate {each:g}": bench.dqn(intervention=nap, learning_rate=each, network=network) for each in rates
    }


METHODS: Mapping[str, Method] = {
    "redo": Method("ReDo", _by_intervention("τ", (0.0, 0.025, 0.1), lambda bench, tau: bench.redo(tau))),
    "gap": Method(
        "ReDo, largest gap", _by_period("redo_period", (0.5, 1.0, 2.0), lambda each: _recycled(each, how_many.Gap()))
    ),
    "regrama": Method(
        "ReGraMa",
        _by_intervention(
            "τ", (0.01, 0.025, 0.1), lambda bench, tau: _recycled(bench.redo_period, how_many.Dormant(tau), "gradient")
        ),
    ),
    "continual-backprop": Method(
        "Continual backprop", _by_intervention("rate", (1e-5, 1e-4, 1e-3), lambda _, rate: ContinualBackprop(rate))
    ),
    "shrink-perturb": Method(
        "Shrink and perturb",
        _by_intervention("keep", (0.5, 0.8, 0.95), lambda bench, keep: Every(bench.reset_period, ShrinkPerturb(keep))),
    ),
    "reset": Method("Reset", _by_period("reset_period", (1.0, 2.0, 5.0), lambda each: Every(each, Reset(("dense",))))),
    "reset-optimizer": Method(
        "Optimizer reset", _by_period("reset_period", (0.1, 1.0, 5.0), lambda each: Every(each, ResetOptimizer()))
    ),
    "hare-tortoise": Method(
        "Hare and tortoise", _by_period("reset_period", (0.1, 1.0, 5.0), lambda each: HareTortoise(period=each))
    ),
    "clip-weights": Method(
        "Weight clipping", _by_intervention("factor", (1.0, 2.0, 4.0), lambda _, each: ClipWeights(each))
    ),
    "snr": Method("SNR", _by_intervention("quantile", (0.9, 0.95, 0.98), lambda _, each: SNR(each))),
    "swr": Method(
        "SWR", _by_intervention("factor", (1e-5, 1e-4, 1e-3), lambda bench, c: Every(bench.redo_period, SWR(factor=c)))
    ),
    "soft-shrink-perturb": Method(
        "Soft shrink and perturb", _by_intervention("rate", (1e-7, 1e-6, 1e-5), lambda _, each: SoftShrinkPerturb(each))
    ),
    "drm": Method(
        "DrM", _by_intervention("most", (0.7, 0.8, 0.9), lambda bench, most: Every(bench.reset_period, DrM(most=most)))
    ),
    "fire": Method("FIRE", _by_period("reset_period", (1.0, 2.0, 5.0), lambda each: Every(each, FIRE()))),
    "nap": Method("NaP", _with_nap),
    "weight-decay": Method("Weight decay", _by_agent("strength", DECAYS, lambda each: {"weight_decay": each})),
    "l2-init": Method("L2 init", _by_agent("strength", STRENGTHS, lambda each: {"regulariser": L2Init(each)})),
    "parseval": Method("Parseval", _by_agent("strength", STRENGTHS, lambda each: {"regulariser": Parseval(each)})),
    "spectral": Method("Spectral", _by_agent("strength", STRENGTHS, lambda each: {"regulariser": Spectral(each)})),
    "c-chain": Method("C-CHAIN", _by_agent("share", (0.01, 0.03, 0.1), lambda each: {"regulariser": CChain(each)})),
    "upgd": Method("UPGD", _by_agent("noise", (1e-4, 1e-3, 1e-2), lambda each: {"upgd": UPGD(noise=each)})),
    "layer-norm": Method(
        "LayerNorm", _by_learning_rate(lambda network: {"network": replace(network, layer_norm=True)})
    ),
    "crelu": Method("CReLU", _by_learning_rate(lambda network: {"network": replace(network, activation="crelu")})),
    "gap-head": Method("GAP head", _by_learning_rate(lambda network: {"network": replace(network, gap=True)})),
}
_PLAIN = Method(PLAIN, _by_learning_rate(lambda _: {}))


def candidates(name: str, bench: Bench) -> Candidates:
    """The three candidate settings of a method, or of the plain agent."""
    return (METHODS.get(name) or _PLAIN).candidates(bench)


def title(name: str) -> str:
    """The name of a method in tables."""
    return (METHODS.get(name) or _PLAIN).title


Suite = Literal["minatar", "atari"]
TUNING_SEED = 100  # no design has this seed


@dataclass(frozen=True)
class Ground:
    """The bench, environments and seeds of a comparison at one scale. Tuning uses the first environment only."""

    bench: Bench
    environments: tuple[object, ...]
    seeds: tuple[int, ...]
    leaves_out: str = ""


def _on_minatar(games: Sequence[str], seeds: int, leaves_out: str) -> Ground:
    return Ground(MINATAR, tuple(map(MinAtar, games)), tuple(range(seeds)), leaves_out)


GROUNDS: Mapping[Suite, Mapping[Scale, Ground]] = {
    "minatar": {
        "smoke": Ground(SMOKE, (MinAtar("Asterix", time_limit=100),), (0, 1), NOTHING_LEARNT),
        "pilot": _on_minatar(ONE, 3, "All games but Asterix, and two of the five seeds."),
        "laptop": _on_minatar(THREE, 5, "Atari, and runs of more than 200,000 agent steps."),
    },
    "atari": {
        "smoke": Ground(SMOKE_RESNET, (Atari("Pong", time_limit=50),), (0, 1), NOTHING_LEARNT),
        "paper": Ground(atari_bench(10), tuple(map(Atari, DQN_GAMES)), tuple(range(5))),
    },
}


def tuning(suite: Suite, scale: Scale, names: Sequence[str]) -> Experiment:
    """The experiment of the tuning runs: all candidates of the methods and the plain agent, with the tuning seed."""
    ground = GROUNDS[suite][scale]
    arms = tuple(
        Arm(f"{title(name)}, {setting}", training)
        for name in (PLAIN, *names)
        for setting, training in candidates(name, ground.bench).items()
    )
    design = Design(arms, ground.environments[:1], (TUNING_SEED,), "These runs are not judged.")
    return Experiment("compare-tuning", "The tuning of a comparison", {scale: design})


def comparison(suite: Suite, scale: Scale, chosen: Mapping[str, str]) -> Experiment:
    """The experiment that compares the methods and the plain agent, each with its chosen setting."""
    ground = GROUNDS[suite][scale]
    arms = tuple(Arm(title(name), candidates(name, ground.bench)[setting]) for name, setting in chosen.items())
    settings = "; ".join(f"{title(name)}: {setting}" for name, setting in chosen.items())
    return Experiment(
        name="compare",
        title="Methods against dormant neurons, tuned alike",
        designs={scale: Design(arms, ground.environments, ground.seeds, ground.leaves_out)},
        panels=(Panel("Return", "eval_return"), Panel("Dormant neurons (τ = 0.1)", "dormant/0.1/all")),
        claims=tuple(claim for arm in arms[1:] for claim in (higher_return(arm.name), fewer_dormant(arm.name))),
        settings=(
            "Each method has three candidate settings, with one tuning run each in the first environment with seed "
            f"{TUNING_SEED}. The setting with the highest mean return in the second half of training is used. The "
            "candidates of the plain agent, and of methods without a setting of their own, are learning rates. "
            f"Chosen settings: {settings}."
        ),
        command=f"dormant compare --interventions {','.join(list(chosen)[1:])} --suite {suite} --scale {scale}",
    )


def higher_return(arm: str) -> Claim:
    """The claim that a method's return in the second half of training is higher than the plain agent's."""
    statement = f"The return of {arm} is higher than that of plain DQN"
    quantity = Quantity("eval_return", "mean", after=0.5, reset_age=LONG_AFTER)
    return Claim(statement, quantity, arm, PLAIN, "higher", HIGHER_RETURN, "ratio")


def fewer_dormant(arm: str) -> Claim:
    """The claim that a method halves the plain agent's fraction of dormant neurons."""
    return halves_dormancy(arm, PLAIN)


class Record(Model):
    """The state of a comparison: each method's chosen setting, and its training time relative to plain DQN."""

    suite: Suite
    chosen: dict[str, str]
    cost: dict[str, float] = Field(default_factory=dict)
    checksum: Checksum | None = None  # None in files that older versions wrote

    def experiment(self, scale: Scale) -> Experiment:
        """The experiment that compares the chosen settings."""
        return comparison(self.suite, scale, self.chosen)


def record_file(root: Path, scale: Scale) -> Path:
    """The path of the newest comparison's record."""
    return root / scale / "comparison.json"


def write_record(root: Path, scale: Scale, record: Record) -> None:
    """Writes the record, completely or not at all."""
    write_whole(record_file(root, scale), sealed(record.model_dump(exclude={"checksum"})))


def read_record(root: Path, scale: Scale) -> Record | None:
    """Reads the newest comparison's record. Returns None if no record exists, or if it names an unknown setting.

    Raises Damaged if the file is damaged, OSError if it cannot be read.
    """
    try:
        found = read(Record, record_file(root, scale))
    except (FileNotFoundError, NotADirectoryError):
        return None
    record = Record(suite=found.suite, chosen=_with_known_names(found.chosen), cost=_with_known_names(found.cost))
    try:
        record.experiment(scale)
    except KeyError:
        return None
    return record


def _with_known_names(record: dict[str, Value]) -> dict[str, Value]:
    """Replaces old names of methods with current names. Old names have underscores; "cbp" was continual backprop."""
    names = {name: canonical({"cbp": "continual-backprop"}.get(name, name), METHODS) for name in record}
    return {names[name]: value for name, value in record.items()}
