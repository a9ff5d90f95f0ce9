import jax
import jax.numpy as jnp
import numpy as np
import pytest
from property.architectures import OPTIMIZERS, Architecture, examples, network_of, optimizer_step, train

from dormant import Chain, Every, Prune, ReDo, Reset, ShrinkPerturb, recycled_counts
from dormant.interventions.resets import owner
from dormant.settings import one_of

NET = Architecture(hidden=(5, 4))
KEY = jax.random.key(1)


def start(norm=None):
    architecture = Architecture(hidden=(5, 4), norm=norm)
    network = network_of(architecture, OPTIMIZERS["adam"])
    params = architecture.weights(0)
    for name in ("kernel", "bias"):
        params["dense0"][name] = params["dense0"][name].at[..., 1].set(0.0)
    return network, train(network, params)


def update(what, learner, network):
    """Returns the learner and the state after the first update of an intervention. Compiles it as one program."""
    first = jax.jit(lambda learner: what.update(KEY, learner, what.init(learner, network), network, *examples()))
    return first(learner)


def dormant(network, learner):
    return np.asarray(
        jax.jit(lambda params: network.wiring.dormant(params, *examples(), tau=0.0))(learner.params)["dense0"]
    )


@pytest.mark.parametrize(
    ("schedule", "fires"),
    [
        (lambda what: Every(3, what), [3, 6, 9]),
        (lambda what: Every(2, what, start=4, stop=8), [4, 6]),
        (lambda what: Every(1, what, start=5), [5, 6, 7, 8, 9]),
        (lambda what: Every(3, what, start=2), [2, 5, 8]),
        (lambda what: Every(2, Every(2, what)), [4, 8]),
    ],
)
def test_every_fires_when_it_says(schedule, fires):
    network, learner = start()
    what = schedule(ShrinkPerturb(keep=0.5))
    next_step = jax.jit(lambda learner, state: what.update(KEY, learner, state, network, *examples()))
    state, seen = what.init(learner, network), []
    for step in range(1, 10):
        before = np.asarray(learner.params["head"]["kernel"])
        learner, state = next_step(learner, state)
        seen += [step] if (before != np.asarray(learner.params["head"]["kernel"])).any() else []
    assert seen == fires


def test_the_links_of_a_chain_draw_with_keys_of_their_own():
    network, learner = start()
    both = Chain(ShrinkPerturb(keep=0.0), ShrinkPerturb(keep=0.0))
    init = jax.jit(NET.init)
    kernels = [init(key)["head"]["kernel"] for key in (KEY, jax.random.fold_in(KEY, 0), jax.random.fold_in(KEY, 1))]
    after, _ = update(both, learner, network)
    assert [bool((after.params["head"]["kernel"] == kernel).all()) for kernel in kernels] == [False, False, True]


def test_an_unknown_option_is_told_with_those_that_there_are():
    with pytest.raises(ValueError, match="order must be one of 'lowest', 'highest', got 'low'"):
        one_of("order", "low", ("lowest", "highest"))


def test_pruned_neurons_stay_gone_through_training():
    network, learner = start()
    prune = Prune(0.0, period=1)
    dead = dormant(network, learner)
    assert dead.any()

    @jax.jit
    def step(learner, state):
        gradients = jax.grad(lambda params: jnp.square(NET.apply(params, *examples()) - 1).sum())(learner.params)
        gradients = jax.tree.map(lambda leaf: leaf + 0.1, gradients)
        stepped = type(learner)(*optimizer_step(network.tx, gradients, learner.opt_state, learner.params))
        return prune.update(KEY, stepped, state, network, *examples())

    learner, state = update(prune, learner, network)
    for _ in range(50):
        learner, state = step(learner, state)
        assert not np.asarray(learner.params["dense1"]["kernel"])[dead].any()
    assert np.asarray(learner.params["dense1"]["kernel"])[~np.asarray(state.gone["dense0"])].any()


def test_recycled_neurons_are_counted_wherever_the_state_is():
    network, learner = start()
    redo = Chain(Every(1, ReDo(0.0)), ReDo(0.0, layers=("dense0",)))
    dead = dormant(network, learner).sum()
    _, state = update(redo, learner, network)
    assert dead > 0 and int(recycled_counts(state)["dense0"]) >= dead
    assert recycled_counts(Chain().init(learner, network)) == {}


def test_fresh_weights_come_from_the_networks_own_initialiser():
    network, learner = start()
    after, _ = update(ReDo(0.0), learner, network)
    assert (after.params["dense0"]["kernel"][:, 1] == jax.jit(NET.init)(KEY)["dense0"]["kernel"][:, 1]).all()


def test_reset_draws_whole_layers_anew_and_nothing_else():
    network, learner = start()
    after, _ = update(Reset(("dense1",)), learner, network)
    fresh = jax.jit(NET.init)(KEY)
    assert (after.params["dense1"]["kernel"] == fresh["dense1"]["kernel"]).all()
    assert (after.params["head"]["kernel"] == learner.params["head"]["kernel"]).all()
    assert not after.opt_state[0].mu["dense1"]["kernel"].any() and after.opt_state[0].mu["head"]["kernel"].all()


def test_a_layer_that_is_reset_leaves_one_of_a_longer_name_alone():
    assert owner("params/dense/kernel", ("dense",)) == {"dense"}
    assert owner("params/dense1/kernel", ("dense",)) == owner("dense1/kernel", ("dense",)) == set()


def test_coupled_layers_can_be_skipped():
    network, learner = start(norm="layer")
    assert [layer.name for layer in ReDo(coupled="skip").targets(learner, network)] == []
    assert [layer.name for layer in ReDo().targets(learner, network)] == ["dense0", "dense1"]


def test_layers_that_do_not_exist_are_refused_at_init():
    network, learner = start()
    with pytest.raises(ValueError, match="no layer is called 'conv'"):
        ReDo(layers=("conv",)).init(learner, network)
    with pytest.raises(ValueError, match=r"no parameters belong to layers \['conv'\]"):
        Reset(("conv",)).init(learner, network)
