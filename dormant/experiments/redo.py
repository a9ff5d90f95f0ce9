"""Figures 9 and 10: with ReDo, few neurons are dormant, and agents still learn at high replay ratios."""

from dataclasses import replace
from functools import partial
from typing import Any

from dormant import Intervention
from dormant.experiments.benches import (
    DORMANT,
    HIGHER_RETURN,
    LOWER_RETURN,
    ONE,
    Q_GAP,
    RATIOS,
    RETURN,
    THREE,
    TRAINING,
    Arms,
    Bench,
    Changes,
    atari,
    atari_bench,
    halves_dormancy,
    laptop,
    minatar,
    pilot,
    returns,
    smoke,
    smoke_on_atari,
)
from dormant.lab import Arm, Design, Experiment, Panel, Quantity
from dormant.rl.agents import ATARI_100K_GAME, ATARI_100K_RUN, atari_drq, minatar_drq
from dormant.rl.atari import AtariTraining
from dormant.rl.device import DeviceTraining
from dormant.rl.envs.atari import ATARI_100K_GAMES, DQN_GAMES, Atari
from dormant.rl.networks.convolutional import ImpalaResNet, MinAtarCNN, NatureCNN


def with_tau(tau: float, ratio: float) -> Arms:
    """Returns a function that builds two arms: DQN, and DQN with ReDo at this tau."""

    def arms(bench: Bench) -> tuple[Arm, ...]:
        return Arm("DQN", bench.dqn(ratio)), Arm("ReDo", bench.dqn(ratio, bench.redo(tau)))

    return arms


at_ratio_1 = with_tau(0.1, 1.0)
FIG09 = Experiment(
    name="fig09",
    title="ReDo recycles dormant neurons, and the agent learns more",
    designs={
        "smoke": smoke(at_ratio_1),
        "pilot": pilot(at_ratio_1),
        "laptop": laptop(at_ratio_1, THREE, "Atari's DemonAttack, and runs of 40 million frames."),
        "paper": atari(with_tau(0.025, 0.25), atari_bench(40), ("DemonAttack",)),
    },
    panels=(
        DORMANT,
        Panel("Dormant neurons (τ = 0.025)", "dormant/0.025/all"),
        TRAINING,
        RETURN,
    ),
    claims=(
        # In the paper the dormant fraction is 28 % with DQN and 2 % with ReDo. The fraction drops at each recycling, so
        # the claim is about its mean over the second half of the run.
        *(halves_dormancy("ReDo", "DQN", tau) for tau in ("0.1", "0.025")),
        # In the paper ReDo's return is about 1.7 times DQN's.
        returns("ReDo ends with a higher return than DQN", "ReDo", "DQN", "higher", HIGHER_RETURN),
        returns(
            "ReDo's return is higher over the whole run",
            "ReDo",
            "DQN",
            "higher",
            HIGHER_RETURN,
            Quantity("train_return", "per episode"),
        ),
    ),
    published=("DemonAttack tau=0.025 replay_ratio=0.25", "DemonAttack replay_ratio=0.25"),
    settings="On MinAtar the replay ratio is 1 and τ is 0.1, not 0.25 and 0.025.",
)


SWEEP_PANELS = (
    Panel("Training return at the end", "train_return", "replay_ratio"),
    Panel("Return at the end", "eval_return", "replay_ratio"),
    Panel("Dormant neurons (τ = 0.1) at the end", "dormant/0.1/all", "replay_ratio"),
    Panel("Q less the return that followed, at the end", "q_gap", "replay_ratio"),
    TRAINING,
    RETURN,
    DORMANT,
    Q_GAP,
)


def swept(
    taus: dict[float, float] | None = None, ratios: tuple[float, ...] = RATIOS, name: str = "DQN", **agent: Any
) -> Arms:
    """Returns a function that builds arms with and without ReDo. `taus` maps ratios to thresholds (default 0.1)."""
    return partial(_arms, taus or {}, ratios, name, agent)


