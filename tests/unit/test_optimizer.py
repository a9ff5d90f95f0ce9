"""`with_intervention`: its optimizer does what the intervention does. Errors tell the user what to write."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import dormant
from dormant import Every, Learner, Network, ReDo, with_intervention

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)


class MLP(nn.Module):
    """A Flax network with two hidden layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(5)(x))
        x = nn.relu(nn.Dense(6)(x))
        return nn.Dense(2)(x)


MODEL = MLP()
PARAMS = MODEL.init(jax.random.key(0), X)
SILENT = jax.tree.map(lambda leaf: leaf, PARAMS)
SILENT["params"]["Dense_0"]["bias"] = jnp.array([-9.0, -9.0, 0.0, 0.0, 0.0])
GRADS = jax.tree.map(jnp.ones_like, PARAMS)


def optimizer(plan=None, tx=None, **settings):
    plan = Every(2, ReDo(tau=0.0)) if plan is None else plan
    return with_intervention(optax.adam(1e-2) if tx is None else tx, plan, MODEL.apply, MODEL.init, X, **settings)


def test_one_event_is_the_plans_own_update():
    tx, inner = optimizer(key=jax.random.key(3)), optax.adam(1e-2)
    state = tx.init(SILENT)
    network = Network(dormant.trace(MODEL.apply, PARAMS, X), lambda key: MODEL.init(key, jnp.zeros_like(X)), inner)
    learner, plan = Learner(SILENT, inner.init(SILENT)), Every(2, ReDo(tau=0.0))
    plan_state, params = plan.init(learner, network), SILENT
    own = tx.unpacked(SILENT, state).key
    keys = [jax.random.wrap_key_data(own.at[-1].add(jnp.uint32(step))) for step in range(4)]
    intervene = jax.jit(tx.intervene)
    update = jax.jit(lambda key, learner, state: plan.update(key, learner, state, network, X))
    for step in range(4):
        with jax.numpy_dtype_promotion("standard"):  # Adam needs non-strict promotion
            updates, state = tx.update(GRADS, state, params)
            changes, opt_state = inner.update(GRADS, learner.opt_state, learner.params)
        params, state = intervene((optax.apply_updates(params, updates), state), X)
        learner = Learner(optax.apply_updates(learner.params, changes), opt_state)
        learner, plan_state = update(keys[step], learner, plan_state)
    jax.tree.map(np.testing.assert_array_equal, (params, state.inner), (learner.params, learner.opt_state))
    assert int(tx.measure((params, state), X)["recycled/Dense_0"]) == 2


@pytest.mark.parametrize("whole", [True, False])
def test_a_train_state_may_hold_all_variables_or_their_params(whole):
    params, apply = (SILENT, MODEL.apply) if whole else (SILENT["params"], lambda p, x: MODEL.apply({"params": p}, x))
    tx = optimizer(Every(1, ReDo(tau=0.0)))
    state = TrainState.create(apply_fn=apply, params=params, tx=tx)
    after = jax.jit(tx.intervene)(state, X)
    assert isinstance(after, TrainState)
    np.testing.assert_array_equal(apply(state.params, X), apply(after.params, X))
    kernel = (after.params["params"] if whole else after.params)["Dense_0"]["kernel"]
    assert (kernel != PARAMS["params"]["Dense_0"]["kernel"]).any(0).tolist() == [True, True, False, False, False]


class Agent(NamedTuple):
    """A train state that a user might define."""

    params: object
    opt_state: object
    frames: int


def test_a_users_own_state_comes_back_as_it_was():
    tx = optimizer()
    agent = tx.intervene(Agent(PARAMS, tx.init(PARAMS), 7), X)
    assert isinstance(agent, Agent) and agent.frames == 7 and int(agent.opt_state.gradient_steps) == 1


class Net(nnx.Module):
    """An NNX network with one hidden layer."""

    def __init__(self, rngs):
        self.hidden, self.head = nnx.Linear(3, 5, rngs=rngs), nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.hidden(x)))


def test_a_model_of_nnx_and_its_optimizer_change_in_place():
    model = Net(nnx.Rngs(0))
    model.hidden.bias[...] = jnp.array([-9.0, 0.0, 0.0, 0.0, -9.0])
    tx = with_intervention(optax.adam(1e-2), Every(1, ReDo(tau=0.0)), model, Net, X)
    trained = model, nnx.Optimizer(model, tx, wrt=nnx.Param)
    before, kernel = model(X), model.hidden.kernel[...]
    assert tx.intervene(trained, X) is trained
    assert (model.hidden.kernel[...] != kernel).any(0).tolist() == [True, False, False, False, True]
    np.testing.assert_array_equal(model(X), before)
    assert int(tx.measure(trained, X)["recycled/hidden"]) == 2


