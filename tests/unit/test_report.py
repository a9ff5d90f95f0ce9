"""dormant.report: its table agrees with the wiring. Its intervals contain the true value, and shrink with the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dormant
from dormant.metrics import effective_rank, score_bounds

WIDTH = 96


def apply(params, x):
    hidden = jax.nn.relu(x @ params["dense"]["kernel"] + params["dense"]["bias"][None])
    return jax.nn.relu(hidden @ params["last"]["kernel"]) @ params["head"]["kernel"]


@pytest.fixture(scope="module")
def params():
    """Returns parameters with two hidden layers. Neurons of the first are active on at most half of the samples."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(16, WIDTH)) * rng.lognormal(size=WIDTH)
    bias = -1.5 * np.abs(rng.normal(size=WIDTH)) * np.linalg.norm(kernel, axis=0)
    tree = {
        "dense": {"kernel": kernel, "bias": bias},
        "last": {"kernel": rng.normal(size=(WIDTH, 8))},
        "head": {"kernel": rng.normal(size=(8, 2))},
    }
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def batch(samples, seed=1):
    return np.random.default_rng(seed).normal(size=(samples, 16)).astype(np.float32)


def test_it_agrees_with_the_wiring(params):
    x = batch(64)
    found = dormant.report(apply, params, x, tau=0.1)
    wiring = dormant.trace(apply, params, x)
    masks = wiring.dormant(params, x, tau=0.1)
    assert [layer.name for layer in found.layers] == ["dense", "last"]
    for layer in found.layers:
        assert layer.dormant == int(masks[layer.name].sum()) and layer.neurons == masks[layer.name].size
    assert found.all.share == pytest.approx(float(wiring.dormant_fraction(params, x)))
    rank = effective_rank(wiring.activations(params, x)["dense"])
    assert found.layers[0].effective_rank == pytest.approx(float(rank), rel=1e-4)
    dense = params["dense"]
    expected = np.sqrt(np.square(dense["kernel"]).sum() + np.square(dense["bias"]).sum())
    assert found.layers[0].weight_norm == pytest.approx(expected, rel=1e-5)


def test_the_table_shows_the_batch_and_the_threshold(params):
    text = str(dormant.report(apply, params, batch(64), tau=0.025))
    lines = text.splitlines()
    assert lines[0].split()[0] == "layer" and lines[-2].startswith("all") and len(lines) == 5
    assert lines[-1] == "tau = 0.025, a batch of 64 samples"


def test_the_interval_shrinks_with_the_batch(params):
    widths = [np.ptp(dormant.report(apply, params, batch(samples)).all.interval[1:]) for samples in (32, 256, 2048)]
    assert widths[0] > 1.5 * widths[1] > 2.25 * widths[2] > 0


@pytest.mark.parametrize("tau", [0.0, 0.025, 0.1])
def test_the_interval_holds_the_share_on_all_data(params, tau):
    kernel, bias = np.asarray(params["dense"]["kernel"]), np.asarray(params["dense"]["bias"])

    def hidden(x):
        return np.maximum(x @ kernel + bias, 0)

    mean = hidden(batch(50_000, seed=2)).mean(axis=0)
    truth = (mean / mean.mean() <= tau).mean()
    held = []
    for seed in range(60):
        low, _, high = np.asarray(score_bounds(hidden(batch(64, 100 + seed))))
        held.append((high <= tau).mean() <= truth <= (low <= tau).mean())
    assert np.mean(held) >= 0.95


def test_a_batch_too_small_to_say_anything_says_so(params):
    found = dormant.report(apply, params, batch(1))
    assert found.all.interval[1:] == (0.0, 1.0)


def test_silence_on_the_batch_is_not_silence_for_certain():
    params = {"dense": {"kernel": jnp.zeros((3, 4))}, "head": {"kernel": jnp.ones((4, 1))}}
    found = dormant.report(lambda params, x: jax.nn.relu(x @ params["dense"]["kernel"]) @ params["head"]["kernel"],
                           params, jnp.ones((8, 3)))  # fmt: skip
    (layer,) = found.layers
    assert (layer.dormant, layer.interval, layer.effective_rank) == (4, (1.0, 0.0, 1.0), 0.0)


