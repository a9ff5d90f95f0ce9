"""examples/redo_in_one_file.py and the library give the same bits during a training."""

import ast
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dormant
from dormant.wiring import entry_mask

FILE = Path(__file__).parents[2] / "examples" / "redo_in_one_file.py"


@pytest.fixture(scope="module")
def one_file():
    spec = importlib.util.spec_from_file_location("redo_in_one_file", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recyclings(one_file):
    """Returns the masks, the learner before and the learners after each of four recyclings, by file and by library."""
    images = jax.random.normal(jax.random.key(1), (64, 8, 8, 1))
    params = one_file.init(jax.random.key(0))
    wiring = dormant.trace(lambda params, images: one_file.forward(params, images)[0], params, images)
    network = dormant.Network(wiring, one_file.init, one_file.tx)
    redo = dormant.ReDo(tau=one_file.TAU)
    # Silences two channels, so that the convolution is recycled too.
    params["conv"]["bias"] = params["conv"]["bias"].at[jnp.array([1, 6])].set(-100.0)
    learner = dormant.Learner(params, one_file.tx.init(params))
    state = redo.init(learner, network)
    update = jax.jit(lambda key, learner: redo.update(key, learner, state, network, images)[0])
    found = []
    for number in range(4):
        labels = jax.random.randint(jax.random.key(number), (64,), 0, 10)
        for _ in range(60):
            # optax multiplies integer counts by Python numbers, which JAX's strict promotion forbids.
            with jax.numpy_dtype_promotion("standard"):
                learner = dormant.Learner(*one_file.gradient_step(*learner, images, labels))
        key = jax.random.key(100 + number)
        masks = one_file.dormant_masks(learner.params, images), wiring.dormant(learner.params, images, tau=one_file.TAU)
        after = dormant.Learner(*one_file.redo(key, *learner, images)), update(key, learner)
        found.append((masks, learner, after))
        learner = after[0]
    return found


def test_the_same_neurons_are_dormant(recyclings):
    for (own, library), *_ in recyclings:
        jax.tree.map(np.testing.assert_array_equal, own, library)
    assert sum(int(mask.sum()) for (own, _), *_ in recyclings for mask in own.values()) > 20


def test_weights_and_moments_are_equal_to_the_last_bit(recyclings):
    for _, _, (own, library) in recyclings:
        jax.tree.map(np.testing.assert_array_equal, own, library)
    _, before, (own, _) = recyclings[0]
    for layer in ("conv", "dense"):
        assert not np.array_equal(before.params[layer]["kernel"], own.params[layer]["kernel"])


def test_convolution_channels_behind_the_flatten_are_the_library_s(one_file):
    """For random sets of dormant neurons, the file and the traced wiring give the same masks of weights."""
    images = np.zeros((2, 8, 8, 1), np.float32)
    params = one_file.init(jax.random.key(0))
    wiring = dormant.trace(lambda params, images: one_file.forward(params, images)[0], params, images)
    rng = np.random.default_rng(0)
    masks = {layer.name: jnp.asarray(rng.random(layer.width) < 0.3) for layer in wiring.layers}
    for side, entries in zip(one_file.weight_masks(masks), ("incoming", "outgoing"), strict=True):
        expected = entry_mask(params, {layer.name: getattr(layer, entries) for layer in wiring.layers}, masks)
        for own, library, leaf in zip(*map(jax.tree.leaves, (side, expected, params)), strict=True):
            assert np.array_equal(np.broadcast_to(own, leaf.shape), np.broadcast_to(library, leaf.shape))


def test_it_stands_alone_and_is_short():
    imported = {
        name.name.split(".")[0]
        for node in ast.walk(ast.parse(FILE.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert imported <= {"jax", "numpy", "optax"}
    assert len(FILE.read_text().splitlines()) < 120
