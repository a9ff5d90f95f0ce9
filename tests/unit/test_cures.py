"""The effect of each intervention, compared with numbers computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from dormant import Learner, Network, trace
from dormant.interventions import (
    ClipWeights,
    ContinualBackprop,
    Dormant,
    Every,
    Gap,
    HareTortoise,
    PlasticityInjection,
    PooledShare,
    Recycle,
    ReDo,
    ResetOptimizer,
    Share,
    ShrinkPerturb,
    WarmUp,
    WhenDormant,
    recycled_counts,
)
from dormant.interventions.recycle import Usefulness
from dormant.interventions.schedule import may_change
from dormant.metrics import contributions, gradient_scores, utilities
from dormant.rl.networks import MLP, Injectable
from dormant.surgery import first_moments

KEY = jax.random.key(1)
TX = optax.adam(0.1)
X = jnp.array([[1.0], [3.0]])
PARAMS = {"hidden": {"w": jnp.array([[1.0, 2.0, 0.5]])}, "head": {"w": jnp.array([[1.0], [-2.0], [4.0]])}}


def apply(params, x):
    return jax.nn.relu(x @ params["hidden"]["w"]) @ params["head"]["w"]


def init(key):
    del key
    return {"hidden": {"w": jnp.full((1, 3), 7.0)}, "head": {"w": jnp.full((3, 1), 9.0)}}


NETWORK = Network(trace(apply, PARAMS, X), init, TX)
LEARNER = Learner(PARAMS, TX.init(PARAMS))


def with_moments(*mu):
    """Returns the learner with `mu` as the hidden layer's first moments. All other moments are 5."""
    adam = LEARNER.opt_state[0]
    fives = jax.tree.map(lambda leaf: jnp.full_like(leaf, 5.0), adam.mu)
    return Learner(
        PARAMS, (adam._replace(mu=fives | {"hidden": {"w": jnp.array([mu])}}, nu=fives), *LEARNER.opt_state[1:])
    )


def after(intervention, learner=LEARNER, state=None):
    state = intervention.init(learner, NETWORK) if state is None else state
    return jax.jit(lambda learner, state: intervention.update(KEY, learner, state, NETWORK, X))(learner, state)


def hidden(learner):
    return learner.params["hidden"]["w"][0].tolist()


def head(learner):
    return learner.params["head"]["w"][:, 0].tolist()


def test_mean_activation_times_outgoing_weights_is_what_a_neuron_contributes():
    # On the two samples, neuron 0 has the activations 1 and 3, neuron 1 has 2 and 6, and neuron 2 has 0.5 and 1.5.
    assert contributions(NETWORK.wiring, PARAMS, X)["hidden"].tolist() == [2 * 1, 4 * 2, 1 * 4]
    # Mean distances of the activations from their mean are 1, 2 and 0.5. Utility divides by the incoming weights.
    assert utilities(NETWORK.wiring, PARAMS, X)["hidden"].tolist() == [1 * 1 / 1, 2 * 2 / 2, 0.5 * 4 / 0.5]


def test_recycling_by_gradient_takes_the_neuron_that_learns_nothing():
    # Neuron 1 is the most active neuron, but its gradients cancel, so the scores are 1.5, 0 and 1.5.
    learner, state = after(Recycle("gradient", Dormant(0.1)), with_moments(1.0, 0.0, -1.0))
    assert hidden(learner) == [1, 7, 0.5] and head(learner) == [1, 0, 4]
    assert first_moments(learner)["head"]["w"][:, 0].tolist() == [5, 0, 5]
    assert int(recycled_counts(state)["hidden"]) == 1
    assert gradient_scores(NETWORK.wiring, {"hidden": {"w": jnp.zeros((1, 3))}, "head": {"w": jnp.ones((3, 1))}})[
        "hidden"
    ].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("recycle", "weights"),
    [
        # Activation scores are 2, 4 and 1, divided by their mean 7/3.
        (Recycle(number=Dormant(0.5)), [1, 2, 7]),
        (Recycle(number=Dormant(0.5), order="highest"), [1, 7, 0.5]),
        (Recycle("contribution", Dormant(0.5)), [7, 2, 0.5]),
        (Recycle("utility", Share(0.5)), [7, 7, 0.5]),
        (Recycle("utility", Share(0.5), at_most=1), [7, 2, 0.5]),
        (Recycle(number=Share(1.0, recyclings=3)), [7, 7, 7]),  # cos(pi/6) * 3 neurons = 2.6
        (Recycle(number=Share(1.0, recyclings=1)), [1, 2, 0.5]),
        (Recycle(number=PooledShare(0.34, highest=0.5)), [1, 2, 7]),
        (Recycle(number=PooledShare(0.34, highest=0.4)), [1, 2, 0.5]),
        (Recycle(number=Gap(1.9, highest=0.9)), [1, 2, 7]),  # the second score (6/7) is twice the first (3/7)
        (Recycle(number=Gap(1.9, highest=0.5)), [1, 2, 7]),  # only the smaller score needs score <= highest
        (Recycle(number=Gap(2.1, highest=0.9)), [1, 2, 0.5]),
    ],
    ids=repr,
)
def test_which_neurons_are_recycled(recycle, weights):
    assert hidden(after(recycle)[0]) == weights