def test_a_model_of_equinox_keeps_what_is_no_parameter():
    def make(key):
        return eqx.nn.MLP(3, 2, 5, 1, key=key)

    model = eqx.tree_at(lambda m: m.layers[0].bias, make(jax.random.key(0)), jnp.array([-9.0, 0.0, 0.0, 0.0, 0.0]))
    tx = with_intervention(optax.adam(1e-2), Every(1, ReDo(tau=0.0)), model, make, X)
    after, _ = tx.intervene((model, tx.init(eqx.filter(model, eqx.is_inexact_array))), X)
    assert after.activation is model.activation
    np.testing.assert_array_equal(jax.vmap(after)(X), jax.vmap(model)(X))
    assert (after.layers[0].weight != model.layers[0].weight).any(1).tolist() == [True] + 4 * [False]


def test_seeds_side_by_side_draw_different_weights():
    tx = optimizer(Every(1, ReDo(tau=0.0)))
    seeds = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf * 1.5]), SILENT)
    states = jax.vmap(tx.init)(seeds)
    after, _ = jax.jit(jax.vmap(tx.intervene, in_axes=(0, None)))((seeds, states), X)
    one, other = after["params"]["Dense_0"]["kernel"][:, :, :2]
    assert (one != other).all()


def test_what_needs_every_step_acts_at_every_step():
    tx = optimizer(dormant.ClipWeights(0.5), tx=optax.sgd(0.1))
    params, _ = tx.intervene((jax.tree.map(lambda leaf: leaf + 9.0, PARAMS), tx.init(PARAMS)), X)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(params["params"])) < 9.0


MISTAKES = {
    "no inputs": (lambda: with_intervention(optax.sgd(0.1), ReDo(), MODEL.apply, MODEL.init), "no example input"),
    "the plan first": (
        lambda: with_intervention(Every(2, ReDo()), optax.sgd(0.1), MODEL.apply, MODEL.init, X),
        "the optimizer comes first",
    ),
    "a class": (lambda: optimizer(ReDo), "write ReDo"),
    "an intervention twice": (lambda: optimizer(tx=optimizer()), "one Chain"),
    "parameters in place of init": (
        lambda: with_intervention(optax.sgd(0.1), ReDo(), MODEL.apply, PARAMS, X),
        "init must be a function",
    ),
    "a model in place of apply": (
        lambda: with_intervention(optax.sgd(0.1), ReDo(), PARAMS, MODEL.init, X),
        "apply must be a function",
    ),
    "a Linen module in place of its method": (
        lambda: with_intervention(optax.sgd(0.1), ReDo(), MODEL, MODEL.init, X),
        "pass its method `apply`",
    ),
    "the batch forgotten": (
        lambda: optimizer().intervene((PARAMS, optimizer().init(PARAMS))),
        "the batch on which neurons are scored",
    ),
    "a single sample": (
        lambda: optimizer().intervene((PARAMS, optimizer().init(PARAMS)), X[0]),
        r"expected an array of shape \(batch, ",
    ),
    "another optimizer's state": (
        lambda: optimizer().intervene((PARAMS, optax.sgd(0.1).init(PARAMS)), X),
        "made by another optimizer",
    ),
    "a TrainState of another optimizer": (
        lambda: optimizer().intervene(TrainState.create(apply_fn=None, params=PARAMS, tx=optax.sgd(0.1)), X),
        "TrainState.create",
    ),
    "the parameters alone": (lambda: optimizer().intervene(PARAMS, X), "expected the training state"),
    "other parameters": (lambda: optimizer().init(PARAMS["params"]["Dense_0"]), "parameters with the structure"),
    "the wiring too early": (lambda: optimizer().wiring, "call `init` with the parameters first"),
}


def tell():
    """Prints the errors of all mistakes as a JSON object."""
    told = {}
    for name, (make, _) in MISTAKES.items():
        try:
            make()
        except (TypeError, ValueError) as error:
            told[name] = str(error)
    print(json.dumps(told))


@pytest.fixture(scope="module")
def told():
    """Returns the errors that users see. Uses a new process, because the test suite's type checks would raise first."""
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_optimizer; test_optimizer.tell()"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return json.loads(ran.stdout)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_the_users_words(name, told):
    assert re.search(MISTAKES[name][1], told[name]), told[name]
