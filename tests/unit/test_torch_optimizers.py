"""dormant.torch resets the optimizer state of recycled weights. It refuses optimizers with unknown state."""

import copy

import pytest
import torch
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
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


def stepped(net, optimizer):
    net(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda p: torch.optim.Adafactor(p), "row_var"),
        (lambda p: torch.optim.ASGD(p), "eta"),
        (lambda p: torch.optim.Rprop(p), "prev"),
    ],
)
def test_state_of_another_kind_is_refused_before_anything_changes(make, name):
    net = with_silent(mlp(), 0)
    optimizer = stepped(net, make(net.parameters()))
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=f"keeps '{name}'"):
        dt.recycle_(net, dt.trace(net, torch.zeros(1, 3)), torch.randn(8, 3), tau=0.0, optimizer=optimizer)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_lbfgs_is_refused_even_if_it_keeps_its_state_elsewhere():
    net = with_silent(mlp(), 0)
    optimizer = torch.optim.LBFGS([net[4].weight, *net.parameters()][1:], max_iter=2)
    optimizer.step(lambda: (optimizer.zero_grad(), (loss := net(torch.ones(8, 3)).sum()).backward(), loss)[2])
    with pytest.raises(ValueError, match="LBFGS keeps"):
        dt.recycle_(net, dt.trace(net, torch.zeros(1, 3)), torch.randn(8, 3), tau=0.0, optimizer=optimizer)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.NAdam(p, lr=0.0),
        lambda p: torch.optim.RAdam(p, lr=0.0),
        lambda p: torch.optim.Adam(p, lr=0.0, capturable=False, foreach=True),
        lambda p: torch.optim.AdamW(p, lr=0.0, fused=True),
        lambda p: torch.optim.Adamax(p, lr=0.0),
        lambda p: torch.optim.Adadelta(p, lr=0.0),
    ],
    ids=["nadam", "radam", "foreach", "fused", "adamax", "adadelta"],
)
def test_a_restart_zeroes_the_count_in_place(make):
    net = with_silent(mlp(), 0)
    optimizer = stepped(net, make(net.parameters()))
    state = optimizer.state[net[0].weight]
    step = state["step"]
    options = {"tau": 0.0, "optimizer": optimizer, "step_count": "restart", "layers": ["0"]}
    dt.recycle_(net, dt.trace(net, torch.zeros(1, 3)), torch.randn(8, 3), **options)
    assert state["step"] is step and step == 0
    assert state.get("mu_product", 1.0) == 1.0
    moments = [value for value in state.values() if torch.is_tensor(value) and value.shape == net[0].weight.shape]
    assert moments and all((moment[0] == 0).all() for moment in moments)


def test_muon_forgets_recycled_weights():
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        net[0].weight[1] = 0.0
    optimizer = stepped(net, torch.optim.Muon(net.parameters(), lr=0.0, weight_decay=0.0))
    optimizer.state[net[0].weight]["momentum_buffer"].fill_(1.0)
    dt.recycle_(net, dt.trace(net, torch.zeros(1, 3)), torch.randn(8, 3), tau=0.0, optimizer=optimizer)
    assert optimizer.state[net[0].weight]["momentum_buffer"][:, 0].tolist() == [1.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "held, how_many", [(lambda net: net[4].parameters(), "only some"), (lambda net: [net.extra], "none")]
)
def test_an_optimizer_that_does_not_hold_the_parameters_is_refused(held, how_many):
    net = with_silent(mlp(), 0)
    net.extra = nn.Parameter(torch.zeros(1))
    wiring = dt.trace(net, torch.zeros(1, 3))
    with pytest.raises(ValueError, match=f"holds {how_many} of the parameters.*Pass every optimizer"):
        dt.recycle_(net, wiring, torch.randn(8, 3), tau=0.0, optimizer=torch.optim.SGD(held(net)))


def test_a_parameter_frozen_since_the_trace_is_refused():
    net = with_silent(mlp(), 0)
    wiring = dt.trace(net, torch.zeros(1, 3))
    net[2].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"2.weight is frozen .* trace the module again"):
        dt.recycle_(net, wiring, torch.randn(8, 3), tau=0.0)


def test_rmsprop_as_in_tensorflow_starts_at_one():
    net = with_silent(mlp(), 1)
    optimizer = stepped(net, RMSpropTFLike(net.parameters()))
    dt.recycle_(net, dt.trace(net, torch.zeros(1, 3)), torch.randn(8, 3), tau=0.0, optimizer=optimizer, layers=["0"])
    averages = optimizer.state[net[0].weight]["square_avg"]
    assert (averages[1] == 1).all() and (averages[[0, 2, 3]] != 1).any()
