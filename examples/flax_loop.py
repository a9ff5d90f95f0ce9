"""A training loop with Flax Linen's TrainState, and ReDo in the three marked lines. Runs in seconds.

python examples/flax_loop.py
"""

import flax.linen as nn
import jax
import optax
from flax.training.train_state import TrainState

import dormant

PERIOD = 100  # gradient steps between two changes of the labels


class MLP(nn.Module):
    """An MLP with two hidden layers."""

    @nn.compact
    def __call__(self, x):
        for width in (64, 64):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(x)


def main():
    """Fits labels that change every PERIOD steps. Neurons become dormant, and ReDo recycles them."""
    model, tx = MLP(), optax.adam(1e-2)
    x = jax.random.normal(jax.random.key(1), (256, 16))
    params = model.init(jax.random.key(0), x)["params"]
    tx = dormant.with_intervention(tx, dormant.Every(50, dormant.ReDo(tau=0.1)), model.apply, model.init, x)  # <- ours
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    @jax.jit
    def gradient_step(state, labels):
        def loss(params):
            logits = state.apply_fn({"params": params}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, grads = jax.value_and_grad(loss)(state.params)
        state = state.apply_gradients(grads=grads)
        state = tx.intervene(state, x)  # <- ours
        return state, value

    for step in range(1, 6 * PERIOD + 1):
        labels = jax.random.randint(jax.random.key((step - 1) // PERIOD), (256,), 0, 10)
        state, loss = gradient_step(state, labels)
        if step % 60 == 0:
            print(f"gradient step {step}: loss {loss:.2f}")
            print({name: float(value) for name, value in tx.measure(state, x).items()})  # <- ours


if __name__ == "__main__":
    main()
