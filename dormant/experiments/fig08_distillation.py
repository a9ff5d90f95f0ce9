"""Figure 8: a network with many dormant neurons learns a new task slowly."""

from dataclasses import replace

from dormant.experiments.benches import (
    HIGHER_RETURN,
    MANY_NEURONS,
    MINATAR,
    NOTHING_LEARNT,
    ONE,
    SMOKE,
    Bench,
    atari_bench,
)
from dormant.lab.design import Arm, Claim, Design, Experiment, Panel, Quantity
from dormant.rl.distillation import DistillationTraining
from dormant.rl.envs.atari import Atari
from dormant.rl.envs.minatar import MinAtar

TEACHER_AT, STUDENT_AT = 0.25, 1.0  # replay ratios: the best one on MinAtar, and the paper's
FRESH, PRETRAINED = "Random init", "Pretrained"
HALF = 0.5


def arms(bench: Bench, gradient_steps: int, log_period: int) -> tuple[Arm, ...]:
    """A fresh network and a network trained at replay ratio 1, both taught by an agent of replay ratio 0.25."""
    used = bench.dqn(STUDENT_AT)
    fresh = DistillationTraining(
        used.agent, teacher=bench.dqn(TEACHER_AT), gradient_steps=gradient_steps, log_period=log_period
    )
    return Arm(FRESH, fresh), Arm(PRETRAINED, replace(fresh, student=used))


def minatar(games: tuple[str, ...], seeds: int, leaves_out: str) -> Design:
    """The paper's 50,000 gradient steps."""
    environments = tuple(MinAtar(game) for game in games)
    return Design(arms(MINATAR, 50_000, 500), environments, tuple(range(seeds)), leaves_out)


SHARE = Quantity("dormant/0.1/all")
EXPERIMENT = Experiment(
    name="fig08",
    title="New tasks are harder for a network with dormant neurons",
    designs={
        "smoke": Design(arms(SMOKE, 600, 100), (MinAtar("Asterix", time_limit=100),), (0, 1), NOTHING_LEARNT),
        "pilot": minatar(ONE, 3, "Atari, and networks that are trained for long."),
        "laptop": minatar(ONE, 5, "Atari, and networks that are trained for long."),
        # The length of the paper's teacher and student runs is unknown; 40 million frames are those of its figure 7.
        "paper": Design(arms(atari_bench(40), 50_000, 500), (Atari("DemonAttack"),), tuple(range(5))),
    },
    panels=(
        Panel("Loss", "loss", "gradient_steps"),
        Panel("Dormant neurons (τ = 0)", "dormant/0/all", "gradient_steps"),
        Panel("Dormant neurons (τ = 0.1)", "dormant/0.1/all", "gradient_steps"),
    ),
    claims=(
        # In the paper from 7 to 0.1.
        Claim("A new network at least halves its loss", Quantity("loss"), FRESH, None, "lower", HALF, "ratio"),
        # In the paper 0.7 against 0.1, although it starts at a thirtieth of the new one's loss.
        Claim(
            "A pretrained network ends with a higher loss than a new one",
            Quantity("loss"),
            PRETRAINED,
            FRESH,
            "higher",
            HIGHER_RETURN,
            "ratio",
        ),
        # In the paper 98 % against 48 %.
        Claim(
            "A pretrained network ends with more dormant neurons (τ = 0.1) than a new one",
            SHARE,
            PRETRAINED,
            FRESH,
            "higher",
            MANY_NEURONS,
        ),
        # In the paper from 61 % to 98 %.
        Claim(
            "More of a pretrained network's neurons fall dormant (τ = 0.1) while it learns",
            SHARE,
            PRETRAINED,
            None,
            "higher",
            MANY_NEURONS,
        ),
    ),
    published=("DemonAttack",),
    settings=(
        "The teacher is a DQN at replay ratio 0.25, and the pretrained network is a DQN at replay ratio 1. Loss, "
        "optimizer and states are ours: squared error over all values, the agent's Adam, and 20,000 states of the "
        "teacher's replay."
    ),
)
