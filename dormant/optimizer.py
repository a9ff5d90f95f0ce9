"""Adds an intervention to an optax optimizer, for training loops in JAX."""

import dataclasses
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree, UInt32

from .interventions.schedule import Intervention, checked_intervention
from .scores import dormant_fraction
from .surgery import Learner, recycled_counts
from .tracing import trace
from .wiring import Network, Wiring

Trained = TypeVar("Trained")
Apply = Callable[..., PyTree]


class Model(NamedTuple):
    """Four functions that work on the user's network.

    `apply(params, *inputs)` runs the network. `make(key)` returns fresh parameters. `split(model)` returns the
    parameters of a model, and `joined(model, params)` returns the model with new parameters. For a network that is
    given as a function, the model is the tree of parameters. For NNX and Equinox, it is the user's object, which may
    hold more than parameters.
    """

    apply: Apply
    make: Callable[[Array], PyTree[Array]]
    split: Callable[[Any], PyTree[Array]]
    joined: Callable[[Any, PyTree[Array]], Any]


class InterventionState(NamedTuple):
    """The state of the optimizer that `with_intervention` returns.

    `inner` is the state of the wrapped optimizer. `numbers` holds the number of `intervene` calls, the next key, and
    all 32-bit numbers of the intervention's state. These numbers share one array, because each array that enters and
    leaves a compiled step costs about 2 us. `arrays` holds the rest of the intervention's state.
    """

    inner: PyTree
    numbers: UInt32[Array, "*seeds numbers"]
    arrays: tuple[Array, ...]

    @property
    def gradient_steps(self) -> Int[Array, "*seeds"]:
        """How often `intervene` was called."""
        return self.numbers[..., 0].astype(jnp.int32)


class Unpacked(NamedTuple):
    """The unpacked `InterventionState`: the intervention's state, the number of `intervene` calls, and the next key."""

    intervention: PyTree
    gradient_steps: Int[Array, ""]
    key: UInt32[Array, "..."]

    def packed(self, inner: PyTree) -> InterventionState:
        """Returns an `InterventionState` with these parts. `inner` is the state of the wrapped optimizer."""
        leaves = jax.tree.leaves(self.intervention)
        numbers = [self.gradient_steps[None], self.key, *(leaf[None] for leaf in leaves if _is_number(leaf))]
        words = [jax.lax.bitcast_convert_type(each, jnp.uint32) for each in numbers]
        return InterventionState(inner, jnp.concatenate(words), tuple(x for x in leaves if not _is_number(x)))


def _is_number(leaf: Array | jax.ShapeDtypeStruct) -> bool:
    return leaf.shape == () and leaf.dtype in (jnp.int32, jnp.uint32, jnp.float32)


def with_intervention(
    tx: optax.GradientTransformation,
    intervention: Intervention,
    apply: Any,
    init: Callable[..., PyTree],
    *inputs: PyTree,
    key: Array | None = None,
) -> "InterveningOptimizer":
    """Returns the optimizer `tx` with two additional methods.

    `intervene` applies the intervention. `measure` returns the fraction of dormant neurons. Use the result in place of
    `tx`. After each gradient step, call `intervene((params, opt_state), batch)`.

    - `apply`: `apply(params, *inputs)` runs the network, such as `model.apply` in Flax Linen. You can also pass a model
      of Flax NNX or Equinox itself.
    - `init`: `init(key)` or `init(key, *inputs)` returns fresh parameters, such as `model.init`. For NNX, it takes
      `nnx.Rngs` and returns a fresh model. For Equinox, it takes a key and returns a fresh model.
    - `inputs`: a batch of example inputs. An Equinox model is mapped over the batch.
    - `key`: the random key for fresh weights, `jax.random.key(0)` by default. Networks with different initial
      parameters get different fresh weights.

    >>> from dormant import Every, ReDo
    >>> def init(key):
    ...     return {"hidden": {"w": jax.random.normal(key, (2, 3))}, "head": {"w": jnp.ones((3, 1))}}
    >>> def apply(params, x):
    ...     return jax.nn.relu(x @ params["hidden"]["w"]) @ params["head"]["w"]
    >>> x, params = jnp.ones((5, 2)), init(jax.random.key(0))
    >>> tx = with_intervention(optax.adam(1e-3), Every(1_000, ReDo(tau=0.1)), apply, init, x)
    >>> opt_state = tx.init(params)
    >>> params, opt_state = tx.intervene((params, opt_state), x)
    >>> sorted(tx.measure((params, opt_state), x))
    ['dormant/0.1/all', 'dormant/0.1/hidden', 'recycled/hidden']

    Raises TypeError for a wrong argument, ValueError if no example input is given, and TraceError if `apply` has no
    layer of neurons. `tx.init(params)` raises ValueError if the structure of `params` differs from what `init` returns.
    """
    _check_optimizer(tx)
    checked_intervention(intervention)
    if not inputs:
        raise ValueError("with_intervention got no example input: pass the inputs of the network after `init`.")
    if not callable(init):
        raise TypeError(f"init must be a function that returns fresh parameters, got {type(init).__name__}.")
    source = jax.random.key(0) if key is None else key
    if not jnp.issubdtype(source.dtype, jax.dtypes.prng_key):
        source = jax.random.wrap_key_data(source)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), inputs)
    model = _nnx_model(apply, init) or _equinox_model(apply, init) or _functions(apply, init, shapes)
    return InterveningOptimizer(tx, intervention, model, shapes, source)


