"""dormant.torch and Python branches on values, gradients that it cannot follow, and noise that silences neurons."""

import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch_nets import L, Net

import dormant.torch as dt

torch.set_num_threads(1)
X = torch.linspace(-1.0, 1.5, 12).reshape(4, 3)


def hidden(s, x):
    return F.relu(s.a(x))


def two_heads(choose):
    """Returns a module with one layer and two heads. `choose` selects the head that reads the layer."""
    return Net(lambda s, x: (s.b if choose(s, x) else s.c)(hidden(s, x)), a=L(3, 5), b=L(5, 2), c=L(5, 2))


def one_head(change, **layers):
    return Net(lambda s, x: s.b(change(s, x)), a=L(3, 5), b=L(5, 2), **layers)


def repeated(s, x):
    h = hidden(s, x)
    for _ in range(int(x.abs().max().ceil())):
        h = F.relu(s.c(h))
    return s.b(h)


@pytest.mark.parametrize(
    "choose",
    [
        lambda s, x: x.sum() > 0,
        lambda s, x: bool((x > 0).any()),
        lambda s, x: x.sum().item() > 0.5,
        lambda s, x: x[0].argmax().item() == 2,
        lambda s, x: x.tolist()[0][0] > 0,
        lambda s, x: x.numpy().sum() > 0,
        lambda s, x: hidden(s, x).sum() > 0,
        lambda s, x: torch.equal(x, x.abs()),
        lambda s, x: s.training and torch.rand(()) < 2.0,
    ],
    ids=["tensor", "bool", "item", "index", "list", "numpy", "neurons", "equal", "random"],
)
def test_a_branch_on_a_value_is_a_reason(choose):
    reasons = dt.trace(two_heads(choose), X)["a"].reasons
    assert reasons == ("forward takes a branch on a value, and only one way was followed",)


def test_inputs_that_take_the_other_branch_are_measured_as_far_as_they_go():
    net = Net(
        lambda s, x: s.b(F.relu(s.d(hidden(s, x)))) if x.sum() > 0 else s.c(hidden(s, x)),
        **{name: L(5, 5) for name in "bcd"},
        a=L(3, 5),
    )
    wiring = dt.trace(net, X)
    assert set(dt.measure(net, wiring, X).scores) == {"a", "d"}
    assert set(dt.measure(net, wiring, -X).scores) == {"a"}
    assert dt.recycle_(net, wiring, -X) == {}


def test_a_report_names_the_layers_that_the_inputs_leave_out():
    net = Net(lambda s, x: s.b(F.relu(s.a(x))) if x.sum() > 0 else s.c(x), a=L(3, 5), b=L(5, 2), c=L(3, 2))
    report = dt.measure(net, dt.trace(net, X), -X)
    assert report.left_out == ("a",) and math.isnan(report.fraction)
    assert "not computed: these inputs take a branch without it" in str(report)


@pytest.mark.parametrize("draw", [random.random, np.random.rand], ids=["python", "numpy"])
def test_a_branch_on_a_random_number_of_python_is_a_reason(draw):
    for number in range(3):  # repeated, because a trace may take either branch
        random.seed(number)
        np.random.seed(number)
        branching = dt.trace(two_heads(lambda s, x: draw() < 0.5), X)["a"]
        scaling = dt.trace(one_head(lambda s, x: hidden(s, x * draw())), X)["a"]
        assert "takes a branch on a random number" in " ".join(branching.reasons)
        assert scaling.recyclable


def test_the_reason_names_the_module_that_branches():
    net = nn.Sequential(two_heads(lambda s, x: x.sum() > 0), nn.ReLU(), L(2, 2))
    assert (
        "forward takes a branch on a value (in '0'), and only one way was followed" in dt.trace(net, X)["0.a"].reasons
    )


def test_a_loop_whose_length_is_a_value_is_a_branch():
    net = Net(repeated, a=L(3, 5), b=L(5, 2), c=L(5, 5))
    assert "takes a branch" in " ".join(dt.trace(net, X)["a"].reasons)


def scaled(s, x):
    if x.max() > 1:
        x = x / 255
    return hidden(s, x)


def checked(s, x):
    if x.isnan().any():
        raise ValueError("NaN in the inputs")
    assert (x.abs() < 100).all()
    if (h := hidden(s, x)).isnan().any(): raise RuntimeError("NaN in the neurons")  # noqa: E701  # fmt: skip
    return h


@pytest.mark.parametrize("name", ["scaled", "checked", "shape", "training", "distribution"])
def test_branches_that_do_not_change_the_wiring_are_fine(name):
    forward = {
        "scaled": scaled,
        "checked": checked,
        "shape": lambda s, x: hidden(s, x) if len(x) > 2 else s.a(x),
        "training": lambda s, x: hidden(s, x) if s.training else F.relu(s.a(x)),
        "distribution": lambda s, x: torch.distributions.Normal(x, x.exp()).mean @ s.a.weight.T,
    }[name]
    assert dt.trace(one_head(forward), X)["a"].reasons == ()


