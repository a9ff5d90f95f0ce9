import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dormant import dormant_fraction, dormant_mask, neuron_scores, overlap_coefficient


def test_scores_by_hand():
    maps = np.zeros((2, 1, 2, 3), np.float32)
    maps[0, 0, 0] = [0, -4, 1]
    maps[1, 0, 1] = [0, 2, 1]
    # The mean magnitudes of the neurons are 0, 6/4 and 2/4. Their mean is 2/3.
    assert neuron_scores(maps).tolist() == pytest.approx([0, 2.25, 0.75])


@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
def test_integers_are_counted(dtype):
    assert neuron_scores(np.array([[0, 1], [0, 1]], dtype)).tolist() == [0, 2]


def test_a_silent_layer_is_all_dormant():
    scores = neuron_scores(jnp.zeros((4, 3)))
    assert scores.tolist() == [0, 0, 0] and dormant_mask(scores, 0.0).all()


def test_a_silent_layer_is_scored_without_nan_on_the_way():
    """With `jax_debug_nans`, JAX raises an error at the first NaN. So no intermediate value may be NaN."""
    with jax.debug_nans(True):
        assert neuron_scores(jnp.zeros((4, 3))).tolist() == [0, 0, 0]


def test_one_neuron_scores_one_or_zero():
    assert neuron_scores(np.array([[3.0], [0.0]])).tolist() == [1]
    assert neuron_scores(np.array([[0.0]])).tolist() == [0]


@pytest.mark.parametrize("largest", [1.2e-38, 1e-30, 1e30, 3e38])
def test_very_small_and_very_large_layers_score_like_any_other(largest):
    values = np.array([[largest, 0.0], [largest, largest]], np.float32)
    assert neuron_scores(values).tolist() == pytest.approx([4 / 3, 2 / 3], rel=1e-5)


@pytest.mark.parametrize(
    "values",
    [np.array([[1e-37, 1e30]], np.float32), np.array([[6e-8, 6e4]], np.float16), jnp.full((1, 2), 1, jnp.bfloat16)],
)
def test_only_silent_neurons_score_zero(values):
    assert not dormant_mask(neuron_scores(values), 0.0).any()


def test_the_threshold_itself_is_dormant():
    assert dormant_mask(np.array([0.1, 0.1001], np.float32), 0.1).tolist() == [True, False]


@pytest.mark.parametrize("tau", [-0.1, float("nan")])
def test_a_threshold_must_not_be_negative(tau):
    with pytest.raises(ValueError, match="tau must be at least 0"):
        dormant_mask(np.zeros(2, np.float32), tau)


def test_the_fraction_pools_neurons():
    scores = {"wide": np.array([0.0, 1.0, 1.5, 1.5], np.float32), "narrow": jnp.array([0.0])}
    assert float(dormant_fraction(scores)) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="no neurons"):
        dormant_fraction({})
    with pytest.raises(TypeError, match="Boolean mask for layer 'wide'"):
        dormant_fraction({"wide": np.array([True])})


def test_complex_activations_count_with_their_modulus():
    values = np.array([[3 + 4j, 0, 5j], [0, 0, -5j]], np.complex64)
    assert neuron_scores(values).tolist() == pytest.approx([1, 0, 2])
    assert neuron_scores(np.array([[-128, 1]], np.int8)).tolist() == pytest.approx([256 / 129, 2 / 129])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_a_layer_that_is_not_finite_has_no_scores(value):
    maps = jnp.ones((2, 3)).at[1, 0].set(value) * 2
    scores = {"bad": neuron_scores(maps), "good": jnp.zeros(2)}
    assert jnp.isnan(scores["bad"]).all() and not dormant_mask(scores["bad"], 0.5).any()
    assert jnp.isnan(dormant_fraction(scores)) and jnp.isnan(dormant_fraction({"bad": scores["bad"]}))
    assert float(dormant_fraction({"good": scores["good"]})) == 1


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("110", "011", 0.5), ("111", "100", 1.0), ("100", "011", 0.0), ("000", "111", 0.0), ("000", "000", 0.0)],
)
def test_overlap_by_hand(first, second, expected):
    a, b = (np.array([letter == "1" for letter in word]) for word in (first, second))
    assert float(overlap_coefficient(a, b)) == expected == float(overlap_coefficient(b, a))