def _arms(
    taus: dict[float, float], ratios: tuple[float, ...], name: str, agent: Changes, bench: Bench
) -> tuple[Arm, ...]:
    plain = [Arm(f"{name}, RR {ratio:g}", bench.dqn(ratio, **agent)) for ratio in ratios]
    redo = [Arm(f"ReDo, RR {ratio:g}", bench.dqn(ratio, bench.redo(taus.get(ratio, 0.1)), **agent)) for ratio in ratios]
    return (*plain, *redo)


# Quotients of returns in the paper's panels a, b and c. ReDo / DQN at replay ratio 0.25: 0.97 to 1.05; at 1: 2.1, 1.3,
# 1.7; at 2: 6.1, 1.6, 2.4. DQN at replay ratio 2 / DQN at 0.25: 0.22, 0.52, 0.27.
SWEEP_CLAIMS = (
    returns("DQN's return is lower at replay ratio 2 than at 0.25", "DQN, RR 2", "DQN, RR 0.25", "lower", LOWER_RETURN),
    returns("ReDo's return is higher than DQN's at replay ratio 1", "ReDo, RR 1", "DQN, RR 1", "higher", HIGHER_RETURN),
    returns("ReDo's return is higher than DQN's at replay ratio 2", "ReDo, RR 2", "DQN, RR 2", "higher", HIGHER_RETURN),
    returns("ReDo does no harm at replay ratio 0.25", "ReDo, RR 0.25", "DQN, RR 0.25", "higher", LOWER_RETURN),
)
# At the laptop scale the first three claims are primary. Each claim is repeated for the returns of evaluations.
PRIMARY_CLAIMS = tuple(replace(claim, primary=True) for claim in SWEEP_CLAIMS[:3])
EVALUATED_CLAIMS = tuple(
    replace(claim, statement=f"In evaluations, {claim.statement}", quantity=Quantity("eval_return"))
    for claim in SWEEP_CLAIMS[:3]
)

FIG10A = Experiment(
    name="fig10a",
    title="ReDo makes higher replay ratios pay",
    designs={
        "smoke": smoke(swept()),
        "pilot": pilot(swept()),
        "laptop": laptop(swept(), THREE, "Atari's 17 games, and runs of 10 million frames."),
        "paper": atari(swept({0.25: 0.025}), atari_bench(10), DQN_GAMES),
    },
    panels=SWEEP_PANELS,
    claims=(
        *PRIMARY_CLAIMS,
        *SWEEP_CLAIMS[3:],
        *EVALUATED_CLAIMS,
        # In this panel of the paper ReDo's return at replay ratio 2 is 1.35 times its return at 0.25. The other panels
        # do not show this effect.
        returns(
            "With ReDo, replay ratio 2 gives a higher return than 0.25",
            "ReDo, RR 2",
            "ReDo, RR 0.25",
            "higher",
            HIGHER_RETURN,
        ),
    ),
    published=(" nature n=1",),
    settings=(
        "At the paper's scale τ is 0.025 at replay ratio 0.25, which an author names for the default setting, and 0.1 "
        "at other replay ratios. On MinAtar τ is always 0.1."
    ),
)
FIG10B = Experiment(
    name="fig10b",
    title="ReDo with 3-step returns",
    designs={
        "smoke": smoke(swept(n_step=3)),
        "laptop": laptop(swept(n_step=3), THREE, "Atari's 17 games, and runs of 10 million frames."),
        "paper": atari(swept(n_step=3), atari_bench(10), DQN_GAMES),
    },
    panels=SWEEP_PANELS,
    claims=SWEEP_CLAIMS,
    published=(" nature n=3",),
)
FIG10C = Experiment(
    name="fig10c",
    title="ReDo with a residual network",
    designs={
        "smoke": smoke_on_atari(swept()),
        "paper": atari(swept(), atari_bench(10, ImpalaResNet), DQN_GAMES),
    },
    panels=SWEEP_PANELS,
    claims=SWEEP_CLAIMS,
    published=(" impala n=1",),
    settings="There is no laptop scale: the network is made for Atari's frames, and two cores would take months.",
)


