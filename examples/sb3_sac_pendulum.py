"""Stable-Baselines3's SAC on Pendulum, with ReDo on actor and critics in three lines (marked). Runs in seconds.

python examples/sb3_sac_pendulum.py --agent-steps 800
"""

import argparse
import tempfile
from pathlib import Path

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback

from dormant.torch.sb3 import ReDoCallback  # <- ours


def new_model() -> SAC:
    """A small SAC that takes a gradient step every agent step."""
    return SAC(
        "MlpPolicy",
        "Pendulum-v1",
        learning_rate=1e-3,
        learning_starts=100,
        policy_kwargs={"net_arch": [64, 64]},
        seed=0,
        device="cpu",
    )


def learn(model: SAC, agent_steps: int) -> None:
    """Trains for some more agent steps. The period is shorter than the paper's 200,000, so short runs recycle too."""
    callbacks: list[BaseCallback] = []
    callbacks.append(ReDoCallback(tau=0.1, period=200, score_batch=256))  # <- ours
    model.learn(agent_steps, callback=callbacks, reset_num_timesteps=False)
    print(f"{model.num_timesteps} agent steps, {model._n_updates} gradient steps")
    print(f"{callbacks[0].recycled} neurons recycled so far\n{callbacks[0].report}\n")  # <- ours


def main() -> None:
    """Trains, saves, loads and resumes. The model stores the schedule's state, so that the schedule resumes too."""
    torch.set_num_threads(1)  # for networks this small, two threads are slower
    parser = argparse.ArgumentParser(description="SB3's SAC on Pendulum with ReDo.")
    parser.add_argument("--agent-steps", type=int, default=800)
    agent_steps = parser.parse_args().agent_steps
    model = new_model()
    learn(model, agent_steps // 2)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "sac.zip")
        model.save_replay_buffer(Path(folder) / "replay.pkl")
        loaded = SAC.load(Path(folder) / "sac.zip", env=model.get_env(), device="cpu")
        loaded.load_replay_buffer(Path(folder) / "replay.pkl")
    learn(loaded, agent_steps // 2)


if __name__ == "__main__":
    main()
