"""Figures 11 to 14 and 21: a smaller learning rate, wider networks, resets, weight decay, leaky ReLU, and SAC."""

import math
from dataclasses import replace

from dormant import Chain, Every, Intervention, ReDo, Reset
from dormant.experiments.benches import (
    DORMANT,
    HALF_AS_MANY,
    HIGHER_RETURN,
    LAPTOP,
    LARGE_GAIN,
    LOWER_RETURN,
    MANY_NEURONS,
    NOTHING_LEARNT,
    Q_GAP,
    RETURN,
    SLIGHTLY_LOWER,
    SOME_NEURONS,
    THREE,
    TRAINING,
    WEIGHT_DECAY,
    Bench,
    Changes,
    after_the_dip,
    atari,
    atari_bench,
    dormant_at_end,
    dormant_in_second_half,
    five_games,
    halves_dormancy,
    laptop,
    pilot,
    returns,
    smoke,
    some_dormant,
)
from dormant.lab import Arm, Claim, Design, Experiment, Panel, Quantity
from dormant.rl.agents.sac import NETWORKS, SAC
from dormant.rl.atari import AtariTraining
from dormant.rl.control import ControlTraining
from dormant.rl.device import DeviceTraining
from dormant.rl.envs.atari import DQN_GAMES
from dormant.rl.envs.mujoco import MuJoCo


def learning_rates(bench: Bench) -> tuple[Arm, ...]:
    """Three arms: DQN, DQN at a quarter of its learning rate, and ReDo."""
    plain = bench.dqn()
    return (
        Arm("DQN", plain),
        Arm("DQN, learning rate / 4", bench.dqn(learning_rate=plain.agent.learning_rate / 4)),
        Arm("ReDo", bench.dqn(intervention=bench.redo())),
    )


FIG11 = Experiment(
    name="fig11",
    title="A smaller learning rate is not enough",
    designs={
        "smoke": smoke(learning_rates),
        "laptop": laptop(learning_rates, THREE, "Atari, and runs of 10 million frames."),
        "paper": atari(learning_rates, atari_bench(10), DQN_GAMES),
    },
    panels=(RETURN, DORMANT),
    claims=(
        # Dormant neurons in the paper: about 40 % at a quarter of the learning rate, 47 % with DQN, 10 % with ReDo.
        Claim(
            "A quarter of the learning rate makes fewer neurons dormant (τ = 0.1)",
            dormant_at_end(),
            "DQN, learning rate / 4",
            "DQN",
            "lower",
            -SOME_NEURONS,
            requires=some_dormant("DQN", dormant_at_end()),
        ),
        Claim(
            "ReDo leaves at most half as many neurons dormant (τ = 0.1) as a quarter of the learning rate",
            dormant_in_second_half(),
            "ReDo",
            "DQN, learning rate / 4",
            "lower",
            HALF_AS_MANY,
            "ratio",
            requires=some_dormant("DQN, learning rate / 4", dormant_in_second_half()),
        ),
        returns(
            "ReDo's return is higher than that of a quarter of the learning rate",
            "ReDo",
            "DQN, learning rate / 4",
            "higher",
            HIGHER_RETURN,
        ),
    ),
    settings="Our sources do not name the games; at the paper's scale we use all 17.",
)


WIDTHS = (1, 2, 4)


def narrow(bench: Bench) -> Bench:
    """The bench with all network widths halved. At four times the usual width, a run would take an hour on one core."""

    def train(ratio: float, intervention: Intervention, width: int, agent: Changes) -> DeviceTraining | AtariTraining:
        return bench.train(ratio, intervention, width / 2, agent)

    return replace(bench, train=train)


def widths(bench: Bench) -> tuple[Arm, ...]:
    """Six arms: DQN and ReDo at three widths."""
    plain = [Arm(f"DQN, width {width}", bench.dqn(width=width)) for width in WIDTHS]
    redo = [Arm(f"ReDo, width {width}", bench.dqn(intervention=bench.redo(), width=width)) for width in WIDTHS]
    return (*plain, *redo)


FIG12 = Experiment(
    name="fig12",
    title="Over-parameterization is not enough",
    designs={
        "smoke": smoke(widths),
        "laptop": laptop(
            widths,
            THREE,
            "Atari's 17 games, two of five seeds, runs of 10 million frames, and half of each network's width.",
            narrow(LAPTOP),
            seeds=3,
        ),
        "paper": atari(widths, atari_bench(10), DQN_GAMES),
    },
    panels=(RETURN, DORMANT),
    claims=(
        # In the paper the human-normalised returns are 0.62 with ReDo and 0.33 with DQN.
        returns(
            "ReDo at the default width has a higher return than DQN at four times the width",
            "ReDo, width 1",
            "DQN, width 4",
            "higher",
            HIGHER_RETURN,
        ),
        # In the paper the human-normalised returns of ReDo are 0.71 at four times the width and 0.62 at the default
        # width.
        returns(
            "ReDo's return is higher at four times the width than at the default one",
            "ReDo, width 4",
            "ReDo, width 1",
            "higher",
            HIGHER_RETURN,
        ),
        # In the paper 54 % of DQN's neurons are dormant at four times the width, and 47 % at the default width.
        Claim(
            "DQN at four times the width has no smaller share of dormant neurons (τ = 0.1)",
            dormant_at_end(),
            "DQN, width 4",
            "DQN, width 1",
            "higher",
            -MANY_NEURONS,
        ),
        # In the paper DQN's human-normalised returns are 0.30, 0.37 and 0.33 at one, two and four times the width.
        returns(
            "Four times the width does not raise DQN's return by a quarter",
            "DQN, width 4",
            "DQN, width 1",
            "lower",
            LARGE_GAIN,
        ),
        # In the paper 11 % to 12 % of ReDo's neurons are dormant at each width, and 47 % to 54 % of DQN's neurons.
        *(halves_dormancy(f"ReDo, width {width}", f"DQN, width {width}") for width in WIDTHS),
    ),
    published=("DemonAttack tau=0.1", "atari17 replay_ratio=1"),
)


