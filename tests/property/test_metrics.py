"""Metrics equal slow definitions in NumPy on random inputs. Also tests edge cases such as NaN."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose

from dormant import Network, dormant_fraction, trace
from dormant.metrics import (
    contributions,
    dormant_interval,
    effective_learning_rates,
    effective_rank,
    feature_norm,
    gradient_dormancy,
    policy_churn,
    readings,
    srank,
    stable_rank,
    target_fitting_error,
    utilities,
    value_churn,
)

SAMPLES, NEURONS = 6, 4
floats = st.floats(-100, 100, width=32, allow_subnormal=False).map(lambda x: x if abs(x) > 1e-2 else 0.0)
matrices = hnp.arrays(np.float32, (SAMPLES, NEURONS), elements=floats)
kernels = hnp.arrays(np.float32, (3, NEURONS), elements=floats)
few = settings(max_examples=25)
MATRIX = np.random.default_rng(0).normal(size=(SAMPLES, NEURONS)).astype(np.float32)
TAU = 0.25


def apply(params, x):
    return jax.nn.relu(x @ params["hidden"]["w"] + params["hidden"]["b"][None]) @ params["head"]["w"]


def params_of(kernel):
    return {
        "hidden": {"w": jnp.asarray(kernel), "b": jnp.asarray(kernel[0])},
        "head": {"w": jnp.asarray(kernel.T[:, :2])},
    }


X = np.random.default_rng(1).normal(size=(SAMPLES, 3)).astype(np.float32)
WIRING = trace(apply, params_of(np.ones((3, NEURONS), np.float32)), X)


def slow_effective_rank(matrix):
    values = np.linalg.svd(matrix.astype(float), compute_uv=False)
    shares = values / values.sum() if values.sum() else values
    return np.exp(-sum(share * np.log(share) for share in shares if share > 0)) if values.sum() else 0.0


def slow_srank(matrix):
    values = np.linalg.svd(matrix.astype(float), compute_uv=False)
    # The sum has a float32 rounding error. Accepts the ranks at slightly lower and slightly higher thresholds.
    return {next(k for k in range(NEURONS + 1) if values[:k].sum() >= (0.99 + d) * values.sum()) for d in (-1e-5, 1e-5)}


def slow_stable_rank(matrix):
    largest = np.linalg.norm(matrix.astype(float), 2)
    return np.linalg.norm(matrix.astype(float)) ** 2 / largest**2 if largest else 0.0


@given(matrices)
@few
def test_ranks(matrix):
    assert_allclose(RUN["effective_rank"](matrix), slow_effective_rank(matrix), rtol=2e-3)
    assert_allclose(RUN["stable_rank"](matrix), slow_stable_rank(matrix), rtol=1e-3)
    assert float(RUN["srank"](matrix)) in slow_srank(matrix)


@given(matrices, matrices)
@few
def test_norms_and_churn(before, after):
    lengths = [np.sqrt(sum(float(x) ** 2 for x in row)) for row in before]
    assert_allclose(RUN["feature_norm"](before), np.mean(lengths), rtol=1e-5)
    moved = [abs(float(new) - float(old)) for new, old in zip(after.ravel(), before.ravel(), strict=True)]
    assert_allclose(RUN["value_churn"](before, after), np.mean(moved), rtol=1e-5)
    other = [np.argmax(new) != np.argmax(old) for new, old in zip(after, before, strict=True)]
    assert_allclose(RUN["policy_churn"](before, after), np.mean(other), rtol=1e-6)
    rate = float(RUN["effective_learning_rates"]({"w": before}, {"w": after})["w"])
    length, step = np.linalg.norm(before.astype(float)), np.linalg.norm(after.astype(float) - before.astype(float))
    assert rate == (pytest.approx(step / length, rel=1e-4) if length else (np.inf if step else 0.0))


def score_bounds(magnitudes):
    """Returns lower and upper bounds of the scores, as [2, neurons] in float64. `magnitudes` is [samples, neurons]."""
    samples, neurons = magnitudes.shape
    layer = magnitudes.mean()
    if samples < 2 or layer == 0:
        return np.stack([np.zeros(neurons), np.full(neurons, np.inf)])
    relative = magnitudes / layer
    scores = relative.mean(axis=0)
    residuals = relative - scores * relative.mean(axis=1, keepdims=True)
    error = 1.96 * residuals.std(axis=0, ddof=1) / np.sqrt(samples)
    times = (relative > 0).sum(axis=0)
    active = scores * samples / np.maximum(times, 1)
    active = np.where(times > 0, active, np.median(active[times > 0]))
    return np.stack([scores - error, scores + error + active / samples])


@given(matrices)
@few
def test_dormant_fraction_and_its_interval(matrix):
    found = RUN["dormant_interval"]({"layer": matrix})
    magnitudes = np.abs(matrix.astype(float))
    scores = magnitudes.mean(axis=0) / (magnitudes.mean() or 1.0)
    low, high = score_bounds(magnitudes)
    # float32 may round a score near the threshold to either side, so both numbers of dormant neurons are accepted.
    for value, bound in ((found.estimate, scores), (found.low, high), (found.high, low)):
        counts = [(bound <= TAU + d).mean() for d in (-1e-4, 1e-4)]
        assert counts[0] - 1e-6 <= float(value) <= counts[1] + 1e-6
    assert float(found.low) <= float(found.estimate) <= float(found.high)


@given(kernels, kernels)
@few
def test_gradient_dormancy_and_usefulness(kernel, gradient):
    params, gradients = params_of(kernel), params_of(gradient)
    magnitudes = np.abs(np.concatenate([gradient, gradient[:1]]).astype(float)).mean(axis=0)
    scores = magnitudes / (magnitudes.mean() or 1.0)
    counts = [(scores <= TAU + d).mean() for d in (-1e-4, 1e-4)]
    assert counts[0] - 1e-6 <= float(RUN["gradient_dormancy"](gradients)) <= counts[1] + 1e-6

    hidden = np.maximum(X.astype(float) @ kernel + kernel[0], 0)
    read, fed = np.abs(kernel.T[:, :2]).sum(axis=1), np.abs(kernel).sum(axis=0) + np.abs(kernel[0])
    assert_allclose(RUN["contributions"](params), np.abs(hidden).mean(axis=0) * read, rtol=1e-3, atol=1e-2)
    centred = np.abs(hidden - hidden.mean(axis=0)).mean(axis=0)
    assert_allclose(RUN["utilities"](params), centred * read / np.where(fed, fed, 1.0), rtol=1e-3, atol=1e-2)


RUN = {
    "effective_rank": jax.jit(effective_rank),
    "srank": jax.jit(srank),
    "stable_rank": jax.jit(stable_rank),
    "feature_norm": jax.jit(feature_norm),
    "value_churn": jax.jit(value_churn),
    "policy_churn": jax.jit(policy_churn),
    "effective_learning_rates": jax.jit(effective_learning_rates),
    "dormant_interval": jax.jit(partial(dormant_interval, tau=TAU)),
    "gradient_dormancy": jax.jit(partial(gradient_dormancy, WIRING, tau=TAU)),
    "contributions": jax.jit(lambda params: contributions(WIRING, params, X)["hidden"]),
    "utilities": jax.jit(lambda params: utilities(WIRING, params, X)["hidden"]),
}
OF_A_MATRIX = {
    **{name: RUN[name] for name in ("effective_rank", "srank", "stable_rank", "feature_norm")},
    "value_churn": lambda matrix: RUN["value_churn"](MATRIX, matrix),
    "policy_churn": lambda matrix: RUN["policy_churn"](MATRIX, matrix),
    "effective_learning_rate": lambda matrix: RUN["effective_learning_rates"]({"w": MATRIX}, {"w": matrix})["w"],
    "dormant_fraction": lambda matrix: RUN["dormant_interval"]({"layer": matrix}).estimate,
    "interval": lambda matrix: RUN["dormant_interval"]({"layer": matrix}).low,
    "gradient_dormancy": lambda matrix: RUN["gradient_dormancy"](params_of(matrix[:3])),
}


@pytest.mark.parametrize("name", OF_A_MATRIX)
def test_nan_in_is_nan_out_and_is_refused_on_the_host(name):
    holes = MATRIX.copy()
    holes[1, 2] = np.nan
    found = {name: OF_A_MATRIX[name](holes), "loss": 1.0}
    assert np.isnan(float(found[name]))
    with pytest.raises(ValueError, match=f"these metrics are NaN: {name}"):
        readings(found)
    assert np.isfinite(readings({name: OF_A_MATRIX[name](MATRIX)})[name])


def test_edges():
    silent, one, same = np.zeros((SAMPLES, NEURONS), np.float32), MATRIX[:, :1], np.ones((SAMPLES, NEURONS), np.float32)
    ranks = (effective_rank, srank, stable_rank)
    assert [float(rank(silent)) for rank in ranks] == [0, 0, 0]
    assert [round(float(rank(one)), 3) for rank in ranks] == [1, 1, 1]
    assert [round(float(RUN[rank.__name__](same)), 2) for rank in ranks] == [1, 1, 1]
    assert float(RUN["feature_norm"](silent)) == 0 and float(RUN["feature_norm"](same)) == 2
    assert [float(value) for value in RUN["dormant_interval"]({"layer": silent})] == [1, 0, 1]
    assert [float(value) for value in RUN["dormant_interval"]({"layer": same})] == [0, 0, 0]
    assert [float(value) for value in dormant_interval({"one": MATRIX[:1]}, tau=100.0)] == [1, 0, 1]  # only one sample
    assert float(RUN["gradient_dormancy"](params_of(silent[:3]))) == 1
    assert float(policy_churn(one, one)) == 0
    with pytest.raises(ValueError, match="no neurons to count"):
        dormant_fraction({})
    with pytest.raises(ValueError, match="tau must be at least 0"):
        dormant_fraction({"layer": jnp.ones(2)}, tau=-1.0)


def test_metrics_map_over_seeds():
    several = np.stack([MATRIX, 2 * MATRIX, np.zeros_like(MATRIX)])
    for name in ("effective_rank", "srank", "stable_rank", "feature_norm"):
        together = jax.jit(jax.vmap(RUN[name]))(several)
        assert_allclose(together, [float(RUN[name](matrix)) for matrix in several], rtol=1e-5)
    shares = jax.jit(jax.vmap(lambda matrix: dormant_interval({"layer": matrix}, tau=TAU)))(several)
    assert_allclose(shares.estimate, [float(RUN["dormant_interval"]({"layer": matrix}).estimate) for matrix in several])


def test_a_network_that_lost_its_plasticity_fits_new_targets_worse():
    def init(key):
        hidden, head = jax.random.split(key)
        kernel = 0.5 * jax.random.normal(hidden, (3, NEURONS))
        return {
            "hidden": {"w": kernel, "b": jnp.zeros(NEURONS)},
            "head": {"w": jax.random.normal(head, (NEURONS, 2))},
        }

    network = Network(WIRING, init, optax.sgd(0.1))
    alive, dead = init(jax.random.key(1)), params_of(np.zeros((3, NEURONS), np.float32))

    @partial(jax.jit, static_argnums=1)
    def error(params, steps):
        return target_fitting_error(jax.random.key(0), apply, params, network, jnp.asarray(X), gradient_steps=steps)

    targets = np.sin(1e5 * np.asarray(apply(init(jax.random.key(0)), X)))
    # A dead network does not train, so its error is the mean square of the targets. The rest of the test computes one
    # SGD step by hand.
    assert_allclose(error(dead, 50), np.square(targets).mean(), rtol=1e-4)
    slow = jax.tree.map(np.asarray, alive)
    hidden = np.maximum(X @ slow["hidden"]["w"], 0)
    wrong = 2 * (hidden @ slow["head"]["w"] - targets) / targets.size
    back = (wrong @ slow["head"]["w"].T) * (hidden > 0)
    stepped = {
        "hidden": {"w": slow["hidden"]["w"] - 0.1 * X.T @ back, "b": -0.1 * back.sum(axis=0)},
        "head": {"w": slow["head"]["w"] - 0.1 * hidden.T @ wrong},
    }
    assert_allclose(error(alive, 1), np.square(np.asarray(apply(stepped, X)) - targets).mean(), rtol=1e-3)
    assert float(error(alive, 50)) < float(error(alive, 1)) < float(error(dead, 50)) * 10
    with pytest.raises(ValueError, match="gradient_steps must be at least 1"):
        target_fitting_error(jax.random.key(0), apply, alive, network, X, gradient_steps=0)
