"""Every JAX network of tests/networks keeps its promise: recycled, measured with a reason, or refused."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks.case import Case, weights
from networks.everything import JAX
from networks.page import on_the_page, refused_on_the_page

import dormant
from dormant.wiring import paths

RUNNING = [case for case in JAX if not case.refused]
TX = optax.sgd(1e-3)
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@pytest.fixture(autouse=True)
def promotion_as_users_have_it() -> Iterator[None]:
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(params=range(len(RUNNING)), ids=lambda index: RUNNING[index].name, scope="module")
def index(request):
    return request.param


@lru_cache(maxsize=1)  # the tests of one case run one after the other
def traced(index: int):
    """A network, compiled once, its parameters with some neurons silent, its wiring and the silent neurons."""
    case: Case = RUNNING[index]
    apply, init = case.build()
    params = weights(init, seed=0)
    wiring = dormant.trace(apply, params, *case.inputs)
    masks = {layer.name: np.arange(layer.width) % 3 == 0 for layer in wiring.layers if layer.recyclable}
    fed = belonging(params, {name: wiring[name].incoming for name in masks}, masks)
    params = jax.tree.map(lambda hit, leaf: np.where(hit, np.zeros_like(leaf), leaf), fed, params)
    run = jax.jit(lambda params: jax.tree.leaves(apply(params, *case.inputs)), compiler_options=QUICKLY)
    return run, params, weights(init, seed=1), wiring, masks


def belonging(params: Any, entries: Any, masks: Any) -> Any:
    """For each parameter, which entries belong to a masked neuron."""
    leaves = zip(paths(params), jax.tree.leaves(params), strict=True)
    hits = {path: np.zeros(np.shape(leaf), bool) for path, leaf in leaves}
    for layer, owners in entries.items():
        for path, neurons in owners.items():
            hits[path] = hits[path] | ((neurons >= 0) & masks[layer][np.maximum(neurons, 0)])
    return jax.tree.unflatten(jax.tree.structure(params), list(hits.values()))


def test_every_layer_is_found_with_its_promise(index):
    case: Case = RUNNING[index]
    *_, wiring, _ = traced(index)
    found = {layer.name: layer for layer in wiring.layers}
    assert set(case.layers) == set(found), str(wiring)
    for name, promise in case.layers.items():
        assert found[name].recyclable == (promise in ("recycled", "coupled")), str(wiring)
        assert bool(found[name].coupled_by) == (promise == "coupled") or not found[name].recyclable, str(wiring)
        assert found[name].recyclable or promise in "; ".join(found[name].reasons), str(wiring)
        assert name.partition("+")[0] in str(wiring)
    on_the_page(case, wiring)


def test_recycling_silent_neurons_leaves_outputs_bit_equal(index):
    run, params, donor, wiring, masks = traced(index)
    inputs = RUNNING[index].inputs
    redo = dormant.ReDo(tau=0.0, coupled="skip")
    network = dormant.Network(wiring, lambda key: jax.tree.map(jnp.asarray, donor), TX)

    def recycle(params):
        learner = dormant.Learner(params, TX.init(params))
        after, state = redo.update(jax.random.key(1), learner, redo.init(learner, network), network, *inputs)
        return after.params, dormant.recycled_counts(state)

    after, counts = jax.jit(recycle, compiler_options=QUICKLY)(params)
    # More may be silent on so few inputs than those that were silenced.
    assert all(int(total) >= int(masks[name].sum()) > 0 for name, total in counts.items()), f"{counts} {wiring}"
    assert set(counts) == {name for name in masks if not wiring[name].coupled_by}
    for before, now in zip(run(params), run(after), strict=True):
        assert np.isfinite(before).all()
        np.testing.assert_array_equal(before, now)
    for name in counts:
        fed = belonging(params, {name: wiring[name].incoming}, masks)
        fresh = jax.tree.map(lambda hit, new, now: (hit & (new == now)).any(), fed, donor, after)
        assert any(jax.tree.leaves(fresh)), f"{name} has no fresh incoming entry: {wiring}"


def test_outgoing_entries_of_silent_neurons_do_not_matter_and_those_of_others_do(index):
    run, params, _, wiring, masks = traced(index)
    before = run(params)
    for name in masks:
        for chosen, matters in ((masks[name], False), (~masks[name], True)):
            read = belonging(params, {name: wiring[name].outgoing}, {name: chosen})
            moved = jax.tree.map(lambda hit, leaf: np.where(hit, leaf + np.ones((), leaf.dtype), leaf), read, params)
            same = all(np.array_equal(one, other) for one, other in zip(before, run(moved), strict=True))
            assert same != matters, f"{name}: {wiring}"


@pytest.mark.parametrize("case", [case for case in JAX if case.refused], ids=lambda case: case.name)
def test_what_is_not_understood_is_refused_by_name(case):
    apply, init = case.build()
    with pytest.raises(dormant.TraceError, match=case.refused) as error:
        dormant.trace(apply, weights(init, seed=0), *case.inputs)
    refused_on_the_page(case, error.value)