# For `Quantity.reset_age`: uses only evaluations that come at least 0.49 reset periods after a reset. At the laptop
# scale, evaluations come one gradient step before the middle or the end of a period.
LONG_AFTER = (0.49, math.inf)


def methods(bench: Bench) -> tuple[Arm, ...]:
    """Four arms: DQN, and DQN with three interventions."""
    return (
        Arm("DQN", bench.dqn()),
        Arm("ReDo", bench.dqn(intervention=bench.redo())),
        Arm("Reset", bench.dqn(intervention=bench.reset())),
        Arm("Weight decay", bench.dqn(weight_decay=WEIGHT_DECAY)),
    )


def methods_and_tests(bench: Bench) -> tuple[Arm, ...]:
    """Six arms: the arms of `methods`, and two that test whether overestimated Q values explain the effect of ReDo."""
    plain = bench.dqn()
    normalised = replace(plain.agent.network, layer_norm=True)
    return (
        *methods(bench),
        Arm("Double DQN", bench.dqn(double=True)),
        Arm("LayerNorm", bench.dqn(network=normalised)),
    )


def better(arm: str, against: str) -> Claim:
    """The claim that the arm ends with a higher return than `against`."""
    return returns(f"The return of {arm} is higher than that of {against}", arm, against, "higher", HIGHER_RETURN)


def better_in_evaluations(arm: str, against: str) -> Claim:
    """The claim that the arm ends with a higher return than `against`, in evaluations long after a reset."""
    quantity = Quantity("eval_return", reset_age=LONG_AFTER)
    statement = f"In evaluations, the return of {arm} is higher than that of {against}"
    return returns(statement, arm, against, "higher", HIGHER_RETURN, quantity)


FIG13 = Experiment(
    name="fig13",
    title="ReDo against resets and weight decay",
    designs={
        "smoke": smoke(methods),
        "pilot": pilot(methods),
        "laptop": laptop(methods_and_tests, THREE, "Atari's 17 games, and runs of 10 million frames."),
        "paper": atari(methods, atari_bench(10), DQN_GAMES),
    },
    panels=(TRAINING, RETURN, DORMANT, Q_GAP),
    claims=(
        # The paper's returns at 10 million frames: ReDo 0.626, DQN 0.302, Reset 0.326, weight decay 0.417.
        *(better("ReDo", other) for other in ("DQN", "Reset", "Weight decay")),
        *(better_in_evaluations("ReDo", other) for other in ("DQN", "Reset", "Weight decay")),
        better("Weight decay", "DQN"),
        halves_dormancy("ReDo", "DQN"),
    ),
    published=("atari17 replay_ratio=1", "DemonAttack replay_ratio=1"),
    settings=(
        "In the pilot the layer is reset every 10,000 gradient steps, and every evaluation comes 8,000 gradient steps "
        "after a reset. At the laptop scale the layer is reset every 16,000 gradient steps, and evaluations come 7,999 "
        "or 15,999 gradient steps after a reset. Two more arms, double DQN and LayerNorm, test whether overestimated Q "
        "values explain the effect of ReDo. At the paper's scale the layer is reset every 100,000 gradient steps, and "
        "our evaluations come 30,000 or 80,000 gradient steps after a reset. The paper's evaluations come 0 or 50,000 "
        "gradient steps after a reset, because the paper also counts the steps before learning starts."
    ),
)


ONE_TASK = ("HalfCheetah-v5",)
FOUR_TASKS = (*ONE_TASK, "Hopper-v5", "Walker2d-v5", "Ant-v5")
SHORTER = "and nine tenths of a million agent steps."
SMOKE_SAC = ControlTraining(
    SAC((16, 16), batch_size=16, min_replay=100, replay_capacity=400),
    agent_steps=400,
    log_period=100,
    score_batch=32,
    eval_episodes=1,
    eval_period=200,
)
SHORT_SAC = ControlTraining(agent_steps=100_000, eval_episodes=5, eval_period=5_000)
PAPER_SAC = ControlTraining()


