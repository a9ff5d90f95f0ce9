"""Networks for which a tracer could silently be wrong. Tests check recycled layers without the tracer."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_nets import L, Net

import dormant.torch as dt

torch.set_num_threads(1)

VECTOR, SERIES, IMAGE = (6, 3), (4, 5, 3), (4, 3, 8, 8)


def P(*shape):
    return nn.Parameter(torch.randn(shape))


class Noisy(nn.Module):
    """A linear layer that draws new weights at every call in training mode."""

    def __init__(self, inputs, outputs, per_sample=False):
        super().__init__()
        self.mu, self.sigma, self.per_sample = P(outputs, inputs), P(outputs, inputs), per_sample
        self.bias = P(outputs)

    def forward(self, x):
        if not self.training:
            return F.linear(x, self.mu, self.bias)
        if self.per_sample:
            weight = self.mu + self.sigma * torch.randn(len(x), *self.mu.shape)
            return torch.einsum("bi,boi->bo", x, weight) + self.bias
        return F.linear(x, torch.randn_like(self.mu) * self.sigma + self.mu, self.bias)


class InNumPy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(x.detach().numpy().clip(min=0))

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0] > 0)


def buffers(net, **tensors):
    for name, tensor in tensors.items():
        net.register_buffer(name, tensor)
    return net


def frozen(net, *names):
    for name in names:
        net.get_parameter(name).requires_grad_(False)
    return net


def ab(forward, width=4, **more):
    return Net(forward, a=L(3, 4), b=L(width, 2), **more)


def running(s, x):
    s.mean += 0.1 * (x.mean(0) - s.mean)
    return s.b(F.relu(s.a(x - s.mean)))


def in_place(s, x):
    h = torch.zeros(len(x), 4)
    h[:, :2] = F.relu(s.a(x))[:, :2]
    h[:, 2:] += F.relu(s.a(x))[:, 2:]
    return s.b(h)


def film(s, x):
    scale, shift = s.f(x).chunk(2, -1)
    return s.b(F.relu(s.a(x) * scale + shift))


def attend(s, x):
    weights = torch.softmax(s.q(x) @ s.k(x).mT, -1)
    return s.o(weights @ s.v(x))


def experts(s, x):
    gates = torch.softmax(s.g(x), -1)
    return s.o(sum(gates[:, i : i + 1] * F.relu(s.get_submodule(f"e{i}")(x)) for i in range(2)))


def gru(s, x):
    h = torch.zeros(len(x), 4)
    for t in range(x.shape[1]):
        h = s.g(F.relu(s.a(x[:, t])), h)
    return s.b(h)


# name: (module, input shape, the layers that are recycled)
CASES = {
    # neurons that are combined with each other
    "rolled copies": (lambda: ab(lambda s, x: s.b(F.relu((h := s.a(x)) + h.roll(1, -1)))), VECTOR, []),
    "a triangular kernel": (lambda: ab(lambda s, x: s.b(F.relu(s.a(x)) @ s.p.tril()), p=P(4, 4)), VECTOR, ["a", "p"]),
    "differences": (lambda: ab(lambda s, x: s.b(F.relu(torch.diff(s.a(x)))), 3), VECTOR, []),
    "permuted product": (lambda: ab(lambda s, x: s.b((h := F.relu(s.a(x))) * h[:, [1, 2, 3, 0]])), VECTOR, []),
    "a product and a rolled product": (
        lambda: ab(lambda s, x: s.b(s.a(x) * s.c(x) + s.a(x) * s.c(x).roll(1, -1)), c=L(3, 4)),
        VECTOR,
        [],
    ),
    "halves multiplied": (lambda: ab(lambda s, x: s.b((h := F.relu(s.a(x)))[:, :2] * h[:, 2:]), 2), VECTOR, ["a"]),
    "a mean of neurons, mixed in again": (
        lambda: Net(
            lambda s, x: s.b(F.relu(torch.lerp((h := s.c(x).mean(1, True)), s.a(h), 0.3))),
            c=L(3, 4),
            a=L(1, 4),
            b=L(4, 2),
        ),
        VECTOR,
        [],
    ),
    "a mean of neurons as a gate": (
        lambda: ab(lambda s, x: s.b(F.relu(s.a(x)) * s.c(x).mean(1, True)), c=L(3, 4)),
        VECTOR,
        ["a"],
    ),
    "one neuron, weighed by a buffer": (
        lambda: buffers(Net(lambda s, x: s.b(F.relu(s.a(x)) @ s.p), a=L(3, 1), b=L(4, 2)), p=torch.randn(1, 4)),
        VECTOR,
        [],
    ),
    # complex values
    "complex from two layers": (
        lambda: ab(lambda s, x: s.b(torch.complex(s.a(x), s.a(x).roll(1, -1)).abs())),
        VECTOR,
        [],
    ),
    "pairs seen as complex": (
        lambda: ab(lambda s, x: s.b(torch.view_as_complex(F.relu(s.a(x)).view(-1, 2, 2)).abs()), 2),
        VECTOR,
        [],
    ),
    "complex and back": (
        lambda: ab(lambda s, x: s.b(torch.view_as_real(torch.complex(h := F.relu(s.a(x)), h))[..., 0])),
        VECTOR,
        ["a"],
    ),
    # concatenated or stacked neurons, then moved
    "concatenated, then a bias": (
        lambda: ab(lambda s, x: s.b(F.relu(torch.cat([s.a(x), s.c(x)], 1) + s.p)), 8, c=L(3, 4), p=P(8)),
        VECTOR,
        ["a", "c"],
    ),
    "stacked, then scaled": (
        lambda: ab(
            lambda s, x: s.b(F.relu(torch.stack([s.a(x), s.c(x)], 1) * s.p).flatten(1)), 8, c=L(3, 4), p=P(2, 4)
        ),
        VECTOR,
        ["a", "c"],
    ),
    "split, one half activated": (
        lambda: ab(lambda s, x: s.b(torch.cat([F.relu((h := s.a(x))[:, :2]), h[:, 2:]], 1) + 1.0)),
        VECTOR,
        [],
    ),
    "written in place": (lambda: ab(in_place), VECTOR, ["a"]),
    # neurons that appear several times
    "noisy": (lambda: nn.Sequential(Noisy(3, 4), nn.ReLU(), Noisy(4, 2)), VECTOR, ["0.mu"]),
    "noisy for each sample": (lambda: nn.Sequential(Noisy(3, 4, True), nn.ReLU(), Noisy(4, 2, True)), VECTOR, ["0.mu"]),
    "dropout": (lambda: nn.Sequential(L(3, 4), nn.ReLU(), nn.Dropout(), L(4, 2)), VECTOR, ["0"]),
    "an ensemble by vmap": (
        lambda: Net(lambda s, x: torch.vmap(lambda w, u: F.relu(x @ w) @ u)(s.w, s.u), w=P(2, 3, 4), u=P(2, 4, 2)),
        VECTOR,
        ["w[0]", "w[1]"],
    ),
    # unusual biases, scales and kernels
    "a computed bias": (
        lambda: ab(lambda s, x: s.b(F.relu(s.a(x) + 2 * s.p + torch.tanh(s.c))), p=P(4), c=P(4)),
        VECTOR,
        ["a"],
    ),
    "a scale that neurons share": (lambda: ab(lambda s, x: s.b(F.relu(s.p * s.a(x))), p=P(1)), VECTOR, []),
    "a bias that neurons share": (lambda: ab(lambda s, x: s.b(F.relu(s.a(x) + s.p)), p=P(1)), VECTOR, []),
    "LoRA": (
        lambda: ab(lambda s, x: s.b(F.relu(F.linear(x, s.a.weight + s.u @ s.v, s.a.bias))), u=P(4, 2), v=P(2, 3)),
        VECTOR,
        [],
    ),
    "LoRA reads": (
        lambda: ab(lambda s, x: F.linear(F.relu(s.a(x)), s.b.weight + s.u @ s.v), u=P(2, 2), v=P(2, 4)),
        VECTOR,
        [],
    ),
    "weight norm": (
        lambda: nn.Sequential(L(3, 4), nn.ReLU(), nn.utils.parametrizations.weight_norm(L(4, 2))),
        VECTOR,
        [],
    ),
    "spectral norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(L(3, 4)), nn.ReLU(), L(4, 2)),
        VECTOR,
        [],
    ),
    "an exponential kernel": (lambda: ab(lambda s, x: F.linear(F.relu(s.a(x)), s.b.weight.exp())), VECTOR, []),
    "a scaled kernel": (lambda: ab(lambda s, x: F.linear(F.relu(s.a(x)), 3 * s.b.weight * s.p), p=P(1)), VECTOR, ["a"]),
    "a hypernetwork": (
        lambda: ab(lambda s, x: s.b(F.relu(F.linear(x, s.h(s.z).view(4, 3)))), h=L(2, 12), z=P(2)),
        VECTOR,
        [],
    ),
    "a detached reader": (lambda: ab(lambda s, x: F.linear(F.relu(s.a(x)), s.b.weight.detach())), VECTOR, []),
    # buffers, which are not trained
    "a buffer reads": (lambda: buffers(ab(lambda s, x: s.b(F.relu(s.a(x)) @ s.p)), p=torch.randn(4, 4)), VECTOR, []),
    "a buffer feeds": (lambda: buffers(ab(lambda s, x: s.b(F.relu(s.a(x) + s.p))), p=torch.randn(4)), VECTOR, []),
    "a mask": (
        lambda: buffers(ab(lambda s, x: s.b(F.relu(F.linear(x, s.a.weight * s.p)))), p=torch.ones(4, 3)),
        VECTOR,
        ["a"],
    ),
    "frozen reader": (lambda: frozen(ab(lambda s, x: s.b(F.relu(s.a(x)))), "b.weight"), VECTOR, []),
    "frozen bias": (lambda: frozen(ab(lambda s, x: s.b(F.relu(s.a(x)))), "a.bias"), VECTOR, []),
    # differences between training and evaluation mode
    "an auxiliary head": (
        lambda: ab(lambda s, x: (s.b(h := F.relu(s.a(x))), s.c(h)) if s.training else s.b(F.relu(s.a(x))), c=L(4, 3)),
        VECTOR,
        ["a"],
    ),
    "an evaluation head": (
        lambda: ab(
            lambda s, x: s.b(F.relu(s.a(x))) if s.training else s.b(F.relu(s.a(x))) + s.c(F.relu(s.a(x))),
            c=L(4, 2),
        ),
        VECTOR,
        ["a"],
    ),
    "noise on the activation": (
        lambda: ab(lambda s, x: s.b(F.relu(s.a(x)) + (torch.randn(4) if s.training else 0.0))),
        VECTOR,
        [],
    ),
    "returned in training": (
        lambda: ab(lambda s, x: (s.b(h := F.relu(s.a(x))), h.mean()) if s.training else s.b(F.relu(s.a(x)))),
        VECTOR,
        [],
    ),
    "another function in training": (
        lambda: ab(lambda s, x: s.b(torch.tanh(s.a(x)) if s.training else F.relu(s.a(x)))),
        VECTOR,
        ["a"],
    ),
    # networks that once crashed the tracer
    "unfolded patches": (
        lambda: Net(lambda s, x: s.o(F.unfold(F.relu(s.c(x)), 3, padding=1).mT), c=nn.Conv2d(3, 4, 3), o=L(36, 2)),
        IMAGE,
        ["c"],
    ),
    "a buffer that forward updates": (lambda: buffers(ab(running), mean=torch.zeros(3)), VECTOR, ["a"]),
    "LSTM": (lambda: Net(lambda s, x: s.o(s.l(F.relu(s.a(x)))[0]), a=L(3, 4), l=nn.LSTM(4, 5), o=L(5, 2)), SERIES, []),
    "GRU cell": (lambda: Net(gru, a=L(3, 4), g=nn.GRUCell(4, 4), b=L(4, 2)), SERIES, ["a"]),
    "multi-head attention": (
        lambda: Net(
            lambda s, x: s.o(s.m(h := F.relu(s.a(x)), h, h)[0]), a=L(3, 4), m=nn.MultiheadAttention(4, 2), o=L(4, 2)
        ),
        SERIES,
        ["a", "m.out_proj"],
    ),
    # layers that must be recycled
    "sums over a graph's edges": (
        lambda: ab(lambda s, x: s.b(torch.zeros(len(x), 4).index_add(0, torch.arange(len(x)).roll(1), F.relu(s.a(x))))),
        VECTOR,
        ["a"],
    ),
    "maxima over edges that the input picks": (
        lambda: ab(
            lambda s, x: s.b(
                torch.zeros(len(x), 4).scatter_reduce(
                    0, (x[:, :1] > 0).long().expand(len(x), 4), F.relu(s.a(x)), "amax"
                )
            )
        ),
        VECTOR,
        ["a"],
    ),
    "sums over neurons by index": (
        lambda: ab(lambda s, x: s.b(torch.zeros(len(x), 4).index_add(1, torch.tensor([0, 0, 1, 1]), F.relu(s.a(x))))),
        VECTOR,
        [],
    ),
    "sums onto other values": (
        lambda: ab(lambda s, x: s.b(torch.ones(len(x), 4).index_add(0, torch.arange(len(x)), F.relu(s.a(x))))),
        VECTOR,
        [],
    ),
    "where": (lambda: ab(lambda s, x: s.b(torch.where((h := s.a(x)) > 0, h, 0.0))), VECTOR, ["a"]),
    "maximum of two layers": (
        lambda: ab(lambda s, x: s.b(F.relu(torch.maximum(s.a(x), s.c(x)))), c=L(3, 4)),
        VECTOR,
        ["a+c"],
    ),
    "minimum with a number": (
        lambda: ab(lambda s, x: s.b(torch.minimum(F.relu(s.a(x)), torch.tensor(3.0)))),
        VECTOR,
        ["a"],
    ),
    "one minus a gate": (
        lambda: ab(lambda s, x: s.b(F.relu(s.a(x)) * (1 - torch.sigmoid(s.c(x)))), c=L(3, 4)),
        VECTOR,
        ["a+c"],
    ),
    "softsign": (lambda: ab(lambda s, x: s.b(F.softsign(F.relu(s.a(x))))), VECTOR, ["a"]),
    "lerp": (lambda: ab(lambda s, x: s.b(torch.lerp(F.relu(s.a(x)), F.relu(s.c(x)), 0.3)), c=L(3, 4)), VECTOR, ["a+c"]),
    "FiLM": (lambda: ab(film, f=L(3, 8)), VECTOR, ["f+a"]),
    "attention's values": (lambda: Net(attend, q=L(3, 4), k=L(3, 4), v=L(3, 4), o=L(4, 2)), SERIES, ["v"]),
    "fused attention's values": (
        lambda: Net(
            lambda s, x: s.o(F.scaled_dot_product_attention(s.q(x), s.k(x), s.v(x))),
            q=L(3, 4),
            k=L(3, 4),
            v=L(3, 4),
            o=L(4, 2),
        ),
        SERIES,
        ["v"],
    ),
    "heads by index": (
        lambda: Net(lambda s, x: (F.relu(s.a(x))[:, None] @ s.w[(x[:, 0] > 0).long()])[:, 0], a=L(3, 4), w=P(2, 4, 2)),
        VECTOR,
        ["a"],
    ),
    "IQN": (
        lambda: ab(
            lambda s, x: s.b(F.relu(s.a(x))[:, None] * F.relu(s.c(torch.cos(x[:, :, None] * s.i)))), c=L(4, 4), i=P(4)
        ),
        VECTOR,
        ["a+c"],
    ),
    "sums of pre-activations": (lambda: ab(lambda s, x: s.b(F.relu(s.a(x) + s.c(-x))), c=L(3, 4)), VECTOR, ["a+c"]),
    "mixture of experts": (lambda: Net(experts, g=L(3, 2), e0=L(3, 4), e1=L(3, 4), o=L(4, 2)), VECTOR, []),
    "weights by softmax of one number per row": (
        lambda: ab(
            lambda s, x: s.b(torch.einsum("bn,bnh->bh", (F.relu(s.k(x)) @ s.q).softmax(-1), F.relu(s.a(x)))),
            k=L(3, 4),
            q=P(4),
        ),
        SERIES,
        ["a", "k"],
    ),
    "one number per row, reshaped": (
        lambda: Net(lambda s, x: s.b(F.relu(s.a(x)) @ s.q), a=L(3, 4), q=P(4), b=L(5, 2)),
        SERIES,
        ["a", "q"],
    ),
    "leaky ReLU with random slopes": (
        lambda: ab(lambda s, x: s.b(F.rrelu(s.a(x), training=s.training))),
        VECTOR,
        [],
    ),
    "random slopes in both modes": (lambda: ab(lambda s, x: s.b(F.rrelu(s.a(x), training=True))), VECTOR, []),
    "distances from prototypes": (
        lambda: Net(lambda s, x: torch.cdist(F.relu(s.a(x)), s.p), a=L(3, 4), p=P(2, 4)),
        VECTOR,
        [],
    ),
    "bilinear": (
        lambda: Net(lambda s, x: s.b(F.relu(s.a(x)), F.relu(s.c(x))), a=L(3, 4), c=L(3, 4), b=nn.Bilinear(4, 4, 2)),
        VECTOR,
        [],
    ),
    "NumPy in a function with its own gradient": (
        lambda: ab(lambda s, x: s.b(InNumPy.apply(s.a(x)))),
        VECTOR,
        [],
    ),
    "a list": (lambda: ab(lambda s, x: s.b(torch.tensor(F.relu(s.a(x)).tolist()))), VECTOR, []),
    # a parameter that feeds a neuron and is also part of the values that a kernel reads
    "a bias shared with the inputs of its kernel": (
        lambda: Net(lambda s, x: s.b(F.relu(s.a(x + s.a.bias))), a=L(3, 3), b=L(3, 2)),
        VECTOR,
        [],
    ),
    "a scale shared with a difference": (
        lambda: Net(lambda s, x: s.b((h := s.p * x) - h @ s.k), b=L(3, 2), p=P(3), k=P(3, 3)),
        VECTOR,
        [],
    ),
    "a bias shared with an auxiliary head": (
        lambda: Net(
            lambda s, x: (
                (s.b(F.relu(s.a(x))), s.c(F.linear(x, torch.ones(4, 3)) + s.a.bias))
                if s.training
                else (s.b(F.relu(s.a(x))),)
            ),
            a=L(3, 4),
            b=L(4, 2),
            c=L(4, 2),
        ),
        VECTOR,
        [],
    ),
    "a bias shared with a normalised input": (
        lambda: Net(lambda s, x: s.b(F.relu(s.a(F.layer_norm(x + s.a.bias, (3,))))), a=L(3, 3), b=L(3, 2)),
        VECTOR,
        [],
    ),
    "a bias shared with the inputs of a convolution": (
        lambda: Net(
            lambda s, x: s.o(F.relu(s.c(x + s.c.bias[:, None, None])).flatten(1)), c=nn.Conv2d(3, 3, 3), o=L(108, 2)
        ),
        IMAGE,
        [],
    ),
    "a bias shared with mixed neurons": (
        lambda: Net(
            lambda s, x: (s.b((s.a(x)[:, :, None] * s.m).sum(1) + s.c.bias), s.d(F.relu(s.c(x)))),
            a=L(3, 3),
            b=L(3, 2),
            c=L(3, 3),
            d=L(3, 2),
            m=P(3, 3),
        ),
        VECTOR,
        [],
    ),
    "FFT": (lambda: ab(lambda s, x: s.b(torch.fft.fft(F.relu(s.a(x))).real)), VECTOR, []),
    "tied": (lambda: Net(lambda s, x: F.relu(s.a(x)) @ s.a.weight, a=L(3, 4)), VECTOR, []),
    "shared depthwise blur": (
        lambda: Net(
            lambda s, x: s.o(F.conv2d(F.relu(s.c(x)), torch.ones(4, 1, 3, 3), groups=4).flatten(1)),
            c=nn.Conv2d(3, 4, 3),
            o=L(64, 2),
        ),
        IMAGE,
        ["c"],
    ),
}


def outputs(net, x, training):
    net = copy.deepcopy(net).train(training)
    torch.manual_seed(7)
    with torch.no_grad():
        found = torch.utils._pytree.tree_leaves(net(x))
    return [leaf.clone() for leaf in found]


@torch.no_grad()
def silence_(net, wiring):
    """Silences the first neuron of each recyclable layer by changing all its incoming weights."""
    leaves = {**dict(net.named_parameters())}
    for layer in wiring.layers:
        for name, owner in layer.incoming.items() if layer.recyclable else ():
            if name in leaves:
                leaves[name][(owner == 0).expand(leaves[name].shape)] = 0.0


@pytest.mark.parametrize("name", CASES)
def test_recycled_means_recycled(name):
    make, shape, recycled = CASES[name]
    torch.manual_seed(0)
    net, x = make(), torch.randn(shape)
    wiring = dt.trace(net, x[:2])
    assert sorted(layer.name for layer in wiring.layers if layer.recyclable) == sorted(recycled), str(wiring)
    assert wiring.layers and all(len(line) <= 120 for line in str(wiring).splitlines()), str(wiring)
    silence_(net, wiring)
    before = {mode: outputs(net, x, mode) for mode in (False, True)}
    state = copy.deepcopy(net.state_dict())
    counts = dt.recycle_(net, wiring, x, tau=0.0, init=make)
    assert set(counts) == set(recycled) and all(counts.values()), counts
    for mode, expected in before.items():
        assert all(map(torch.equal, outputs(net, x, mode), expected)), f"outputs changed, training={mode}"
    trained = {key for key, leaf in net.named_parameters() if leaf.requires_grad}
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items() if key not in trained)
