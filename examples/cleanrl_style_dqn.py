"""DQN in one file, in the style of CleanRL, with ReDo in the three marked lines. Runs in seconds.

python examples/cleanrl_style_dqn.py --agent-steps 4000
"""

import argparse
import random
from collections import deque

import gymnasium as gym
import numpy as np
import torch
from torch import nn

import dormant.torch as dormant  # <- ours


def q_network() -> nn.Module:
    """Q-values of CartPole's two actions."""
    return nn.Sequential(nn.Linear(4, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 2))


def batch_of(replay: deque, size: int) -> tuple[torch.Tensor, ...]:
    """Transitions drawn at random: observations, actions, rewards, next observations, terminations."""
    columns = zip(*random.sample(replay, size), strict=True)
    return tuple(torch.as_tensor(np.stack(column)) for column in columns)


def main() -> None:
    """Trains. Regularly prints the mean return and how many neurons were recycled."""
    parser = argparse.ArgumentParser(description="DQN on CartPole with ReDo, in one file.")
    parser.add_argument("--agent-steps", type=int, default=4_000)
    agent_steps = parser.parse_args().agent_steps
    random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # for networks this small, two threads are slower
    env = gym.wrappers.RecordEpisodeStatistics(gym.make("CartPole-v1"))
    online, target = q_network(), q_network()
    target.load_state_dict(online.state_dict())
    optimizer = torch.optim.Adam(online.parameters(), lr=2.5e-4)
    cure = dormant.with_intervention(online, optimizer, dormant.Every(200, dormant.ReDo(tau=0.1)))  # <- ours

    replay, returns, gradient_steps = deque(maxlen=10_000), [], 0
    observation, _ = env.reset(seed=0)
    for agent_step in range(agent_steps):
        epsilon = max(0.05, 1.0 - agent_step / 2_000)
        greedy = int(online(torch.as_tensor(observation)).argmax())
        action = random.randrange(2) if random.random() < epsilon else greedy
        next_observation, reward, terminated, truncated, info = env.step(action)
        replay.append((observation, np.int64(action), np.float32(reward), next_observation, np.float32(terminated)))
        observation = env.reset()[0] if terminated or truncated else next_observation
        if "episode" in info:
            returns.append(info["episode"]["r"])
        if agent_step < 500 or agent_step % 4:
            continue
        observations, actions, rewards, next_observations, terminations = batch_of(replay, 128)
        with torch.no_grad():
            targets = rewards + 0.99 * target(next_observations).amax(1) * (1 - terminations)
        values = online(observations).gather(1, actions[:, None]).squeeze(1)
        optimizer.zero_grad()
        nn.functional.mse_loss(values, targets).backward()
        optimizer.step()
        gradient_steps += 1
        log = {"return": round(float(np.mean(returns[-10:])), 1)}
        log["recycled"] = cure.step(observations)  # <- ours
        if gradient_steps % 200 == 0:
            print(f"agent step {agent_step}: {log}")
        if agent_step % 500 == 0:
            target.load_state_dict(online.state_dict())


if __name__ == "__main__":
    main()