def sac_methods(plain: ControlTraining) -> tuple[Arm, ...]:
    """Four arms: SAC, and SAC with three interventions. ReDo and resets act four times per run, as in the paper."""
    period = plain.agent_steps // 5

    def treated(intervention: Intervention, **agent: float | bool) -> ControlTraining:
        return replace(plain, intervention=intervention, agent=replace(plain.agent, **agent))

    return (
        Arm("SAC", plain),
        Arm("ReDo", treated(Every(period, ReDo(tau=0.0)))),
        # Sets `reset_targets`, because the released code also copies the new weights to the target networks.
        Arm("Reset", treated(Every(period, Reset(NETWORKS)), reset_targets=True)),
        Arm("Weight decay", treated(Chain(), actor_weight_decay=WEIGHT_DECAY, critic_weight_decay=WEIGHT_DECAY)),
    )


def on_mujoco(plain: ControlTraining, tasks: tuple[str, ...], seeds: int, leaves_out: str = "") -> Design:
    """A design with all SAC arms on the given tasks."""
    return Design(sac_methods(plain), tuple(map(MuJoCo, tasks)), tuple(range(seeds)), leaves_out)


# The mean return of evaluations in the second half of a run. For the arm Reset, `lowers_sac` excludes evaluations that
# come soon after a reset.
SAC_RETURN = Quantity("eval_return", "mean", after=0.5)


def lowers_sac(arm: str, smallest: float) -> Claim:
    """The claim that the arm's return is lower than SAC's."""
    quantity = replace(SAC_RETURN, reset_age=LONG_AFTER) if arm == "Reset" else SAC_RETURN
    return Claim(f"{arm} lowers SAC's return", quantity, arm, "SAC", "lower", smallest, "ratio")


FIG14 = Experiment(
    name="fig14",
    title="ReDo with SAC",
    designs={
        "smoke": Design(sac_methods(SMOKE_SAC), (MuJoCo("Hopper-v5", time_limit=50),), (0,), NOTHING_LEARNT),
        "pilot": on_mujoco(SHORT_SAC, ONE_TASK, 3, f"Three of four tasks, seven of ten seeds, {SHORTER}"),
        "laptop": on_mujoco(SHORT_SAC, ONE_TASK, 5, f"Three of four tasks, five of ten seeds, {SHORTER}"),
        "paper": on_mujoco(PAPER_SAC, FOUR_TASKS, 10, "OpenAI Gym's -v2 tasks: these are Gymnasium's -v5."),
    },
    panels=(
        RETURN,
        Panel("Dormant neurons of the actor (τ = 0)", "dormant/0/actor/all"),
        Panel("Dormant neurons of a critic (τ = 0)", "dormant/0/critic1/all"),
        Panel("Dormant neurons of all networks (τ = 0.1)", "dormant/0.1/all"),
    ),
    claims=(
        # In the paper the returns of ReDo and SAC are equal within noise: 11,250 and 11,500 on one task, about 5,000 on
        # the second task.
        Claim("ReDo does SAC no harm", SAC_RETURN, "ReDo", "SAC", "higher", LOWER_RETURN, "ratio"),
        # In the paper weight decay loses a tenth in HalfCheetah and 5 % in Ant.
        lowers_sac("Weight decay", SLIGHTLY_LOWER),
        # In the paper resets lose a fifth in Ant and a tenth in HalfCheetah.
        lowers_sac("Reset", LOWER_RETURN),
        *(
            Claim(
                f"The share of dormant neurons (τ = 0.1) of SAC's {network} grows",
                Quantity(f"dormant/0.1/{network}/all"),
                *("SAC", None, "higher", SOME_NEURONS),
            )
            for network in NETWORKS
        ),
    ),
    published=("Ant-v2", "HalfCheetah-v2"),
    settings="The methods act every 20,000 gradient steps in runs of 100,000 agent steps; in the paper every 200,000.",
)


def activations(bench: Bench) -> tuple[Arm, ...]:
    """Two arms: DQN with ReLU and with leaky ReLU."""
    plain = bench.dqn()
    network = replace(plain.agent.network, activation="leaky_relu")
    leaky = replace(plain, agent=replace(plain.agent, network=network))
    return Arm("DQN, ReLU", plain), Arm("DQN, leaky ReLU", leaky)


FIG21 = Experiment(
    name="fig21",
    title="Leaky ReLU",
    designs=five_games(activations),
    panels=(DORMANT, RETURN),
    claims=(
        # In the paper leaky ReLU makes the dormant fraction slightly lower; our sources have no numbers.
        Claim(
            "Leaky ReLU makes fewer neurons dormant (τ = 0.1)",
            dormant_in_second_half(),
            "DQN, leaky ReLU",
            "DQN, ReLU",
            "lower",
            -SOME_NEURONS,
            requires=some_dormant("DQN, ReLU", dormant_in_second_half()),
        ),
        Claim(
            "With leaky ReLU, too, a trained DQN has more dormant neurons (τ = 0.1) than one early in training",
            dormant_at_end(),
            "DQN, leaky ReLU",
            None,
            "higher",
            MANY_NEURONS,
            baseline=after_the_dip(),
        ),
    ),
    settings="The slope below zero is 0.01, as in the paper. Our sources do not name the replay ratio; we use 1.",
)
