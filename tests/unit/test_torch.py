"""Measuring and recycling PyTorch modules: values computed by hand, special modules, and invalid arguments."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_nets import L, Net, mlp, with_silent

import dormant.torch as dt

torch.set_num_threads(1)


def test_scores_by_hand():
    net = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        net[0].weight[:] = torch.tensor([[1.0], [3.0], [-1.0]])
        net[0].bias[:] = 0.0
    report = dt.measure(net, dt.trace(net, torch.ones(1, 1)), torch.tensor([[1.0], [3.0]]), tau=0.75)
    assert report.scores["0"].tolist() == [0.75, 2.25, 0.0]
    assert report.masks["0"].tolist() == [True, False, True] and report.fraction == 2 / 3
    assert "0      3        2" in str(report)


def test_a_silent_layer_is_all_dormant():
    net = with_silent(mlp(), 0, 1, 2, 3)
    assert dt.measure(net, dt.trace(net, torch.zeros(1, 3)), torch.randn(8, 3), tau=0.0).masks["0"].all()


def test_measuring_leaves_the_module_and_the_generators_alone():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 2)).train()
    net[1].eval()
    before, inputs, random = copy.deepcopy(net.state_dict()), torch.ones(8, 3), torch.get_rng_state()
    dt.measure(net, dt.trace(net, inputs), inputs)
    assert torch.equal(torch.get_rng_state(), random)
    assert [part.training for part in net] == [True, False, True, True, True] and net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_running_statistics_of_a_recycled_channel_start_afresh():
    net = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)).eval()
    x = torch.randn(4, 1, 4, 4)
    with torch.no_grad():
        net[1].bias[1] = -100.0
        net[1].running_mean[:], net[1].running_var[:] = 5.0, 7.0
        net[0].bias[:] = 10.0
    dt.recycle_(net, dt.trace(net, x), x, tau=0.0)
    assert net[1].running_mean.tolist() == [5.0, 0.0, 5.0] and net[1].running_var.tolist() == [7.0, 1.0, 7.0]
    assert net[1].bias[1] == 0.0


def test_nothing_dormant_changes_nothing_and_draws_nothing():
    net = mlp()
    with torch.no_grad():
        net[0].bias[:], net[2].bias[:] = 10.0, 1000.0
    before = copy.deepcopy(net.state_dict())
    wiring, inputs = dt.trace(net, torch.zeros(1, 3)), torch.randn(8, 3)
    random = torch.get_rng_state()
    assert dt.recycle_(net, wiring, inputs, tau=0.0) == {"0": 0, "2": 0}
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_fresh_weights_come_from_init_if_it_is_given():
    def ones():
        net = mlp()
        for parameter in net.parameters():
            nn.init.ones_(parameter)
        return net

    net = with_silent(mlp(), 2)
    dt.recycle_(net, dt.trace(net, torch.zeros(1, 3)), torch.randn(8, 3), tau=0.0, init=ones, layers=["0"])
    assert net[0].weight[2].tolist() == [1.0] * 3 and net[0].bias[2] == 1.0 and (net[2].weight[:, 2] == 0).all()


def test_channels_last():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        net[0].bias[1] = -100.0
    net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    outputs = net(x)
    assert dt.recycle_(net, dt.trace(net, x), x, tau=0.0) == {"0": 1}
    assert torch.equal(net(x), outputs) and net[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_compiled_module_and_a_compiled_part():
    whole = torch.compile(with_silent(mlp(), 0), backend="eager")
    x = torch.randn(8, 3)
    outputs = whole(x)
    assert dt.recycle_(whole, dt.trace(whole, x), x, tau=0.0)["0"] == 1
    assert torch.equal(whole(x), outputs)
    part = nn.Sequential(torch.compile(with_silent(mlp(), 0)[:4], backend="eager"), nn.Linear(5, 2))
    outputs = part(x)
    wiring = dt.trace(part, x)
    assert [layer.name for layer in wiring.layers] == ["0.0", "0.2"]
    assert dt.recycle_(part, wiring, x, tau=0.0)["0.0"] == 1
    assert torch.equal(part(x), outputs)


DISTRIBUTED = """
import sys, torch, torch.distributed as dist
from torch import nn
import dormant.torch as dt
rank, path = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
with torch.no_grad():
    net[0].bias[1] = -100.0
net = nn.parallel.DistributedDataParallel(net)
torch.manual_seed(rank)  # other batches and other random numbers on each process
x = torch.randn(8, 3) * (1 + rank)
optimizer = torch.optim.Adam(net.parameters())
net(x).sum().backward(); optimizer.step()
counts = dt.recycle_(net, dt.trace(net, x), x, tau=0.3, optimizer=optimizer)
assert counts["0"] >= 1, counts
for leaf in net.parameters():
    first = leaf.detach().clone()
    dist.broadcast(first, 0)
    assert torch.equal(first, leaf)
    for key in ("exp_avg", "exp_avg_sq"):
        first = optimizer.state[leaf][key].clone()
        dist.broadcast(first, 0)
        assert torch.equal(first == 0, optimizer.state[leaf][key] == 0)
