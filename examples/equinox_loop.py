"""A training loop in Equinox and Optax, and ReDo in the three marked lines. Runs in seconds.

python examples/equinox_loop.py
"""

import equinox as eqx
import jax
import optax

import dormant

PERIOD = 100  # gradient steps between two changes of the labels


def make(key):
    """A network with two hidden layers, for a single sample."""
    return eqx.nn.MLP(in_size=16, out_size=10, width_size=64, depth=2, key=key)


def main():
    """Fits labels that change every PERIOD steps. Neurons become dormant, and ReDo recycles them."""
    model, tx = make(jax.random.key(0)), optax.adam(1e-2)
    x = jax.random.normal(jax.random.key(1), (256, 16))
    tx = dormant.with_intervention(tx, dormant.Every(50, dormant.ReDo(tau=0.1)), model, make, x)  # <- ours
    opt_state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def gradient_step(model, opt_state, labels):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), labels).mean()

        value, grads = eqx.filter_value_and_grad(loss)(model)
        updates, opt_state = tx.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
        model = eqx.apply_updates(model, updates)
        model, opt_state = tx.intervene((model, opt_state), x)  # <- ours
        return model, opt_state, value

    for step in range(1, 6 * PERIOD + 1):
        labels = jax.random.randint(jax.random.key((step - 1) // PERIOD), (256,), 0, 10)
        model, opt_state, loss = gradient_step(model, opt_state, labels)
        if step % 60 == 0:
            print(f"gradient step {step}: loss {loss:.2f}")
            print({name: float(value) for name, value in tx.measure((model, opt_state), x).items()})  # <- ours


if __name__ == "__main__":
    main()
