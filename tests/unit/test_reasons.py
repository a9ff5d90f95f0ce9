"""Every reason against recycling a layer tells the user what to change, in JAX and in PyTorch."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_nets import L, Net

import dormant
import dormant.torch as dt
from dormant.reasons import APART, Reason

PARAMS = {name: {"w": jnp.ones((4, 4))} for name in ("first", "second", "head")}
X = torch.linspace(-1.0, 1.5, 12).reshape(4, 3)


def residual(params, x):
    first = jax.nn.relu(x @ params["first"]["w"])
    return (first + jax.nn.relu(first @ params["second"]["w"])) @ params["head"]["w"]


def frozen(params, x):
    hidden = jax.nn.relu(x @ jax.lax.stop_gradient(params["first"]["w"]))
    return jax.nn.relu(hidden @ params["second"]["w"]) @ params["head"]["w"]


def shifted(params, x):
    hidden = jax.nn.relu(x @ params["first"]["w"]) + 1.0
    return jax.nn.relu(hidden @ params["second"]["w"]) @ params["head"]["w"]


@pytest.mark.parametrize(
    ("apply", "cure"),
    [
        (residual, f"to recycle first, second: {APART}"),
        (frozen, "to recycle first: let a gradient reach that parameter, or leave the layer as it is"),
        (shifted, "to recycle first: add or pad before the activation, or use an activation that maps 0 to 0"),
    ],
)
def test_a_printed_wiring_says_what_to_change(apply, cure):
    lines = str(dormant.trace(apply, PARAMS, jnp.ones((2, 4)))).splitlines()
    assert cure in lines
    assert max(map(len, lines)) <= 120


def test_a_printed_wiring_of_a_module_says_what_to_change():
    net = Net(lambda s, x: s.b(F.relu(s.a(x)) if x.sum() > 0 else s.a(x)), a=L(3, 5), b=L(5, 2))
    net.a.weight.requires_grad_(False)
    lines = str(dt.trace(net, X)).splitlines()
    assert "to recycle a: let a gradient reach that parameter, or leave the layer as it is" in lines


def test_nothing_is_to_be_changed_where_all_is_recycled():
    assert "to recycle" not in str(dt.trace(nn.Sequential(L(3, 4), nn.ReLU(), L(4, 2)), X))


@pytest.mark.parametrize("package", ["tracing", "torch"])
def test_no_reason_is_given_without_a_cure(package):
    """Every call of `blame` passes a Reason or a variable. Pyright checks the variables' types."""
    for file in (Path(dormant.__file__).parent / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
                "blame",
                "broken",
            ):
                assert not isinstance(node.args[1], ast.Constant | ast.JoinedStr), f"{file.name}, line {node.lineno}"


def test_a_reason_is_a_string():
    reason = Reason("frozen", "train it")
    assert reason == "frozen" and {reason: 1}["frozen"] == 1 and reason.cure == "train it"
