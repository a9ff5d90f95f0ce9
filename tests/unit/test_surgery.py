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


# An optimizer with one array per parameter as its state. The array has the rank of the parameter, but only one row.
BY_COLUMN = optax.GradientTransformation(
    lambda params: jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:])), params),
    lambda updates, state, params=None: (updates, state),
)


@pytest.mark.parametrize("tx", [optax.adafactor(1e-3, min_dim_size_to_factor=2), optax.novograd(1e-3), BY_COLUMN])
def test_state_that_has_no_entry_for_each_weight_is_refused(tx):
    with pytest.raises(ValueError, match="the parameter's shape"):
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


def test_the_accumulator_of_a_new_weight_is_adagrads_initial_one():
    tx = optax.adagrad(0.5, initial_accumulator_value=0.1)
    after = graft(learner(tx), MASK, ZEROS, tx).opt_state[0].sum_of_squares
    # The state after one step with a gradient of 1 is 0.1 + 1.
    np.testing.assert_allclose(after["w"], [[1.1, 0.1, 1.1]] * 2, rtol=1e-6)
    np.testing.assert_allclose(after["b"], [1.1] * 3, rtol=1e-6)


def test_the_copy_that_schedule_free_keeps_is_the_new_weight():
    tx = optax.contrib.schedule_free(optax.sgd(0.5), learning_rate=0.5, b1=0.9)
    donor = jax.tree.map(lambda leaf: jnp.full_like(leaf, 7.0), PARAMS)
    before = learner(tx)
    after = graft(before, MASK, donor, tx)
    # After one step with a gradient of 1, the copy z of the weight is 1 - 0.5.
    assert after.opt_state.z["w"].tolist() == [[0.5, 7.0, 0.5]] * 2 and after.opt_state.z["b"].tolist() == [0.5] * 3
    assert float(after.opt_state.weight_sum) == float(before.opt_state.weight_sum) > 0
    averaged = optax.contrib.schedule_free_eval_params(after.opt_state, after.params)
    np.testing.assert_allclose(averaged["w"][:, 1], 7.0, rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "amsgrad", "lion", "nadam", "rmsprop", "radam", "adabelief"])
def test_where_new_state_is_zero_the_bits_are_those_of_zeroing(name):
    tx = getattr(optax, name)(1e-3)
    before = learner(tx, steps=2)
    after = graft(before, MASK, ZEROS, tx)
    zeroed = optax.tree_utils.tree_map_params(
        tx, lambda moment, hit: jnp.where(hit, jnp.zeros_like(moment), moment), before.opt_state, MASK
    )
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, zeroed)


@pytest.mark.parametrize("tx", [optax.sm3(1e-3), optax.lbfgs(1e-3)], ids=["sm3", "lbfgs"])
def test_state_that_is_not_one_array_for_each_parameter_is_refused(tx):
    with pytest.raises(ValueError, match="could not be matched with the parameters"):
        graft(Learner(PARAMS, tx.init(PARAMS)), MASK, ZEROS, tx)


def test_factored_state_of_a_parameter_that_is_replaced_as_a_whole_starts_afresh():
    tx = optax.adafactor(1e-3, min_dim_size_to_factor=2)
    everything = jax.tree.map(lambda _: jnp.ones((), bool), PARAMS)
    after = graft(learner(tx), everything, ZEROS, tx).opt_state[0]
    assert int(after.count) == 1 and not after.v_row["w"].any() and not after.v_col["w"].any()
