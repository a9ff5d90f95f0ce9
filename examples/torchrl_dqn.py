"""TorchRL's DQN on CartPole with ReDo in three lines (marked). Runs in seconds.

python examples/torchrl_dqn.py --agent-steps 2000
"""

import argparse

import torch
from tensordict.nn import TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymEnv
from torchrl.modules import MLP, EGreedyModule, QValueActor
from torchrl.objectives import DQNLoss, SoftUpdate

import dormant.torch as dormant  # <- ours


def main() -> None:
    """Trains. Regularly prints the loss and how many neurons were recycled."""
    parser = argparse.ArgumentParser(description="TorchRL's DQN on CartPole with ReDo.")
    parser.add_argument("--agent-steps", type=int, default=2_000)
    agent_steps = parser.parse_args().agent_steps
    torch.manual_seed(0)
    torch.set_num_threads(1)  # for networks this small, two threads are slower
    env = GymEnv("CartPole-v1", categorical_action_encoding=True)
    network = MLP(in_features=4, out_features=2, num_cells=[120, 84], activation_class=torch.nn.ReLU)
    actor = QValueActor(network, in_keys=["observation"], spec=env.action_spec)
    loss = DQNLoss(actor, action_space="categorical", delay_value=True)
    targets = SoftUpdate(loss, tau=0.01)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    cure = dormant.with_intervention(network, optimizer, dormant.Every(100, dormant.ReDo(tau=0.1)))  # <- ours

    explore = EGreedyModule(env.action_spec, eps_init=1.0, eps_end=0.05, annealing_num_steps=agent_steps // 2)
    collector = Collector(
        env,
        TensorDictSequential(actor, explore),
        frames_per_batch=20,
        total_frames=agent_steps,
        auto_register_policy_transforms=True,
    )
    replay = TensorDictReplayBuffer(storage=LazyTensorStorage(agent_steps), batch_size=64)
    gradient_steps = 0
    for batch in collector:
        replay.extend(batch)
        explore.step(batch.numel())
        for _ in range(5):
            sample = replay.sample()
            value = loss(sample)["loss"]
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            targets.step()
            gradient_steps += 1
            log = {"loss": round(value.item(), 3)}
            log["recycled"] = cure.step(sample["observation"])  # <- ours
        if gradient_steps % 100 == 0:
            print(f"gradient step {gradient_steps}: {log}")


if __name__ == "__main__":
    main()
