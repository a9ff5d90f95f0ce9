"""Tracing and measuring do not change the module. Values that are not finite have no score."""

import collections
import copy
import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_nets import L, Net, mlp, with_silent

import dormant.torch as dt

torch.set_num_threads(1)


class Everything(nn.Module):
    """A module with many kinds of state: a parametrization, BatchNorm, dropout, a buffer, tensors and Python values."""

    def __init__(self):
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4))
        self.norm, self.drop, self.last = nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)
        self.register_buffer("mean", torch.zeros(3))
        self.plain, self.calls, self.seen = torch.zeros(3), 0, []

    def forward(self, x):
        self.mean += 0.1 * (x.mean(0) - self.mean)
        self.plain.add_(1.0)
        self.calls += 1
        self.seen.append(self.calls)
        noise = float(np.random.normal()) if self.training else 0.0
        return self.last(self.drop(F.relu(self.norm(self.first(x - self.mean)))) + noise)


def test_nothing_is_left_behind():
    net = Everything().train()
    net.drop.eval()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loss = net(torch.ones(8, 3)).sum()  # tracing must not break the graph for the backward pass below
    state, plain, seen = copy.deepcopy(net.state_dict()), net.plain.clone(), list(net.seen)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    wiring = dt.trace(net, x)
    wiring.scores(net, x, training=True)
    dt.measure(net, wiring, x)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(net.plain, plain) and net.calls == 1 and net.seen == seen
    assert torch.equal(torch.get_rng_state(), torch_state) and (np.random.get_state()[1] == numpy_state).all()
    assert net.training and not net.drop.training and all(leaf.grad is None for leaf in net.parameters())
    loss.backward()
    optimizer.step()


class Tally:
    def __init__(self):
        self.number, self.mean = 0, torch.zeros(3)


SEEN: list[int] = []


class Stateful(nn.Module):
    """A module with state in Python: containers, an object, an array, generators, and variables of a hook."""

    def __init__(self):
        super().__init__()
        self.a, self.b = L(3, 4), L(4, 2)
        self.nested, self.queue = {"calls": [0]}, collections.deque([0], maxlen=2)
        self.ordered, self.array, self.tally = collections.OrderedDict(calls=0), np.zeros(2), Tally()
        self.torch, self.numpy = torch.Generator().manual_seed(0), np.random.default_rng(0)
        self.legacy, self.python = np.random.RandomState(0), random.Random(0)
        heard, calls = [], 0

        def hook(*_):
            nonlocal calls
            calls += 1
            heard.append(calls)
            SEEN.append(calls)

        self.a.register_forward_hook(hook)
        self.heard = lambda: (list(heard), calls, list(SEEN))

    def forward(self, x):
        self.nested["calls"][0] += 1
        self.queue.append(self.nested["calls"][0])
        self.ordered["calls"] += 1
        self.array += 1
        self.tally.number, self.tally.mean = self.tally.number + 1, self.tally.mean + x.mean(0)
        noise = torch.rand(4, generator=self.torch) + self.numpy.random() + self.legacy.rand() + self.python.random()
        return self.b(F.relu(self.a(x)) * noise)

    def everything(self):
        containers = [self.nested["calls"][0], *self.queue, *self.ordered.values(), *self.array, self.heard()]
        numbers = [self.torch.get_state().tolist(), self.numpy.bit_generator.state, str(self.legacy.get_state())]
        return [*containers, self.tally.number, self.tally.mean.tolist(), *numbers, self.python.getstate()]


def test_no_state_in_python_is_left_behind():
    net, x = Stateful(), torch.ones(8, 3)
    net.a.bias.data[1] = -100.0
    before = copy.deepcopy(net.everything())
    wiring = dt.trace(net, x)
    assert net.everything() == before
    dt.measure(net, wiring, x)
    dt.report(net, x)
    assert dt.recycle_(net, wiring, x, tau=0.0)["a"] > 0
    assert net.everything() == before


@pytest.mark.parametrize("draw", ["numpy.random()", "legacy.rand()", "python.random()"])
def test_a_generator_of_the_modules_own_is_seeded(draw):
    def forward(s, x):
        return s.b(F.relu(s.a(x) + 100 * (eval(f"s.{draw}") < 0.5)))

    net, x = Net(forward, a=L(3, 4), b=L(4, 2)), torch.ones(8, 3)
    net.numpy, net.legacy, net.python = np.random.default_rng(0), np.random.RandomState(0), random.Random(1)
    nn.init.constant_(net.a.bias, -50.0)
    wiring = dt.trace(net, x)
    assert len({float(wiring.scores(net, x, seed=seed)["a"].sum()) for seed in range(8)}) == 2