def test_a_share_that_falls_counts_the_recyclings():
    recycle, state = Recycle(number=Share(1.0, recyclings=2)), None
    for number in (2, 0):  # cos(pi/4) * 3 neurons = 2.1, then 0 at the end of the schedule
        learner, state = after(recycle, state=state)
        assert sum(weight == 7 for weight in hidden(learner)) == number


def test_outgoing_weights_are_zero_or_drawn():
    for outgoing, weight in (("zero", 0), ("fresh", 9)):
        assert head(after(ReDo(0.5, outgoing=outgoing))[0]) == [1, -2, weight]


def test_random_neurons_are_as_many_and_not_always_the_same():
    recycle = Recycle(number=Dormant(0.5), order="random")
    state = recycle.init(LEARNER, NETWORK)
    update = jax.jit(jax.vmap(lambda key: recycle.update(key, LEARNER, state, NETWORK, X)))
    learners, states = update(jax.random.split(KEY, 30))
    taken = np.asarray(learners.params["hidden"]["w"][:, 0] == 7.0)
    assert (taken.sum(axis=1) == 1).all() and (states.recycled.counts["hidden"] == 1).all()
    assert (taken.sum(axis=0) >= 3).all()


def test_recycling_the_dormant_is_redo():
    scored = after(Recycle(number=Dormant(0.5)))[0]
    redone = ReDo(0.5).update(jax.random.split(KEY)[1], LEARNER, ReDo().init(LEARNER, NETWORK), NETWORK, X)[0]
    jax.tree.map(np.testing.assert_array_equal, scored, redone)


def test_scaled_incoming_vectors_are_as_long_as_the_others_on_average():
    kernel, head = jnp.array([[3.0, 0.0, 0.0], [0.0, 0.0, 5.0]]), {"w": jnp.ones((3, 1))}
    wide = {"hidden": {"w": kernel, "b": jnp.zeros(3)}, "head": head}
    x = jnp.ones((2, 2))
    drawn = {"hidden": {"w": jnp.array([[6.0] * 3, [8.0] * 3]), "b": jnp.full(3, 6.0)}, "head": head}

    def with_bias(params, x):
        return jax.nn.relu(x @ params["hidden"]["w"] + params["hidden"]["b"][None]) @ params["head"]["w"]

    network = Network(trace(with_bias, wide, x), lambda key: drawn, TX)
    redo = ReDo(0.0, incoming="scaled")
    learner = Learner(wide, TX.init(wide))
    params = jax.jit(lambda learner: redo.update(KEY, learner, redo.init(learner, network), network, x)[0])(
        learner
    ).params
    # Neuron 1 gets (6, 8) of length 10. It is scaled to the mean length of the other neurons, (3 + 5) / 2. Biases are
    # not scaled.
    assert_allclose(params["hidden"]["w"], [[3.0, 2.4, 0.0], [0.0, 3.2, 5.0]], rtol=1e-6)
    assert params["hidden"]["b"].tolist() == [0, 6, 0]


def test_continual_backprop_ranks_by_utility_that_is_corrected_for_its_start():
    cbp = ContinualBackprop(replacement_rate=0.5, maturity=1, decay=0.5)
    layer = Usefulness(jnp.zeros(3), jnp.zeros(3, jnp.int32), jnp.zeros(()))
    layer, mask = cbp.choose(layer, jnp.array([4.0, 2.0, 8.0]))
    assert layer.utility.tolist() == [2, 1, 4] and not mask.any()  # no neuron is older than one update
    layer, mask = cbp.choose(layer, jnp.array([4.0, 10.0, 8.0]))
    # The utilities are 3, 5.5 and 6. 0.5 * 3 = 1.5 neurons are due: one is replaced now, and 0.5 remains.
    assert mask.tolist() == [True, False, False] and float(layer.owed) == 0.5
    assert layer.utility.tolist() == [0, 5.5, 6] and layer.age.tolist() == [0, 2, 2]
    # The utilities are now 3, 3.25 and 3.5. Divided by 1 - 0.5^age, they are 6, 3.7 and 4.
    _, mask = ContinualBackprop(replacement_rate=0.4, maturity=0, decay=0.5).choose(
        layer._replace(owed=jnp.zeros(())), jnp.array([6.0, 1.0, 1.0])
    )
    assert mask.tolist() == [False, True, False]


