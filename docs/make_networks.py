"""Writes docs/networks.md: what dormant does with each architecture that tests/property/any_network.py checks."""

import sys
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from property.any_network import CASES, Case  # noqa: E402 (the tests' folder has to be on the path first)

import dormant  # noqa: E402

HEAD = """# Networks

Made by `make docs` from the architectures that `tests/property/test_any_network.py` checks. For each of them the
test silences neurons and recycles them at tau = 0, but for coupled layers: outputs stay the same to the last bit. It
moves the outgoing entries of silent neurons, which changes nothing, and of others, which does.

*Coupled* layers are recycled by default; a normalisation lets their neurons influence one another, so fresh incoming
weights change the others' outputs even at tau = 0. `ReDo(coupled="skip")` leaves them alone.

| network | recycled | measured only, and why |
|---|---|---|
"""


def row(case: Case) -> str:
    """One line of the table, from a trace made now."""
    apply, init = case.build()
    shapes = jax.eval_shape(init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    try:
        return traced(case, dormant.trace(apply, params, *case.inputs))
    except dormant.TraceError as error:
        return refused(case, error)


def refused(case: Case, error: dormant.TraceError) -> str:
    return f"| {case.name} | refused | {str(error).partition('. See')[0]} |"


def traced(case: Case, wiring: dormant.Wiring) -> str:
    layers = wiring.layers
    safe = [f"{layer.name}{' (coupled)' if layer.coupled_by else ''}" for layer in layers if layer.recyclable]
    kept = [f"{layer.name}: {'; '.join(layer.reasons)}" for layer in layers if not layer.recyclable]
    return f"| {case.name} | {', '.join(safe)} | {'<br>'.join(kept)} |"


def page() -> str:
    """The whole page."""
    return HEAD + "\n".join(row(case) for case in CASES) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "networks.md").write_text(page())
