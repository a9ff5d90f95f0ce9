"""Stable-Baselines3's DQN on CartPole with ReDo: train, recycle, save, load, resume. Runs in seconds.

python examples/sb3_dqn_cartpole.py --agent-steps 4000
"""

import argparse
import tempfile
from pathlib import Path

import torch
from stable_baselines3 import DQN

from dormant.torch.sb3 import ReDoCallback


def new_model() -> DQN:
    """A small DQN that takes a gradient step every 4 agent steps."""
    return DQN(
        "MlpPolicy",
        "CartPole-v1",
        learning_rate=2.3e-3,
        learning_starts=500,
        train_freq=4,
        gradient_steps=1,
        target_update_interval=100,
        seed=0,
        device="cpu",
    )


def learn(model: DQN, agent_steps: int) -> None:
    """Trains for `agent_steps` more steps, and prints how many neurons were recycled."""
    # The period is short so that ReDo acts in a short run. The paper's is 1,000 gradient steps.
    callback = ReDoCallback(tau=0.1, period=100, networks=("q_net",))
    model.learn(agent_steps, callback=callback, reset_num_timesteps=False)
    print(f"{model.num_timesteps} agent steps, {model._n_updates} gradient steps, {callback.recycled} neurons recycled")
    print(f"{callback.wiring}\n{callback.report}\n")


def main() -> None:
    """Trains, saves, loads and resumes. ReDo's schedule resumes too, because SB3 saves its count of gradient steps."""
    torch.set_num_threads(1)  # for networks this small, two threads are slower
    parser = argparse.ArgumentParser(description="SB3's DQN on CartPole with ReDo.")
    parser.add_argument("--agent-steps", type=int, default=4_000)
    agent_steps = parser.parse_args().agent_steps
    model = new_model()
    learn(model, agent_steps // 2)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "dqn.zip")
        model.save_replay_buffer(Path(folder) / "replay.pkl")
        loaded = DQN.load(Path(folder) / "dqn.zip", env=model.get_env(), device="cpu")
        loaded.load_replay_buffer(Path(folder) / "replay.pkl")
    learn(loaded, agent_steps // 2)


if __name__ == "__main__":
    main()
