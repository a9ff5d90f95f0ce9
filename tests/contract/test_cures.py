"""Contract of every cure: JAX and PyTorch have the same names, defaults, behaviour and errors."""

import dataclasses
import functools
import itertools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch import nn

import dormant
import dormant.torch as dt
from dormant import interventions
from dormant.regularisers import CChain, L2Init, Parseval, Spectral
from dormant.torch.recycling import Learner

torch.set_num_threads(1)

WIDTHS = (3, 6, 5, 2)
PLANS = [
    "ReDo()",
    "ReDo(0.5, outgoing='fresh', moments='keep', step_count='restart')",
    "ReDo(0.5, incoming='scaled', layers=('dense0',), coupled='skip')",
    "redo_as_published(0.5)",
    "Recycle('gradient', Dormant(0.5))",
    "Recycle('utility', Share(0.5, recyclings=4), at_most=1)",
    "Recycle('contribution', PooledShare(0.3), 'highest', renewal=Renewal(outgoing='fresh', moments='keep'))",
    "Recycle(number=Gap(2.0), order='random')",
    "ContinualBackprop(0.3, maturity=0, utility='overall')",
    "Prune(0.5, period=2)",
    "Reset()",
    "Reset(('dense1', 'dense2'), step_count='restart')",
    "ShrinkPerturb(0.8)",
    "ShrinkPerturb(0.0, moments='fresh')",
    "ResetOptimizer()",
    "HareTortoise(0.5, period=2, moments='fresh')",
    "ClipWeights(0.5)",
    "FIRE()",
    "FIRE(iterations=3, heads='fresh', moments='fresh')",
    "NaP(everywhere=True)",
    "ClipWeights(0.5, bound='fan_in')",
    "SWR(factor=0.5)",
    "SWR('magnitude', 'proportional', 0.3, moments='fresh')",
    "SNR(quantile=0.5, period=2, least=1, most=4)",
    "SoftShrinkPerturb(0.1, period=2)",
    "DrM(tau=0.5)",
    "DrM(convolutions='perturb', moments='keep', step_count='keep')",
    "Every(2, ReDo(0.5), start=2, stop=9)",
    "Every(2, WhenDormant(0.1, Reset()))",
    "Chain(Every(2, ReDo(0.5)), Every(3, Reset(('dense2',))))",
    "Chain()",
]
NAMES = {
    "jax": vars(interventions),
    "torch": {**vars(dt), **vars(dt.how_many)},
}
REGULARISERS = {"L2Init": L2Init, "Parseval": Parseval, "Spectral": Spectral, "CChain": CChain}
X = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
SILENT = 2  # a neuron of the first layer


def drawn(seed):
    draws = np.random.default_rng(seed)
    pairs = itertools.pairwise(WIDTHS)
    return [(draws.standard_normal((a, b)).astype(np.float32), np.full(b, 0.1, np.float32)) for a, b in pairs]


def with_silent(weights):
    kernel, bias = weights[0]
    kernel[:, SILENT], bias[SILENT] = 0.0, -1.0
    return weights


class InJax:
    """A network, its optimizer and a plan (an intervention), in JAX."""

    def __init__(self, plan, seed=0):
        self.plan, self.key = plan, jax.random.key(seed)
        params = self.tree(with_silent(drawn(1)))
        moments = TX.init(params)[0]._replace(mu=params, nu=jax.tree.map(jnp.ones_like, params))
        self.learner = dormant.Learner(params, (moments, *TX.init(params)[1:]))
        self.state = plan.init(self.learner, network())

    @staticmethod
    def tree(weights):
        return {f"dense{i}": {"kernel": jnp.asarray(k), "bias": jnp.asarray(b)} for i, (k, b) in enumerate(weights)}

    @staticmethod
    def init(key):
        draw = jax.random.normal
        pairs = enumerate(itertools.pairwise(WIDTHS))
        keys = jax.random.split(key, len(WIDTHS))
        return {f"dense{i}": {"kernel": draw(keys[i], pair), "bias": jnp.zeros(pair[1])} for i, pair in pairs}

    @staticmethod
    def apply(params, x):
        for name in sorted(params)[:-1]:
            x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"][None])
        return x @ params["dense2"]["kernel"] + params["dense2"]["bias"][None]

    def step(self):
        self.key, key = jax.random.split(self.key)
        self.learner, self.state = compiled(self.plan)(key, self.learner, self.state)

    def outputs(self):
        return np.asarray(self.apply(self.learner.params, jnp.asarray(X)))

    def leaves(self):
        return [np.asarray(leaf) for leaf in jax.tree.leaves((self.learner, self.state))]

    def weights(self):
        params = self.learner.params
        return [(np.asarray(params[name]["kernel"]), np.asarray(params[name]["bias"])) for name in sorted(params)]


