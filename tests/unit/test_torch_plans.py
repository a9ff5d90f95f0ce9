"""Interventions on PyTorch modules: compiled and distributed modules, mixed precision, resumed runs, and penalties."""

import copy
import io
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch_nets import mlp, with_silent

import dormant.torch as dt

torch.set_num_threads(1)

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
CURES = [
    dt.ReDo(0.3, incoming="scaled", step_count="restart"),
    dt.redo_as_published(0.3),
    dt.Recycle("gradient", dt.how_many.Share(0.4)),
    dt.ContinualBackprop(0.5, maturity=0),
    dt.Prune(0.3, period=1),
    dt.Reset(),
    dt.ShrinkPerturb(0.5, moments="fresh"),
    dt.ResetOptimizer(),
    dt.HareTortoise(0.5, period=2, moments="fresh"),
    dt.ClipWeights(0.1),
    dt.SWR(factor=0.2),
    dt.SNR(period=2, least=1, most=4),
    dt.SoftShrinkPerturb(0.1, period=2),
    dt.DrM(),
    dt.FIRE(moments="fresh"),
    dt.NaP(everywhere=True),
]
ALL = dt.Chain(*CURES)


def train(net, optimizer, x=X):
    optimizer.zero_grad()
    net(x).square().sum().backward()
    optimizer.step()


def values(net, optimizer):
    moments = [each for state in optimizer.state.values() for each in state.values()]
    return [leaf.detach().clone() for leaf in (*net.state_dict().values(), *moments)]


def run(make, wrap=lambda net: net, steps=3):
    """Trains a module with all cures. Returns all weights and moments."""
    torch.manual_seed(0)
    net = with_silent(mlp(), 1)
    optimizer = make(net.parameters())
    wrapped = wrap(net)
    cure = dt.with_intervention(wrapped, optimizer, ALL)
    for _ in range(steps):
        train(wrapped, optimizer)
        torch.manual_seed(5)
        cure.step(X)
    assert sum(cure.recycled.values()) > 0
    return values(net, optimizer)


def test_a_compiled_module_is_treated_like_a_plain_one():
    plain, compiled = (run(torch.optim.Adam, wrap) for wrap in (lambda net: net, compiling))
    assert all(map(torch.equal, plain, compiled))


def compiling(net):
    return torch.compile(net, backend="eager")


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, fused=True),
        lambda p: torch.optim.Adam(p, foreach=True),
        lambda p: torch.optim.Adam(p, amsgrad=True),
        lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
        lambda p: torch.optim.NAdam(p),
    ],
    ids=["fused", "foreach", "amsgrad", "momentum", "nadam"],
)
def test_state_is_changed_in_place_for_every_kind_of_optimizer(make):
    net = with_silent(mlp(), 1)
    optimizer = make(net.parameters())
    cure = dt.with_intervention(net, optimizer, ALL)
    train(net, optimizer)
    kept = [(id(leaf), leaf.data_ptr()) for leaf in net.parameters()]
    moments = [
        (each, each.data_ptr()) for state in optimizer.state.values() for each in state.values() if each is not None
    ]
    for _ in range(2):
        cure.step(X)
        train(net, optimizer)
    assert kept == [(id(leaf), leaf.data_ptr()) for leaf in net.parameters()]
    assert all(each.data_ptr() == place for each, place in moments if torch.is_tensor(each))
    assert all(value.isfinite().all() for value in values(net, optimizer) if torch.is_tensor(value))


def test_a_capturable_optimizer_keeps_its_step_tensor():
    net = with_silent(mlp(), 1)
    optimizer = torch.optim.Adam(net.parameters(), capturable=True)
    for leaf in net.parameters():  # simulates the state after steps in a CUDA graph
        moments = {name: torch.ones_like(leaf) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[leaf] = {"step": torch.tensor(7.0), **moments}
    steps = [state["step"] for state in optimizer.state.values()]
    dt.with_intervention(net, optimizer, dt.ResetOptimizer()).step(X)
    assert all(state["step"] is step and step == 0 for state, step in zip(optimizer.state.values(), steps, strict=True))


def test_mixed_precision():
    net = with_silent(mlp(), 1)
    optimizer, scaler = torch.optim.Adam(net.parameters()), torch.amp.GradScaler("cpu")
    cure = dt.with_intervention(net, optimizer, ALL)
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = net(X).square().sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        with torch.autocast("cpu", torch.bfloat16):
            cure.step(X)
    assert all(leaf.dtype == torch.float32 and leaf.isfinite().all() for leaf in net.parameters())
    assert sum(cure.recycled.values()) > 0


def test_channels_last_stays():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    net, x = net.to(memory_format=torch.channels_last), torch.randn(5, 3, 8, 8).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters())
    cure = dt.with_intervention(net, optimizer, ALL)
    for _ in range(2):
        train(net, optimizer, x)
        cure.step(x)
    moments = optimizer.state[net[0].weight]["exp_avg"]
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in (net[0].weight, moments))


