"""dormant.torch on networks whose wiring is known, on wrappers, optimizers, and on what it must refuse."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dormant.torch as dt

torch.set_num_threads(1)


class Net(nn.Module):
    """A function of named layers, so that an architecture fits on a line."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def dueling(s, x):
    h = F.relu(s.l(x))
    advantage = s.a(F.relu(s.ha(h)))
    return s.v(F.relu(s.hv(h))) + advantage - advantage.mean(1, keepdim=True)


def residual(s, x):
    h = F.relu(s.a(x))
    h += s.c(F.relu(s.b(h)))
    return s.o(F.relu(h))


def densenet(s, x):
    h = torch.cat([x, F.relu(s.a(x))], 1)
    return s.o(torch.cat([h, F.relu(s.b(h))], 1))


def crelu(s, x):
    h = s.a(x)
    return s.o(torch.cat([F.relu(h), F.relu(-h)], 1))


def simba(s, x):
    h = s.e(x)
    return s.o(h + s.c(F.relu(s.b(s.n(h)))))


def squeeze_excite(s, x):
    h = F.relu(s.a(x))
    gate = torch.sigmoid(s.e(F.relu(s.q(h.mean((2, 3))))))
    return s.o((h * gate[:, :, None, None]).flatten(1))


def L(inputs, outputs):
    return nn.Linear(inputs, outputs)


