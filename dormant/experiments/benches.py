"""The two benches that experiments run on, MinAtar and Atari: where lengths, games, seeds and schedules are chosen."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from dormant import Chain, Every, Intervention, Prune, ReDo, Reset
from dormant.lab.design import Arm, Design
from dormant.rl.agents.dqn import DQN
from dormant.rl.atari_networks import ImpalaResNet, NatureCNN
from dormant.rl.envs.atari import Atari
from dormant.rl.envs.minatar import MinAtar
from dormant.rl.host_loop import HostTraining
from dormant.rl.loops import DeviceTraining
from dormant.rl.networks import MinAtarCNN
from dormant.rl.presets import atari_dqn, minatar_dqn

RATIOS = (0.25, 0.5, 1.0, 2.0)  # the paper's for DQN
WEIGHT_DECAY = 1e-5  # the best of the paper's grid, as others quote its appendix
ONE, TWO, THREE = ("Asterix",), ("Asterix", "SpaceInvaders"), ("Asterix", "SpaceInvaders", "Breakout")
ATARI_17 = (
    *("Asterix", "BeamRider", "Breakout", "DemonAttack", "DoubleDunk", "Enduro", "IceHockey", "Jamesbond", "MsPacman"),
    *("Pong", "Qbert", "RoadRunner", "Seaquest", "SpaceInvaders", "WizardOfWor", "YarsRevenge", "Zaxxon"),
)
FRAMES_PER_AGENT_STEP = 4
NOTHING = Chain()


@dataclass(frozen=True)
class Bench:
    """What arms are made of at one scale: DQN or DrQ in its environment, and interventions at that scale's pace."""

    train: Callable[..., DeviceTraining | HostTraining]
    redo_period: int  # gradient steps, as the one below
    reset_period: int

    def dqn(
        self, replay_ratio: float = 1.0, intervention: Intervention = NOTHING, width: int = 1, **agent: Any
    ) -> DeviceTraining | HostTraining:
        """The bench's agent with `agent`'s fields changed."""
        return self.train(replay_ratio, intervention, width, agent)

    def redo(self, tau: float = 0.1, **settings: Any) -> Every:
        """ReDo every `redo_period` gradient steps."""
        return Every(self.redo_period, ReDo(tau, **settings))

    def reset(self) -> Every:
        """The penultimate layer drawn anew every `reset_period` gradient steps."""
        return Every(self.reset_period, Reset(("dense",)))

    def prune(self) -> Prune:
        """Neurons that were ever silent taken out, with a check as often as ReDo's."""
        return Prune(0.0, self.redo_period)


Arms = Callable[[Bench], tuple[Arm, ...]]


def _small(ratio: float, intervention: Intervention, width: int, agent: dict[str, Any]) -> DeviceTraining:
    # Learning starts, every intervention acts several times, and two evaluations end.
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


def _minatar(ratio: float, intervention: Intervention, width: int | float, agent: dict[str, Any]) -> DeviceTraining:
    steps = 200_000
    network = MinAtarCNN(filters=round(16 * width), width=round(128 * width))
    plain = replace(minatar_dqn(steps, ratio), **{"network": network, **agent})
    return DeviceTraining(plain, intervention=intervention, replay_ratio=ratio, agent_steps=steps)


def _small_resnet(ratio: float, intervention: Intervention, width: int, agent: dict[str, Any]) -> HostTraining:
    plain = DQN(ImpalaResNet(0.1 * width), target_period=round(20 / ratio))
    plain = replace(plain, **{"replay_capacity": 400, "min_replay": 20, "epsilon_steps": 40, **agent})
    return HostTraining(
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
# A reset at every twentieth of a run at replay ratio 1, where the paper has one at every twenty-fifth: evaluations come
# each 20,000 agent steps, the first 2,000 have no gradient step, so each is 8,000 gradient steps after a reset.
MINATAR = Bench(_minatar, redo_period=1_000, reset_period=10_000)


def atari_bench(million_frames: int, network: type[NatureCNN | ImpalaResNet] = NatureCNN) -> Bench:
    """The paper's Atari settings, for runs of so many frames.

    Source: see `atari_dqn`; ReDo's period is second-hand, and it acts to the end of a run, though the released
    configurations stop it after 2.5 million gradient steps, which is before the end at replay ratio 2 only.
    """

    def train(ratio: float, intervention: Intervention, width: int, agent: dict[str, Any]) -> HostTraining:
        return HostTraining(
            replace(atari_dqn(ratio), **{"network": network(width), **agent}),
            intervention=intervention,
            replay_ratio=ratio,
            agent_steps=million_frames * 1_000_000 // FRAMES_PER_AGENT_STEP,
            log_period=10_000,
        )

    return Bench(train, redo_period=1_000, reset_period=100_000)


NOTHING_LEARNT = "Everything that could be learnt from: it only shows that it runs."


def smoke(arms: Arms, bench: Bench = SMOKE) -> Design:
    """Tiny networks, tiny runs."""
    environment = MinAtar("Asterix", time_limit=100)  # evaluations wait for the longest episode
    return Design(arms(bench), (environment,), (0, 1), NOTHING_LEARNT)


def smoke_on_atari(arms: Arms) -> Design:
    """The same with frames."""
    return Design(arms(SMOKE_RESNET), (Atari("Pong", time_limit=50),), (0,), NOTHING_LEARNT)


def minatar(arms: Arms, games: tuple[str, ...], seeds: int, leaves_out: str, bench: Bench = MINATAR) -> Design:
    """Runs of 200,000 agent steps, if the bench says no other."""
    return Design(arms(bench), tuple(MinAtar(game) for game in games), tuple(range(seeds)), leaves_out)


def atari(arms: Arms, bench: Bench, games: tuple[str, ...], leaves_out: str = "") -> Design:
    """The paper's five seeds."""
    return Design(arms(bench), tuple(Atari(game) for game in games), tuple(range(5)), leaves_out)


def pilot(arms: Arms) -> Design:
    """One game, three seeds."""
    return minatar(arms, ONE, 3, "All games but MinAtar's Asterix, and two of the five seeds.")


# Shares of all neurons. A score batch of 64 states puts a neuron near the threshold now on one side and now on the
# other; two points are about what that does to a network of 144 neurons (3 neurons), and five are clearly more (7).
SOME_NEURONS = 0.02
MANY_NEURONS = 0.05
# The paper's recycled networks keep between a tenth and a quarter of the plain one's dormant neurons (figures 9, 12).
HALF_AS_MANY = 0.5
# Quotients of returns. The paper's intervals over 5 seeds and 17 games reach about 12 % to either side of its means
# (figure 10), so a tenth is the least that it could have seen itself.
HIGHER_RETURN = 1.1
LOWER_RETURN = 0.9
# A quotient of ranks. The paper's two are 5 % apart, and their spreads reach 1.3 % to either side.
HIGHER_RANK = 1.02
