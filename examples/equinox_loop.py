"""A training loop in Equinox and Optax, with ReDo in the marked lines. Runs in seconds.

python examples/equinox_loop.py
"""

import equinox as eqx
import jax
import optax

import dormant

PERIOD = 100  # gradient steps between two changes of the labels, and between two recyclings


def make(key):
    """A network with two hidden layers, for a single sample."""
    return eqx.nn.MLP(in_size=16, out_size=10, width_size=64, depth=2, key=key)


def main():
    """Memorise labels that change: neurons go dormant, and are recycled."""
    tx, key = optax.adam(1e-2), jax.random.key(0)
    x = jax.random.normal(jax.random.key(1), (256, 16))
    params, static = eqx.partition(make(key), eqx.is_inexact_array)
    learner = dormant.Learner(params, tx.init(params))

    def apply(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    network = dormant.Network(  # <- ReDo
        dormant.trace(apply, params, x), lambda key: eqx.filter(make(key), eqx.is_inexact_array), tx
    )
    recycler = dormant.Every(PERIOD, dormant.ReDo(tau=0.1))  # <- ReDo
    state = recycler.init(learner, network)  # <- ReDo
    recycle = jax.jit(lambda key, learner, state: recycler.update(key, learner, state, network, x))  # <- ReDo
    dormant_fraction = jax.jit(network.wiring.dormant_fraction)

    @jax.jit
    def gradient_step(learner, labels):
        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(apply(params, x), labels).mean()

        change, opt_state = tx.update(jax.grad(loss)(learner.params), learner.opt_state, learner.params)
        return dormant.Learner(eqx.apply_updates(learner.params, change), opt_state)

    for step in range(1, 6 * PERIOD + 1):
        labels = jax.random.randint(jax.random.key((step - 1) // PERIOD), (256,), 0, 10)
        learner = gradient_step(learner, labels)
        before = learner.params
        learner, state = recycle(jax.random.fold_in(key, step), learner, state)  # <- ReDo
        if step % PERIOD == 0:
            shares = [f"{dormant_fraction(params, x):.1%}" for params in (before, learner.params)]
            print(f"gradient step {step}: {shares[0]} of the neurons dormant, {shares[1]} after recycling")
    print("recycled:", {layer: int(neurons) for layer, neurons in dormant.recycled_counts(state).items()})


if __name__ == "__main__":
    main()
