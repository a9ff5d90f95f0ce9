"""Agents, and the settings of DQN and DrQ(eps) for MinAtar and Atari.

"The paper" is Sokar et al. 2023, which introduced ReDo. The replay ratio is the number of gradient steps per agent
step.
"""

from dataclasses import replace
from typing import Any

from ..networks.convolutional import ImpalaResNet, MinAtarCNN, NatureCNN
from .dqn import DQN, Augmentation

TARGET_GRADIENT_STEPS = 2_000  # gradient steps between copies to the target network, on Atari
INTENSITY = 0.05  # standard deviation of the factor by which DrQ multiplies images
# The Atari 100k benchmark: settings of the games (fields of `Atari`) and of the runs (fields of `AtariTraining`).
# Source: DrQ_eps.gin and eval_run_experiment.py of dopamine/labs/atari_100k. The paper's figure, and secondary sources
# that quote its appendix, show runs that are four times as long as in the released configuration.
ATARI_100K_GAME: dict[str, Any] = {"sticky": 0.0, "noops": 29, "life_loss": True}
ATARI_100K_RUN: dict[str, Any] = {
    "agent_steps": 400_000,
    "eval_period": 10_000,
    "eval_agent_steps": 1,
    "eval_episodes": 100,
}


def minatar_dqn(agent_steps: int, replay_ratio: float = 1.0) -> DQN:
    """DQN for a run of `agent_steps` on MinAtar. Its target network is copied every 1,000 gradient steps.

    `target_period` counts agent steps, so it is 4,000 at replay ratio 0.25.

    >>> minatar_dqn(200_000).epsilon_steps, minatar_dqn(200_000, replay_ratio=0.25).target_period
    (20000, 4000)

    Source: Young & Tian 2019 use RMSprop, a replay of 100,000 steps, and copy the target network every 1,000 steps at
    replay ratio 1. We count this period in gradient steps, as in `atari_dqn`. The optimizer is the paper's Adam with
    four times the paper's learning rate. Exploration ends after a tenth of the run.
    """
    return DQN(
        learning_rate=2.5e-4,
        replay_capacity=100_000,
        min_replay=2_000,
        target_period=max(1, round(1_000 / replay_ratio)),
        epsilon_steps=max(1, agent_steps // 10),
    )


def atari_dqn(replay_ratio: float = 1.0, network: NatureCNN | ImpalaResNet | None = None) -> DQN:
    """The paper's DQN on Atari. Its target network is copied every 2,000 gradient steps at any replay ratio.

    `target_period` counts agent steps, so it is 8,000 at replay ratio 0.25.

    >>> atari_dqn(0.25).target_period, atari_dqn(1.0).target_period, atari_dqn().network
    (8000, 2000, NatureCNN(width=1, padding='SAME', activation='relu', layer_norm=False, dueling=False, gap=False))

    Source: dopamine/jax/agents/dqn/configs/dqn.gin and dopamine/labs/redo/configs/dqn_dense.gin, at replay ratio 0.25.
    The period of 2,000 agent steps at replay ratio 1 is taken from timoklein/redo. The paper may instead have used the
    default of the released code, which is 8,000 agent steps at every replay ratio.
    """
    period = max(1, round(TARGET_GRADIENT_STEPS / replay_ratio))
    return DQN(network=network or NatureCNN(), target_period=period)


def atari_drq(network: NatureCNN | ImpalaResNet | None = None) -> DQN:
    """DrQ(eps) on Atari: double DQN with a dueling head, returns of 10 steps and augmented training batches.

    >>> atari_drq().n_step, atari_drq().network.dueling, atari_drq().augmentation
    (10, True, Augmentation(pad=4, intensity=0.05))

    The target network is copied once per agent step, after the gradient steps of that agent step.
    Source: dopamine/labs/atari_100k/configs/DrQ_eps.gin and dopamine/labs/redo/configs/DrQ_eps_dense.gin.
    """
    return DQN(
        network=replace(network or NatureCNN(), dueling=True),
        n_step=10,
        learning_rate=1e-4,
        double=True,
        min_replay=1_600,
        target_period=1,
        epsilon_steps=5_000,
        augmentation=Augmentation(pad=4, intensity=INTENSITY),
    )


def minatar_drq(agent_steps: int) -> DQN:
    """DrQ(eps) on MinAtar, with the learning rate, replay and exploration of `minatar_dqn`.

    >>> minatar_drq(200_000).target_period, minatar_drq(200_000).augmentation
    (1, Augmentation(pad=0, intensity=0.05))

    Images are scaled in intensity, but not shifted. The smallest possible shift in MinAtar is one cell, and an image is
    ten cells wide. Objects move one cell in a step, so a shift looks like a movement. It also doubles or removes
    objects at the edge. In Atari a shift is smaller: at most 4 of 84 pixels.
    """
    return replace(
        minatar_dqn(agent_steps),
        network=MinAtarCNN(dueling=True),
        n_step=10,
        double=True,
        target_period=1,
        augmentation=Augmentation(intensity=INTENSITY),
    )
