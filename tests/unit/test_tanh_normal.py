"""The tanh-normal distribution, compared with numerical integrals and with formulas in double precision."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose

from dormant.rl.agents.sac import LOG_STD, log_slope, moments, sample

SHAPES = [(0.0, 0.0), (0.7, -1.0), (-1.5, 0.5), (2.0, -2.0)]
NOISE = np.linspace(-7, 7, 20_001)


def on_grid(mean, log_std):
    """Returns a grid of actions in (-1, 1) and the log density of each action, both as float64."""
    column = np.float32(NOISE)[:, None]
    action, log_density = sample(jnp.full_like(column, mean), jnp.full_like(column, log_std), jnp.asarray(column))
    return np.asarray(action, np.float64)[:, 0], np.asarray(log_density, np.float64)


@pytest.mark.parametrize(("mean", "log_std"), SHAPES)
def test_the_density_integrates_to_the_probability_of_every_interval(mean, log_std):
    action, log_density = on_grid(mean, log_std)
    pieces = np.exp((log_density[1:] + log_density[:-1]) / 2) * np.diff(action)
    below = np.concatenate([[0.0], np.cumsum(pieces)])
    expected = np.array([0.5 * (1 + math.erf(z / math.sqrt(2))) for z in NOISE])
    assert_allclose(below, expected, atol=2e-3)
    assert_allclose(below[-1], 1.0, atol=2e-3)


@pytest.mark.parametrize(("mean", "log_std"), SHAPES)
def test_the_entropy_is_the_mean_of_minus_the_log_density(mean, log_std):
    action, log_density = on_grid(mean, log_std)
    middle = (log_density[1:] + log_density[:-1]) / 2
    integral = -np.sum(np.exp(middle) * middle * np.diff(action))
    weights = np.exp(-0.5 * NOISE**2)
    assert_allclose(-np.sum(weights * log_density) / weights.sum(), integral, atol=5e-3)


def test_densities_of_dimensions_multiply():
    mean, log_std, noise = (jnp.array([[0.1, -0.4]]), jnp.array([[0.2, -0.3]]), jnp.array([[0.5, -1.0]]))
    action, both = sample(jnp.asarray(mean), jnp.asarray(log_std), noise)
    apart = [sample(mean[:, i, None], log_std[:, i, None], noise[:, i, None]) for i in (0, 1)]
    assert_allclose(both, apart[0][1] + apart[1][1], rtol=1e-6)
    assert_allclose(action[0], [apart[0][0].item(), apart[1][0].item()], rtol=1e-6)


def test_log_slope_is_exact_where_tanh_rounds_to_one():
    before = np.array([-60.0, -12.0, -1.0, -1e-3, 0.0, 0.3, 9.0, 30.0])
    # The exact value is log(4) - 2 log(exp(u) + exp(-u)). This is computed in double precision.
    expected = np.log(4.0) - 2.0 * np.logaddexp(before, -before)
    assert_allclose(log_slope(jnp.float32(before)), expected, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("mean", [-40.0, 40.0])
@pytest.mark.parametrize("log_std", LOG_STD)
def test_value_and_gradients_stay_finite(mean, log_std):
    def density(mean, log_std):
        return sample(mean[None, None], log_std[None, None], jnp.ones((1, 1)))[1][0]

    value, gradients = jax.value_and_grad(density, argnums=(0, 1))(jnp.float32(mean), jnp.float32(log_std))
    assert np.isfinite([value, *gradients]).all()


def test_gradients_are_those_of_differences():
    noise = jnp.array([[0.3, -1.2]])

    def total(mean, log_std):
        action, log_density = sample(jnp.asarray(mean), jnp.asarray(log_std), noise)
        return (action.sum() + log_density[0]).astype(jnp.float32)

    point = (jnp.array([[0.2, -0.5]]), jnp.array([[-0.3, 0.4]]))
    check_grads(total, point, order=1, modes=["rev"], rtol=2e-2, atol=2e-2)


def test_moments_split_and_clip():
    mean, log_std = moments(jnp.array([[1.0, 2.0, -50.0, 1.5]]))
    assert mean.tolist() == [[1.0, 2.0]] and log_std.tolist() == [[-20.0, 1.5]]