@dataclass(frozen=True, eq=False)
class InterveningOptimizer:
    """An optax optimizer with an intervention; `with_intervention` returns it."""

    tx: optax.GradientTransformation
    intervention: Intervention
    model: Model
    shapes: tuple[PyTree, ...]
    key: Array
    networks: dict[Any, Network] = field(default_factory=dict, init=False, repr=False)

    def init(self, params: PyTree[Array]) -> InterventionState:
        """Returns the initial state of the optimizer and the intervention."""
        params = self.model.split(params)
        inner = self.tx.init(params)
        state = self.intervention.init(Learner(params, inner), self.network(params))
        # With `vmap` over seeds, `self.key` is the same for all seeds, but the parameters differ.
        own = jax.random.fold_in(self.key, _bits(params))
        return Unpacked(state, jnp.zeros((), jnp.int32), jax.random.key_data(own)).packed(inner)

    def update(
        self, updates: PyTree[Array], state: InterventionState, params: PyTree[Array] | None = None, **extra: Any
    ) -> tuple[PyTree[Array], InterventionState]:
        """Returns the updates of the wrapped optimizer, and the new state. Does not apply the intervention."""
        tx = optax.with_extra_args_support(self.tx)
        updates, inner = tx.update(updates, _checked(state).inner, params, **extra)
        return updates, state._replace(inner=inner)

    def intervene(self, trained: Trained, *inputs: PyTree) -> Trained:
        """Applies the intervention and returns the changed `trained`. Call it after each gradient step, also in `jit`.

        `trained` is a Flax TrainState, another object with `params` and `opt_state`, or a pair (params, opt_state). For
        Equinox it is a pair (model, opt_state). For NNX it is a pair (model, optimizer), and both change in place.

        Raises TypeError for any other type. Raises ValueError if the state comes from another optimizer, or if the
        inputs differ in structure or shape from the example inputs.
        """
        self._check_inputs(inputs)
        old, opt_state = _parts(trained)
        learner = Learner(self.model.split(old), _checked(opt_state).inner)
        state = self.unpacked(learner.params, opt_state)
        key, network = (
            jax.random.wrap_key_data(state.key, impl=jax.random.key_impl(self.key)),
            self.network(learner.params),
        )
        learner, changed = self.intervention.update(key, learner, state.intervention, network, *inputs)
        # Each step needs a different key. Adding 1 is cheap. `fold_in` would cost 50 us at every step, even at steps
        # that draw no random numbers.
        one = jnp.zeros_like(state.key).at[-1].set(1)
        after = Unpacked(changed, state.gradient_steps + 1, state.key + one).packed(learner.opt_state)
        return _rejoined(trained, self.model.joined(old, learner.params), after)

    def measure(self, trained: Any, *inputs: PyTree, tau: float = 0.1) -> dict[str, Array]:
        """Returns the fraction of tau-dormant neurons and the number of recycled neurons, as a dictionary.

        With tau = 0.1, the entry "dormant/0.1/all" is the fraction over all layers, and "dormant/0.1/dense" is the
        fraction of the layer "dense". "recycled/dense" is the number of neurons of "dense" that were recycled so far.
        """
        self._check_inputs(inputs)
        old, opt_state = _parts(trained)
        params = self.model.split(old)
        scores = self.network(params).wiring.scores(params, *inputs)
        shares = {name: dormant_fraction({name: each}, tau) for name, each in scores.items()}
        counts = recycled_counts(self.unpacked(params, opt_state).intervention)
        return {
            f"dormant/{tau:g}/all": dormant_fraction(scores, tau),
            **{f"dormant/{tau:g}/{name}": share for name, share in shares.items()},
            **{f"recycled/{name}": count for name, count in counts.items()},
        }

    def unpacked(self, params: PyTree[Array], state: InterventionState) -> Unpacked:
        """Returns the intervention's state, the number of `intervene` calls, and the key for the next call."""
        learner, network = Learner(params, _checked(state).inner), self.network(params)
        leaves, structure = jax.tree.flatten(
            jax.eval_shape(lambda learner: self.intervention.init(learner, network), learner)
        )
        words = jax.random.key_data(self.key).size
        numbers, arrays = iter(state.numbers[1 + words :]), iter(state.arrays)
        found = [
            jax.lax.bitcast_convert_type(next(numbers), leaf.dtype) if _is_number(leaf) else next(arrays)
            for leaf in leaves
        ]
        steps = state.numbers[0].astype(jnp.int32)
        return Unpacked(jax.tree.unflatten(structure, found), steps, state.numbers[1 : 1 + words])

    def network(self, params: PyTree[Array]) -> Network:
        """Returns the traced network for `params`. Parameters with the same tree structure are traced only once."""
        structure = jax.tree.structure(params)
        if structure not in self.networks:
            apply, make = self._for(structure)
            self.networks[structure] = Network(
                trace(apply, jax.eval_shape(make, self.key), *self.shapes), make, self.tx
            )
        return self.networks[structure]

    @property
    def wiring(self) -> Wiring:
        """The wiring of the network. Print it to see which layers are recycled. Raises ValueError before `init`."""
        if not self.networks:
            raise ValueError("the wiring is not known yet: call `init` with the parameters first.")
        return next(iter(self.networks.values())).wiring

    def _for(self, structure: PyTree) -> tuple[Apply, Callable[[Array], PyTree[Array]]]:
        """Returns the functions `apply` and `make` for parameters with this tree structure.

        The user's `init` returns a tree with this structure, or a dictionary whose entry "params" has it (Flax).
        Otherwise, this raises ValueError.
        """
        made = jax.eval_shape(self.model.make, self.key)
        if jax.tree.structure(made) == structure:
            return self.model.apply, self.model.make
        if isinstance(made, dict) and jax.tree.structure(made.get("params")) == structure:
            rest = [name for name in made if name != "params"]
            if rest:
                raise ValueError(
                    f"`init` returns {', '.join(rest)} beside the parameters, but the optimizer holds only parameters: "
                    "pass an `apply` that takes only the parameters, and an `init` that returns only them."
                )
            return lambda params, *inputs: self.model.apply({"params": params}, *inputs), lambda key: self.model.make(
                key
            )["params"]
        raise ValueError(
            f"expected parameters with the structure that `init` returns, {jax.tree.structure(made)}; got {structure}."
        )

    def _check_inputs(self, inputs: tuple[PyTree, ...]) -> None:
        if jax.tree.structure(inputs) != jax.tree.structure(self.shapes):
            raise ValueError(
                "expected the batch on which neurons are scored, with the structure of the example inputs of "
                f"with_intervention: {jax.tree.structure(self.shapes)}; got {jax.tree.structure(inputs)}."
            )
        for new, old in zip(jax.tree.leaves(inputs), jax.tree.leaves(self.shapes), strict=True):
            if jnp.ndim(new) != len(old.shape) or jnp.shape(new)[1:] != old.shape[1:]:
                expected = ", ".join(map(str, ("batch", *old.shape[1:])))
                raise ValueError(f"expected an array of shape ({expected}), got {jnp.shape(new)}.")


