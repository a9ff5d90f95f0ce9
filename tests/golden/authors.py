"""Runs the authors' code of some cures on small inputs, and writes the results to `authors.json`.

    python tests/golden/authors.py FOLDER

FOLDER contains a clone of each repository in `REVISIONS`, with the repository's name. None of this code is committed
here. `test_authors.py` compares our results with the file, and uses the same `weights` and `gradients`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from torch import nn

FILE = Path(__file__).with_suffix(".json")
REVISIONS = {
    "FIRE": "c37a0ac",
    "upgd": "b75e90a",
    "weight-clipping": "0d3db49",
    "collas_2025_swr_paper": "5c8ef03",
    "SelfNormalizedResets": "8b84f0c",
    "C-CHAIN": "2f8bedf",
}
# The folders of each repository that are needed. The clone may lack all other folders.
CODE = {
    "FIRE": "vision/interventions",
    "upgd": "core/optim",
    "weight-clipping": "core/optim",
    "collas_2025_swr_paper": "src/swr_functions",
    "SelfNormalizedResets": "src/algorithms src/models",
    "C-CHAIN": "crl_minatar",
}
SHAPES = ((3, 2, 2, 2), (3,), (4, 12), (4,), (2, 4), (2,))  # kernel and bias of a convolution, a dense layer and a head
FACTOR = 0.8  # the factor of weight clipping and of SWR
# Lengths of past silences, per neuron. All lengths are edges of our bins.
SILENCES = ((128,) * 9 + (512,), (256, 512), (1_024,))
LIMITS = (600, 200, 900)
QUANTILE, GROWTH, MOST = 0.9, 2.0, 1_500
STEPS, CCHAIN = 4, {"share": 0.01, "strength": 50.0, "fixed": 2, "window": 50_000}


def network() -> nn.Module:
    """Returns the network whose parameters are `weights`."""
    net = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        for leaf, value in zip(net.parameters(), weights(), strict=True):
            leaf.copy_(torch.tensor(value))
    return net


def weights(seed: int = 0) -> list[np.ndarray]:
    draws = np.random.default_rng(seed)
    return [draws.normal(size=shape).astype(np.float32) for shape in SHAPES]


def gradients() -> list[np.ndarray]:
    return weights(seed=1)


def batch(number: int) -> dict[str, np.ndarray]:
    """Returns the training batch of gradient step `number`, and as `other` the states of C-CHAIN's second batch."""
    draws = np.random.default_rng(100 + number)
    states = (draws.random((3, 5, 10, 10, 2)) < 0.3).astype(np.float32)
    actions, rewards = draws.integers(0, 2, 5), draws.normal(size=5).astype(np.float32)
    return {"states": states[0], "next": states[1], "other": states[2], "actions": actions, "rewards": rewards}


def as_lists(leaves: list[torch.Tensor]) -> list[list[float]]:
    return [leaf.detach().flatten().tolist() for leaf in leaves]


def fire(root: Path) -> object:
    net = network()
    module(root / "FIRE", "vision/interventions/fire.py").fire(net, 10)
    return as_lists([*net.parameters()])


def upgd(root: Path) -> object:
    net = network()
    optimizer = module(root / "upgd", "core/optim/weight_upgd/first_order.py").FirstOrderGlobalUPGD(
        [*net.named_parameters()], lr=0.1, weight_decay=0.01, beta_utility=0.0, sigma=0.0
    )
    for _ in range(3):
        for leaf, gradient in zip(net.parameters(), gradients(), strict=True):
            leaf.grad = torch.tensor(gradient)
        optimizer.step()
    return as_lists([*net.parameters()])


def weight_clipping(root: Path) -> object:
    net = network()
    found = module(root / "weight-clipping", "core/optim/weight_clipping.py")
    found.WeightClippingSGD(net.parameters(), zeta=FACTOR, lr=0.1).weight_clipping()
    return as_lists([*net.parameters()])


