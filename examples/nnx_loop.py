"""A training loop in Flax NNX with `nnx.Optimizer`, and ReDo in the three marked lines. Runs in seconds.

python examples/nnx_loop.py
"""

import jax
import optax
from flax import nnx

import dormant

PERIOD = 100  # gradient steps between two changes of the labels


class MLP(nnx.Module):
    """An MLP with two hidden layers."""

    def __init__(self, rngs):
        self.first = nnx.Linear(16, 64, rngs=rngs)
        self.second = nnx.Linear(64, 64, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.second(nnx.relu(self.first(x)))))


def main():
    """Fits labels that change every PERIOD steps. Neurons become dormant, and ReDo recycles them."""
    x = jax.random.normal(jax.random.key(1), (256, 16))
    model, tx = MLP(nnx.Rngs(0)), optax.adam(1e-2)
    tx = dormant.with_intervention(tx, dormant.Every(50, dormant.ReDo(tau=0.1)), model, MLP, x)  # <- ours
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def gradient_step(model, optimizer, labels):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        tx.intervene((model, optimizer), x)  # <- ours
        return value

    for step in range(1, 6 * PERIOD + 1):
        labels = jax.random.randint(jax.random.key((step - 1) // PERIOD), (256,), 0, 10)
        loss = gradient_step(model, optimizer, labels)
        if step % 60 == 0:
            print(f"gradient step {step}: loss {loss:.2f}")
            print({name: float(value) for name, value in tx.measure((model, optimizer), x).items()})  # <- ours


if __name__ == "__main__":
    main()
