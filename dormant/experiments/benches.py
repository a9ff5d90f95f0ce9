"""Shared parts of the experiments: benches (an agent with periods), designs, and the smallest effects that matter."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from dormant import Chain, Every, Intervention, Prune, ReDo, Reset
from dormant.lab import Arm, Claim, Design, Panel, Precondition, Quantity, Scale
from dormant.rl.agents import atari_dqn, minatar_dqn
from dormant.rl.agents.dqn import DQN
from dormant.rl.atari import AtariTraining
from dormant.rl.device import DeviceTraining
from dormant.rl.envs.atari import FRAME_SKIP, Atari
from dormant.rl.envs.minatar import MinAtar
from dormant.rl.networks.convolutional import ImpalaResNet, MinAtarCNN, NatureCNN

RATIOS = (0.25, 0.5, 1.0, 2.0)  # the paper's replay ratios for DQN
Changes = dict[str, Any]  # field of an agent -> new value
WEIGHT_DECAY = 1e-5  # the best value of the paper's grid, according to secondary sources
ONE, TWO, THREE = ("Asterix",), ("Asterix", "SpaceInvaders"), ("Asterix", "SpaceInvaders", "Seaquest")
LAPTOP_STEPS = 400_000  # agent steps
LAPTOP_SEEDS = (5, 6, 7, 8, 9)  # we had seen runs of the seeds 0 to 4 before we chose the claims
NOTHING = Chain()


@dataclass(frozen=True)
class Bench:
    """An agent (DQN or DrQ) and the periods of its interventions, at one scale. Experiments build arms from a bench.

    `train` takes a replay ratio, an intervention, a width and changed fields of the agent, and returns a training.
    """

    train: Callable[..., DeviceTraining | AtariTraining]
    redo_period: int  # gradient steps
    reset_period: int  # gradient steps

    def dqn(
        self, replay_ratio: float = 1.0, intervention: Intervention = NOTHING, width: int = 1, **agent: Any
    ) -> DeviceTraining | AtariTraining:
        """A training of the bench's agent, with the fields in `agent` changed."""
        return self.train(replay_ratio, intervention, width, agent)

    def redo(self, tau: float = 0.1, **settings: Any) -> Every:
        """ReDo every `redo_period` gradient steps."""
        return Every(self.redo_period, ReDo(tau, **settings))

    def reset(self) -> Every:
        """A reset of the penultimate layer every `reset_period` gradient steps."""
        return Every(self.reset_period, Reset(("dense",)))

    def prune(self) -> Prune:
        """Prunes silent neurons. Checks for them every `redo_period` gradient steps."""
        return Prune(0.0, self.redo_period)


Arms = Callable[[Bench], tuple[Arm, ...]]


def _small(ratio: float, intervention: Intervention, width: int, agent: Changes) -> DeviceTraining:
    # A run is long enough for learning, for every intervention to act several times, and for two evaluations.
    plain = DQN(MinAtarCNN(filters=4 * width, width=16 * width), learning_rate=2.5e-4, target_period=round(100 / ratio))
    plain = replace(plain, **{"replay_capacity": 400, "min_replay": 100, "epsilon_steps": 200, **agent})
    return DeviceTraining(
        plain,
        intervention=intervention,
        replay_ratio=ratio,
        agent_steps=800,
        log_period=100,
        eval_period=400,
        eval_episodes=2,
    )


def _minatar(
    ratio: float, intervention: Intervention, width: int | float, agent: Changes, steps: int = 200_000
) -> DeviceTraining:
    network = MinAtarCNN(filters=round(16 * width), width=round(128 * width))
    plain = replace(minatar_dqn(steps, ratio), **{"network": network, **agent})
    return DeviceTraining(plain, intervention=intervention, replay_ratio=ratio, agent_steps=steps)


def _laptop(ratio: float, intervention: Intervention, width: int | float, agent: Changes) -> DeviceTraining:
    run = _minatar(ratio, intervention, width, agent, LAPTOP_STEPS)
    return between(replace(run, eval_episodes=100, eval_period=40_000, rank_batch=512))