def test_a_reset_starts_batch_norms_afresh_and_leaves_frozen_weights():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    net[5].bias.requires_grad_(False)
    optimizer = torch.optim.Adam([leaf for leaf in net.parameters() if leaf.requires_grad])
    train(net, optimizer)
    before = copy.deepcopy(net)
    dt.with_intervention(net, optimizer, dt.Reset()).step(X)
    assert net[1].running_mean.tolist() == [0.0] * 4 and net[1].running_var.tolist() == [1.0] * 4
    assert net[1].num_batches_tracked == 0 and torch.equal(net[5].bias, before[5].bias)
    assert not any(torch.equal(net[i].weight, before[i].weight) for i in (0, 3, 5))
    assert all((state["exp_avg"] == 0).all() for state in optimizer.state.values())


def test_clipping_leaves_normalisations_alone():
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2))
    cure = dt.with_intervention(net, (), dt.ClipWeights(2.0))
    bounds = [2 * float(net[i].weight.detach().abs().max()) for i in (0, 3)]
    with torch.no_grad():
        for leaf in net.parameters():
            leaf.fill_(-9.0)
    cure.step(X)
    for index, bound in zip((0, 3), bounds, strict=True):
        assert all(torch.allclose(leaf, torch.tensor(-bound)) for leaf in net[index].parameters())
    assert (net[1].weight == -9).all() and (net[1].bias == -9).all()


def test_pruned_neurons_stay_out():
    net = with_silent(mlp(), 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    cure = dt.with_intervention(net, optimizer, dt.Prune(0.0, period=2))
    for step in range(1, 6):
        train(net, optimizer)
        cure.step(X)
        assert bool((net[2].weight[:, 1] == 0).all()) == (step >= 2)
        if step == 2:
            nn.init.constant_(net[0].bias, 1.0)  # the neuron becomes active, but no layer reads it


def test_a_schedule_may_be_called_after_several_gradient_steps():
    net = with_silent(mlp(), 1)
    cure = dt.with_intervention(net, (), dt.Every(10, dt.ReDo(0.0), start=20, stop=45))
    due = [cure.step(X, steps=steps) is not None for steps in (9, 9, 9, 9, 9, 9)]  # steps 9, 18, ..., 54
    assert due == [False, False, True, True, True, False] and cure.gradient_steps == 54


def test_inputs_are_drawn_only_if_they_are_needed():
    drawn = []

    def inputs():
        drawn.append(1)
        return (X,)

    cure = dt.with_intervention(mlp(), (), dt.Chain(dt.Every(5, dt.ReDo()), dt.ClipWeights()))
    for _ in range(10):
        cure.step_on(inputs)
    assert len(drawn) == 3  # one draw for the trace, two for the interventions


def test_a_checkpoint_resumes_to_the_last_bit():
    torch.manual_seed(3)
    net = with_silent(mlp(), 1)
    optimizer = torch.optim.Adam(net.parameters())
    penalty = dt.penalised(dt.L2Init(0.01), optimizer, net)
    cure = dt.with_intervention(net, optimizer, ALL)
    assert penalty is not None
    for _ in range(3):
        train(net, optimizer)
        cure.step(X)
    file = io.BytesIO()
    whole = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "cure": cure.state_dict()}
    torch.save({**whole, "random": torch.get_rng_state()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    other = mlp()
    theirs = torch.optim.Adam(other.parameters())
    dt.penalised(dt.L2Init(0.01), theirs, other)
    resumed = dt.with_intervention(other, theirs, ALL)
    other.load_state_dict(saved["net"])
    theirs.load_state_dict(saved["optimizer"])
    resumed.load_state_dict(saved["cure"])
    assert resumed.recycled == cure.recycled and resumed.gradient_steps == 3
    for one, trainer, plan in ((net, optimizer, cure), (other, theirs, resumed)):
        torch.set_rng_state(saved["random"])
        for _ in range(3):
            train(one, trainer)
            plan.step(X)
    assert all(map(torch.equal, values(net, optimizer), values(other, theirs)))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_penalty_is_added_to_the_loss(fused, scaled):
    def trained(by_hand):
        torch.manual_seed(0)
        net = mlp()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=fused)
        initial = {name: leaf.detach().clone() for name, leaf in net.named_parameters()}
        penalty, scaler = dt.L2Init(0.3), torch.amp.GradScaler("cpu", init_scale=128.0, enabled=scaled)
        if not by_hand:
            dt.penalised(penalty, optimizer, net)
        for _ in range(4):
            optimizer.zero_grad()
            loss = net(X).square().mean()
            loss = loss + penalty(dict(net.named_parameters()), initial) if by_hand else loss
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        return list(net.parameters())

    for one, other in zip(trained(True), trained(False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_recycled_neuron_is_pulled_to_its_fresh_weights():
    net = with_silent(mlp(), 1)
    first = net[0].weight.detach().clone()
    optimizer = torch.optim.Adam(net.parameters())
    handles = dt.penalised(dt.L2Init(0.3), optimizer, net)
    train(net, optimizer)
    dt.with_intervention(net, optimizer, dt.ReDo(0.0, layers=("0",))).step(X)
    initial = optimizer.state[net[0].weight]["initial"]
    assert torch.equal(initial[1], net[0].weight[1]) and not torch.equal(initial[1], first[1])
    assert torch.equal(initial[[0, 2, 3]], first[[0, 2, 3]])
    handles.remove()
    grad = net[0].weight.grad.clone()
    optimizer.step()
    assert torch.equal(grad, net[0].weight.grad)


DISTRIBUTED = """
import sys, torch, torch.distributed as dist
from torch import nn
import dormant.torch as dt
rank, path = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
net = nn.parallel.DistributedDataParallel(net)
torch.manual_seed(rank)  # other batches and other random numbers on each process
optimizer = torch.optim.Adam(net.parameters())
half = dt.how_many.Share(0.5)
plan = dt.Chain(
    dt.ReDo(0.5), dt.Recycle("utility", half), dt.Recycle(number=half, order="random"),
    dt.ContinualBackprop(0.5, maturity=0), dt.Every(1, dt.WhenDormant(0.25, dt.ShrinkPerturb(0.5))), dt.Prune(0.5, 2),
    dt.Every(3, dt.Reset(("2",))), dt.HareTortoise(0.5, 2), dt.ClipWeights(0.5), dt.ResetOptimizer(),
    dt.SWR("magnitude", "proportional", 0.3), dt.SNR(period=2, least=1, most=4), dt.SoftShrinkPerturb(0.1, 2),
    dt.Every(2, dt.DrM(tau=0.3)), dt.FIRE(), dt.NaP(everywhere=True),
)
cure = dt.with_intervention(net, optimizer, plan)
for step in range(4):
    x = torch.randn(8, 3) * (1 + rank) - rank
    optimizer.zero_grad(); net(x).square().sum().backward(); optimizer.step()
    cure.step(x)
    state = [*net.parameters(), *(s[k] for s in optimizer.state.values() for k in ("exp_avg", "exp_avg_sq"))]
    for leaf in state:
        first = leaf.detach().clone()
        dist.broadcast(first, 0)
        assert torch.equal(first, leaf), step
assert sum(cure.recycled.values()) > 0
dist.destroy_process_group()
"""


def test_distributed_replicas_stay_equal_under_every_cure(tmp_path):
    command = [sys.executable, "-c", DISTRIBUTED]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path / "meet")]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]


