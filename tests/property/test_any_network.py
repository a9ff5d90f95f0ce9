"""Every architecture of any_network.py keeps its promise: recycled, measured with a reason, or refused."""

import runpy
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from property.any_network import CASES, Case

import dormant
from dormant.wiring import entry_mask

ROOT = Path(__file__).parents[2]
MAKER = runpy.run_path(str(ROOT / "docs" / "make_networks.py"))
PAGE = (ROOT / "docs" / "networks.md").read_text()
RUNNING = [case for case in CASES if not case.refused]
TX = optax.adam(1e-3)


@lru_cache(maxsize=1)  # the tests of one case run one after the other
def traced(index: int):
    apply, init = RUNNING[index].build()
    params = jax.jit(init)(jax.random.key(0))
    return apply, init, params, dormant.trace(apply, params, *RUNNING[index].inputs)


def some_neurons(wiring):
    """Every third neuron of each layer that can be recycled."""
    layers = [layer for layer in wiring.layers if layer.recyclable]
    return layers, {layer.name: jnp.arange(layer.width) % 3 == 0 for layer in layers}


def silenced(params, layers, masks):
    """Parameters with the masked neurons silent: all that feeds them is zero."""
    fed = entry_mask(params, {layer.name: layer.incoming for layer in layers}, masks)
    return jax.tree.map(lambda hit, leaf: jnp.where(hit, jnp.zeros_like(leaf), leaf), fed, params)


@pytest.fixture(params=range(len(RUNNING)), ids=lambda index: RUNNING[index].name, scope="module")
def index(request):
    return request.param


def test_every_layer_is_found_with_its_promise(index):
    case: Case = RUNNING[index]
    *_, wiring = traced(index)
    found = {layer.name: layer for layer in wiring.layers}
    assert set(case.layers) == set(found)
    for name, promise in case.layers.items():
        assert found[name].recyclable == (promise in ("recycled", "coupled")), str(wiring)
        assert bool(found[name].coupled_by) == (promise == "coupled") or not found[name].recyclable
        assert found[name].recyclable or promise in "; ".join(found[name].reasons)
        assert name in str(wiring)
    assert MAKER["traced"](case, wiring) in PAGE.splitlines(), "docs/networks.md is old: run make docs"


def test_the_page_of_networks_has_one_line_for_each_case_and_no_more():
    lines = PAGE.removeprefix(MAKER["HEAD"]).splitlines()
    assert PAGE.startswith(MAKER["HEAD"]) and [line.split(" | ")[0][2:] for line in lines] == [c.name for c in CASES]


def test_recycling_silent_neurons_leaves_outputs_bit_equal(index):
    apply, init, params, wiring = traced(index)
    inputs = RUNNING[index].inputs
    layers, masks = some_neurons(wiring)
    redo = dormant.ReDo(tau=0.0, coupled="skip")
    network = dormant.Network(wiring, init, TX)

    @jax.jit
    def recycle(params):
        params = silenced(params, layers, masks)
        learner = dormant.Learner(params, TX.init(params))
        after, state = redo.update(jax.random.key(1), learner, redo.init(learner, network), network, *inputs)
        return params, after.params, dormant.recycled_counts(state), wiring.scores(after.params, *inputs)

    quiet, after, counts, awake = recycle(params)
    # More may be silent on so few inputs than those that were silenced.
    assert all(int(total) >= int(masks[name].sum()) > 0 for name, total in counts.items())
    assert set(counts) == {layer.name for layer in layers if not layer.coupled_by}
    run = jax.jit(apply)
    jax.tree.map(np.testing.assert_array_equal, run(quiet, *inputs), run(after, *inputs))
    woken = any((awake[name][masks[name]] > 0).any() for name in counts)
    assert woken == bool(counts), "fresh weights wake neurons up, where there is a layer to recycle"


def test_outgoing_entries_of_silent_neurons_do_not_matter_and_those_of_others_do(index):
    apply, _, params, wiring = traced(index)
    layers, masks = some_neurons(wiring)
    reads = {layer.name: layer.outgoing for layer in layers}

    @jax.jit
    def shifted(params, chosen):
        """The outputs with the outgoing entries of the chosen neurons of silenced parameters moved by one."""
        read = entry_mask(params, reads, chosen)
        moved = jax.tree.map(lambda hit, leaf: jnp.where(hit, leaf + 1, leaf), read, silenced(params, layers, masks))
        return apply(moved, *RUNNING[index].inputs)

    nobody = {name: jnp.zeros_like(mask) for name, mask in masks.items()}
    before = jax.tree.leaves(shifted(params, nobody))
    for name in reads:
        for mask, matters in ((masks[name], False), (~masks[name], True)):
            after = jax.tree.leaves(shifted(params, nobody | {name: mask}))
            same = all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
            assert same != matters, f"{name}: {wiring}"


@pytest.mark.parametrize("case", [case for case in CASES if case.refused], ids=lambda case: case.name)
def test_what_is_not_understood_is_refused_by_name(case):
    apply, init = case.build()
    with pytest.raises(dormant.TraceError, match=case.refused) as error:
        dormant.trace(apply, init(jax.random.key(0)), *case.inputs)
    assert MAKER["refused"](case, error.value) in PAGE.splitlines(), "docs/networks.md is old: run make docs"
