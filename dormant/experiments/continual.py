"""Continual MinAtar, as C-CHAIN's authors run it: one agent plays three games in a row."""

from dataclasses import replace

from dormant import Every, ReDo, Reset, ShrinkPerturb
from dormant.experiments.benches import (
    DORMANT,
    HIGHER_RETURN,
    MANY_NEURONS,
    NOTHING_LEARNT,
    Q_GAP,
    RETURN,
    SILENT,
    TRAINING,
    halves_dormancy,
    returns,
)
from dormant.lab import Arm, Claim, Design, Experiment, Panel, Quantity
from dormant.regularisers import CChain, L2Init
from dormant.rl.agents.dqn import DQN
from dormant.rl.continual import ContinualTraining, Games
from dormant.rl.networks.convolutional import MinAtarCNN

PLAIN = "Double DQN"
# The settings of the authors' code. Their paper and logs say that replay and exploration have 500,000 steps, but the
# code uses other numbers. Source: bluecontra/C-CHAIN 2f8bedf, crl_minatar.
AUTHORS = DQN(
    learning_rate=3e-4,
    adam_epsilon=1e-8,
    double=True,
    clip_rewards=False,
    replay_capacity=100_000,
    min_replay=10_000,
    target_period=1_000,
    epsilon_steps=100_000,
    epsilon_end=0.1,
)
# The agent of runs that take seconds.
TINY = replace(
    AUTHORS, network=MinAtarCNN(4, 16), replay_capacity=400, min_replay=100, target_period=100, epsilon_steps=200
)


def arms(plain: ContinualTraining, redo_period: int, reset_period: int) -> tuple[Arm, ...]:
    """The arms of the experiment. `redo_period` and `reset_period` count gradient steps."""

    def changed(**agent: object) -> ContinualTraining:
        return replace(plain, agent=replace(plain.agent, **agent))

    redo = replace(plain, intervention=Every(redo_period, ReDo(0.1)))
    return (
        Arm(PLAIN, plain),
        Arm("ReDo", redo),
        Arm("Reset", replace(plain, intervention=Every(reset_period, Reset(("dense",))))),
        Arm("Shrink and perturb", replace(plain, intervention=Every(reset_period, ShrinkPerturb(0.8)))),
        Arm("C-CHAIN", changed(regulariser=CChain())),
        Arm("L2 init", changed(regulariser=L2Init())),
        Arm("LayerNorm", changed(network=replace(plain.agent.network, layer_norm=True))),
        Arm(f"{PLAIN}, new replay", replace(plain, keep_replay=False)),
        Arm("ReDo, new replay", replace(redo, keep_replay=False)),
    )


def _design(steps: int, seeds: int, reset_period: int, leaves_out: str = "") -> Design:
    plain = ContinualTraining(AUTHORS, Games(steps=steps), rank_batch=512)
    return Design(arms(plain, 1_000, reset_period), (plain.env,), tuple(range(seeds)), leaves_out)


def _smoke() -> Design:
    games = Games(("SpaceInvaders", "Asterix"), steps=200, time_limit=100)
    # The log period is the length of a game, so that each game compiles only one program.
    plain = ContinualTraining(TINY, games, log_period=200, eval_period=200, eval_episodes=2)
    return Design(arms(plain, 20, 50), (games,), (0,), NOTHING_LEARNT)


# The last fifth of the third and of the second game. A run has three games of equal length.
LAST_GAME = Quantity("train_return", "per episode", after=2 / 3 + 0.8 / 3)
SECOND_GAME = Quantity("train_return", "per episode", after=1 / 3 + 0.8 / 3, until=2 / 3)
OTHERS = ("ReDo", "Reset", "Shrink and perturb", "C-CHAIN", "L2 init", "LayerNorm")


def _dormant_in(after: float, until: float) -> Quantity:
    return Quantity("dormant/0.1/all", "mean", after=after, until=until)


CONTINUAL = Experiment(
    name="continual",
    title="Games in a row: what an agent still learns in the second and the third",
    designs={
        "smoke": _smoke(),
        "pilot": _design(500_000, 3, 20_000, "Three quarters of each game's 2 million agent steps, and nine seeds."),
        "laptop": _design(2_000_000, 5, 100_000, "Seven of the twelve seeds."),
        "paper": _design(2_000_000, 12, 100_000),
    },
    panels=(TRAINING, RETURN, DORMANT, SILENT, Q_GAP, Panel("Rank of the tangent kernel", "tangent_kernel_rank")),
    claims=(
        Claim(
            f"With {PLAIN}, more neurons are dormant at the end of the third game than at the end of the first",
            _dormant_in(2 / 3 + 0.8 / 3, 1.0),
            PLAIN,
            None,
            "higher",
            MANY_NEURONS,
            baseline=_dormant_in(0.8 / 3, 1 / 3),
        ),
        *(
            returns(
                f"{arm} has a higher return than {PLAIN} at the end of the {name} game",
                arm,
                PLAIN,
                "higher",
                HIGHER_RETURN,
                quantity,
            )
            for arm in OTHERS
            for name, quantity in (("second", SECOND_GAME), ("third", LAST_GAME))
        ),
        halves_dormancy("ReDo", PLAIN),
        returns(
            "ReDo has a higher return at the end of the third game with the old replay than with a new one",
            "ReDo",
            "ReDo, new replay",
            "higher",
            HIGHER_RETURN,
            LAST_GAME,
        ),
    ),
    settings=(
        "Our network draws Xavier uniform kernels, the loss is Huber's, and the games are those of pgx, with a time "
        "limit of 5,000 agent steps. docs/differences.md lists all differences from the authors' code."
    ),
)
