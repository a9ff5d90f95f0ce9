"""Stable-Baselines3's SAC on Pendulum with ReDo on its actor and both critics. Runs in seconds.

python examples/sb3_sac_pendulum.py --agent-steps 800
"""

import argparse
import tempfile
from pathlib import Path

import torch
from stable_baselines3 import SAC

from dormant.torch.sb3 import ReDoCallback


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
    """Trains for `agent_steps` more steps, and prints how many neurons were recycled."""
    # With this short period and high threshold, ReDo acts in a short run. The paper's are 200,000 gradient steps and 0.
    callback = ReDoCallback(tau=0.1, period=200, networks=("actor", "critic"), score_batch=256)
    model.learn(agent_steps, callback=callback, reset_num_timesteps=False)
    print(f"{model.num_timesteps} agent steps, {model._n_updates} gradient steps, {callback.recycled} neurons recycled")
    print(f"{callback.wiring}\n{callback.report}\n")


def main() -> None:
    """Trains, saves, loads and resumes. ReDo's schedule resumes too, because SB3 saves its count of gradient steps."""
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