def _check_optimizer(tx: object) -> None:
    if isinstance(tx, InterveningOptimizer):
        raise TypeError("tx already has an intervention: to use several, combine them in one Chain.")
    if not isinstance(tx, optax.GradientTransformation):
        raise TypeError(f"the optimizer comes first: expected an optax optimizer such as optax.adam(1e-3), got {tx!r}.")


def _checked(state: object) -> InterventionState:
    if not isinstance(state, InterventionState):
        raise ValueError(
            "the optimizer's state was made by another optimizer: call `init` of the optimizer that with_intervention "
            f"returned, or pass that optimizer to TrainState.create or nnx.Optimizer; got {type(state).__name__}."
        )
    return state


def _parts(trained: Any) -> tuple[Any, Any]:
    """Returns a pair: the parameters or the model, and the optimizer's state as a tree of arrays."""
    if hasattr(trained, "params") and hasattr(trained, "opt_state"):
        return trained.params, trained.opt_state
    if isinstance(trained, tuple) and len(trained) == 2:
        model, opt_state = trained
        if nnx := _loaded_nnx():
            opt_state = nnx.as_pure(opt_state.opt_state) if isinstance(opt_state, nnx.Optimizer) else opt_state
        return model, opt_state
    raise TypeError(
        "expected the training state: a TrainState, or a pair (params, opt_state), with Equinox (model, opt_state), "
        f"with NNX (model, optimizer); got {type(trained).__name__}."
    )


