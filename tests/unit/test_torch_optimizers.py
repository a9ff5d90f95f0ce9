"""How dormant.torch makes optimizers forget recycled weights, and which optimizers it refuses."""

import copy

import pytest
import torch
from torch import nn
from torch_nets import mlp, with_silent

import dormant.torch as dt

torch.set_num_threads(1)


@pytest.mark.parametrize("step_count, expected", [("keep", [3.0, 3.0]), ("restart", [0.0, 3.0])])
def test_step_counts(step_count, expected):
    net = with_silent(mlp(), 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.0)
    for _ in range(3):
        net(torch.randn(8, 3)).sum().backward()
        optimizer.step()
    dt.recycle_(
        net,
        dt.trace(net, torch.zeros(1, 3)),
        torch.randn(8, 3),
        tau=0.0,
        optimizer=optimizer,
        step_count=step_count,
        layers=["0"],
    )
    assert [float(optimizer.state[leaf]["step"]) for leaf in (net[0].bias, net[4].bias)] == expected
    assert optimizer.state[net[0].bias]["exp_avg"][1] == 0


def test_an_unknown_optimizer_state_is_refused_before_anything_changes():
    net = with_silent(mlp(), 0)
    optimizer = torch.optim.Rprop(net.parameters())
    net(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="Rprop keeps 'prev'"):
        dt.recycle_(net, dt.trace(net, torch.zeros(1, 3)), torch.randn(8, 3), tau=0.0, optimizer=optimizer)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_sum_of_a_recycled_weight_is_adagrads_initial_accumulator():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].bias.copy_(torch.tensor([-100.0, 5.0, 5.0, 5.0]))
    optimizer = torch.optim.Adagrad(net.parameters(), initial_accumulator_value=0.5)
    net(torch.ones(2, 3)).sum().backward()
    net[0].weight.grad.fill_(1.0)
    optimizer.step()
    dt.recycle_(net, dt.trace(net, torch.zeros(1, 3)), torch.zeros(8, 3), tau=0.0, optimizer=optimizer)
    assert optimizer.state[net[0].weight]["sum"].tolist() == [[0.5] * 3] + [[1.5] * 3] * 3
