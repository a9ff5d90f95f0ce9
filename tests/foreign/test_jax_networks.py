"""Networks of public JAX packages: recycling silent neurons keeps the outputs equal, bit for bit."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from foreign.jax_networks import NETWORKS, Network
from networks.case import Case
from networks.page import on_the_page

import dormant
from dormant.wiring import entry_mask, paths

# Ignores the warnings of the packages.
pytestmark = [pytest.mark.foreign, pytest.mark.filterwarnings("ignore")]
TX = optax.adam(1e-3)


@pytest.fixture(autouse=True)
def promotion_as_the_packages_expect() -> Iterator[None]:
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def silenced(params, network: Network):
    """Returns the parameters after silencing every third neuron of each recycled layer."""
    promised = {name.partition("[")[0] for name, promise in network.layers.items() if promise == "recycled"}
    wanted = {leaf for name in promised for leaf in network.silencers(name)}
    assert wanted <= set(paths(params)), wanted - set(paths(params))
    leaves = [np.array(leaf) for leaf in jax.tree.leaves(params)]
    for path, leaf in zip(paths(params), leaves, strict=True):
        if path in wanted:
            leaf[..., ::3] = 0.0 if network.zeroed else -1e3
    return jax.tree.map(jnp.asarray, jax.tree.unflatten(jax.tree.structure(params), leaves))


def check_promises(wiring: dormant.Wiring, layers: dict[str, str]) -> None:
    assert {layer.name for layer in wiring.layers} == set(layers), str(wiring)
    for layer in wiring.layers:
        promise = layers[layer.name]
        assert layer.recyclable == (promise in ("recycled", "coupled")), str(wiring)
        assert layer.recyclable or promise in "; ".join(layer.reasons), str(wiring)
        assert bool(layer.coupled_by) == (promise == "coupled") or not layer.recyclable, str(wiring)


@pytest.mark.parametrize("name", NETWORKS)
def test_recycling_silent_neurons_leaves_outputs_bit_equal(name):
    network = NETWORKS[name]()
    init = jax.jit(network.init)
    params, donor = silenced(init(jax.random.key(0)), network), init(jax.random.key(1))
    wiring = dormant.trace(network.apply, params, *network.inputs)
    check_promises(wiring, network.layers)
    on_the_page(Case(name, lambda: (network.apply, network.init), network.inputs, network.layers), wiring)

    redo, traced = dormant.ReDo(tau=0.0, coupled="skip"), dormant.Network(wiring, lambda key: donor, TX)

    @jax.jit
    def updated(params):
        learner = dormant.Learner(params, TX.init(params))
        state = redo.init(learner, traced)
        after, state = redo.update(jax.random.key(2), learner, state, traced, *network.inputs)
        return after.params, dormant.recycled_counts(state), wiring.dormant(params, *network.inputs, tau=0.0)

    after, counts, dormant_before = jax.tree.map(np.asarray, updated(params))
    targets = [layer for layer in wiring.layers if network.layers[layer.name] == "recycled"]
    assert set(counts) == {layer.name for layer in targets}
    for layer in targets:
        assert dormant_before[layer.name][::3].all(), f"{layer.name} is not silent: {wiring}"
        assert int(counts[layer.name]) == int(dormant_before[layer.name].sum()) > 0

    outputs = jax.jit(network.apply)
    same = zip(*(jax.tree.leaves(outputs(one, *network.inputs)) for one in (params, after)), strict=True)
    for old, new in same:
        assert np.isfinite(old).all()
        np.testing.assert_array_equal(old, new)
    check_changes(params, after, donor, targets, dormant_before)


def check_changes(before, after, donor, targets, masks) -> None:
    """Asserts that dormant neurons have fresh incoming and zero outgoing entries, and that no other entry changed."""
    incoming = {layer.name: layer.incoming for layer in targets}
    outgoing = {layer.name: layer.outgoing for layer in targets}

    @jax.jit
    def expected(before, donor, masks):
        fed, read = entry_mask(before, incoming, masks), entry_mask(before, outgoing, masks)
        return jax.tree.map(
            lambda fed, read, old, new: jnp.where(read, 0, jnp.where(fed, new, old)), fed, read, before, donor
        )

    jax.tree.map(np.testing.assert_array_equal, after, expected(before, donor, masks))
