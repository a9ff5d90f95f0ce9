"""Invariances of neuron scores."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dormant import dormant_mask, neuron_scores

# Few shapes, because each one compiles: one to four leading axes, also of length 1.
shapes = st.sampled_from([(1, 5), (3, 5), (4, 1, 5), (2, 3, 5), (3, 1, 2, 5), (4, 2, 1, 3, 5)])
floats = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
activations = shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=floats))
SCORES = jax.jit(neuron_scores)  # one compilation per shape; the last test also calls the function itself


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@given(activations)
@settings(max_examples=30)
def test_scores_average_one_unless_the_layer_is_silent(values):
    scores = np.asarray(SCORES(values))
    assert scores.shape == (5,) and np.isfinite(scores).all()
    close(scores.mean(), 1.0 if values.any() else 0.0)
    silent = ~values.reshape(-1, 5).any(axis=0)
    assert np.array_equal(dormant_mask(jnp.asarray(scores), 0.0), silent)


@given(activations, st.sampled_from([2.0**-90, 1e-20, 0.3, -7.0, 1e20, 2.0**110]))
@settings(max_examples=30)
def test_scores_ignore_the_scale_of_the_layer(values, scale):
    values = np.where(np.abs(values) < 1e-3, 0, values).astype(np.float32)
    close(SCORES(values * np.float32(scale)), SCORES(values))


@given(activations, st.permutations(range(5)))
@settings(max_examples=30)
def test_scores_permute_with_the_neurons(values, order):
    close(SCORES(values[..., list(order)]), np.asarray(SCORES(values))[list(order)])


@given(activations)
@settings(max_examples=30)
def test_numpy_and_jax_arrays_score_alike_with_any_leading_axes(values):
    close(neuron_scores(values), neuron_scores(jnp.asarray(values)))
    close(SCORES(values), neuron_scores(values))
    close(SCORES(values), SCORES(values.reshape(-1, 5)))
