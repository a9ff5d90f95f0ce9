"""Measures the time that `intervene` adds to a compiled gradient step if ReDo acts every 1,000 steps.

Times one step with and without `intervene` in turn, and prints the medians.

python benchmarks/own_loop.py
"""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

import dormant

SIZES = (64, 256, 256, 10)
BATCH, STEPS, REPEATS = 128, 100, 41
Trained = tuple[PyTree[Array], optax.OptState]


def init(key: Array) -> PyTree[Array]:
    """Fresh parameters of an MLP."""
    keys = jax.random.split(key, len(SIZES) - 1)
    shapes = zip(keys, SIZES[:-1], SIZES[1:], strict=True)
    return [{"w": jax.random.normal(key, (a, b)) * a**-0.5, "b": jnp.zeros(b)} for key, a, b in shapes]


def apply(params: PyTree[Array], x: Array) -> Array:
    """The MLP's outputs."""
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def main() -> None:
    """Prints the time of a step with and without the intervention."""
    x = jax.random.normal(jax.random.key(1), (BATCH, SIZES[0]))
    plain = optax.adam(1e-3)
    carrying = dormant.with_intervention(plain, dormant.Every(1_000, dormant.ReDo(tau=0.1)), apply, init, x[:64])

    def stepper(
        update: Callable[..., tuple[PyTree[Array], optax.OptState]], intervenes: bool
    ) -> Callable[..., Trained]:
        def step(params: PyTree[Array], opt_state: optax.OptState) -> Trained:
            grads = jax.grad(lambda params: (apply(params, x) ** 2).mean())(params)
            updates, opt_state = update(grads, opt_state, params)
            trained = optax.apply_updates(params, updates), opt_state
            return carrying.intervene(trained, x[:64]) if intervenes else trained

        return jax.jit(step, donate_argnums=(0, 1))

    steps = {"plain": stepper(plain.update, False), "with ReDo": stepper(carrying.update, True)}
    trained = {
        "plain": (init(jax.random.key(0)), plain.init(init(jax.random.key(0)))),
        "with ReDo": (init(jax.random.key(0)), carrying.init(init(jax.random.key(0)))),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(REPEATS + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                trained[name] = step(*trained[name])
            jax.block_until_ready(trained[name])
            if repeat:  # the first call compiles
                times[name].append((time.perf_counter() - start) / STEPS)
    for name, each in times.items():
        print(f"{name:10}{statistics.median(each) * 1e6:8.0f} us per gradient step")
    added = statistics.median(b - a for a, b in zip(times["plain"], times["with ReDo"], strict=True))
    print(f"intervene adds {added * 1e6:.0f} us")


if __name__ == "__main__":
    main()