def _rejoined(trained: Any, model: Any, state: InterventionState) -> Any:
    if hasattr(trained, "params"):
        change = getattr(trained, "replace", None) or getattr(trained, "_replace", None)
        new = {"params": model, "opt_state": state}
        return change(**new) if change else dataclasses.replace(trained, **new)
    if (nnx := _loaded_nnx()) and isinstance(trained[1], nnx.Optimizer):
        nnx.update(trained[1].opt_state, nnx.state(state))
        return trained
    return model, state


def _functions(apply: object, init: Callable[..., PyTree], shapes: tuple[PyTree, ...]) -> Model:
    """Returns the model of a network given as two functions."""
    # A Linen module is callable, but not with params.
    if not callable(apply) or callable(getattr(apply, "apply", None)):
        name = type(apply).__name__
        method = "; pass its method `apply`" if hasattr(apply, "apply") else ""
        raise TypeError(f"apply must be a function of parameters and inputs, got {name}{method}.")

    def make(key: Array) -> PyTree[Array]:
        zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        given = (key,) if _takes_only_a_key(init) else (key, *zeros)
        try:
            return init(*given)
        except Exception as error:  # the network's own code may raise anything
            error.add_note("This was a call of init: with_intervention takes `apply` first, and then `init`.")
            raise

    return Model(apply, make, split=lambda params: params, joined=lambda old, params: params)


def _takes_only_a_key(init: Callable[..., PyTree]) -> bool:
    try:
        inspect.signature(init).bind(None)
    except TypeError:
        return False
    except ValueError:  # some built-in functions have no signature
        return True
    # A function with *args, such as Flax's Module.init, also takes the inputs.
    return not any(each.kind is each.VAR_POSITIONAL for each in inspect.signature(init).parameters.values())


def _bits(params: PyTree[Array]) -> UInt32[Array, ""]:
    """Returns the sum of the bits of all parameters. Different initial parameters give different sums."""
    leaves = [jax.lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.uint32) for leaf in jax.tree.leaves(params)]
    return jnp.asarray(sum(leaf.sum(dtype=jnp.uint32) for leaf in leaves), jnp.uint32)


def _loaded_nnx() -> Any:
    """Returns the module `flax.nnx` if it has been imported, else None."""
    return sys.modules.get("flax.nnx")


def _nnx_model(model: Any, init: Callable[..., PyTree]) -> Model | None:
    """Returns the functions for a Flax NNX model, or None if `model` is of another type.

    The parameters are the model's `nnx.Param` variables, as a tree of arrays.
    """
    nnx = _loaded_nnx()
    if nnx is None or not isinstance(model, nnx.Module):
        return None
    graph, _, rest = nnx.split(model, nnx.Param, ...)

    def split(model: Any) -> PyTree[Array]:
        return nnx.as_pure(nnx.state(model, nnx.Param) if isinstance(model, nnx.Module) else model)

    def joined(model: Any, params: PyTree[Array]) -> Any:
        nnx.update(model, params)
        return model

    return Model(
        lambda params, *inputs: nnx.merge(graph, params, rest)(*inputs),
        lambda key: split(init(nnx.Rngs(key))),
        split,
        joined,
    )


def _equinox_model(model: Any, init: Callable[..., PyTree]) -> Model | None:
    """Returns the functions for an Equinox model, or None if `model` is of another type.

    The parameters are the model's arrays of floating-point numbers.
    """
    eqx = sys.modules.get("equinox")
    if eqx is None or not isinstance(model, eqx.Module):
        return None
    static = eqx.filter(model, eqx.is_inexact_array, inverse=True)

    def split(model: Any) -> PyTree[Array]:
        return eqx.filter(model, eqx.is_inexact_array)

    return Model(
        lambda params, *inputs: jax.vmap(eqx.combine(params, static))(*inputs),
        lambda key: split(_made(init, key)),
        split,
        lambda model, params: eqx.combine(params, model),
    )


def _made(init: Callable[..., PyTree], key: Array) -> PyTree:
    """Returns a fresh model. Passes the key by name if `init` requires that, as the classes of Equinox do."""
    try:
        inspect.signature(init).bind(key)
    except TypeError:
        return init(key=key)
    return init(key)