def between(training: DeviceTraining) -> DeviceTraining:
    """Shifts a scheduled intervention, so that evaluations do not come shortly after the intervention has acted.

    The first evaluation comes one gradient step before the middle of a period of the intervention. If the evaluation
    period is a multiple of the intervention's period, all evaluations come at this point of a period. If the evaluation
    period is half a period longer than a multiple, every second evaluation comes one gradient step before the end of a
    period. A training without a schedule is returned unchanged.

    >>> redo = between(replace(MINATAR.dqn(2.0, MINATAR.redo()), eval_period=40_000)).intervention
    >>> learnt = (40_000 - 2_000) * 2
    >>> redo.start, (learnt - redo.start) % redo.period
    (501, 499)
    """
    what = training.intervention
    if not isinstance(what, Every):
        return training
    learnt = round((training.eval_period - training.agent.min_replay) * training.replay_ratio)
    start = what.period // 2 + (learnt + 1) % what.period
    return replace(training, intervention=replace(what, start=start))


def _small_resnet(ratio: float, intervention: Intervention, width: int, agent: Changes) -> AtariTraining:
    plain = DQN(ImpalaResNet(0.1 * width), target_period=round(20 / ratio))
    plain = replace(plain, **{"replay_capacity": 400, "min_replay": 20, "epsilon_steps": 40, **agent})
    return AtariTraining(
        plain,
        intervention=intervention,
        replay_ratio=ratio,
        agent_steps=80,
        log_period=20,
        eval_period=40,
        eval_agent_steps=20,
    )


SMOKE_RESNET = Bench(_small_resnet, redo_period=10, reset_period=20)
SMOKE = Bench(_small, redo_period=50, reset_period=200)
# At replay ratio 1 a run has 20 reset periods (the paper's runs have 25). Evaluations come every 20,000 agent steps.
# The first 2,000 agent steps have no gradient step, so each evaluation comes 8,000 gradient steps after a reset.
MINATAR = Bench(_minatar, redo_period=1_000, reset_period=10_000)
# At replay ratio 1 a run has 25 reset periods, like a run of the paper. Evaluations come 499 gradient steps after a
# recycling at each replay ratio, and alternately 7,999 and 15,999 after a reset.
LAPTOP = Bench(_laptop, redo_period=1_000, reset_period=16_000)


def atari_bench(million_frames: int, network: type[NatureCNN | ImpalaResNet] = NatureCNN) -> Bench:
    """The paper's Atari settings, for runs of `million_frames` million frames.

    Source: see `atari_dqn`. ReDo's period comes from secondary sources. Here ReDo acts until the end of a run. In the
    released configurations ReDo stops after 2.5 million gradient steps. With 10 million frames, only runs at replay
    ratio 2 have more gradient steps than that.
    """

    def train(ratio: float, intervention: Intervention, width: int, agent: Changes) -> AtariTraining:
        return AtariTraining(
            replace(atari_dqn(ratio), **{"network": network(width), **agent}),
            intervention=intervention,
            replay_ratio=ratio,
            agent_steps=million_frames * 1_000_000 // FRAME_SKIP,
            log_period=10_000,
        )

    return Bench(train, redo_period=1_000, reset_period=100_000)


NOTHING_LEARNT = "Everything: this scale only shows that the experiment runs."


def smoke(arms: Arms, bench: Bench = SMOKE) -> Design:
    """A design with tiny networks and runs on MinAtar."""
    environment = MinAtar("Asterix", time_limit=100)  # an evaluation lasts as long as its longest episode
    return Design(arms(bench), (environment,), (0, 1), NOTHING_LEARNT)


def smoke_on_atari(arms: Arms) -> Design:
    """A design with tiny networks and runs on Atari."""
    return Design(arms(SMOKE_RESNET), (Atari("Pong", time_limit=50),), (0,), NOTHING_LEARNT)


def minatar(arms: Arms, games: tuple[str, ...], seeds: int, leaves_out: str, bench: Bench = MINATAR) -> Design:
    """A design with runs on MinAtar. The bench sets the length of the runs: by default, 200,000 agent steps."""
    return Design(arms(bench), tuple(MinAtar(game) for game in games), tuple(range(seeds)), leaves_out)


def laptop(arms: Arms, games: tuple[str, ...], leaves_out: str, bench: Bench = LAPTOP, seeds: int = 5) -> Design:
    """A design with runs of 400,000 agent steps on MinAtar, and with seeds that were not used before."""
    return replace(minatar(arms, games, seeds, leaves_out, bench), seeds=LAPTOP_SEEDS[:seeds])


def atari(arms: Arms, bench: Bench, games: tuple[str, ...], leaves_out: str = "") -> Design:
    """A design with runs on Atari with the paper's five seeds."""
    return Design(arms(bench), tuple(Atari(game) for game in games), tuple(range(5)), leaves_out)


