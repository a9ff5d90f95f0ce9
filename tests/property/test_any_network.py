"""Every layer of the JAX networks in tests/networks has the result that its case promises."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks.case import Case, matches, promise_of, shapes_of, verdicts, weights
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


@lru_cache(maxsize=1)  # one entry, because the tests of a case run consecutively
def traced(index: int):
    """Traces a network. Silences every third neuron of the recyclable layers.

    Returns a compiled function of the parameters, the parameters, fresh parameters, the wiring and the masks of the
    silenced neurons. The function returns the outputs and the scores.
    """
    case: Case = RUNNING[index]
    apply, init = case.build()
    shapes = shapes_of(init)
    params = weights(shapes, seed=0)
    wiring = dormant.trace(apply, params, *case.inputs)
    masks = {layer.name: np.arange(layer.width) % 3 == 0 for layer in wiring.layers if layer.recyclable}
    fed = belonging(params, {name: wiring[name].incoming for name in masks}, masks)
    params = jax.tree.map(lambda hit, leaf: np.where(hit, np.zeros_like(leaf), leaf), fed, params)
    run = compiled(lambda params: (jax.tree.leaves(apply(params, *case.inputs)), wiring.scores(params, *case.inputs)))
    return run, params, weights(shapes, seed=1), wiring, masks


def compiled(function: Any) -> Any:
    return jax.jit(function, compiler_options=QUICKLY)


def belonging(params: Any, entries: Any, masks: Any) -> Any:
    """Returns a mask per parameter. It selects the entries that belong to masked neurons."""
    leaves = zip(paths(params), jax.tree.leaves(params), strict=True)
    hits = {path: np.zeros(np.shape(leaf), bool) for path, leaf in leaves}
    for layer, owners in entries.items():
        for path, neurons in owners.items():
            hits[path] = hits[path] | ((neurons >= 0) & masks[layer][np.maximum(neurons, 0)])
    return jax.tree.unflatten(jax.tree.structure(params), list(hits.values()))


def test_every_layer_is_found_with_its_promise(index):
    case: Case = RUNNING[index]
    *_, wiring, _ = traced(index)
    found = verdicts(wiring.layers)
    assert matches(case.layers, found), f"{found}\npromised: {case.layers}"
    assert all(name.partition("+")[0] in str(wiring) for name in found)
    on_the_page(case, wiring)


def test_recycling_silent_neurons_leaves_outputs_bit_equal(index):
    run, params, donor, wiring, masks = traced(index)
    before, scores = run(params)
    silent = {name: np.asarray(scores[name]) == 0 for name in masks if not wiring[name].coupled_by}
    awake = {name for name in masks if promise_of(name, RUNNING[index].layers) == "awake"}
    # The test has few inputs, so other neurons may be silent too.
    assert all(silent[name][masks[name]].all() for name in silent.keys() - awake), f"{silent} {wiring}"
    after = recycled(params, donor, wiring, silent)
    for old, new in zip(before, run(after)[0], strict=True):
        assert np.isfinite(old).all()
        np.testing.assert_array_equal(old, new)
    for name in silent.keys() - awake:
        fed = belonging(params, {name: wiring[name].incoming}, silent)
        fresh = jax.tree.map(lambda hit, new, now: (hit & (new == now)).any(), fed, donor, after)
        assert any(jax.tree.leaves(fresh)), f"{name} has no fresh incoming entry: {wiring}"


def recycled(params: Any, donor: Any, wiring: dormant.Wiring, silent: Any) -> Any:
    """Recycles silent neurons in NumPy. Incoming entries become fresh, and outgoing entries become zero."""
    fed = belonging(params, {name: wiring[name].incoming for name in silent}, silent)
    read = belonging(params, {name: wiring[name].outgoing for name in silent}, silent)
    fresh = jax.tree.map(lambda hit, leaf, new: np.where(hit, new, leaf), fed, params, donor)
    return jax.tree.map(lambda hit, leaf: np.where(hit, np.zeros_like(leaf), leaf), read, fresh)


@pytest.mark.parametrize("index", range(0, len(RUNNING), 10), ids=lambda index: RUNNING[index].name)
def test_redo_recycles_as_numpy_does(index):
    """Tests only every tenth network, because compiling ReDo takes as long as all other tests of a network."""
    run, params, donor, wiring, masks = traced(index)
    inputs = RUNNING[index].inputs
    redo = dormant.ReDo(tau=0.0, coupled="skip")
    network = dormant.Network(wiring, lambda key: jax.tree.map(jnp.asarray, donor), TX)

    def update(params):
        learner = dormant.Learner(params, TX.init(params))
        after, state = redo.update(jax.random.key(1), learner, redo.init(learner, network), network, *inputs)
        return after.params, dormant.recycled_counts(state)

    after, counts = compiled(update)(params)
    scores = run(params)[1]
    silent = {name: np.asarray(scores[name]) == 0 for name in masks if not wiring[name].coupled_by}
    assert {name: int(total) for name, total in counts.items()} == {
        name: int(mask.sum()) for name, mask in silent.items()
    }
    jax.tree.map(np.testing.assert_array_equal, after, recycled(params, donor, wiring, silent))


def test_outgoing_entries_of_silent_neurons_do_not_matter_and_those_of_others_do(index):
    run, params, donor, wiring, masks = traced(index)
    before, _ = run(params)
    for name in masks:
        for chosen, matters in ((masks[name], False), (~masks[name], True)):
            if not chosen.any():
                continue  # a layer with one neuron has no other neurons
            read = belonging(params, {name: wiring[name].outgoing}, {name: chosen})
            moved = jax.tree.map(lambda hit, leaf, other: np.where(hit, leaf + 4 * other, leaf), read, params, donor)
            same = all(np.array_equal(one, other) for one, other in zip(before, run(moved)[0], strict=True))
            awake = promise_of(name, RUNNING[index].layers) == "awake"
            assert same != matters or (awake and not matters), f"{name}: {wiring}"


@pytest.mark.parametrize("case", [case for case in JAX if case.refused], ids=lambda case: case.name)
def test_what_is_not_understood_is_refused_by_name(case):
    apply, init = case.build()
    with pytest.raises(dormant.TraceError, match=case.refused) as error:
        dormant.trace(apply, weights(shapes_of(init), seed=0), *case.inputs)
    refused_on_the_page(case, error.value)