TX = optax.adam(1e-3)


@functools.cache
def network():
    params = InJax.tree(drawn(1))
    return dormant.Network(dormant.trace(InJax.apply, params, jnp.asarray(X)), InJax.init, TX)


@functools.cache
def compiled(plan):
    return jax.jit(lambda key, learner, state: plan.update(key, learner, state, network(), jnp.asarray(X)))


class InTorch:
    """The network, optimizer and plan of `InJax`, in PyTorch."""

    def __init__(self, plan, seed=0):
        self.plan, self.seed = plan, seed
        self.net = Dense()
        with torch.no_grad():
            for layer, (kernel, bias) in zip(self.net.layers(), with_silent(drawn(1)), strict=True):
                layer.weight.copy_(torch.tensor(kernel.T.copy()))
                layer.bias.copy_(torch.tensor(bias))
        self.optimizer = torch.optim.Adam(self.net.parameters())
        for leaf in self.net.parameters():
            moments = {"exp_avg": leaf.detach().clone(), "exp_avg_sq": torch.ones_like(leaf)}
            self.optimizer.state[leaf] = {"step": torch.tensor(3.0), **moments}
        self.cure = dt.with_intervention(self.net, self.optimizer, plan)
        self.cure.learner = Learner(self.net, [self.optimizer], wiring())  # avoids a trace
        plan.check(self.cure.learner)

    def step(self):
        torch.manual_seed(1_000 * self.seed + self.cure.gradient_steps)
        self.cure.step(torch.tensor(X))

    def outputs(self):
        return self.net(torch.tensor(X)).detach().numpy()

    def leaves(self):
        found = [*self.net.state_dict().values()]
        found += [value for state in self.optimizer.state.values() for value in state.values()]
        return [leaf.detach().numpy().copy() for leaf in found]

    def weights(self):
        return [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in self.net.layers()]

    def restored(self):
        other = InTorch(self.plan, self.seed)
        other.net.load_state_dict(self.net.state_dict())
        other.optimizer.load_state_dict(self.optimizer.state_dict())
        other.cure.load_state_dict(self.cure.state_dict())
        return other


@functools.cache
def wiring():
    return dt.trace(Dense(), torch.tensor(X))


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense0, self.dense1, self.dense2 = (nn.Linear(a, b) for a, b in itertools.pairwise(WIDTHS))

    def layers(self):
        return self.dense0, self.dense1, self.dense2

    def forward(self, x):
        return self.dense2(torch.relu(self.dense1(torch.relu(self.dense0(x)))))


LOOPS = {"jax": InJax, "torch": InTorch}
in_both = pytest.mark.parametrize("framework", LOOPS)
every_plan = pytest.mark.parametrize("plan", PLANS)


def value(text, framework):
    return eval(text, dict(NAMES[framework]))


def test_every_cure_is_in_the_list():
    cures = [name for name, one in vars(dt).items() if isinstance(one, type) and hasattr(one, "update_")]
    plans = [plan.replace("redo_as_published", "ReDoAsPublished") for plan in PLANS]
    told = [name for name in cures if any(name in plan for plan in plans)]
    assert told == [name for name in cures if name != "Intervention"] and len(told) >= 12


def test_a_cure_has_the_same_fields_and_defaults_in_both_frameworks():
    here = {name: one for name, one in NAMES["torch"].items() if dataclasses.is_dataclass(one) and name in NAMES["jax"]}
    only_jax = {name for name in vars(interventions) if dataclasses.is_dataclass(NAMES["jax"][name])} - set(here)
    assert only_jax == {"PlasticityInjection", "WarmUp"} and len(here) >= 16
    here |= {name: getattr(dt, name) for name in REGULARISERS}
    there = NAMES["jax"] | REGULARISERS
    for name, one in here.items():
        ours, theirs = ({f.name: repr(f.default) for f in dataclasses.fields(each)} for each in (one, there[name]))
        assert list(ours) == list(theirs) and ours == theirs, name
        assert getattr(one, "every_step", False) == getattr(there[name], "every_step", False) or name == "Chain"


def test_the_page_of_cures_says_which_framework_has_which():
    page = (Path(__file__).parents[2] / "docs" / "cures.md").read_text()
    table = page[page.index("## In which framework") : page.index("## Renewing neurons")]
    rows = [line.split("|")[1:4] for line in table.splitlines() if line.startswith("| `")]
    said = {
        name.rpartition(".")[2]: "no" not in there for names, _, there in rows for name in re.findall(r"`(.*?)`", names)
    }
    jax_side = {name for name in vars(interventions) if dataclasses.is_dataclass(NAMES["jax"][name])}
    jax_side |= {*REGULARISERS, "penalised"}
    assert set(said) == jax_side
    assert {name for name, there in said.items() if there} == {name for name in jax_side if name in NAMES["torch"]}


