"""Figure 10d: the same with DrQ(eps) on Atari 100k, at replay ratios 1 to 8."""

from dataclasses import replace
from typing import Any

from dormant import Intervention
from dormant.experiments.benches import HIGHER_RETURN, LOWER_RETURN, ONE, THREE, Bench, minatar, smoke
from dormant.experiments.replay_ratios import PANELS, compared, swept
from dormant.lab.design import Design, Experiment
from dormant.rl.atari_networks import NatureCNN
from dormant.rl.envs.atari import Atari
from dormant.rl.envs.atari_scores import ATARI_100K_GAMES
from dormant.rl.host_loop import HostTraining
from dormant.rl.loops import DeviceTraining
from dormant.rl.networks import MinAtarCNN
from dormant.rl.presets import ATARI_100K_GAME, ATARI_100K_RUN, atari_drq, minatar_drq

SWEEP = swept(ratios=(1.0, 2.0, 4.0, 8.0), name="DrQ")


def _small(ratio: float, intervention: Intervention, width: int, agent: dict[str, Any]) -> DeviceTraining:
    # At replay ratio 1, learning starts and ReDo acts several times; at 8, this is most of what the smoke scale takes.
    network = MinAtarCNN(filters=4 * width, width=16 * width, dueling=True)
    small = replace(minatar_drq(400), network=network, replay_capacity=400, min_replay=100, **agent)
    length: dict[str, Any] = {"agent_steps": 400, "log_period": 100, "eval_period": 200, "eval_episodes": 2}
    return DeviceTraining(small, intervention=intervention, replay_ratio=ratio, **length)


def _minatar(ratio: float, intervention: Intervention, width: int, agent: dict[str, Any]) -> DeviceTraining:
    # A quarter of DQN's runs: Atari 100k, too, asks what is learnt from little.
    network = MinAtarCNN(filters=16 * width, width=128 * width, dueling=True)
    plain = replace(minatar_drq(50_000), network=network, **agent)
    length: dict[str, Any] = {"agent_steps": 50_000, "log_period": 1_000, "eval_period": 5_000}
    return DeviceTraining(plain, intervention=intervention, replay_ratio=ratio, **length)


def _atari(ratio: float, intervention: Intervention, width: int, agent: dict[str, Any]) -> HostTraining:
    # The paper's replay has room for a million steps, of which a run fills as many as it takes.
    plain = replace(atari_drq(NatureCNN(width)), replay_capacity=ATARI_100K_RUN["agent_steps"], **agent)
    return HostTraining(plain, intervention=intervention, replay_ratio=ratio, log_period=10_000, **ATARI_100K_RUN)


SMOKE = Bench(_small, redo_period=50, reset_period=200)
MINATAR = Bench(_minatar, redo_period=1_000, reset_period=10_000)
# ReDo's period is second-hand, and it acts to the end of a run: the released configuration stops it after 400,000
# gradient steps, which is the end at replay ratio 1 only.
ATARI = Bench(_atari, redo_period=1_000, reset_period=100_000)

EXPERIMENT = Experiment(
    name="fig10d",
    title="ReDo with DrQ(eps)",
    designs={
        "smoke": smoke(SWEEP, SMOKE),
        "pilot": minatar(SWEEP, ONE, 3, "All games but MinAtar's Asterix, and seven of the ten seeds.", MINATAR),
        "laptop": minatar(SWEEP, THREE, 5, "Atari's 26 games, runs of 400,000 agent steps, and five seeds.", MINATAR),
        "paper": Design(
            SWEEP(ATARI), tuple(Atari(game, **ATARI_100K_GAME) for game in ATARI_100K_GAMES), tuple(range(10))
        ),
    },
    panels=PANELS,
    claims=(
        # The paper's DrQ has 0.57 times its return at replay ratio 1; ReDo has 1.31 times DrQ's at 4 and 1.48 at 8, and
        # 1.04 times at 1.
        compared("DrQ's return is lower at replay ratio 8 than at 1", "DrQ, RR 8", "DrQ, RR 1", "lower", LOWER_RETURN),
        compared(
            "ReDo's return is higher than DrQ's at replay ratio 4", "ReDo, RR 4", "DrQ, RR 4", "higher", HIGHER_RETURN
        ),
        compared(
            "ReDo's return is higher than DrQ's at replay ratio 8", "ReDo, RR 8", "DrQ, RR 8", "higher", HIGHER_RETURN
        ),
        compared("ReDo does no harm at replay ratio 1", "ReDo, RR 1", "DrQ, RR 1", "higher", LOWER_RETURN),
    ),
    published=(" drq_eps atari100k",),
    settings=(
        "On MinAtar images are not shifted, as a cell is too much, and a run has 50,000 agent steps, a quarter of "
        "DQN's there; learning rate, replay and exploration are DQN's."
    ),
)
