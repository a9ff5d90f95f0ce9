"""Ranks and norms, compared with slow reference implementations in NumPy. Also tests undefined cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dormant.metrics import effective_rank, norm, srank, stable_rank, weight_norms

RNG = np.random.default_rng(0)
MATRICES = {
    "tall": RNG.normal(size=(40, 7)),
    "wide": RNG.normal(size=(5, 30)),
    "decaying": RNG.normal(size=(30, 12)) * 0.5 ** np.arange(12),
    "dead columns": np.maximum(RNG.normal(size=(30, 12)), 0) * (np.arange(12) % 3 > 0),
    "rank one": np.outer(RNG.normal(size=20), RNG.normal(size=9)),
    "one row": RNG.normal(size=(1, 6)),
}


def slow_effective_rank(matrix):
    values = np.linalg.svd(matrix, compute_uv=False)
    entropy = 0.0
    for share in values / values.sum():
        entropy -= share * np.log(share) if share > 0 else 0.0
    return np.exp(entropy)


def slow_srank(matrix, delta):
    values = np.linalg.svd(matrix, compute_uv=False)
    k = 1
    while values[:k].sum() < (1 - delta) * values.sum():
        k += 1
    return k


@pytest.fixture(params=MATRICES, scope="module")
def matrix(request):
    return MATRICES[request.param].astype(np.float32)


def test_ranks_match_their_slow_definitions(matrix):
    assert float(effective_rank(matrix)) == pytest.approx(slow_effective_rank(matrix.astype(np.float64)), rel=1e-3)
    for delta in (0.01, 0.2):
        assert int(srank(matrix, delta)) == slow_srank(matrix.astype(np.float64), delta)
    slow = np.linalg.norm(matrix, "fro") ** 2 / np.linalg.norm(matrix, 2) ** 2
    assert float(stable_rank(matrix)) == pytest.approx(slow, rel=1e-4)


def test_ranks_do_not_depend_on_scale_or_order(matrix):
    for rank in (effective_rank, srank, stable_rank):
        expected = float(rank(matrix))
        for other in (matrix * np.float32(1e-30), matrix * np.float32(1e30), matrix[:, ::-1].copy(), matrix.T.copy()):
            assert float(rank(other)) == pytest.approx(expected, rel=1e-3)


def test_orthogonal_columns_have_full_rank():
    for rank in (effective_rank, srank, stable_rank):
        assert float(rank(np.eye(6, 4, dtype=np.float32))) == pytest.approx(4, rel=1e-5)


@pytest.mark.parametrize("rank", [effective_rank, srank, stable_rank])
def test_one_direction_has_rank_one_and_nothing_has_rank_zero(rank):
    assert float(rank(np.ones((4, 3), np.float32))) == pytest.approx(1, abs=1e-3)
    assert float(rank(np.zeros((4, 3), np.float32))) == 0
    assert float(rank(np.zeros((0, 3), np.float32))) == 0


def test_the_three_ranks_differ():
    matrix = np.diag(np.array([10, 1, 1, 1], np.float32))
    assert int(srank(matrix)) == 4
    assert float(stable_rank(matrix)) == pytest.approx(1.03)
    assert 2 < float(effective_rank(matrix)) < 3


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.int32, np.uint8])
def test_other_types_are_measured_in_single_precision(dtype):
    matrix = jnp.asarray([[3, 0], [0, 4]], dtype)
    assert float(stable_rank(matrix)) == pytest.approx(25 / 16)
    assert effective_rank(matrix).dtype == jnp.float32 == norm(matrix).dtype


def test_ranks_compile_and_map():
    stack = np.stack([np.eye(3, dtype=np.float32), np.ones((3, 3), np.float32)])
    assert jax.jit(jax.vmap(effective_rank))(stack).tolist() == pytest.approx([3, 1], abs=1e-3)
    assert jax.jit(jax.vmap(srank))(stack).tolist() == [3, 1]


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, float("nan")])
def test_delta_is_a_share(delta):
    with pytest.raises(ValueError, match="delta must lie between 0 and 1"):
        srank(np.eye(2, dtype=np.float32), delta)


def test_weight_norms_are_named_by_path():
    params = {"dense": {"kernel": np.full((3, 3), 2.0, np.float32), "bias": np.zeros(3, np.float32)}}
    norms = weight_norms(params)
    assert {path: float(value) for path, value in norms.items()} == {"dense/bias": 0.0, "dense/kernel": 6.0}


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_norms_neither_overflow_nor_underflow(scale):
    assert float(norm(np.array([3, -4], np.float32) * np.float32(scale))) == pytest.approx(5 * scale, rel=1e-5)