@in_both
@every_plan
def test_a_plan_is_a_value(plan, framework):
    one = value(plan, framework)
    assert eval(repr(one), dict(NAMES[framework])) == one and hash(one) == hash(value(plan, framework))
    assert repr(one) == repr(value(plan, "jax"))


# In JAX a plan is a function of trees. `test_interventions` checks its shapes, its dtypes and that it is deterministic.
@every_plan
def test_shapes_and_dtypes_stay_and_equal_seeds_give_equal_results_in_torch(plan):
    first, again = (InTorch(value(plan, "torch"), seed=7) for _ in range(2))
    before = first.leaves()
    for loop in (first, again):
        for _ in range(4):
            loop.step()
    assert [(leaf.shape, leaf.dtype) for leaf in first.leaves()] == [(leaf.shape, leaf.dtype) for leaf in before]
    assert all(np.isfinite(leaf).all() for leaf in first.leaves() if leaf.dtype.kind == "f")
    for one, two in zip(first.leaves(), again.leaves(), strict=True):
        np.testing.assert_array_equal(one, two)


@in_both
def test_other_seeds_give_other_weights(framework):
    loops = [LOOPS[framework](value("Reset()", framework), seed) for seed in (7, 8)]
    for loop in loops:
        loop.step()
    assert any((one != two).any() for one, two in zip(*(loop.leaves() for loop in loops), strict=True))


@every_plan
def test_a_saved_plan_goes_on_as_if_it_had_never_stopped_in_torch(plan):
    loop = InTorch(value(plan, "torch"))
    for _ in range(3):
        loop.step()
    other = loop.restored()
    for each in (loop, other):
        for _ in range(3):
            each.step()
    for one, two in zip(loop.leaves(), other.leaves(), strict=True):
        np.testing.assert_array_equal(one, two)


SAFE = [
    "ReDo(0.0)",
    "ReDo(0.0, moments='keep', step_count='restart')",
    "Recycle(number=Dormant(0.0))",
    "Prune(0.0, period=1)",
    "Every(1, WhenDormant(0.05, ReDo(0.0), tau=0.0))",
    "Chain(ReDo(0.0, incoming='scaled'), ResetOptimizer())",
]


@in_both
@pytest.mark.parametrize("plan", SAFE)
def test_what_replaces_silent_neurons_keeps_the_outputs_to_the_last_bit(plan, framework):
    loop = LOOPS[framework](value(plan, framework))
    before, weights = loop.outputs(), loop.weights()
    weights = [(kernel.copy(), bias.copy()) for kernel, bias in weights]
    loop.step()
    np.testing.assert_array_equal(loop.outputs(), before)
    assert (loop.weights()[1][0][SILENT] == 0).all() and (weights[1][0][SILENT] != 0).any()
    assert (loop.weights()[0][0][:, SILENT] != 0).any() or "Prune" in plan
    alive = np.delete(np.arange(WIDTHS[1]), SILENT)
    np.testing.assert_array_equal(loop.weights()[0][0][:, alive], weights[0][0][:, alive])


@in_both
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ReDo(layers=('nine',))", "nine"),
        ("Recycle(layers=('nine',))", "nine"),
        ("Every(100, ReDo(layers=('nine',)))", "nine"),
        ("Reset(layers=('nine',))", "nine"),
        ("DrM(layers=('nine',))", "nine"),
        ("SNR(layers=('nine',))", "nine"),
    ],
)
def test_a_layer_that_does_not_exist_is_refused_before_training_goes_on(text, message, framework):
    with pytest.raises(ValueError, match=message):
        LOOPS[framework](value(text, framework)).step()


@pytest.mark.parametrize("start", [0, 1, 4, 5, 12])
@pytest.mark.parametrize("stop", [None, 13, 20])
def test_both_frameworks_act_at_the_same_gradient_steps(start, stop):
    ours, theirs = dt.Every(5, dt.Chain(), start, stop), dormant.Every(5, dormant.Chain(), start, stop)
    due = [step for step in range(1, 40) if theirs.due(step)]
    assert [step for step in range(1, 40) if ours.due(step - 1, step)] == due
    # Each call covers three gradient steps. `Every` acts at the first call at or after each due step.
    calls = [now for now in range(3, 40, 3) if ours.due(now - 3, now)]
    assert calls == sorted({-(-step // 3) * 3 for step in due if -(-step // 3) * 3 < 40})
