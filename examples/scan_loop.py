"""A whole training inside `lax.scan`, mapped over seeds, and ReDo in the three marked lines. Runs in seconds.

purejaxrl's agents have this structure: `make_train` returns a function of a key, and `vmap` maps it over seeds.

python examples/scan_loop.py
"""

import flax.linen as nn
import jax
import optax
from flax.training.train_state import TrainState

import dormant

PERIOD = 100  # gradient steps between two changes of the labels
SEEDS = 3
REDO = dormant.Every(50, dormant.ReDo(tau=0.1))


class MLP(nn.Module):
    """An MLP with two hidden layers."""

    @nn.compact
    def __call__(self, x):
        for width in (64, 64):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(x)


def make_train():
    """A function that trains one agent from a key."""
    model = MLP()

    def train(key):
        x = jax.random.normal(jax.random.key(1), (256, 16))
        params, tx = model.init(key, x)["params"], optax.adam(1e-2)
        tx = dormant.with_intervention(tx, REDO, model.apply, model.init, x, key=key)  # <- ours
        state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

        def gradient_step(state, step):
            labels = jax.random.randint(jax.random.key(step // PERIOD), (256,), 0, 10)

            def loss(params):
                logits = state.apply_fn({"params": params}, x)
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

            value, grads = jax.value_and_grad(loss)(state.params)
            state = state.apply_gradients(grads=grads)
            state = tx.intervene(state, x)  # <- ours
            logged = {"loss": value}
            logged |= tx.measure(state, x)  # <- ours
            return state, logged

        return jax.lax.scan(gradient_step, state, jax.numpy.arange(6 * PERIOD))

    return train


def main():
    """Fits labels that change every PERIOD steps. Neurons become dormant, and ReDo recycles them."""
    _, logged = jax.jit(jax.vmap(make_train()))(jax.random.split(jax.random.key(0), SEEDS))
    for step in range(60, 6 * PERIOD + 1, 60):
        print(f"gradient step {step}: loss {logged['loss'][:, step - 1].mean():.2f}")
        print({name: f"{float(value[:, step - 1].mean()):.3g}" for name, value in logged.items() if name != "loss"})


if __name__ == "__main__":
    main()
