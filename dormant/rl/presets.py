"""DQN's settings for MinAtar and Atari, as functions of how it is run."""

from .agents.dqn import DQN
from .atari_networks import ImpalaResNet, NatureCNN

TARGET_GRADIENT_STEPS = 2_000


def minatar_dqn(agent_steps: int, replay_ratio: float = 1.0) -> DQN:
    """DQN for a run of that many agent steps on MinAtar, with a target copied every 1,000 gradient steps.

    >>> minatar_dqn(200_000).epsilon_steps, minatar_dqn(200_000, replay_ratio=0.25).target_period
    (20000, 4000)

    Source: Young & Tian 2019 use RMSprop, a replay of 100,000 and a target copied every 1,000 steps at replay ratio 1;
    that it is gradient steps which count is the paper's, as in `atari_dqn`. The optimizer is the paper's Adam with a
    learning rate four times as large, and exploration ends after a tenth of the run.
    """
    return DQN(
        learning_rate=2.5e-4,
        replay_capacity=100_000,
        min_replay=2_000,
        target_period=max(1, round(1_000 / replay_ratio)),
        epsilon_steps=max(1, agent_steps // 10),
    )


def atari_dqn(replay_ratio: float = 1.0, network: NatureCNN | ImpalaResNet | None = None) -> DQN:
    """The paper's DQN on Atari, whose target network is copied every 2,000 gradient steps at any replay ratio.

    >>> atari_dqn(0.25).target_period, atari_dqn(1.0).target_period, atari_dqn().network
    (8000, 2000, NatureCNN(width=1, padding='SAME', activation='relu', layer_norm=False, dueling=False))

    Source: dopamine/jax/agents/dqn/configs/dqn.gin and dopamine/labs/redo/configs/dqn_dense.gin, at replay ratio 0.25;
    2,000 agent steps at replay ratio 1 are second-hand (timoklein/redo), and the released code's default, 8,000 agent
    steps always, is not excluded.
    """
    period = max(1, round(TARGET_GRADIENT_STEPS / replay_ratio))
    return DQN(network=network or NatureCNN(), target_period=period)
