"""The example in docs/howto/teach-the-tracer.md works. This test checks that the page has the code of this file."""

from pathlib import Path

import jax
import jax.numpy as jnp

import dormant
from dormant.tracing import rules


def apply(params, x):
    hidden = jax.scipy.special.i0e(x @ params["hidden"]["w"]) - 1.0
    return jax.nn.relu(hidden) @ params["head"]["w"]


def test_a_primitive_mixes_neurons_until_it_has_a_rule(monkeypatch):
    params = {"hidden": {"w": jnp.ones((2, 3))}, "head": {"w": jnp.ones((3, 1))}}
    assert not dormant.trace(apply, params, jnp.ones((4, 2)))["hidden"].recyclable
    monkeypatch.setitem(rules.RULES, "bessel_i0e", rules.nonlinear)
    assert dormant.trace(apply, params, jnp.ones((4, 2)))["hidden"].recyclable


def test_the_page_holds_this_test():
    own = Path(__file__).read_text()
    page = (Path(__file__).parents[2] / "docs" / "howto" / "teach-the-tracer.md").read_text()
    start = own.index("def apply")
    end = own.index("\n\n\ndef test_the_page")
    assert own[start:end] in page