def swr(root: Path) -> object:
    """Returns the flat indices of the weights that SWR replaces, per choice and parameter."""
    code = "src/swr_functions/selective_weight_reinitialization.py"
    found = module(root / "collas_2025_swr_paper", code)
    chosen = {}
    for choice, factor in (("threshold", FACTOR), ("proportional", 0.5)):
        chosen[choice] = []
        for leaf, gradient in zip(weights(), gradients(), strict=True):
            parameter = nn.Parameter(torch.tensor(leaf))
            parameter.grad = torch.tensor(gradient)
            np.random.seed(0)
            places = found.prune_weights(found.compute_utility(parameter, "gradient"), choice, factor)
            chosen[choice].append(sorted(map(int, places.tolist())))
    return chosen


def snr(root: Path) -> object:
    """Returns the limit of each neuron after one update from past silences. The authors' limits are at least 100."""
    sys.path.insert(0, str(root / "SelfNormalizedResets"))
    import jax.numpy as jnp
    from src.algorithms import snr as found  # type: ignore[reportMissingImports]

    past = np.zeros((len(SILENCES), MOST + 1), int)
    for neuron, lengths in enumerate(SILENCES):
        np.add.at(past[neuron], list(lengths), 1)
    seen = {}
    found.LearnerState = SimpleNamespace(replace=lambda state, threshold: seen.update(threshold))
    names = ("params", "reg_str", "reg_params", "algorithm", "threshold_reset_freq")
    state = SimpleNamespace(
        **dict.fromkeys(names),
        threshold={"dense": jnp.array(LIMITS)},
        threshold_percentile=QUANTILE,
        threshold_expansion_factor=GROWTH,
    )
    found.update_tau_.__wrapped__(state, {"dense": jnp.array(past)})
    return [int(limit) for limit in seen["dense"]]


def cchain(root: Path) -> object:
    """Takes a few gradient steps of double DQN. Returns the Q values of some states, and the last strength."""
    sys.modules["wandb"] = ModuleType("wandb")
    sys.modules["agents.sum_tree"] = ModuleType("agents.sum_tree")
    sys.modules["agents.sum_tree"].SumTree = None  # the repository lacks this module, and this agent does not use it
    sys.path.insert(0, str(root / "C-CHAIN" / "crl_minatar"))
    from agents.double_dqn_c_chain import DoubleDQN_CCHAIN  # type: ignore[reportMissingImports]

    torch.manual_seed(0)
    agent = DoubleDQN_CCHAIN((10, 10, 2), 2, "cpu", target_rel_loss_scale=CCHAIN["share"])
    queue = []
    agent.replay_buffer = SimpleNamespace(sample=lambda size: queue.pop(0))
    for number in range(STEPS):
        drawn = batch(number)
        done = np.zeros(5, np.float32)
        names = {"state": "states", "action": "actions", "reward": "rewards", "next_state": "next"}
        first = SimpleNamespace(is_terminal=done, **{theirs: drawn[ours] for theirs, ours in names.items()})
        queue[:] = [first, SimpleNamespace(state=drawn["other"])]
        # Their strength adapts from step 10,000 on. Changes the counter, so that it adapts from the second step on.
        agent.update_cnt = number if number + 1 < CCHAIN["fixed"] else 10_000 + number
        agent.train()
    states = torch.tensor(batch(STEPS)["states"]).permute(0, 3, 1, 2).contiguous()
    return {"values": agent.Q_net(states).flatten().tolist(), "strength": agent.reg_coef}


def module(root: Path, path: str) -> ModuleType:
    """Executes one of the authors' files. Returns a module with the names that the file defines."""
    made = ModuleType(path)
    exec(compile((root / path).read_text(), path, "exec"), made.__dict__)
    return made


CASES = {"fire": fire, "upgd": upgd, "weight clipping": weight_clipping, "swr": swr, "snr": snr, "cchain": cchain}


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as root:
        for name, revision in REVISIONS.items():
            (Path(root) / name).mkdir()
            archive = ["git", "-C", folder / name, "archive", revision, *CODE[name].split()]
            tar = subprocess.run(archive, check=True, capture_output=True)
            subprocess.run(["tar", "-x", "-C", Path(root) / name], input=tar.stdout, check=True)
        numbers = {name: case(Path(root)) for name, case in CASES.items()}
    FILE.write_text(json.dumps({"revisions": REVISIONS, "numbers": numbers}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