@pytest.mark.parametrize("act", [lambda net, x: dt.trace(net, x), lambda net, x: dt.measure(net, dt.trace(net, x), x)])
def test_autocast_keeps_its_gradients(act):
    net, x = mlp(), torch.randn(8, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        act(net, x)
        net(x).float().sum().backward()
    assert all(leaf.grad is not None for leaf in net.parameters())


def test_a_module_that_enters_autocast_itself():
    def forward(s, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return s.b(F.relu(s.a(x)))

    net, x = Net(forward, a=L(3, 4), b=L(4, 2)), torch.randn(8, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert dt.trace(net, x)["a"].recyclable
        net(x).float().sum().backward()
    assert all(leaf.grad is not None for leaf in net.parameters())


def test_inference_mode():
    net, x = with_silent(mlp(), 1), torch.randn(8, 3)
    with torch.inference_mode():
        assert dt.recycle_(net, dt.trace(net, x), x, tau=0.0)["0"] >= 1


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_forward_derivatives_inside_the_module():
    def forward(s, x):
        return torch.func.jvp(lambda y: s.b(torch.tanh(s.a(y))), (x,), (torch.ones_like(x),))[1]

    net, x = Net(forward, a=L(3, 4), b=L(4, 2)), torch.randn(8, 3)
    wiring = dt.trace(net, x[:2])
    assert not any(layer.recyclable for layer in wiring.layers)
    dt.measure(net, wiring, x)


def test_a_batch_of_one():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    assert dt.trace(net, torch.zeros(1, 3))["0"].recyclable


def test_training_mode_that_can_not_be_run_is_a_reason():
    net = Net(lambda s, x, *target: s.b(F.relu(s.a(x))) - (target[0] if s.training else 0.0), a=L(3, 4), b=L(4, 2))
    (reason,) = dt.trace(net, torch.zeros(2, 3))["a"].reasons
    assert "training mode raises IndexError" in reason


@pytest.mark.parametrize("value", [3e38, math.inf, math.nan])
def test_values_that_are_not_finite_have_no_score(value):
    net, x = with_silent(mlp(), 1), torch.full((8, 3), 2.0)
    with torch.no_grad():
        net[0].weight[0] = value
    wiring, before = dt.trace(net, x), copy.deepcopy(net.state_dict())
    with pytest.warns(RuntimeWarning, match="activations of layer '0', '2' are not finite"):
        report = dt.measure(net, wiring, x, tau=0.0)
    assert math.isnan(report.fraction) and math.isnan(report.fractions["0"]) and "nan" in str(report)
    assert report.scores["0"].isnan().all() and not report.masks["0"].any()
    assert dt.recycle_(net, wiring, x, tau=0.0) == {"0": 0, "2": 0}  # does not warn again
    assert all(
        torch.equal(a, b) or a.isnan().any() for a, b in zip(net.state_dict().values(), before.values(), strict=True)
    )


@pytest.mark.parametrize("name", ["a.weight", "c"])
def test_an_activation_does_not_hide_a_nan(name):
    net = Net(
        lambda s, x: s.b(torch.where((h := s.a(x) + s.c) > 0, h, 0.0)),
        a=L(3, 4),
        b=L(4, 2),
        c=nn.Parameter(torch.zeros(4)),
    )
    x = torch.ones(8, 3)
    wiring = dt.trace(net, x)
    with torch.no_grad():
        net.get_parameter(name)[0] = math.nan
    with pytest.warns(RuntimeWarning, match="activations of layer 'a' are not finite"):
        assert math.isnan(dt.measure(net, wiring, x).fraction)
    assert dt.recycle_(net, wiring, x, tau=0.0) == {"a": 0}


def test_a_tiny_neuron_beside_a_huge_one_is_not_silent():
    net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1e-30], [1e30]]))
    x = torch.ones(4, 1)
    assert dt.measure(net, dt.trace(net, x), x, tau=0.0).fraction == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    net, x = with_silent(mlp(), 1).to(dtype), torch.randn(8, 3).to(dtype)
    outputs = net(x)
    assert dt.recycle_(net, dt.trace(net, x), x, tau=0.0)["0"] >= 1
    assert torch.equal(net(x), outputs)


