"""DQN's settings for MinAtar, as functions of the length of a run."""

from .agents.dqn import DQN


def minatar_dqn(agent_steps: int) -> DQN:
    """DQN for a run of that many agent steps on MinAtar at replay ratio 1.

    >>> minatar_dqn(200_000).epsilon_steps
    20000

    Source: Young & Tian 2019 use RMSprop, a replay of 100,000 and a target copied every 1,000 steps; the optimizer is
    the paper's Adam with a learning rate four times as large, and exploration ends after a tenth of the run.
    """
    return DQN(
        learning_rate=2.5e-4,
        replay_capacity=100_000,
        min_replay=2_000,
        target_period=1_000,
        epsilon_steps=max(1, agent_steps // 10),
    )