VECTOR, IMAGE, VOLUME, SERIES = (2, 3), (2, 3, 8, 8), (2, 3, 6, 6, 6), (2, 3, 9)
# name: (forward, layers, input shape, {layer: None if recycled, else a part of the reason})
ARCHITECTURES = {
    "dueling": (
        dueling,
        dict(l=L(3, 5), hv=L(5, 4), ha=L(5, 4), v=L(4, 1), a=L(4, 3)),
        VECTOR,
        dict.fromkeys(["l", "hv", "ha"]),
    ),
    "residual": (
        residual,
        dict(a=L(3, 4), b=L(4, 6), c=L(6, 4), o=L(4, 2)),
        VECTOR,
        {"a": "summed: a + c", "b": None, "a+c": "summed"},
    ),
    "pre-norm residual": (
        simba,
        dict(e=L(3, 4), n=nn.LayerNorm(4), b=L(4, 6), c=L(6, 4), o=L(4, 2)),
        VECTOR,
        {"e": "summed", "b": None, "e+c": "summed"},
    ),
    "concatenation": (densenet, dict(a=L(3, 4), b=L(7, 5), o=L(12, 2)), VECTOR, {"a": None, "b": None}),
    "CReLU": (crelu, dict(a=L(3, 4), o=L(8, 2)), VECTOR, {"a": None}),
    "gate": (lambda s, x: s.o(F.glu(s.a(x))), dict(a=L(3, 4), o=L(2, 2)), VECTOR, {"a": "aten.glu"}),
    "product gate": (
        lambda s, x: s.o(torch.tanh(s.a(x)) * torch.sigmoid(s.b(x))),
        dict(a=L(3, 4), b=L(3, 4), o=L(4, 2)),
        VECTOR,
        {"a": "a gate", "b": "a gate"},
    ),
    "squeeze and excite": (
        squeeze_excite,
        dict(a=nn.Conv2d(3, 4, 3), q=L(4, 2), e=L(2, 4), o=L(144, 2)),
        IMAGE,
        {"a": "a gate", "q": None, "e": "a gate"},
    ),
    "LayerNorm after the activation": (
        lambda s, x: s.o(s.n(F.relu(s.a(x)))),
        dict(a=L(3, 4), n=nn.LayerNorm(4), o=L(4, 2)),
        VECTOR,
        {"a": "layer_norm after the activation"},
    ),
    "BatchNorm after the activation": (
        lambda s, x: s.o(s.n(F.relu(s.a(x)))),
        dict(a=L(3, 4), n=nn.BatchNorm1d(4), o=L(4, 2)),
        VECTOR,
        {"a": "batch_norm after the activation"},
    ),
    "a constant after the activation": (
        lambda s, x: s.o(F.relu(s.a(x)) + 1),
        dict(a=L(3, 4), o=L(4, 2)),
        VECTOR,
        {"a": "aten.add after the activation"},
    ),
    "BatchNorm before the activation": (
        lambda s, x: s.o(F.relu(s.n(s.a(x))).mean((2, 3))),
        dict(a=nn.Conv2d(3, 4, 3), n=nn.BatchNorm2d(4), o=L(4, 2)),
        IMAGE,
        {"a": None},
    ),
    "depthwise and transposed convolution": (
        lambda s, x: s.o(F.relu(s.t(F.relu(s.d(F.relu(s.a(x)))))).flatten(1)),
        dict(
            a=nn.Conv2d(3, 4, 3), d=nn.Conv2d(4, 4, 3, groups=4), t=nn.ConvTranspose2d(4, 6, 2, groups=2), o=L(150, 2)
        ),
        IMAGE,
        dict.fromkeys("adt"),
    ),
    "3-D convolution": (
        lambda s, x: s.o(F.max_pool3d(F.relu(s.b(F.relu(s.a(x)))), 2).flatten(1)),
        dict(a=nn.Conv3d(3, 4, 2), b=nn.Conv3d(4, 2, 2), o=L(16, 2)),
        VOLUME,
        dict.fromkeys("ab"),
    ),
    "1-D convolution": (
        lambda s, x: s.o(s.p(s.b(F.relu(s.a(x)))).flatten(1)),
        dict(a=nn.Conv1d(3, 4, 3), b=nn.Conv1d(4, 2, 3), p=nn.PReLU(2), o=L(10, 2)),
        SERIES,
        dict.fromkeys("ab"),
    ),
    "a layer used twice": (
        lambda s, x: s.o(torch.cat([F.relu(s.a(x)), F.relu(s.a(-x))], 1)),
        dict(a=L(3, 4), o=L(8, 2)),
        VECTOR,
        {"a": None},
    ),
    "a layer that reads itself": (
        lambda s, x: s.o(F.relu(s.a(F.relu(s.a(x))))),
        dict(a=L(3, 3), o=L(3, 2)),
        VECTOR,
        {"a": "shares weights"},
    ),
    "a kernel slid over neurons": (
        lambda s, x: s.o(F.relu(s.c(F.relu(s.a(x))[:, None])).flatten(1)),
        dict(a=L(3, 6), c=nn.Conv1d(1, 2, 3), o=L(8, 2)),
        VECTOR,
        {"a": "also reads other values", "c": None},
    ),
    "a value that Python reads": (
        lambda s, x: s.o((h := F.relu(s.a(x))) / (1.0 + float(h.detach().max()))),
        dict(a=L(3, 4), o=L(4, 2)),
        VECTOR,
        {"a": "_local_scalar_dense"},
    ),
    "an unknown operation": (
        lambda s, x: s.o(torch.cumsum(F.relu(s.b(F.silu(s.a(x)))), 1)),
        dict(a=L(3, 3), b=L(3, 4), o=L(4, 2)),
        VECTOR,
        {"a": None, "b": "aten.cumsum"},
    ),
    "hidden values returned": (
        lambda s, x: (s.o(h := F.relu(s.a(x))), h),
        dict(a=L(3, 4), o=L(4, 2)),
        VECTOR,
        {"a": "also returned"},
    ),
    "circular padding": (
        lambda s, x: s.o(F.relu(s.b(F.relu(s.a(x)))).flatten(1)),
        dict(a=nn.Conv2d(3, 2, 3), b=nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), o=L(72, 2)),
        IMAGE,
        {"a": "aten.copy_", "b": None},
    ),
    "einsum with a raw, transposed parameter": (
        lambda s, x: torch.einsum("bi,io->bo", x, s.w).relu() @ s.u.T,
        dict(w=nn.Parameter(torch.randn(3, 4)), u=nn.Parameter(torch.randn(2, 4))),
        VECTOR,
        {"w": None},
    ),
    "an ensemble": (
        lambda s, x: torch.bmm(torch.bmm(x.expand(2, -1, -1), s.w).relu(), s.u),
        dict(w=nn.Parameter(torch.randn(2, 3, 4)), u=nn.Parameter(torch.randn(2, 4, 1))),
        VECTOR,
        {"w[0]": None, "w[1]": None},
    ),
    "a GRU": (
        lambda s, x: s.o(s.g(F.relu(s.a(x.mT)))[0]),
        dict(a=L(3, 4), g=nn.GRU(4, 5, batch_first=True), o=L(5, 2)),
        SERIES,
        {"a": None, "g.weight_ih_l0": "aten.tanh_", "g.weight_hh_l0": "aten.mul_"},
    ),
    "a transformer block": (
        lambda s, x: s.o(s.t(x.mT)),
        dict(t=nn.TransformerEncoderLayer(3, 1, 16, batch_first=True), o=L(3, 2)),
        SERIES,
        {"t.linear1": None, "t.self_attn.in_proj_weight": "scaled_dot_product", "t.linear2": "summed"},
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture(name):
    torch.manual_seed(0)
    forward, layers, shape, expected = ARCHITECTURES[name]
    net, x = Net(forward, **copy.deepcopy(layers)).eval(), torch.randn(16, *shape[1:])
    wiring = dt.trace(net, torch.randn(shape))
    found = {layer.name: layer for layer in wiring.layers}
    for layer, reason in expected.items():
        if layer in found or reason != "summed":
            assert found[layer].recyclable == (reason is None), str(wiring)
            assert (reason or "") in "; ".join(found[layer].reasons), str(wiring)
    assert "o" not in found and ("t" in name or found.keys() == expected.keys()), str(wiring)

    silence_(net, wiring)
    # Raw parameters have no initialiser of their own.
    outputs, counts = net(x), dt.recycle_(net, wiring, x, tau=0.0, init=lambda: Net(forward, **copy.deepcopy(layers)))
    assert counts.keys() == {layer.name for layer in wiring.layers if layer.recyclable}
    assert same(net(x), outputs)
    if "GRU" not in name and "transformer" not in name and name not in ("squeeze and excite", "an unknown operation"):
        assert sum(counts.values()) or not counts


@torch.no_grad()
def silence_(net, wiring):
    """Make the first neuron of each recyclable layer a dead one, in the weights themselves."""
    leaves = dict(net.named_parameters())
    for layer in wiring.layers:
        for name, owner in layer.incoming.items() if layer.recyclable else ():
            leaf = leaves.get(name)
            if leaf is not None:
                leaf[(owner == 0).expand(leaf.shape)] = 0.0


def same(a, b):
    return all(map(torch.equal, *(t if isinstance(t, tuple) else (t,) for t in (a, b))))


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))