def test_complex_activations_are_measured_by_their_size():
    net = Net(lambda s, x: (x.to(torch.cfloat) @ s.w @ s.v).real, w=nn.Parameter(torch.zeros(3, 2, dtype=torch.cfloat)))
    net.v = nn.Parameter(torch.randn(2, 1, dtype=torch.cfloat))
    with torch.no_grad():
        net.w[0, 0] = 1j
    scores = dt.trace(net, torch.ones(2, 3)).scores(net, torch.ones(4, 3))
    assert scores["w"].tolist() == [2.0, 0.0]


def test_a_wide_wiring_is_wrapped():
    names = [f"a_rather_long_name_of_a_layer_{i}" for i in range(4)]
    heads = nn.ModuleDict({name: nn.Linear(4, 1) for name in names})
    net = Net(lambda s, x: tuple(head(F.relu(s.a(x))) for head in s.heads.values()), a=L(3, 4), heads=heads)
    lines = str(dt.trace(net, torch.zeros(2, 3))).splitlines()
    assert all(len(line) <= 120 for line in lines) and any(names[3] in line for line in lines)


class Stubborn(nn.Linear):
    def reset_parameters(self):
        nn.init.zeros_(self.bias)


def test_an_initialiser_that_leaves_a_weight_is_refused():
    net = with_silent(mlp(), 0)
    net[0] = Stubborn(3, 4)
    with torch.no_grad():
        net[0].weight.fill_(0.0)
        net[0].bias.fill_(-1.0)
    with pytest.raises(ValueError, match=r"0 \(Stubborn\) does not draw weight afresh; pass init="):
        dt.recycle_(net, dt.trace(net, torch.zeros(1, 3)), torch.randn(8, 3), tau=0.0)


@pytest.mark.parametrize(
    "init, message", [(lambda net: nn.Linear(3, 4), "is missing"), (lambda net: net, "module's own")]
)
def test_an_init_that_builds_another_module_or_none_is_refused(init, message):
    net = with_silent(mlp(), 0)
    with pytest.raises(ValueError, match=message):
        dt.recycle_(net, dt.trace(net, torch.zeros(1, 3)), torch.randn(8, 3), tau=0.0, init=lambda: init(net))


def test_coupled_layers_can_be_skipped():
    net = Net(lambda s, x: s.b(F.relu(F.normalize(s.a(x), dim=1))), a=L(3, 4), b=L(4, 2))
    with torch.no_grad():
        net.a.weight[0], net.a.bias[0] = 0.0, -1.0
    x = torch.randn(8, 3)
    wiring = dt.trace(net, x)
    assert wiring["a"].coupled_by and "coupled by" in str(wiring)
    assert dt.recycle_(net, wiring, x, tau=0.0, coupled="skip") == {}
    assert dt.recycle_(net, wiring, x, tau=0.0)["a"] >= 1
    with pytest.raises((ValueError, TypeError)):
        dt.ReDo(net, (), coupled="both")


class Answer(dict):
    """A dict of a class of its own, as many libraries return it."""


@pytest.mark.parametrize("kind", [Answer, collections.UserDict, lambda named: Stack(named.values())])
def test_outputs_are_found_in_any_container(kind):
    net = Net(lambda s, x: kind({"features": (h := F.relu(s.a(x))), "values": s.b(h)}), a=L(3, 4), b=L(4, 2))
    assert "returned by the module" in "; ".join(dt.trace(net, torch.zeros(2, 3))["a"].reasons)


class Stack(list):
    """A list of a class of its own."""


def test_the_mean_of_a_sampled_action_is_an_output_layer():
    def act(s, x):
        policy = torch.distributions.Normal(s.b(torch.tanh(s.a(x))), s.p.exp(), validate_args=False)
        action = policy.sample()
        return action, policy.log_prob(action).sum(1)

    wiring = dt.trace(Net(act, a=L(3, 4), b=L(4, 2), p=nn.Parameter(torch.zeros(2))), torch.zeros(2, 3))
    assert [layer.name for layer in wiring.layers] == ["a"] and wiring["a"].recyclable, str(wiring)
    assert wiring.outputs == ("b",)


def test_each_layer_and_direction_of_an_lstm_has_neurons_of_its_own():
    lstm = nn.LSTM(3, 5, num_layers=2, bidirectional=True, batch_first=True)
    wiring = dt.trace(Net(lambda s, x: s.b(s.a(x)[0][:, -1]), a=lstm, b=L(10, 2)), torch.zeros(2, 4, 3))
    assert sum(layer.width for layer in wiring.layers) == 20, str(wiring)