@pytest.mark.parametrize("pick", [lambda x: x[0].argmax(), lambda x: x[0].argmax().item()], ids=["tensor", "item"])
def test_a_parameter_indexed_by_a_value_may_be_any_of_its_rows(pick):
    net = Net(lambda s, x: hidden(s, x) @ s.w[pick(x)], a=L(3, 5), w=nn.Parameter(torch.randn(3, 5, 2)))
    layer = dt.trace(net, X)["a"]
    assert layer.recyclable and (layer.outgoing["w"] >= 0).expand(3, 5, 1).all()


@pytest.mark.parametrize(
    "pick",
    [lambda w, x: w[x.argmax(-1).tolist()][0], lambda w, x: w[(i := int(x[0].argmax())) : i + 1][0]],
    ids=["list", "slice"],
)
def test_other_ways_of_picking_are_not_followed(pick):
    net = Net(lambda s, x: hidden(s, x) @ pick(s.w, x), a=L(3, 5), w=nn.Parameter(torch.randn(3, 5, 2)))
    assert not dt.trace(net, X)["a"].recyclable


class Half(torch.autograd.Function):
    """A matrix product. Its backward pass returns no gradient for the weight."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ ctx.saved_tensors[0], None


class Broken(Half):
    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("not written yet")


def in_place(s, x):
    s.a.weight.mul_(1.0)
    return hidden(s, x)


def without_gradients(s, x):
    with torch.no_grad():
        return hidden(s, x)


@pytest.mark.parametrize(
    "forward, reason",
    [
        (lambda s, x: F.relu(Half.apply(x, s.a.weight)), "fed by a.weight, detached from the outputs"),
        (
            lambda s, x: F.relu(Broken.apply(x, s.a.weight)),
            "the backward pass of Broken raises RuntimeError: not written",
        ),
        (in_place, "forward raises RuntimeError when gradients are on: a leaf Variable"),
        (without_gradients, "fed by a.weight, detached from the outputs"),
        (
            lambda s, x: checkpoint(lambda x: hidden(s, x), x.clone().requires_grad_(), use_reentrant=True),
            "gradients are not followed through torch.utils.checkpoint: pass use_reentrant=False",
        ),
    ],
    ids=["no gradient", "raises", "in place", "no_grad", "checkpoint"],
)
def test_a_layer_whose_gradients_are_not_known_is_not_recycled(forward, reason):
    assert any(why.startswith(reason) for why in dt.trace(one_head(forward), X)["a"].reasons)


@torch.inference_mode()
def inferred(s, x):
    return s.b(hidden(s, x))


@pytest.mark.parametrize(
    "net",
    [
        one_head(lambda s, x: checkpoint(lambda x: hidden(s, x), x, use_reentrant=False)),
        Net(inferred, a=L(3, 5), b=L(5, 2)),
        Net(lambda s, x: (s.b(hidden(s, x)), s.b(hidden(s, x)).argmax(-1), s.a(x) > 0), a=L(3, 5), b=L(5, 2)),
    ],
    ids=["checkpoint", "inference mode", "whole numbers"],
)
def test_gradients_that_are_known(net):
    assert [layer.name for layer in dt.trace(net, X).layers] == ["a"]


def test_reading_the_gradients_calls_no_hook():
    net, calls = one_head(hidden), []
    net.a.weight.register_hook(calls.append)
    net.a.register_full_backward_hook(lambda *_: calls.append(0))
    assert dt.trace(net, X)["a"].recyclable and not calls


@pytest.mark.parametrize(
    "mask",
    [
        lambda: torch.rand(5) < 0.01,
        lambda: torch.rand(5) > 0.99,
        lambda: F.dropout(torch.ones(5), 0.99),
        lambda: torch.bernoulli(torch.full((5,), 0.01)),
        lambda: torch.empty(5).uniform_(-1, 1) > 0.98,
    ],
    ids=["rand below", "rand above", "dropout", "bernoulli", "uniform"],
)
def test_a_neuron_that_a_mask_hides_in_every_draw_is_not_recycled(mask):
    net = one_head(lambda s, x: F.relu(s.a(x) * mask()))
    with torch.no_grad():
        net.a.weight.abs_()
        net.a.bias.fill_(1.0)[0] = -100.0
    torch.manual_seed(0)
    assert dt.recycle_(net, dt.trace(net, X), X, tau=0.0) == {"a": 1}


def test_noise_of_numpy_and_python_is_drawn_again():
    import random

    import numpy as np

    for draw in (lambda: float(np.random.normal()), lambda: random.gauss(0.0, 1.0)):
        net = one_head(lambda s, x, draw=draw: F.relu(s.a(x) + draw()))
        with torch.no_grad():
            net.a.weight.zero_()
            net.a.bias.fill_(-0.5)
        np.random.seed(0)
        random.seed(0)
        assert dt.recycle_(net, dt.trace(net, X), X, tau=0.0) == {"a": 0}


def test_an_expert_without_a_sample_is_left_out():
    """Its activations are empty. This is no reason to warn that they are not finite."""

    def route(s, x):
        chosen = x[:, 0] > 0
        return torch.zeros(len(x), 2).index_put((chosen,), s.o(F.relu(s.e(x[chosen]))))

    net = Net(route, e=L(3, 4), o=L(4, 2))
    wiring = dt.trace(net, torch.ones(2, 3))
    assert dt.measure(net, wiring, -torch.ones(2, 3)).left_out == ("e",)
    assert dt.recycle_(net, wiring, -torch.ones(2, 3), tau=0.0) == {}