def _small_drq(ratio: float, intervention: Intervention, width: int, agent: Changes) -> DeviceTraining:
    # At replay ratio 1, a run is long enough for learning to start and for ReDo to act several times.
    network = MinAtarCNN(filters=4 * width, width=16 * width, dueling=True)
    small = replace(minatar_drq(400), network=network, replay_capacity=400, min_replay=100, **agent)
    return DeviceTraining(
        small,
        intervention=intervention,
        replay_ratio=ratio,
        agent_steps=400,
        log_period=100,
        eval_period=200,
        eval_episodes=2,
    )


def _minatar_drq(ratio: float, intervention: Intervention, width: int, agent: Changes) -> DeviceTraining:
    # Runs are a quarter as long as DQN's, because Atari 100k tests learning from few steps.
    network = MinAtarCNN(filters=16 * width, width=128 * width, dueling=True)
    plain = replace(minatar_drq(50_000), network=network, **agent)
    return DeviceTraining(
        plain, intervention=intervention, replay_ratio=ratio, agent_steps=50_000, log_period=1_000, eval_period=5_000
    )


def _atari_drq(ratio: float, intervention: Intervention, width: int, agent: Changes) -> AtariTraining:
    # The paper's replay holds a million steps. A run has fewer steps, so a replay of the run's length is enough.
    plain = replace(atari_drq(NatureCNN(width)), replay_capacity=ATARI_100K_RUN["agent_steps"], **agent)
    return AtariTraining(plain, intervention=intervention, replay_ratio=ratio, log_period=10_000, **ATARI_100K_RUN)


DRQ_SWEEP = swept(ratios=(1.0, 2.0, 4.0, 8.0), name="DrQ")
SMOKE_DRQ = Bench(_small_drq, redo_period=50, reset_period=200)
MINATAR_DRQ = Bench(_minatar_drq, redo_period=1_000, reset_period=10_000)
# ReDo's period comes from secondary sources. Here ReDo acts until the end of a run. In the released configuration ReDo
# stops after 400,000 gradient steps. Runs at replay ratio 1 have this length; runs at higher ratios are longer.
ATARI_DRQ = Bench(_atari_drq, redo_period=1_000, reset_period=100_000)

FIG10D = Experiment(
    name="fig10d",
    title="ReDo with DrQ(eps)",
    designs={
        "smoke": smoke(DRQ_SWEEP, SMOKE_DRQ),
        "pilot": minatar(
            DRQ_SWEEP, ONE, 3, "All games but MinAtar's Asterix, and seven of the ten seeds.", MINATAR_DRQ
        ),
        "laptop": minatar(
            DRQ_SWEEP, THREE, 5, "Atari's 26 games, runs of 400,000 agent steps, and five seeds.", MINATAR_DRQ
        ),
        "paper": Design(
            DRQ_SWEEP(ATARI_DRQ), tuple(Atari(game, **ATARI_100K_GAME) for game in ATARI_100K_GAMES), tuple(range(10))
        ),
    },
    panels=SWEEP_PANELS,
    claims=(
        # Quotients of returns in the paper. DrQ at replay ratio 8 / DrQ at 1: 0.57. ReDo / DrQ at replay ratio 1: 1.04;
        # at 4: 1.31; at 8: 1.48.
        returns("DrQ's return is lower at replay ratio 8 than at 1", "DrQ, RR 8", "DrQ, RR 1", "lower", LOWER_RETURN),
        returns(
            "ReDo's return is higher than DrQ's at replay ratio 4", "ReDo, RR 4", "DrQ, RR 4", "higher", HIGHER_RETURN
        ),
        returns(
            "ReDo's return is higher than DrQ's at replay ratio 8", "ReDo, RR 8", "DrQ, RR 8", "higher", HIGHER_RETURN
        ),
        returns("ReDo does no harm at replay ratio 1", "ReDo, RR 1", "DrQ, RR 1", "higher", LOWER_RETURN),
    ),
    published=(" drq_eps atari100k",),
    settings=(
        "On MinAtar images are not shifted, because even a shift of one cell is too large. A run has 50,000 agent "
        "steps, a quarter of a DQN run. Learning rate, replay and exploration are those of DQN."
    ),
)
