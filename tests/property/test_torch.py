"""Random torch networks: recycling silent neurons changes neither outputs nor the entries of live neurons."""

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dormant.torch as dt

torch.set_num_threads(1)

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Threshold)
OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9),
}


class Heads(nn.Module):
    """A trunk with heads. `kind` is "plain" (one head), "twin" (two outputs) or "dueling"."""

    def __init__(self, trunk: nn.Sequential, width: int, kind: str) -> None:
        super().__init__()
        self.trunk, self.kind = trunk, kind
        self.first, self.second = nn.Linear(width, 3), nn.Linear(width, 1)

    def forward(self, x):
        h = self.trunk(x)
        if self.kind == "dueling":
            advantage = self.first(h)
            return self.second(h) + advantage - advantage.mean(1, keepdim=True)
        return (self.first(h), self.second(h)) if self.kind == "twin" else self.first(h)


class ChannelsLastFlatten(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


def activation(kind):
    return kind(0.0, 0.0) if kind is nn.Threshold else kind()


@st.composite
def networks(draw):
    """Draws a network and inputs for it."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    act, parts, x = draw(st.sampled_from(ACTIVATIONS)), [], torch.randn(5, 6)
    if draw(st.booleans()):
        x = torch.randn(5, 3, 9, 9)
        parts = draw(convolutions(x, act))
    with torch.no_grad():
        width = nn.Sequential(*parts)(x).shape[1]
    for _ in range(draw(st.integers(0 if parts else 1, 2))):
        new = draw(st.integers(1, 6))
        parts += [nn.Linear(width, new), activation(act)]
        width = new
    return Heads(nn.Sequential(*parts), width, draw(st.sampled_from(["plain", "twin", "dueling"]))), x


@st.composite
def convolutions(draw, x, act):
    parts, channels = [], 3
    for _ in range(draw(st.integers(1, 2))):
        new, kernel = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        padding, stride = draw(st.integers(0, 1)), draw(st.integers(1, 2))
        mode = draw(st.sampled_from(["zeros", "reflect", "replicate"]))
        parts += [nn.Conv2d(channels, new, kernel, stride, padding, padding_mode=mode)]
        parts += [nn.BatchNorm2d(new)] if draw(st.booleans()) else []
        parts += [activation(act)]
        parts += draw(st.sampled_from([[], [nn.MaxPool2d(2, 1)], [nn.AvgPool2d(2, 1, padding=1)]]))
        channels = new
    return [*parts, draw(st.sampled_from([nn.Flatten(), ChannelsLastFlatten()]))]


def silence_(net, draw):
    """Silences random neurons of each layer with a very negative bias."""
    parts = list(net.trunk)
    for part, after in pairwise(parts):
        if isinstance(part, nn.Linear | nn.Conv2d):
            last = after if isinstance(after, nn.BatchNorm2d) else part
            hit = torch.tensor(draw.draw(st.lists(st.booleans(), min_size=len(part.bias), max_size=len(part.bias))))
            with torch.no_grad():
                last.bias[hit] = -1e4


def trained(net, x, make):
    """Returns an optimizer with only nonzero moments. Does not change the module's weights."""
    optimizer = make(net.parameters())
    before = copy.deepcopy(net.state_dict())
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    net.load_state_dict(before)
    return optimizer


def entries_of(wiring, masks, sides):
    """Returns, per parameter, a list of masks of the entries that belong to dormant neurons. Loops over all neurons."""
    hit = {}
    for layer in wiring.layers:
        for side in sides:
            for name, owner in getattr(layer, side).items():
                chosen = [n for n in range(layer.width) if masks[layer.name][n]]
                hit.setdefault(name, []).append(torch.isin(owner, torch.tensor(chosen, dtype=torch.long)))
    return hit


@settings(max_examples=20)
@given(net_x=networks(), make=st.sampled_from(sorted(OPTIMIZERS)), data=st.data())
def test_recycling_silent_neurons_changes_only_their_entries(net_x, make, data):
    net, x = net_x
    silence_(net, data)
    net.eval()
    optimizer = trained(net, x, OPTIMIZERS[make])
    wiring = dt.trace(net, x[:2])
    assert all(layer.recyclable and not layer.coupled_by for layer in wiring.layers)
    masks = dt.measure(net, wiring, x, tau=0.0).masks
    for name, score in wiring.scores(net, x, training=True).items():  # some fire in training mode, due to BatchNorm
        masks[name] &= score == 0
    before, outputs = copy.deepcopy(net.state_dict()), net(x)
    counts = dt.recycle_(net, wiring, x, tau=0.0, optimizer=optimizer)

    assert counts == {name: int(mask.sum()) for name, mask in masks.items()}
    after_outputs = net(x)
    if not isinstance(outputs, tuple):
        outputs, after_outputs = (outputs,), (after_outputs,)
    assert all(map(torch.equal, outputs, after_outputs))
    hit = entries_of(wiring, masks, ("incoming", "outgoing"))
    for name, value in net.state_dict().items():
        touched = torch.zeros(value.shape, dtype=torch.bool)
        for part in hit.get(name, []):
            touched = touched | part
        assert torch.equal(value[~touched], before[name][~touched]), name
    for name, parameter in net.named_parameters():
        touched = torch.zeros(parameter.shape, dtype=torch.bool)
        for part in hit.get(name, []):
            touched = touched | part
        for key, moment in optimizer.state[parameter].items():
            if key != "step":
                assert (moment[touched] == 0).all() and (moment[~touched] != 0).all(), (name, key)
            else:
                assert moment == 1


@settings(max_examples=10)
@given(net_x=networks(), data=st.data())
def test_masks_agree_with_brute_force(net_x, data):
    """Changing an outgoing entry of a live neuron changes the output. For a silent neuron, the output stays equal."""
    net, x = net_x
    silence_(net, data)
    net.eval()
    net, x = net.double(), x.double()
    with torch.no_grad():  # positive kernels and inputs, so that every live neuron affects the output
        for parameter in net.parameters():
            parameter.abs_() if parameter.ndim > 1 else None
        x = x.abs() + 0.1
    wiring = dt.trace(net, x[:2])
    masks = dt.measure(net, wiring, x, tau=0.0).masks
    leaves, outputs = dict(net.named_parameters()), flat(net(x))
    dead_end = any(bool(mask.all()) for mask in masks.values())
    for layer in wiring.layers:
        for name, owner in layer.outgoing.items():
            owner = owner.expand(leaves[name].shape).flatten()
            entry = data.draw(st.integers(0, len(owner) - 1))
            with torch.no_grad():
                weight = leaves[name].view(-1)
                old = weight[entry].clone()
                weight[entry] = old + 1.0
                changed = not torch.equal(flat(net(x)), outputs)
                weight[entry] = old
            if masks[layer.name][owner[entry]]:
                assert not changed
            elif not dead_end and name.startswith(("first", "second")):
                assert changed


def flat(outputs):
    return torch.cat([o.flatten() for o in outputs]) if isinstance(outputs, tuple) else outputs.flatten()


@pytest.mark.parametrize("flatten", [nn.Flatten(), ChannelsLastFlatten()])
def test_a_misaligned_flatten_is_caught(flatten):
    """`function_preserved` detects a wrong assignment of rows to channels. The reference code makes this mistake."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), flatten, nn.Linear(27, 4)).eval()
    with torch.no_grad():
        net[0].bias[1] = -1e4
    x = torch.randn(6, 1, 5, 5)
    entries = dt.trace(net, x).layers[0].outgoing["3.weight"].expand(4, 27)[0]
    last = isinstance(flatten, ChannelsLastFlatten)
    right = torch.arange(3).repeat(9) if last else torch.arange(3).repeat_interleave(9)
    wrong = torch.arange(3).repeat_interleave(9) if last else torch.arange(3).repeat(9)
    assert torch.equal(entries, right)
    assert not function_preserved(net, x, wrong)
    assert function_preserved(net, x, right)


def function_preserved(net, x, channel_of_column):
    cut, outputs = copy.deepcopy(net), net(x)
    with torch.no_grad():
        cut[3].weight[:, channel_of_column == 1] = 0
    return torch.equal(cut(x), outputs)