def pilot(arms: Arms) -> Design:
    """A design with one MinAtar game and three seeds."""
    return minatar(arms, ONE, 3, "All games but MinAtar's Asterix, and two of the five seeds.")


def five_games(arms: Arms) -> Mapping[Scale, Design]:
    """The designs, by scale, of a figure with five Atari games. Our sources name three of the games."""
    return {
        "smoke": smoke(arms),
        "laptop": laptop(arms, ONE, "Four of the paper's five games, Atari, and runs of 10 million frames."),
        "paper": atari(
            arms,
            atari_bench(10),
            ("Asterix", "Breakout", "DemonAttack"),
            "Two of the five games, whose names our sources do not have.",
        ),
    }


# The smallest effects that matter to claims. They were chosen before any run was judged.
# The first two are differences of dormant fractions. Scores on 64 states are noisy: in a network of 144 neurons, about
# 3 neurons (two percentage points) cross the threshold at random. A difference of 7 neurons (five points) is not noise.
SOME_NEURONS = 0.02
MANY_NEURONS = 0.05
# A ratio of dormant fractions. In the paper, this ratio of ReDo to plain DQN is 0.1 to 0.25 (figures 9 and 12).
HALF_AS_MANY = 0.5
# The next four are ratios of returns. In figure 10 of the paper (5 seeds, 17 games), intervals extend about 12 % to
# either side of the mean. Effects below 10 % are therefore hard to detect.
HIGHER_RETURN = 1.1
LOWER_RETURN = 0.9
SLIGHTLY_LOWER = 0.95  # weight decay of SAC loses 10 % in one task of the paper and 5 % in another (figure 14)
LARGE_GAIN = 1.25  # wider networks raise the return of the paper's DQN by up to 23 % (figure 12)
# A ratio of effective ranks. The paper's ranks with and without ReDo differ by 5 %, and each varies by plus or minus
# 1.3 % (table 7).
HIGHER_RANK = 1.02

# Claims about returns use all training episodes that ended in the last fifth of the run. These are about ten times as
# many as the evaluation episodes in that fifth, so their mean return varies less between seeds.
TRAINED = Quantity("train_return", "per episode", after=0.8)
RETURN = Panel("Return", "eval_return")
TRAINING = Panel("Training return", "train_return")
Q_GAP = Panel("Q less the return that followed", "q_gap")
SILENT = Panel("Dormant neurons (τ = 0)", "dormant/0/all")
DORMANT = Panel("Dormant neurons (τ = 0.1)", "dormant/0.1/all")


def returns(
    statement: str,
    arm: str,
    against: str,
    direction: Literal["higher", "lower"],
    smallest: float,
    quantity: Quantity = TRAINED,
) -> Claim:
    """A claim about the ratio of two returns, by default returns of training episodes in a run's last fifth."""
    return Claim(statement, quantity, arm, against, direction, smallest, "ratio")


def dormant_at_end(tau: str = "0.1") -> Quantity:
    """The fraction of dormant neurons at the end of a run."""
    return Quantity(f"dormant/{tau}/all")


def after_the_dip(tau: str = "0.1") -> Quantity:
    """The mean dormant fraction from 5 % to 15 % of a run.

    A new network has more dormant neurons than a network that has learnt for a short time. In the paper the fraction
    falls from 13 % and 17 % to 4 % within the first 4 % of the run (figure 2).
    """
    return Quantity(f"dormant/{tau}/all", "mean", after=0.05, until=0.15)


def some_dormant(arm: str, quantity: Quantity, least: float = MANY_NEURONS) -> tuple[Precondition, ...]:
    """The precondition of claims about fewer dormant neurons: the arm's fraction is at least `least`."""
    return (Precondition(quantity, arm, least=least),)


def dormant_in_second_half(tau: str = "0.1") -> Quantity:
    """The fraction of dormant neurons, averaged over the second half of a run."""
    return Quantity(f"dormant/{tau}/all", "mean", after=0.5)


def halves_dormancy(arm: str, against: str, tau: str = "0.1") -> Claim:
    """The claim that an arm has at most half as many dormant neurons as `against` in the second half of a run."""
    statement = f"{arm} at least halves the share of dormant neurons (τ = {tau})"
    quantity = dormant_in_second_half(tau)
    requires = some_dormant(against, quantity)
    return Claim(statement, quantity, arm, against, "lower", HALF_AS_MANY, "ratio", requires=requires)
