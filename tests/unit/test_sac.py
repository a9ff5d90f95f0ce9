"""SAC: separate networks, target critics, weight decay, and errors for invalid settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dormant import Network, ReDo, Reset, recycled_counts, trace
from dormant.regularisers import L2Init
from dormant.rl.agents.sac import CRITICS, NETWORKS, SAC, SACState
from dormant.surgery import Learner

OBSERVATIONS, ACTIONS = 3, 2
AGENT = SAC(hidden=(6, 5))


def seen(states=16):
    draw = np.random.default_rng(0)
    observation, action = (draw.standard_normal((states, size)) for size in (OBSERVATIONS, ACTIONS))
    return jnp.float32(observation), jnp.float32(np.tanh(action))


def network(agent=AGENT):
    def init(key):
        return agent.init_params(key, OBSERVATIONS, ACTIONS)

    return Network(trace(agent.apply, init(jax.random.key(0)), *seen()), init, agent.optimizer())


@pytest.fixture(scope="module")
def state():
    """Returns a state of the agent. All its optimizer moments are 1."""
    state = AGENT.init(jax.random.key(1), OBSERVATIONS, ACTIONS)
    moments = jax.tree.map(lambda leaf: jnp.ones_like(leaf) if leaf.ndim else leaf, state.learner.opt_state)
    return state._replace(learner=Learner(state.learner.params, moments))


def changed(before, after):
    """Returns the names of all networks with changed weights or moments."""

    def differ(one, other):
        return any(map(lambda a, b: bool((a != b).any()), *map(jax.tree.leaves, (one, other))))

    return {
        name
        for name in NETWORKS
        if differ(before.params[name], after.params[name])
        or differ(before.opt_state.inner_states[name], after.opt_state.inner_states[name])
    }


def test_tracing_finds_the_layers_of_each_network_and_no_output_layer():
    wiring = network().wiring
    assert [layer.name for layer in wiring.layers] == [f"{name}/dense_{k}" for name in NETWORKS for k in (0, 1)]
    assert all(layer.recyclable for layer in wiring.layers)
    assert set(wiring.outputs) == {f"{name}/head" for name in NETWORKS}


@pytest.mark.parametrize("what", [ReDo(tau=0.8), Reset()], ids=["redo", "reset"])
@pytest.mark.parametrize("names", [("actor",), ("critic2",), CRITICS, NETWORKS], ids=" ".join)
def test_an_intervention_acts_on_the_networks_it_names_and_on_no_other(state, what, names):
    own = network()
    what = type(what)(**{**vars(what), "layers": names})
    inner = what.init(state.learner, own)
    learner, inner = what.update(jax.random.key(2), state.learner, inner, own, *seen())
    assert changed(state.learner, learner) == set(names)
    assert {name.partition("/")[0] for name in recycled_counts(inner)} in (set(), set(names))


def test_each_network_is_scored_and_recycled_by_its_own_mask(state):
    own, redo = network(), ReDo(tau=0.8)
    learner, inner = redo.update(jax.random.key(2), state.learner, redo.init(state.learner, own), own, *seen())
    masks = own.wiring.dormant(state.learner.params, *seen(), tau=0.8)
    for name, mask in masks.items():
        part, layer = name.split("/")
        adam = learner.opt_state.inner_states[part].inner_state[0]
        assert_array_equal(np.asarray(adam.mu[part][layer]["bias"]) == 0, mask)
        assert int(recycled_counts(inner)[name]) == mask.sum()
    assert len({tuple(np.asarray(masks[f"{name}/dense_0"]).tolist()) for name in NETWORKS}) == 3


def test_an_unknown_network_is_refused(state):
    with pytest.raises(ValueError, match="no layer is called 'critic3'"):
        ReDo(layers=("critic3",)).init(state.learner, network())


def test_targets_keep_what_was_reset_unless_they_are_reset_too(state):
    own, reset = network(), Reset(layers=("actor", "critic1"))
    learner, _ = reset.update(jax.random.key(2), state.learner, (), own)
    kept = AGENT.intervened(state, learner)
    assert kept.target is state.target and kept.learner is learner
    followed = SAC(hidden=(6, 5), reset_targets=True).intervened(state, learner)
    for leaf, new in zip(*map(jax.tree.leaves, (followed.target["critic1"], learner.params["critic1"])), strict=True):
        assert_array_equal(leaf, new)
    jax.tree.map(assert_array_equal, followed.target["critic2"], state.target["critic2"])


def test_a_target_follows_only_where_weights_were_overwritten(state):
    """All other weights of the target network keep their values."""
    kernel = state.learner.params["critic2"]["dense_0"]["kernel"]
    far = jax.tree.map(lambda leaf: leaf + 1.0, state.target)
    params = state.learner.params["critic2"] | {
        "dense_0": {**state.learner.params["critic2"]["dense_0"], "kernel": kernel.at[:, 2].set(7.0)}
    }
    learner = Learner(state.learner.params | {"critic2": params}, state.learner.opt_state)
    agent = SAC(hidden=(6, 5), reset_targets=True)
    target = agent.intervened(SACState(state.learner, far, state.temperature), learner).target
    assert_array_equal(target["critic2"]["dense_0"]["kernel"][:, 2], jnp.full(OBSERVATIONS + ACTIONS, 7.0))
    assert_array_equal(target["critic2"]["dense_0"]["kernel"][:, 3], far["critic2"]["dense_0"]["kernel"][:, 3])
    jax.tree.map(assert_array_equal, target["critic1"], far["critic1"])


def test_width_multiplies_and_rounds_up():
    params = SAC(hidden=(6, 5), width=0.5).init_params(jax.random.key(0), OBSERVATIONS, ACTIONS)
    assert params["actor"]["dense_1"]["kernel"].shape == (3, 3)
    assert params["critic1"]["head"]["kernel"].shape == (3, 1)
    assert params["actor"]["head"]["kernel"].shape == (3, 2 * ACTIONS)


def test_critics_start_apart_and_targets_start_equal():
    state = AGENT.init(jax.random.key(0), OBSERVATIONS, ACTIONS)
    one, other = (state.learner.params[name]["dense_0"]["kernel"] for name in CRITICS)
    assert (one != other).all()
    jax.tree.map(assert_array_equal, state.target, {name: state.learner.params[name] for name in CRITICS})
    assert_allclose(jnp.exp(state.temperature.params), 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": ()}, "hidden must hold at least one width"),
        ({"hidden": (4, 0)}, "at least 1 neuron"),
        ({"width": 0.0}, "width must be positive and finite, got 0.0"),
        ({"actor_learning_rate": float("inf")}, "actor_learning_rate must be positive"),
        ({"critic_learning_rate": -1.0}, "critic_learning_rate must be positive"),
        ({"actor_weight_decay": -1e-5}, "actor_weight_decay must be at least 0 and finite"),
        ({"critic_weight_decay": float("nan")}, "critic_weight_decay must be at least 0 and finite"),
        ({"gamma": 1.5}, "gamma must lie between 0 and 1"),
        ({"polyak": -0.1}, "polyak must lie between 0 and 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"initial_temperature": 0.0}, "initial_temperature must be positive"),
        ({"target_entropy": float("nan")}, "target_entropy must be a number"),
        ({"min_replay": 0}, "min_replay must lie between 1 and replay_capacity"),
        ({"min_replay": 200, "replay_capacity": 100}, "got 200 with replay_capacity 100"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_numbers_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SAC(**change)


def test_a_penalty_draws_each_network_to_where_it_began():
    plain, drawn = SAC(hidden=(4,)), SAC(hidden=(4,), regulariser=L2Init(0.5))
    for name in NETWORKS:
        state = drawn.init(jax.random.key(0), observations=3, actions=2)
        moved = jax.tree.map(lambda leaf: leaf + 0.25, state.learner.params)
        gradient = jax.tree.map(jnp.zeros_like, {name: moved[name]})
        after = drawn._step(state.learner._replace(params=moved), gradient).params
        still = plain._step(plain.init(jax.random.key(0), 3, 2).learner._replace(params=moved), gradient).params
        # The first step of Adam changes a weight by the learning rate, for any gradient.
        expected = jax.tree.map(lambda leaf: leaf - 3e-4, moved[name])
        jax.tree.map(lambda new, leaf: assert_allclose(new, leaf, atol=1e-6), after[name], expected)
        jax.tree.map(assert_array_equal, still[name], moved[name])
        others = {each for each in NETWORKS if each != name}
        jax.tree.map(assert_array_equal, *({each: tree[each] for each in others} for tree in (after, moved)))
