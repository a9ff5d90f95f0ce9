"""A training loop in plain JAX and Optax, and ReDo in the three marked lines. Runs in seconds.

python examples/optax_loop.py
"""

import jax
import jax.numpy as jnp
import optax

import dormant

PERIOD = 100  # gradient steps between two changes of the labels
SIZES = (16, 64, 64, 10)


def init(key):
    """Fresh parameters."""
    he, keys = jax.nn.initializers.he_normal(), jax.random.split(key, len(SIZES) - 1)
    shapes = zip(keys, SIZES[:-1], SIZES[1:], strict=True)
    return [{"w": he(key, (inputs, outputs)), "b": jnp.zeros(outputs)} for key, inputs, outputs in shapes]


def apply(params, x):
    """The outputs of an MLP with two hidden layers."""
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def main():
    """Fits labels that change every PERIOD steps. Neurons become dormant, and ReDo recycles them."""
    params, tx = init(jax.random.key(0)), optax.adam(1e-2)
    x = jax.random.normal(jax.random.key(1), (256, 16))
    tx = dormant.with_intervention(tx, dormant.Every(50, dormant.ReDo(tau=0.1)), apply, init, x)  # <- ours
    opt_state = tx.init(params)

    @jax.jit
    def gradient_step(params, opt_state, labels):
        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(apply(params, x), labels).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        params, opt_state = tx.intervene((params, opt_state), x)  # <- ours
        return params, opt_state, value

    for step in range(1, 6 * PERIOD + 1):
        labels = jax.random.randint(jax.random.key((step - 1) // PERIOD), (256,), 0, 10)
        params, opt_state, loss = gradient_step(params, opt_state, labels)
        if step % 60 == 0:
            print(f"gradient step {step}: loss {loss:.2f}")
            print({name: float(value) for name, value in tx.measure((params, opt_state), x).items()})  # <- ours


if __name__ == "__main__":
    main()
