"""What every intervention owes: the tree it was given, one compilation, the same result for the same key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from property.architectures import OPTIMIZERS, Architecture, examples, network_of, train

from dormant import Chain, Every, Intervention, Prune, ReDo, Reset, ShrinkPerturb, redo_as_published
from dormant.interventions.published import ReDoAsPublished

NET = Architecture(hidden=(5, 4), side=True)
INTERVENTIONS = [
    ReDo(),
    ReDo(0.5, outgoing="fresh", moments="keep", step_count="restart"),
    ReDo(0.5, layers=("dense0",), coupled="skip"),
    ReDo(step_count="restart", layers=()),
    redo_as_published(0.5),
    Reset(),
    Reset(("dense1", "head"), step_count="restart"),
    Prune(0.5, period=2),
    ShrinkPerturb(0.8),
    ShrinkPerturb(0.0, moments="fresh"),
    Every(3, ReDo(0.5), start=2, stop=9),
    Chain(Every(2, ReDo(0.5)), Every(3, Reset(("head",)))),
    Chain(),
]
every_intervention = pytest.mark.parametrize("intervention", INTERVENTIONS, ids=repr)
KEYS = jax.random.split(jax.random.key(5), 3)


def start(tx, key=0):
    network = network_of(NET, tx)
    params = NET.weights(key)
    params["dense0"]["kernel"] = params["dense0"]["kernel"].at[:, 1].set(0.0)
    params["dense0"]["bias"] = params["dense0"]["bias"].at[1].set(-1.0)
    return network, train(network, params)


def described(tree):
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@every_intervention
def test_tree_compilations_and_determinism(intervention):
    network, learner = start(OPTIMIZERS["adam"])
    traces = []

    @jax.jit
    def update(key, learner, state):
        traces.append(1)
        return intervention.update(key, learner, state, network, *examples())

    state = intervention.init(learner, network)
    first = update(KEYS[0], learner, state)
    assert described(first) == described((learner, state))
    assert_equal(first, update(KEYS[0], learner, state))
    for key in jax.random.split(KEYS[1], 4):
        learner, state = update(key, learner, state)
    assert len(traces) == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((learner, state)))


@pytest.mark.parametrize("tx", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer(tx):
    network, learner = start(tx)
    for intervention in (ReDo(0.5, step_count="restart"), redo_as_published(0.5), Reset(step_count="restart")):
        state = intervention.init(learner, network)
        after = intervention.update(KEYS[0], learner, state, network, *examples())
        assert described(after) == described((learner, state))


@every_intervention
def test_seeds_side_by_side_equal_seeds_one_by_one(intervention):
    learners = [start(OPTIMIZERS["adam"], seed)[1] for seed in range(3)]
    network = network_of(NET)
    states = [intervention.init(learner, network) for learner in learners]
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    update = jax.jit(lambda key, learner, state: intervention.update(key, learner, state, network, *examples()))
    together = stack(learners), stack(states)
    for _ in range(3):
        together = jax.vmap(update)(KEYS, *together)
        pairs = [update(*one) for one in zip(KEYS, learners, states, strict=True)]
        learners, states = map(list, zip(*pairs, strict=True))
    assert_equal(together, (stack(learners), stack(states)))


def test_a_schedule_stays_a_branch_when_seeds_are_mapped():
    network, learner = start(OPTIMIZERS["adam"])
    every = Every(10, ReDo())
    three = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), (learner, every.init(learner, network)))
    update = jax.vmap(lambda key, learner, state: every.update(key, learner, state, network, *examples()))
    outside = list(primitives(jax.make_jaxpr(update)(KEYS, *three).jaxpr))
    assert outside.count("cond") == 1 and "dot_general" not in outside


def primitives(jaxpr):
    """Names of the primitives of a function and of the functions it calls, but not of a branch's."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        called = equation.params.get("jaxpr") if equation.primitive.name != "cond" else None
        if called is not None:
            yield from primitives(getattr(called, "jaxpr", called))


@every_intervention
def test_interventions_are_values(intervention):
    names = {kind.__name__: kind for kind in (Chain, Every, Prune, ReDo, ReDoAsPublished, Reset, ShrinkPerturb)}
    assert isinstance(intervention, Intervention)
    copy = eval(repr(intervention), names)
    assert copy == intervention and hash(copy) == hash(intervention)
    assert len(set(INTERVENTIONS)) == len(INTERVENTIONS)
