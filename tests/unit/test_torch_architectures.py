"""dormant.torch on architectures with known wiring. Checks the recycled layers, and the reasons for other layers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_nets import L, Net

import dormant.torch as dt

torch.set_num_threads(1)


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
    "gate": (lambda s, x: s.o(F.glu(s.a(x))), dict(a=L(3, 4), o=L(2, 2)), VECTOR, {"a": None}),
    "product gate": (
        lambda s, x: s.o(torch.tanh(s.a(x)) * torch.sigmoid(s.b(x))),
        dict(a=L(3, 4), b=L(3, 4), o=L(4, 2)),
        VECTOR,
        {"a+b": None},
    ),
    "squeeze and excite": (
        squeeze_excite,
        dict(a=nn.Conv2d(3, 4, 3), q=L(4, 2), e=L(2, 4), o=L(144, 2)),
        IMAGE,
        {"a+e": None, "q": None},
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
        {"a": None, "b": None},
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
        {"a": None},
    ),
    "a transformer block": (
        lambda s, x: s.o(s.t(x.mT)),
        dict(t=nn.TransformerEncoderLayer(3, 1, 16, batch_first=True), o=L(3, 2)),
        SERIES,
        {"t.linear1": None, "t.self_attn.in_proj_weight": "weighs other neurons in attention", "t.linear2": "summed"},
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
    assert "o" not in found and ("t" in name or "GRU" in name or found.keys() == expected.keys()), str(wiring)

    silence_(net, wiring)
    # Passes `init`, because a parameter that is not in a layer of PyTorch has no initialiser.
    outputs, counts = net(x), dt.recycle_(net, wiring, x, tau=0.0, init=lambda: Net(forward, **copy.deepcopy(layers)))
    assert counts.keys() == {layer.name for layer in wiring.layers if layer.recyclable}
    assert same(net(x), outputs)
    if "GRU" not in name and "transformer" not in name and name not in ("squeeze and excite", "an unknown operation"):
        assert sum(counts.values()) or not counts


@torch.no_grad()
def silence_(net, wiring):
    """Silences the first neuron of each recyclable layer by changing its weights."""
    leaves = dict(net.named_parameters())
    for layer in wiring.layers:
        for name, owner in layer.incoming.items() if layer.recyclable else ():
            leaf = leaves.get(name)
            if leaf is not None:
                leaf[(owner == 0).expand(leaf.shape)] = 0.0


def same(a, b):
    return all(map(torch.equal, *(t if isinstance(t, tuple) else (t,) for t in (a, b))))
