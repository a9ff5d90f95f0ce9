"""Contract of all interventions: they keep the learner's tree, compile once, and are deterministic per key."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from property.architectures import OPTIMIZERS, Architecture, examples, network_of, train

from dormant import Network, interventions, trace
from dormant.interventions import (
    FIRE,
    SNR,
    SWR,
    Chain,
    ClipWeights,
    ContinualBackprop,
    Dormant,
    DrM,
    Every,
    Gap,
    HareTortoise,
    Intervention,
    NaP,
    PlasticityInjection,
    PooledShare,
    Prune,
    Recycle,
    ReDo,
    Renewal,
    Reset,
    ResetOptimizer,
    Share,
    ShrinkPerturb,
    SoftShrinkPerturb,
    WarmUp,
    WhenDormant,
    redo_as_published,
)
from dormant.interventions.recycle import ReDoAsPublished
from dormant.rl.networks import MLP, Injectable

NET = Architecture(hidden=(5, 4), side=True)
INJECTABLE = Injectable(MLP((5, 4)), shared=("dense_0",))
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
    ReDo(0.5, incoming="scaled"),
    Recycle("gradient", Dormant(0.5)),
    Recycle("utility", Share(0.5, recyclings=4), at_most=1),
    Recycle("contribution", PooledShare(0.3), "highest", renewal=Renewal(outgoing="fresh", moments="keep")),
    Recycle(number=Gap(2.0), order="random"),
    ContinualBackprop(0.3, maturity=0, utility="overall"),
    HareTortoise(0.5, period=2, moments="fresh"),
    ClipWeights(1.0),
    ResetOptimizer(),
    Every(2, WhenDormant(0.1, Reset())),
    PlasticityInjection(at=2),
    ClipWeights(1.0, bound="fan_in"),
    SWR(factor=0.5),
    SWR("magnitude", "proportional", 0.3, moments="fresh"),
    SNR(quantile=0.5, period=2, least=1, most=4),
    SoftShrinkPerturb(0.1, period=2),
    DrM(tau=0.5),
    DrM(convolutions="perturb", moments="keep", step_count="keep"),
    FIRE(),
    FIRE(iterations=3, heads="fresh", moments="fresh"),
    NaP(everywhere=True),
    WarmUp(Every(2, ReDo(0.5)), steps=3),
]
every_intervention = pytest.mark.parametrize("intervention", INTERVENTIONS, ids=repr)
KEYS = jax.random.split(jax.random.key(5), 3)


def start(intervention, optimizer="adam", seed=0):
    """Returns a network, a learner with a silent neuron, and inputs that suit the intervention."""
    injectable = isinstance(intervention, PlasticityInjection)
    network, inputs = traced(injectable)
    network = network._replace(tx=OPTIMIZERS[optimizer])
    return network, learner_of(injectable, optimizer, seed), inputs


@cache
def traced(injectable):
    if not injectable:
        return network_of(NET), examples()
    init, inputs = (lambda key: INJECTABLE.init(key, (3,), 2)), examples()[1:]
    return Network(trace(INJECTABLE.apply, init(KEYS[0]), *inputs), init, OPTIMIZERS["adam"]), inputs


@cache
def learner_of(injectable, optimizer, seed):
    network = traced(injectable)[0]._replace(tx=OPTIMIZERS[optimizer])
    params = jax.jit(network.init)(jax.random.key(seed))
    if not injectable:
        params["dense0"]["kernel"] = params["dense0"]["kernel"].at[:, 1].set(0.0)
        params["dense0"]["bias"] = params["dense0"]["bias"].at[1].set(-1.0)
    return train(network, params)


@cache
def compiled(intervention):
    """Returns the compiled update and a list. Each trace of the update adds an entry to the list."""
    network, _, inputs = start(intervention)
    traces = []

    @jax.jit
    def update(key, learner, state):
        traces.append(1)
        return intervention.update(key, learner, state, network, *inputs)

    return update, traces


def described(tree):
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@every_intervention
def test_tree_compilations_and_determinism(intervention):
    network, learner, _ = start(intervention)
    update, traces = compiled(intervention)
    state = intervention.init(learner, network)
    first = update(KEYS[0], learner, state)
    assert described(first) == described((learner, state))
    assert_equal(first, update(KEYS[0], learner, state))
    for key in jax.random.split(KEYS[1], 4):
        learner, state = update(key, learner, state)
    assert len(traces) == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((learner, state)) if leaf.dtype != bool)


# The others keep the optimizer's state, or contain one of these.
STATEFUL = [each for each in INTERVENTIONS if not isinstance(each, Chain | Every | Prune | WhenDormant | ShrinkPerturb)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("intervention", STATEFUL, ids=repr)
def test_every_optimizer(intervention, optimizer):
    network, learner, inputs = start(intervention, optimizer)
    by_gradient = intervention in (Recycle("gradient", Dormant(0.5)), SWR(factor=0.5))
    if by_gradient and optimizer in ("rmsprop", "adagrad", "schedule_free"):
        with pytest.raises(ValueError, match="does not average the gradient of every parameter"):
            intervention.init(learner, network)
        return
    state = jax.eval_shape(lambda learner: intervention.init(learner, network), learner)
    update = lambda key, learner, state: intervention.update(key, learner, state, network, *inputs)  # noqa: E731
    assert described(jax.eval_shape(update, KEYS[0], learner, state)) == described((learner, state))


@every_intervention
def test_seeds_side_by_side_equal_seeds_one_by_one(intervention):
    network = start(intervention)[0]
    learners = [start(intervention, seed=seed)[1] for seed in range(3)]
    states = [intervention.init(learner, network) for learner in learners]
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    update, _ = compiled(intervention)
    together, side_by_side = (stack(learners), stack(states)), jax.jit(jax.vmap(update))
    for _ in range(3):
        together = side_by_side(KEYS, *together)
        pairs = [update(*one) for one in zip(KEYS, learners, states, strict=True)]
        learners, states = map(list, zip(*pairs, strict=True))
    rounded = {FIRE: (1e-4, 1e-6), ContinualBackprop: (1e-6, 0.0)}  # some CPUs round sums and products differently here
    if type(intervention) in rounded:
        rtol, atol = rounded[type(intervention)]
        alone = (stack(learners), stack(states))
        jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=rtol, atol=atol), together, alone)
    else:
        assert_equal(together, (stack(learners), stack(states)))


def test_a_schedule_stays_a_branch_when_seeds_are_mapped():
    every = Every(10, ReDo())
    network, learner, inputs = start(every)
    three = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), (learner, every.init(learner, network)))
    update = jax.vmap(lambda key, learner, state: every.update(key, learner, state, network, *inputs))
    outside = list(primitives(jax.make_jaxpr(update)(KEYS, *three).jaxpr))
    assert outside.count("cond") == 1 and "dot_general" not in outside


def primitives(jaxpr):
    """Yields the names of a jaxpr's primitives. Enters called functions, but not the branches of `cond`."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        called = equation.params.get("jaxpr") if equation.primitive.name != "cond" else None
        if called is not None:
            yield from primitives(getattr(called, "jaxpr", called))


def test_every_intervention_is_in_the_list():
    there = {name for name, one in vars(interventions).items() if isinstance(one, type) and hasattr(one, "update")}
    told = repr(INTERVENTIONS)
    assert {name for name in there if f"{name}(" not in told} == {"Intervention"}


@every_intervention
def test_interventions_are_values(intervention):
    names = vars(interventions) | {"ReDoAsPublished": ReDoAsPublished}
    assert isinstance(intervention, Intervention)
    copy = eval(repr(intervention), names)
    assert copy == intervention and hash(copy) == hash(intervention)
    assert len(set(INTERVENTIONS)) == len(INTERVENTIONS)
