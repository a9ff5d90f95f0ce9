"""Figure 4: neurons become dormant on fixed data too, but fewer with fixed targets."""

from dataclasses import replace

from dormant.experiments.benches import MANY_NEURONS, MINATAR, NOTHING_LEARNT, ONE, SMOKE, SOME_NEURONS, Bench
from dormant.lab.design import Arm, Claim, Design, Experiment, Panel, Quantity
from dormant.rl.agents.presets import atari_dqn, minatar_dqn
from dormant.rl.data.sources import DopamineReplay, OwnReplay
from dormant.rl.device import DeviceTraining
from dormant.rl.envs.atari import Atari
from dormant.rl.envs.minatar import MinAtar
from dormant.rl.offline import OfflineTraining

LOGGED_AT = 0.25  # replay ratio of the agent that made the data, as in the published data
MOVING, NETWORK, NUMBERS = "Offline", "Offline, frozen random network", "Offline, fixed random numbers"


def arms(training: OfflineTraining) -> tuple[Arm, ...]:
    """The same training with three kinds of targets."""
    return (
        Arm(MOVING, training),
        Arm(NETWORK, replace(training, targets="frozen network")),
        Arm(NUMBERS, replace(training, targets="fixed numbers")),
    )


def own_replay(bench: Bench) -> OwnReplay:
    """The replay of an agent on MinAtar at the end of its run."""
    logged = bench.dqn(LOGGED_AT)
    assert isinstance(logged, DeviceTraining)
    return OwnReplay(logged)


def small() -> OfflineTraining:
    """A few hundred gradient steps on the replay of a small run."""
    data = own_replay(SMOKE)
    return OfflineTraining(
        replace(data.training.agent, target_period=100), data=data, gradient_steps=600, log_period=100,
        eval_episodes=2, eval_period=300,
    )  # fmt: skip


def minatar(games: tuple[str, ...], seeds: int, leaves_out: str) -> Design:
    """200,000 gradient steps on the last 100,000 transitions of a run of 200,000 agent steps."""
    training = OfflineTraining(minatar_dqn(200_000), data=own_replay(MINATAR))
    return Design(arms(training), tuple(MinAtar(game) for game in games), tuple(range(seeds)), leaves_out)


def published() -> Design:
    """Training on the published replay, with the authors' number of gradient steps per part."""
    agent = replace(atari_dqn(LOGGED_AT), target_period=2_000)  # gradient steps here
    training = OfflineTraining(
        agent, Atari("DemonAttack"), DopamineReplay(), gradient_steps=6_250_000, log_period=12_500, eval_period=0
    )
    return Design(arms(training), (Atari("DemonAttack"), Atari("Asterix")), tuple(range(5)))


def still_grows(tau: str, smallest: float) -> Claim:
    """In the paper by 20 to 38 points."""
    statement = f"Without new data, more neurons end dormant (τ = {tau}) than there were at the start"
    return Claim(statement, Quantity(f"dormant/{tau}/all"), MOVING, None, "higher", smallest)


def fewer(arm: str, tau: str, smallest: float) -> Claim:
    """In the paper by 8 and 35 points."""
    targets = "the targets of a frozen random network" if arm == NETWORK else "fixed random numbers as targets"
    statement = f"With {targets}, fewer neurons end dormant (τ = {tau}) than with moving ones"
    return Claim(statement, Quantity(f"dormant/{tau}/all"), arm, MOVING, "lower", -smallest)


TAUS = (("0", SOME_NEURONS), ("0.1", MANY_NEURONS))
EXPERIMENT = Experiment(
    name="fig04",
    title="Dormant neurons without new data, and without moving targets",
    designs={
        "smoke": Design(arms(small()), (MinAtar("Asterix", time_limit=100),), (0, 1), NOTHING_LEARNT),
        "pilot": minatar(ONE, 3, "Atari, and two of the five seeds."),
        "laptop": minatar(ONE, 5, "Atari, and runs of 6.25 million gradient steps."),
        "paper": published(),
    },
    panels=(
        Panel("Dormant neurons (τ = 0)", "dormant/0/all", "gradient_steps"),
        Panel("Dormant neurons (τ = 0.1)", "dormant/0.1/all", "gradient_steps"),
        Panel("Return", "eval_return", "gradient_steps"),
    ),
    claims=(
        *(still_grows(*tau) for tau in TAUS),
        *(fewer(NETWORK, *tau) for tau in TAUS),
        *(fewer(NUMBERS, *tau) for tau in TAUS),
    ),
    published=("DemonAttack", "Asterix"),
    settings=(
        "On MinAtar the data is the last 100,000 transitions of a DQN at replay ratio 0.25. The paper does not say how "
        "it makes fixed random targets. Both readings are here: a random target network that is never updated, and a "
        "normally distributed number per transition."
    ),
)
