"""The installed jaxlib gives equal results with and without jit. `dormant` warns about versions that do not."""

from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dormant
from dormant import hints
from dormant.cli import run

# jaxlib 0.10.2 gives wrong results for some numbers of rows, such as 32,769 and 40,000.
ROWS = pytest.mark.parametrize("rows", [32_769, 40_000, 100_000])


def mlp(params, x):
    return jax.nn.relu(x @ params["a"]) @ params["b"]


@pytest.fixture
def faulty(monkeypatch):
    """Makes the installed jaxlib report the version 0.10.2."""
    monkeypatch.setattr(hints, "version", lambda package: "0.10.2")
    hints.warn_once.cache_clear()
    yield
    hints.warn_once.cache_clear()


@ROWS
def test_a_small_product_and_a_reduction_are_the_same_under_jit_on_many_rows(rows):
    def squares(points):
        return jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))(points)

    column = jnp.arange(rows, dtype=jnp.float32)
    points = jnp.stack((column, 0 * column, 0 * column), 1)
    np.testing.assert_array_equal(jax.jit(squares)(points), squares(points))


@ROWS
def test_scores_are_the_same_under_jit_on_many_rows(rows):
    params = {"a": jnp.eye(3), "b": jnp.ones((3, 1))}
    # The values are small integers, so that their sums are exact in any order.
    x = (jnp.arange(3 * rows) % 8).astype(jnp.float32).reshape(rows, 3)
    wiring = dormant.trace(mlp, params, x[:2])
    plain = wiring.scores(params, x)["a"]
    np.testing.assert_array_equal(jax.jit(wiring.scores)(params, x)["a"], plain)
    np.testing.assert_allclose(plain, np.asarray(x).mean(0) / np.asarray(x).mean(), rtol=1e-6)


def test_the_first_trace_warns_of_a_faulty_jaxlib_in_one_line_and_the_second_does_not(faulty):
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 1))}
    with pytest.warns(UserWarning, match=r"^jaxlib 0\.10\.2: .*wrong values.*pip install jax==") as caught:
        dormant.trace(mlp, params, jnp.ones((2, 3)))
        dormant.trace(mlp, params, jnp.ones((2, 3)))
    assert len(caught) == 1 and "\n" not in str(caught[0].message)


def test_the_doctor_names_the_fault_of_a_faulty_jaxlib(monkeypatch, capsys):
    monkeypatch.setattr("dormant.cli.version", lambda package: "0.10.2")
    run(["doctor"])
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("jaxlib 0.10.2: on CPUs it")]


def test_the_installed_jaxlib_has_no_known_fault():
    assert hints.fault_of(version("jaxlib")) is None


def test_a_missing_module_is_found_in_its_extra():
    for module, extra in {"tyro": "cli", "orbax": "cli", "polars": "lab", "tensorboardX": "tensorboard"}.items():
        assert hints.extra_of(module) == extra
    assert hints.extra_of("jax") is None and hints.extra_of("nothing") is None
    assert "pgx" in hints.extras()["minatar"] and "jax" in hints.extras()[""]
    assert "dev" not in hints.extras()


def test_without_an_installation_there_are_no_extras(monkeypatch):
    def missing(package):
        raise hints.PackageNotFoundError(package)

    monkeypatch.setattr(hints, "requires", missing)
    assert hints.extras() == {} and hints.extra_of("tyro") is None