class Flattening(nn.Module):
    """A convolution with a map of 3 channels and 4 positions. The map is flattened with channels first or last."""

    def __init__(self, channels_last):
        super().__init__()
        self.conv, self.dense, self.head = nn.Conv2d(1, 3, 2), nn.Linear(12, 5), nn.Linear(5, 2)
        self.channels_last = channels_last

    def forward(self, x):
        x = torch.relu(self.conv(x))
        x = x.permute(0, 2, 3, 1) if self.channels_last else x
        return self.head(torch.relu(self.dense(x.flatten(1))))


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_published_redo_zeroes_the_columns_of_other_channels(channels_last):
    torch.manual_seed(0)
    net, x = Flattening(channels_last), torch.randn(8, 1, 3, 3)
    nn.init.constant_(net.conv.bias[1:2], -100.0)
    nn.init.constant_(net.dense.bias, 1.0)
    optimizer = torch.optim.Adam(net.parameters())
    net(x).square().sum().backward()
    optimizer.step()
    nn.init.constant_(net.dense.weight, 0.1)
    moments = optimizer.state[net.conv.bias]["exp_avg"].clone()
    assert dt.with_intervention(net, optimizer, dt.redo_as_published(0.0)).step(x) == {"conv": 1, "dense": 0}
    # The released code expects channel 1 in rows 4 to 7. This is wrong for a map that is flattened with channels last.
    position, channel = (torch.arange(12) // 3, torch.arange(12) % 3)
    wrong = (position * 3 + channel) // 4 == 1
    wrong = wrong if channels_last else wrong.reshape(4, 3).T.flatten()
    assert torch.equal((net.dense.weight == 0).all(0), wrong) and torch.equal((net.dense.weight == 0).any(0), wrong)
    bound = (6 / (1 * 4 + 3 * 4)) ** 0.5  # Xavier: fan in 1 x 2 x 2, fan out 3 x 2 x 2
    assert 0 < net.conv.weight[1].abs().max() <= bound and net.conv.bias[1] == 0
    assert torch.equal(optimizer.state[net.conv.bias]["exp_avg"], moments)
    assert (optimizer.state[net.conv.weight]["exp_avg"][1] == 0).all()