dist.destroy_process_group()
"""


def test_distributed_replicas_stay_equal(tmp_path):
    command = [sys.executable, "-c", DISTRIBUTED]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path / "meet")]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]


def test_redo_counts_gradient_steps():
    net = with_silent(mlp(), 0)
    redo = dt.ReDo(net, torch.optim.SGD(net.parameters(), lr=0.1), tau=0.0, period=3)
    assert [redo.step(torch.randn(8, 3)) is not None for _ in range(7)] == [False, False, True] * 2 + [False]
    assert redo.gradient_steps == 7


def test_tracing_needs_no_jax_and_does_not_import_the_compiler():
    code = "import sys; sys.modules['jax'] = sys.modules['jaxlib'] = None; import torch, dormant.torch as dt; "
    code += "n = torch.nn; net = n.Sequential(n.Linear(3, 4), n.ReLU(), n.Linear(4, 2)); "
    code += "dt.trace(net, torch.zeros(1, 3)); sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nature_cnn_is_traced_in_full():
    conv = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()]
    net = nn.Sequential(*conv, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 6))
    wiring = dt.trace(net, torch.zeros(1, 4, 84, 84))
    assert [layer.width for layer in wiring.layers] == [32, 64, 64, 512]
    assert not wiring.not_followed and "no:" not in str(wiring)


def test_another_function_of_the_same_neurons_is_measured_as_it_is():
    net = Net(lambda s, x: s.o(F.relu(s.a(x)) if len(x) < 4 else torch.tanh(s.a(x))), a=L(3, 4), o=L(4, 2))
    x = torch.randn(8, 3)
    score = dt.trace(net, torch.zeros(2, 3)).scores(net, x)["a"]
    hand = torch.tanh(net.a(x)).abs().mean(0)
    torch.testing.assert_close(score, (hand / hand.mean()).detach())


def test_another_wiring_than_traced_is_refused():
    net = Net(lambda s, x: s.o(F.relu(s.a(x))) if len(x) < 4 else s.p(F.relu(s.a(x))), a=L(3, 4), o=L(4, 2), p=L(4, 2))
    with pytest.raises(
        ValueError, match=r"wired differently .*the outgoing weights of a are different\): trace it again"
    ):
        dt.measure(net, dt.trace(net, torch.zeros(2, 3)), torch.zeros(8, 3))


def test_tensors_in_a_returned_object_are_found():
    net = Net(lambda s, x: torch.distributions.Normal(s.o(F.relu(s.a(x))), 1.0), a=L(3, 4), o=L(4, 2))
    assert [(layer.name, layer.recyclable) for layer in dt.trace(net, torch.zeros(2, 3)).layers] == [("a", True)]
    net = Net(lambda s, x: torch.distributions.Normal(F.relu(s.a(x)), s.o(F.relu(s.a(x))).exp()), a=L(3, 4), o=L(4, 4))
    assert dt.trace(net, torch.zeros(2, 3)).layers[0].reasons == ("its values are also returned by the module",)


def test_a_returned_function_is_refused():
    net = Net(lambda s, x: lambda: s.o(x), o=L(3, 2))
    with pytest.raises(TypeError, match="returned a function whose tensors can't be found"):
        dt.trace(net, torch.zeros(2, 3))


@pytest.mark.parametrize("net", [nn.ReLU(), nn.Sequential(nn.LazyLinear(3))], ids=["none", "lazy"])
def test_a_module_without_parameters_is_refused(net):
    with pytest.raises(ValueError, match=r"no parameters|has no shape yet"):
        dt.trace(net, torch.zeros(2, 3))


def test_a_parameter_without_an_initialiser_is_refused():
    net = Net(
        lambda s, x: F.relu(x @ s.w - 100.0) @ s.u, w=nn.Parameter(torch.ones(3, 4)), u=nn.Parameter(torch.ones(4, 1))
    )
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=r"no reset_parameters.*pass init="):
        dt.recycle_(net, dt.trace(net, torch.zeros(1, 3)), torch.zeros(8, 3), tau=0.0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_computed_weights_and_unused_parameters_are_named():
    net = Net(
        lambda s, x: s.o(F.relu(s.a(x))), a=nn.utils.parametrizations.weight_norm(L(3, 4)), o=L(4, 2), idle=L(2, 2)
    )
    wiring = dt.trace(net, torch.zeros(1, 3))
    assert wiring.not_followed["a.parametrizations.weight.original1"] == "aten._weight_norm_interface"
    assert wiring.not_followed["idle.weight"] == "not used"
    assert "not followed: idle.bias (not used)" in str(wiring)
    assert not wiring["a"].recyclable and len(dt.measure(net, wiring, torch.zeros(1, 3)).scores["a"]) == 4
    with pytest.raises(ValueError, match="no neurons"):
        _ = dt.measure(net.o, dt.trace(net.o, torch.zeros(1, 4)), torch.zeros(1, 4)).fraction


@pytest.mark.parametrize("call", ["tau", "period", "layers"])
def test_arguments_that_make_no_sense(call):
    net, x = mlp(), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"must be at least|has no layers \['nine'\]"):
        if call == "tau":
            dt.measure(net, dt.trace(net, x), x, tau=-0.1)
        elif call == "period":
            dt.ReDo(net, (), period=0)
        else:
            dt.recycle_(net, dt.trace(net, x), x, layers=["nine"])