def test_continual_backprop_renews_what_it_chose():
    cbp = ContinualBackprop(replacement_rate=0.4, maturity=0)
    learner, state = after(cbp)
    assert hidden(learner) == [7, 2, 0.5] and head(learner) == [0, -2, 4]
    assert int(recycled_counts(state)["hidden"]) == 1 and state.layers["hidden"].age.tolist() == [0, 1, 1]
    unchanged, _ = after(ContinualBackprop(replacement_rate=0.1, maturity=0))
    assert hidden(unchanged) == [1, 2, 0.5]


def test_the_hare_goes_back_to_the_tortoise():
    race, state = HareTortoise(momentum=0.5, period=2), None
    learner = Learner(jax.tree.map(jnp.zeros_like, PARAMS), LEARNER.opt_state)
    state = race.init(learner, NETWORK)
    for hare, place, tortoise in ((4.0, 4.0, 2.0), (8.0, 5.0, 5.0)):
        run = Learner(jax.tree.map(lambda leaf, to=hare: jnp.full_like(leaf, to), PARAMS), learner.opt_state)
        learner, state = after(race, run, state)
        assert hidden(learner) == [place] * 3 and state.params["head"]["w"][0, 0] == tortoise


def test_the_tortoise_keeps_most_of_its_own_weight():
    race = HareTortoise(momentum=0.75, period=9)
    still = Learner(jax.tree.map(jnp.zeros_like, PARAMS), LEARNER.opt_state)
    fours = Learner(jax.tree.map(lambda leaf: jnp.full_like(leaf, 4.0), PARAMS), LEARNER.opt_state)
    _, state = after(race, fours, race.init(still, NETWORK))
    assert state.params["head"]["w"][0, 0] == 1.0


def test_weights_are_clipped_to_where_their_layer_began():
    params = {"dense": {"kernel": jnp.array([[0.5, -0.2]]), "bias": jnp.zeros(2), "scale": jnp.ones(2)}}
    clip = ClipWeights(2.0)
    state = clip.init(Learner(params, TX.init(params)), NETWORK)
    grown = {"dense": {"kernel": jnp.array([[3.0, -0.9]]), "bias": jnp.array([-2.0, 0.3]), "scale": jnp.full(2, 9.0)}}
    moments = jax.tree.map(jnp.ones_like, TX.init(grown))
    learner, _ = clip.update(KEY, Learner(grown, moments), state, NETWORK)
    assert {name: leaf.ravel().tolist() for name, leaf in learner.params["dense"].items()} == {
        "kernel": [1.0, pytest.approx(-0.9)],
        "bias": [-1.0, pytest.approx(0.3)],
        "scale": [9.0, 9.0],
    }
    jax.tree.map(np.testing.assert_array_equal, learner.opt_state, moments)


def test_the_widest_kernel_of_a_layer_bounds_it_and_a_normalisation_is_free():
    params = {
        "gru": {"input": jnp.array([[0.1]]), "state": jnp.array([[0.5]]), "bias": jnp.zeros(1), "offset": jnp.zeros(1)}
    }
    clip = ClipWeights(2.0)
    state = clip.init(Learner(params, TX.init(params)), NETWORK)
    grown = jax.tree.map(lambda leaf: jnp.full_like(leaf, 9.0), params)
    clipped = clip.update(KEY, Learner(grown, TX.init(grown)), state, NETWORK)[0].params["gru"]
    assert {name: leaf.item() for name, leaf in clipped.items()} == {"input": 1, "state": 1, "bias": 1, "offset": 9}


def test_an_optimizer_that_is_reset_knows_nothing_of_the_weights_it_keeps():
    trained = with_moments(1.0, 2.0, 3.0)
    trained = trained._replace(opt_state=(trained.opt_state[0]._replace(count=jnp.array(9)), *trained.opt_state[1:]))
    for reset, count, moment in (
        (ResetOptimizer(), 0, 0),
        (ResetOptimizer("keep"), 0, 5),
        (ResetOptimizer(step_count="keep"), 9, 0),
    ):
        learner, _ = after(reset, trained)
        assert hidden(learner) == [1, 2, 0.5]
        adam = learner.opt_state[0]
        assert (int(adam.count), float(adam.nu["head"]["w"][0, 0])) == (count, moment)


