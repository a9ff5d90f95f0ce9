import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dormant import Learner, graft
from dormant.surgery import restart_step_count

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
MASK = {"w": jnp.array([[False, True, False]]), "b": jnp.zeros((), bool)}
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)


def learner(tx, steps=1):
    state = tx.init(PARAMS)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(steps):
            _, state = tx.update(jax.tree.map(jnp.ones_like, PARAMS), state, PARAMS)
    return Learner(PARAMS, state)


def test_masked_weights_come_from_the_donor_and_moments_go():
    tx = optax.chain(optax.add_decayed_weights(1e-4), optax.adam(1e-3))
    after = graft(learner(tx), MASK, ZEROS, tx)
    adam = after.opt_state[1][0]
    assert after.params["w"].tolist() == [[1, 0, 1]] * 2 and after.params["b"].tolist() == [1] * 3
    assert (np.asarray(adam.mu["w"])[:, 1] == 0).all() and (np.asarray(adam.nu["w"])[:, [0, 2]] > 0).all()
    assert (np.asarray(adam.mu["b"]) > 0).all() and int(adam.count) == 1


def test_forget_names_other_entries_than_the_mask():
    tx = optax.adam(1e-3)
    nothing = jax.tree.map(lambda _: jnp.zeros((), bool), PARAMS)
    after = graft(learner(tx), MASK, ZEROS, tx, forget=nothing)
    assert not after.params["w"][:, 1].any() and after.opt_state[0].mu["w"].all()


@pytest.mark.parametrize("tx", [optax.adafactor(1e-3, min_dim_size_to_factor=2), optax.novograd(1e-3)])
def test_state_that_has_no_entry_for_each_weight_is_refused(tx):
    with pytest.raises(ValueError, match="own shape"):
        graft(learner(tx), MASK, ZEROS, tx)


def test_parameters_that_an_optimizer_leaves_out_are_grafted_all_the_same():
    tx = optax.masked(optax.adam(1e-3), {"w": False, "b": True})
    after = graft(learner(tx), MASK, ZEROS, tx)
    assert not after.params["w"][:, 1].any()


def test_restart_touches_the_counts_of_moments_and_no_schedule():
    tx = optax.adam(optax.linear_schedule(1e-3, 0.0, 100))
    before = learner(tx, steps=3)
    after = restart_step_count(before, jnp.array(True)).opt_state
    assert int(after[0].count) == 0 and int(after[1].count) == 3
    kept = restart_step_count(before, jnp.array(False)).opt_state
    assert int(kept[0].count) == 3


def test_restart_leaves_moments_without_a_count_alone():
    before = learner(optax.rmsprop(1e-3))
    after = restart_step_count(before, jnp.array(True))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), before, after))
