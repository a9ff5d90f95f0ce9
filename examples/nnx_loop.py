"""A training loop in Flax NNX with `nnx.Optimizer`, and ReDo in the marked lines. Runs in seconds.

NNX keeps parameters and moments in objects; ReDo takes them out as plain arrays and puts them back.

python examples/nnx_loop.py
"""

import jax
import optax
from flax import nnx

import dormant

PERIOD = 100  # gradient steps between two changes of the labels, and between two recyclings


class MLP(nnx.Module):
    """Two hidden layers."""

    def __init__(self, rngs):
        self.first = nnx.Linear(16, 64, rngs=rngs)
        self.second = nnx.Linear(64, 64, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.second(nnx.relu(self.first(x)))))


def params_of(model):
    """The parameters as a tree of arrays."""
    return nnx.as_pure(nnx.state(model, nnx.Param))


def network_of(model, make, x, tx):
    """The wiring of a model, a function that initialises such a model, and what trains it."""
    graph, _, rest = nnx.split(model, nnx.Param, ...)
    wiring = dormant.trace(lambda params, x: nnx.merge(graph, params, rest)(x), params_of(model), x)
    return dormant.Network(wiring, lambda key: params_of(make(nnx.Rngs(key))), tx)


def recycle(key, model, optimizer, recycler, state, network, x):
    """Updates the model and its optimizer in place, and returns the recycler's state."""
    learner = dormant.Learner(params_of(model), nnx.as_pure(optimizer.opt_state))
    learner, state = recycler.update(key, learner, state, network, x)
    nnx.update(model, learner.params)
    nnx.update(optimizer.opt_state, nnx.state(learner.opt_state))
    return state


def main():
    """Memorise labels that change: neurons go dormant, and are recycled."""
    x = jax.random.normal(jax.random.key(1), (256, 16))
    model, tx = MLP(nnx.Rngs(0)), optax.adam(1e-2)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    network = network_of(model, MLP, x, tx)  # <- ReDo
    recycler = dormant.Every(PERIOD, dormant.ReDo(tau=0.1))  # <- ReDo
    state = recycler.init(dormant.Learner(params_of(model), nnx.as_pure(optimizer.opt_state)), network)  # <- ReDo
    dormant_fraction = jax.jit(network.wiring.dormant_fraction)

    @nnx.jit
    def gradient_step(model, optimizer, labels):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

        optimizer.update(model, nnx.grad(loss)(model))

    @nnx.jit
    def recycle_when_due(key, model, optimizer, state):
        return recycle(key, model, optimizer, recycler, state, network, x)

    for step in range(1, 6 * PERIOD + 1):
        labels = jax.random.randint(jax.random.key((step - 1) // PERIOD), (256,), 0, 10)
        gradient_step(model, optimizer, labels)
        before = params_of(model)
        state = recycle_when_due(jax.random.key(step), model, optimizer, state)  # <- ReDo
        if step % PERIOD == 0:
            shares = [f"{dormant_fraction(params, x):.1%}" for params in (before, params_of(model))]
            print(f"gradient step {step}: {shares[0]} of the neurons dormant, {shares[1]} after recycling")
    print("recycled:", {layer: int(neurons) for layer, neurons in dormant.recycled_counts(state).items()})


if __name__ == "__main__":
    main()
