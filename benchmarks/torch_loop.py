"""Measures how much time a PyTorch training loop takes to measure and recycle every 1,000 gradient steps.

Times in turn a gradient step, an idle call of `step`, an event that measures and recycles, and one call of each cure
that acts at every step. Uses one thread. Prints the medians, and the time of events and idle calls relative to
training.

python benchmarks/torch_loop.py
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

import dormant.torch as dt

PERIOD, REPEATS, IDLE_CALLS = 1_000, 15, 1_000
CURES = (dt.ClipWeights(), dt.HareTortoise(), dt.Prune(), dt.ContinualBackprop())


def mlp() -> tuple[nn.Module, torch.Tensor]:
    """Returns an MLP and a batch of 128."""
    net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    return net, torch.randn(128, 64)


def nature() -> tuple[nn.Module, torch.Tensor]:
    """Returns DQN's network for Atari and a batch of 32."""
    conv = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()]
    net = nn.Sequential(*conv, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 6))
    return net, torch.rand(32, 4, 84, 84)


def seconds(call: Callable[[], object], times: int = 1) -> float:
    """Returns the wall time of one call, averaged over `times` calls."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def table(name: str, net: nn.Module, x: torch.Tensor) -> None:
    """Prints the medians for one network."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)

    def train() -> None:
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()

    train()
    scored = x[:64]
    idle = dt.with_intervention(net, optimizer, dt.Every(10**9, dt.ReDo(tau=0.1)))
    event = dt.with_intervention(net, optimizer, dt.ReDo(tau=0.1))
    each = {type(cure).__name__: dt.with_intervention(net, optimizer, cure) for cure in CURES}

    def due() -> None:
        event.measure(scored)
        event.step(scored)

    calls = {"gradient step": train, "event": due}
    calls |= {cure: lambda plan=plan: plan.step(scored) for cure, plan in each.items()}
    times: dict[str, list[float]] = {name: [] for name in (*calls, "idle")}
    for repeat in range(REPEATS + 1):
        measured = {name: seconds(call) for name, call in calls.items()}
        measured["idle"] = seconds(lambda: idle.step(scored), IDLE_CALLS)
        for what, took in measured.items() if repeat else ():  # not the first call, because it traces
            times[what].append(took)
    medians = {what: statistics.median(each) for what, each in times.items()}
    for what, median in medians.items():
        print(f"{name:8}{what:20}{median * 1e6:12,.1f} us")
    added = (medians["idle"] * (PERIOD - 1) + medians["event"]) / PERIOD / medians["gradient step"]
    print(f"{name:8}measuring and recycling every {PERIOD:,} steps adds {100 * added:.2f} %")


def main() -> None:
    """Prints the tables of both networks."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    table("MLP", *mlp())
    table("Nature", *nature())


if __name__ == "__main__":
    main()