def test_convolutions_behind_a_flatten_are_measured_by_sample():
    rng = np.random.default_rng(0)
    params = {
        "conv": {"kernel": jnp.asarray(rng.normal(size=(3, 3, 1, 4)), jnp.float32)},
        "head": {"kernel": jnp.asarray(rng.normal(size=(4 * 36, 2)), jnp.float32)},
    }

    def apply(params, x):
        y = jax.lax.conv_general_dilated(
            x, params["conv"]["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.relu(y.transpose(0, 3, 1, 2).reshape(len(y), -1)) @ params["head"]["kernel"]

    found = dormant.report(apply, params, rng.normal(size=(32, 8, 8, 1)).astype(np.float32))
    _, low, high = found.all.interval
    assert found.samples == 32 and low <= found.all.share <= high < 1
    assert 1 < found.layers[0].effective_rank <= 4


def test_samples_that_influence_one_another_have_no_interval(params):
    def centred(params, x):
        hidden = x @ params["dense"]["kernel"]
        hidden = jax.nn.relu(hidden - hidden.mean(axis=0, keepdims=True))
        return hidden @ params["last"]["kernel"]

    found = dormant.report(centred, params, batch(32))
    assert np.isnan(found.all.interval.low) and "influence one another" in str(found)


def test_why_a_layer_is_not_recycled_is_said(params):
    found = dormant.report(lambda params, x: (apply(params, x), x @ params["dense"]["kernel"]), params, batch(8))
    assert found.layers[0].reasons and found.layers[0].reasons[0] in str(found)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_layer_that_is_not_finite_is_nan_in_the_table(params, value):
    bias = params["dense"]["bias"].at[5].set(value)
    diverged = params | {"dense": params["dense"] | {"bias": bias}}
    with pytest.warns(RuntimeWarning, match="NaN or infinite activations in 'dense'") as told:
        found = dormant.report(apply, diverged, batch(8))
    assert len(told) == 1
    dense = found.layers[0]
    for row in (*found.layers, found.all):
        assert np.isnan([row.share, *row.interval]).all() and np.isnan(row.scores).all()
    assert np.isnan(dense.effective_rank)
    lines = str(found).splitlines()
    assert lines[1].split()[:6] == ["dense", str(dense.neurons), "nan", "nan", "-", "nan"]
    assert lines[3].split() == ["all", str(found.all.neurons), "nan", "nan", "-"]
    assert "influence" not in found.conditions


def test_a_layer_that_is_not_finite_leaves_the_others_as_they_are():
    def two(params, x):
        return jax.nn.relu(jax.nn.relu(x @ params["a"]) @ params["b"]) @ params["c"]

    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in
               {"a": (16, 4), "b": (4, 3), "c": (3, 1)}.items()}  # fmt: skip
    fine = dormant.report(two, weights, batch(8)).layers[0]
    with pytest.warns(RuntimeWarning, match="in 'b';"):
        first, second = dormant.report(two, weights | {"b": weights["b"] * np.nan}, batch(8)).layers
    assert (first.share, first.interval, first.effective_rank) == (fine.share, fine.interval, fine.effective_rank)
    assert np.isnan(second.share)


def test_an_input_that_is_not_finite_is_told_too(params):
    x = batch(8)
    x[3, 2] = np.nan
    with pytest.warns(RuntimeWarning, match="activations in 'dense'"):
        assert np.isnan(dormant.report(apply, params, x).all.share)


def test_bad_input_is_refused(params):
    with pytest.raises(ValueError, match="tau must be at least 0"):
        dormant.report(apply, params, batch(8), tau=-1.0)
    with pytest.raises(ValueError, match="the batch as its first axis"):
        dormant.report(lambda params, x, y: apply(params, x) + y, params, batch(8), jnp.ones(()))
    with pytest.raises(ValueError, match=r"at least one sample, got an empty batch: .* \[\(0, 16\)\]"):
        dormant.report(apply, params, batch(0))
