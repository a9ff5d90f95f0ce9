"""Networks of installed PyTorch packages, built with each package's own calls.

A package is imported when its network is built, so that collecting the tests does not need the package.
"""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

ROWS = spaces.Box(-1, 1, (5,), np.float32)
IMAGES = spaces.Box(0, 255, (3, 36, 36), np.uint8)
DISCRETE, CONTINUOUS = spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)
WIDTHS = {"net_arch": [16, 16]}
CNN = {"features_extractor_kwargs": {"features_dim": 16}}
NATURE = [f"features_extractor.{name}" for name in ("cnn.0", "cnn.2", "cnn.4", "linear.0")]

# Each model gets a copy of WIDTHS, because Stable-Baselines3 changes the dictionary that it gets.
# `Built` is a network, its inputs and the names of its layers.
Built = tuple[nn.Module, tuple[Any, ...], list[str]]


class Spaces(gym.Env):
    """An environment that has only spaces. It cannot be reset or stepped."""

    def __init__(self, observations: spaces.Space, actions: spaces.Space) -> None:
        self.observation_space, self.action_space = observations, actions


def rows() -> torch.Tensor:
    return torch.randn(12, 5, generator=torch.Generator().manual_seed(0))


def images() -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, 36, 36), generator=torch.Generator().manual_seed(0)).float()


def actions(count: int) -> torch.Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(1))


def sb3_dqn() -> Built:
    from stable_baselines3 import DQN

    model = DQN("MlpPolicy", Spaces(ROWS, DISCRETE), policy_kwargs={**WIDTHS}, buffer_size=10, device="cpu")
    return model.q_net, (rows(),), ["q_net.0", "q_net.2"]


def sb3_dqn_cnn() -> Built:
    from stable_baselines3 import DQN

    model = DQN("CnnPolicy", Spaces(IMAGES, DISCRETE), policy_kwargs=WIDTHS | CNN, buffer_size=10, device="cpu")
    return model.q_net, (images(),), [*NATURE, "q_net.0", "q_net.2"]


def sb3_sac_actor() -> Built:
    from stable_baselines3 import SAC

    model = SAC("MlpPolicy", Spaces(ROWS, CONTINUOUS), policy_kwargs={**WIDTHS}, buffer_size=10, device="cpu")
    deterministic = True
    return model.actor, (rows(), deterministic), ["latent_pi.0", "latent_pi.2"]


def sb3_sac_critics() -> Built:
    from stable_baselines3 import SAC

    model = SAC("MlpPolicy", Spaces(ROWS, CONTINUOUS), policy_kwargs={**WIDTHS}, buffer_size=10, device="cpu")
    return model.critic, (rows(), actions(12)), ["qf0.0", "qf0.2", "qf1.0", "qf1.2"]


def sb3_sac_critics_with_shared_encoder() -> Built:
    from stable_baselines3 import SAC

    shared = WIDTHS | CNN | {"share_features_extractor": True}
    model = SAC("CnnPolicy", Spaces(IMAGES, CONTINUOUS), policy_kwargs=shared, buffer_size=10, device="cpu")
    return model.critic, (images(), actions(4)), [*NATURE, "qf0.0", "qf0.2", "qf1.0", "qf1.2"]


def sb3_ppo() -> Built:
    from stable_baselines3 import PPO

    relu = WIDTHS | {"activation_fn": nn.ReLU}
    model = PPO("MlpPolicy", Spaces(ROWS, CONTINUOUS), policy_kwargs=relu, device="cpu")
    names = [f"mlp_extractor.{net}_net.{part}" for net in ("policy", "value") for part in (0, 2)]
    deterministic = True
    return model.policy, (rows(), deterministic), names


NETWORKS: dict[str, Callable[[], Built]] = {
    "stable-baselines3: DQN, MLP": sb3_dqn,
    "stable-baselines3: DQN, Nature CNN": sb3_dqn_cnn,
    "stable-baselines3: SAC actor": sb3_sac_actor,
    "stable-baselines3: SAC critics": sb3_sac_critics,
    "stable-baselines3: SAC critics, shared encoder": sb3_sac_critics_with_shared_encoder,
    "stable-baselines3: PPO, actor and critic": sb3_ppo,
}
