import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dormant import trace
from dormant.wiring import entry_mask, paths

PARAMS = {"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, "b": {"kernel": jnp.ones((6, 1))}}


def crelu(params, x):
    h = x @ params["a"]["kernel"] + params["a"]["bias"][None]
    return jnp.concatenate([jax.nn.relu(h), jax.nn.relu(-h)], -1) @ params["b"]["kernel"]


def test_entries_of_a_neuron_that_is_read_twice():
    layer = trace(crelu, PARAMS, jnp.ones((4, 2)))["a"]
    assert np.broadcast_to(layer.outgoing["b/kernel"], (6, 1)).ravel().tolist() == [0, 1, 2, 0, 1, 2]
    assert np.broadcast_to(layer.incoming["a/kernel"], (2, 3)).tolist() == [[0, 1, 2]] * 2
    assert layer.incoming["a/bias"].tolist() == [0, 1, 2]


def test_a_neuron_is_as_alive_as_its_most_active_reading():
    wiring = trace(crelu, PARAMS, jnp.ones((4, 2)))
    assert not wiring.dormant(PARAMS, -jnp.ones((4, 2)), tau=0.0)["a"].any()
    silent = PARAMS | {"a": jax.tree.map(lambda leaf: leaf.at[..., 1].set(0.0), PARAMS["a"])}
    assert wiring.dormant(silent, jnp.ones((4, 2)), tau=0.0)["a"].tolist() == [False, True, False]
    assert float(wiring.dormant_fraction(silent, jnp.ones((4, 2)), tau=0.0)) == pytest.approx(1 / 3)


def test_scores_work_at_other_batch_sizes_and_under_jit_and_vmap():
    wiring = trace(crelu, PARAMS, jnp.ones((4, 2)))
    x = jax.random.normal(jax.random.key(0), (3, 9, 2))
    seeds = jax.jit(jax.vmap(lambda one: wiring.scores(PARAMS, one)))(x)["a"]
    np.testing.assert_allclose(seeds, jnp.stack([wiring.scores(PARAMS, one)["a"] for one in x]), rtol=1e-6)


def test_the_table_and_an_unknown_layer():
    wiring = trace(crelu, PARAMS, jnp.ones((4, 2)))
    assert "a      3        a/bias, a/kernel  b/kernel  yes" in str(wiring)
    assert [*wiring.activations(PARAMS, jnp.ones((4, 2)))] == ["a", "a@2"]
    with pytest.raises(KeyError, match=r"no neuron layer is called 'c'; the layers are \['a'\]"):
        wiring["c"]


def test_entry_masks_ignore_entries_of_no_neuron():
    entries = {"l": {"w": np.array([0, -1, 1])}}
    hit = entry_mask({"v": jnp.ones(2), "w": jnp.ones(3)}, entries, {"l": jnp.array([True, True])})
    assert hit["w"].tolist() == [True, False, True] and hit["v"].shape == ()
    assert paths({"b": [1, 2]}) == ["b/0", "b/1"]


def test_entry_masks_join_layers_that_share_a_parameter():
    entries = {"a": {"w": np.array([0, -1])}, "b": {"w": np.array([-1, 0])}}
    hit = entry_mask({"w": jnp.ones(2)}, entries, {"a": jnp.array([True]), "b": jnp.array([True])})
    assert hit["w"].tolist() == [True, True]


def test_leaves_with_the_same_path_have_names_of_their_own():
    params = {"a": {"b/w": jnp.ones((2, 3))}, "a/b": {"w": jnp.ones((3, 3))}, "c": jnp.ones((3, 1))}
    assert paths(params) == ["a/b/w", "a/b/w#2", "c"]
    apply = lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["a"]["b/w"]) @ p["a/b"]["w"]) @ p["c"]  # noqa: E731
    first, second = trace(apply, params, jnp.ones((4, 2))).layers
    assert (set(first.incoming), set(first.outgoing)) == ({"a/b/w"}, {"a/b/w#2"})
    assert (set(second.incoming), set(second.outgoing)) == ({"a/b/w#2"}, {"c"})