@torch.no_grad()
def with_silent(net, *neurons):
    net[0].bias[list(neurons)] = -100.0
    return net


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


def test_importing_needs_no_jax():
    program = "import sys; sys.modules['jax'] = sys.modules['jaxlib'] = None\nimport dormant.torch as dt; dt.trace"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_nature_cnn_is_traced_in_full():
    conv = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()]
    net = nn.Sequential(*conv, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 6))
    wiring = dt.trace(net, torch.zeros(1, 4, 84, 84))
    assert [layer.width for layer in wiring.layers] == [32, 64, 64, 512]
    assert not wiring.not_followed and "no:" not in str(wiring)


# --- what is refused


def test_other_operations_than_traced_are_refused():
    net = Net(lambda s, x: s.o(F.relu(s.a(x)) if len(x) < 4 else torch.tanh(s.a(x))), a=L(3, 4), o=L(4, 2))
    with pytest.raises(ValueError, match=r"was relu and is now tanh\): trace it again"):
        dt.measure(net, dt.trace(net, torch.zeros(2, 3)), torch.zeros(8, 3))


def test_a_returned_object_is_refused():
    net = Net(lambda s, x: torch.distributions.Normal(s.o(x), 1.0), o=L(3, 2))
    with pytest.raises(TypeError, match="returned a Normal"):
        dt.trace(net, torch.zeros(2, 3))


def test_a_parameter_without_an_initialiser_is_refused():
    net = Net(
        lambda s, x: F.relu(x @ s.w - 100.0) @ s.u, w=nn.Parameter(torch.ones(3, 4)), u=nn.Parameter(torch.ones(4, 1))
    )
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=r"no reset_parameters.*pass init="):
        dt.recycle_(net, dt.trace(net, torch.zeros(1, 3)), torch.zeros(8, 3), tau=0.0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_an_unknown_optimizer_state_is_refused_before_anything_changes():
    net = with_silent(mlp(), 0)
    optimizer = torch.optim.Rprop(net.parameters())
    net(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="Rprop keeps 'prev'"):
        dt.recycle_(net, dt.trace(net, torch.zeros(1, 3)), torch.randn(8, 3), tau=0.0, optimizer=optimizer)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_computed_weights_and_unused_parameters_are_named():
    net = Net(
        lambda s, x: s.o(F.relu(s.a(x))), a=nn.utils.parametrizations.weight_norm(L(3, 4)), o=L(4, 2), idle=L(2, 2)
    )
    wiring = dt.trace(net, torch.zeros(1, 3))
    assert wiring.not_followed["a.parametrizations.weight.original1"] == "_weight_norm_interface"
    assert wiring.not_followed["idle.weight"] == "not used"
    assert "not followed: idle.bias (not used)" in str(wiring)
    with pytest.raises(ValueError, match="no neurons"):
        _ = dt.measure(net, wiring, torch.zeros(1, 3)).fraction


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


def test_tracing_does_not_import_the_compiler():
    code = "import sys, torch, dormant.torch as dt; n = torch.nn; net = n.Sequential(n.Linear(3, 4), n.ReLU(), "
    code += "n.Linear(4, 2)); dt.trace(net, torch.zeros(1, 3)); sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