def test_it_acts_only_while_enough_neurons_are_dormant():
    # At tau 0.5 one neuron of three is dormant.
    for share, expected in ((0.3, [7, 7, 7]), (0.4, [1, 2, 0.5])):
        assert hidden(after(WhenDormant(share, ShrinkPerturb(0.0), tau=0.5))[0]) == expected


def test_a_changed_weight_takes_short_steps_at_first():
    warm = WarmUp(Every(6, ShrinkPerturb(0.0), start=1), steps=4)
    learner, state = LEARNER, warm.init(LEARNER, NETWORK)
    learner, state = warm.update(KEY, learner, state, NETWORK, X)  # draws every weight anew
    moved = []
    for _ in range(6):
        before = hidden(learner)
        learner = learner._replace(params=jax.tree.map(lambda leaf: leaf + 4.0, learner.params))  # a gradient step
        learner, state = warm.update(KEY, learner, state, NETWORK, X)
        moved.append([now - then for now, then in zip(hidden(learner), before, strict=True)])
    assert moved[:5] == [[1.0] * 3, [2.0] * 3, [3.0] * 3, [4.0] * 3, [4.0] * 3]
    assert hidden(learner) == [7, 7, 7]  # drawn anew at gradient step 7


def test_weights_that_were_not_changed_take_whole_steps():
    warm = WarmUp(Every(1, ReDo(0.5)), steps=4)  # at tau 0.5 one neuron of three is dormant
    learner, state = warm.update(KEY, LEARNER, warm.init(LEARNER, NETWORK), NETWORK, X)
    assert {age for leaf in jax.tree.leaves(state.ages) for age in leaf.ravel().tolist()} == {0, 4}
    recycled, _ = ReDo(0.5).update(KEY, LEARNER, ReDo(0.5).init(LEARNER, NETWORK), NETWORK, X)
    for one, other in zip(jax.tree.leaves(learner.params), jax.tree.leaves(recycled.params), strict=True):
        assert (one == other).all()
    assert not may_change(WarmUp(Every(2, ReDo())), 3) and may_change(WarmUp(Every(2, ReDo())), 4)


def test_plasticity_injection_changes_what_learns_and_not_what_is_computed():
    net, injection = Injectable(MLP((4, 3)), shared=("dense_0",)), PlasticityInjection(at=3)
    x, make = jnp.ones((5, 2)), lambda key: net.init(key, (2,), 2)
    params = make(KEY)
    network = Network(trace(net.apply, params, x), make, TX)

    @jax.jit
    def learn(learner, state):
        """Takes a gradient step, then intervenes. Returns both new learners and the intervention's state."""
        gradient = jax.grad(lambda params: jnp.square(net.apply(params, x) - 1.0).sum())(learner.params)
        with jax.numpy_dtype_promotion("standard"):
            change, opt_state = TX.update(gradient, learner.opt_state)
        stepped = Learner(optax.apply_updates(learner.params, change), opt_state)
        return stepped, *injection.update(KEY, stepped, state, network, x)

    def moved(before, now):
        return {name for name in now if (before[name]["kernel"] != now[name]["kernel"]).any()}

    learner = Learner(params, TX.init(params))
    state, heads = injection.init(learner, network), {"dense_1", "head"}
    assert (net.apply(params, x) == MLP((4, 3)).apply({name: params[name] for name in ("dense_0", *heads)}, x)).all()
    for step in range(1, 6):
        before = learner.params
        stepped, learner, state = learn(learner, state)
        assert moved(before, learner.params) == {"dense_0"} | (
            heads if step <= 3 else {f"new_{name}" for name in heads}
        )
        if step == 3:  # the last step that trains the old head
            plain = {name: stepped.params[name] for name in ("dense_0", *heads)}
            assert_allclose(net.apply(learner.params, x), MLP((4, 3)).apply(plain, x), rtol=1e-6)
            assert not learner.opt_state[0].mu["new_head"]["kernel"].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlasticityInjection(at=1).init(LEARNER, NETWORK), "expected, for each layer x of the head, two more"),
        (lambda: Injectable(MLP(), ("conv",)).init(KEY, (2,), 2), r"no layers \['conv'\] to share"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    # Also accepts TypeError, because the test suite's type checks may reject an option before the library checks it.
    with pytest.raises((ValueError, TypeError), match=message):
        make()
