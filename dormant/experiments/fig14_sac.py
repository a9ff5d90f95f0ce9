"""Figure 14: the methods of figure 13 with SAC on MuJoCo, where few neurons are dormant."""

import math
from dataclasses import replace

from dormant import Chain, Every, Intervention, ReDo, Reset
from dormant.experiments.benches import LOWER_RETURN, NOTHING_LEARNT, SOME_NEURONS, WEIGHT_DECAY
from dormant.lab.design import Arm, Claim, Design, Experiment, Panel, Quantity
from dormant.rl.agents.sac import NETWORKS, SAC
from dormant.rl.control import ControlTraining
from dormant.rl.envs.mujoco import MuJoCo

ONE = ("HalfCheetah-v5",)
FOUR = (*ONE, "Hopper-v5", "Walker2d-v5", "Ant-v5")
SHORTER = "and nine tenths of a million agent steps."
LONG_AFTER = (0.5, math.inf)  # as in figure 13
SMOKE = ControlTraining(
    SAC((16, 16), batch_size=16, min_replay=100, replay_capacity=400),
    agent_steps=400,
    log_period=100,
    score_batch=32,
    eval_episodes=1,
    eval_period=200,
)
SHORT = ControlTraining(agent_steps=100_000, eval_episodes=5, eval_period=5_000)
PAPER = ControlTraining()


def arms(plain: ControlTraining) -> tuple[Arm, ...]:
    """SAC, and SAC with three interventions, which act four times in a run as in the paper."""
    period = plain.agent_steps // 5

    def treated(intervention: Intervention, **agent: float | bool) -> ControlTraining:
        return replace(plain, intervention=intervention, agent=replace(plain.agent, **agent))

    return (
        Arm("SAC", plain),
        Arm("ReDo", treated(Every(period, ReDo(tau=0.0)))),
        # As in the released code, the target networks get the new weights too.
        Arm("Reset", treated(Every(period, Reset(NETWORKS)), reset_targets=True)),
        Arm("Weight decay", treated(Chain(), actor_weight_decay=WEIGHT_DECAY, critic_weight_decay=WEIGHT_DECAY)),
    )


def design(plain: ControlTraining, tasks: tuple[str, ...], seeds: int, leaves_out: str = "") -> Design:
    """The arms on some tasks with a number of seeds."""
    return Design(arms(plain), tuple(map(MuJoCo, tasks)), tuple(range(seeds)), leaves_out)


def no_worse(arm: str) -> Claim:
    """The claim that a method lowers SAC's return by less than a tenth."""
    quantity = Quantity("eval_return", reset_age=LONG_AFTER if arm == "Reset" else (0.0, math.inf))
    return Claim(f"{arm} does SAC no harm", quantity, arm, "SAC", "higher", LOWER_RETURN, "ratio")


EXPERIMENT = Experiment(
    name="fig14",
    title="ReDo with SAC",
    designs={
        "smoke": Design(arms(SMOKE), (MuJoCo("Hopper-v5", time_limit=50),), (0,), NOTHING_LEARNT),
        "pilot": design(SHORT, ONE, 3, f"Three of four tasks, seven of ten seeds, {SHORTER}"),
        "laptop": design(SHORT, ONE, 5, f"Three of four tasks, five of ten seeds, {SHORTER}"),
        "paper": design(PAPER, FOUR, 10, "OpenAI Gym's -v2 tasks: these are Gymnasium's -v5."),
    },
    panels=(
        Panel("Return", "eval_return"),
        Panel("Dormant neurons of the actor (τ = 0)", "dormant/0/actor/all"),
        Panel("Dormant neurons of a critic (τ = 0)", "dormant/0/critic1/all"),
        Panel("Dormant neurons of all networks (τ = 0.1)", "dormant/0.1/all"),
    ),
    claims=(
        # In the paper ReDo's return is SAC's within noise, 11,250 against 11,500 and about 5,000 for both.
        no_worse("ReDo"),
        no_worse("Weight decay"),
        # In the paper resets lose a fifth in Ant and a tenth in HalfCheetah.
        Claim(
            "Resets lower SAC's return",
            Quantity("eval_return", reset_age=LONG_AFTER),
            *("Reset", "SAC", "lower", LOWER_RETURN, "ratio"),
        ),
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
