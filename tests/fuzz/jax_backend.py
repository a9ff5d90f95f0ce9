"""Runs one program in JAX: traces it, recycles at tau = 0, and checks the result."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dormant

from .oracles import Failure, Outcome, judge_entries, judge_outputs, judge_readers, silence
from .program import Program, Values, draw_input, draw_values
from .scores import judge_coupled, judge_not_finite, judge_scores, with_nan
from .source import jax_source
from .structure import structure
from .taps import hangs_on_rounding, judge_moves, observed

OPTIMIZERS = (
    *[optax.sgd(1e-2)] * 5,  # drawn most often, because it compiles fastest
    optax.adam(1e-2),
    optax.sgd(1e-2, momentum=0.9),
    optax.rmsprop(1e-2),
    optax.adamw(1e-2),
    optax.adagrad(1e-2),
)


def function(program: Program, constants: Values) -> Callable[..., Any]:
    """Returns the program as a function `apply(p, x)`."""
    space = {"jax": jax, "jnp": jnp, "C": {name: jnp.asarray(value) for name, value in constants.items()}}
    exec(compile(jax_source(program), "<network>", "exec"), space)
    return space["apply"]


def run_jax(program: Program) -> Outcome:
    """Returns the outcome of a program, with all its failures."""
    truths = [structure(program, training=True)]
    shapes = {name: node.shape for name, node in program.parameters.items()}
    before, donor = silence(program, truths, draw_values(shapes, program.seed)), draw_values(shapes, program.seed + 99)
    trained = [name for name, node in program.parameters.items() if node.attrs["trained"] != "constant"]
    apply = function(program, {name: before[name] for name in shapes if name not in trained})
    params = {name: before[name] for name in trained}
    rng = np.random.default_rng(program.seed + 3)
    example = draw_input(program.nodes[0].shape, int(rng.integers(1, 3)), program.seed)
    batch = draw_input(program.nodes[0].shape, program.batch, program.seed)
    outcome = Outcome()
    try:
        wiring = dormant.trace(apply, params, example)
    except dormant.TraceError as error:
        outcome.refused = str(error)
        return outcome
    outcome.recycled = sum(layer.recyclable and not layer.coupled_by for layer in wiring.layers)
    outcome.measured = len(wiring.layers) - outcome.recycled
    tx = OPTIMIZERS[int(rng.integers(len(OPTIMIZERS)))]
    recycle = recycler(apply, wiring, {name: donor[name] for name in trained}, tx)
    after, states, first, scores, _ = recycle(params, batch)
    second = recycle(after, batch)[2]
    new = {**before, **{name: np.asarray(leaf) for name, leaf in after.items()}}
    outcome.acted = any((before[name] != new[name]).any() for name in trained)
    seen = observed(program, before, batch, tiny=float(np.finfo(np.float32).tiny), training=True, draw=drawn)
    known = not hangs_on_rounding(program, before, batch, seen, training=True, draw=drawn)
    trainable = {name for name, node in program.parameters.items() if node.attrs["trained"] == "yes"}
    if known:
        outcome.failures += judge_outputs("outputs moved", first, second)
    outcome.failures += judge_entries(truths, before, new, donor, trainable, seen.zero if known else None)
    outcome.failures += judge_coupled(truths[0], wiring.layers, trainable)
    outcome.failures += judge_moves(program, truths, [True], before, new, donor, batch)
    outcome.failures += judge_readers(program, truths, [True], before, new, donor)
    outcome.failures += judge_moments(states, before, new)
    if known:
        outcome.failures += judge_scores(program, truths, wiring.layers, scores, seen)
    if diverged := with_nan(truths[0], before, trained, program.seed):
        bad, unit = diverged
        params = {name: bad[name] for name in trained}
        after, *_, fraction = recycle(params, batch)
        new = {**bad, **{name: np.asarray(leaf) for name, leaf in after.items()}}
        outcome.failures += judge_not_finite(program, truths[0], wiring.layers, bad, new, float(fraction), unit, batch)
    return outcome


def drawn(kind: str, key: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the random numbers that programs draw with this key."""
    start = jax.random.key(key)
    if kind == "rows":
        return np.stack([jax.random.normal(each, shape[1:]) for each in jax.random.split(start, shape[0])])
    draw = functools.partial(jax.random.bernoulli, p=0.7) if kind == "keep" else jax.random.normal
    return np.asarray(draw(start, shape=shape))


def recycler(apply: Callable[..., Any], wiring: Any, donor: Values, tx: optax.GradientTransformation) -> Any:
    """Returns a compiled function that recycles. A second call of it gives the outputs after recycling.

    Both outputs come from one function, so their rounding is equal. The function returns the recycled parameters, the
    optimizer's states (before, after, of new weights), and the outputs, scores and dormant fraction before recycling.
    """
    network, redo = dormant.Network(wiring, lambda key: donor, tx), dormant.ReDo(tau=0.0, coupled="skip")

    @jax.jit
    def recycle(params: Any, batch: Any) -> Any:
        start = tx.init(params)
        state = optax.tree_utils.tree_map_params(tx, lambda leaf: jnp.full_like(leaf, 0.5), start)
        learner = dormant.Learner(params, state)
        after, _ = redo.update(jax.random.key(0), learner, redo.init(learner, network), network, batch)
        states = (state, after.opt_state, tx.init(after.params))
        scores = wiring.scores(params, batch)
        return after.params, states, apply(params, batch), scores, dormant.dormant_fraction(scores, tau=0.0)

    return recycle


def judge_moments(states: Sequence[Any], before: Values, new: Values) -> list[Failure]:
    """Checks that changed entries have the optimizer state of a new weight, and all other entries keep their state."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(states[0])]
    leaves = ([np.asarray(leaf) for leaf in jax.tree.leaves(state)] for state in states)
    for path, old, now, first in zip(paths, *leaves, strict=True):
        name = str(getattr(path[-1], "key", "")) if path else ""
        if name not in before or old.shape != before[name].shape:
            if not np.array_equal(old, now):
                return [Failure("optimizer state", f"{jax.tree_util.keystr(path)} changed")]
            continue
        changed = before[name] != new[name]
        sure = changed | (before[name] != 0)  # recycling may have set an entry from 0 to 0
        if (now != np.where(changed, first, old))[sure].any():
            return [Failure("optimizer state", f"the state of {name} does not match the entries that changed")]
    return []
