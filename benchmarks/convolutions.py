"""Times gradients of convolutional networks, inside and outside of `lax.scan`, with our gradient rule and with JAX's.

    python benchmarks/convolutions.py
    python benchmarks/convolutions.py --batch 32 --steps 4 --repeats 7

The plain convolution is `jax.lax.conv_general_dilated` as JAX differentiates it. All variants compute gradients of the
same batches. They are timed in turn; each time is a median over repeats. Prints milliseconds per gradient, the time
inside a scan divided by the time outside, and whether all bits equal those of the plain convolution outside a scan. On
a CPU, exits with 1 if our ratio is above 1.3 or any bit differs.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from dormant.rl.networks import convolution
from dormant.rl.networks.convolutional import ImpalaResNet, NatureCNN

MOST = 1.3  # largest allowed time in a scan, in units of the time outside


def plain(images: jax.Array, kernel: jax.Array, stride: int, padding: str) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(images, kernel, (stride, stride), padding, dimension_numbers=layout)


def gradients(network: NatureCNN | ImpalaResNet, scanned: bool) -> Callable[[dict, jax.Array], dict]:
    """Returns a function of parameters and batches [steps, batch, ...]. It computes the gradients of each batch."""

    def gradient(params: dict, images: jax.Array) -> dict:
        return jax.grad(lambda params: jnp.square(network.apply(params, images)).mean())(params)

    def outside(params: dict, batches: jax.Array) -> dict:
        return jax.tree.map(lambda *each: jnp.stack(each), *[one(params, images) for images in batches])

    def inside(params: dict, batches: jax.Array) -> dict:
        return jax.lax.scan(lambda carry, images: (carry, gradient(params, images)), 0, batches)[1]

    one = jax.jit(gradient)
    return jax.jit(inside) if scanned else outside


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4, help="number of gradients per scan")
    parser.add_argument("--repeats", type=int, default=5)
    flags = parser.parse_args()
    print(f"JAX {jax.__version__}, {jax.devices()[0].device_kind}, batch {flags.batch}, {flags.steps} steps per scan")
    right = [measure(network, flags) for network in (NatureCNN(), ImpalaResNet())]
    return 0 if all(right) or jax.default_backend() != "cpu" else 1


def measure(network: NatureCNN | ImpalaResNet, flags: argparse.Namespace) -> bool:
    """Prints the table of one network. Returns whether our rule is fast enough and bit-identical for all its rows."""
    params = network.init(jax.random.key(0), (84, 84, 4), 6)
    shape = (flags.steps, flags.batch, 84, 84, 4)
    batches = jax.random.randint(jax.random.key(1), shape, 0, 256).astype(jnp.uint8)
    variants, found = {}, {}
    for rule, multiply in (("plain", plain), ("ours", convolution.xla_convolution)):
        for scanned in (False, True):
            variants[rule, scanned] = gradients(network, scanned)
            with mock.patch.object(convolution, "xla_convolution", multiply):
                found[rule, scanned] = jax.block_until_ready(variants[rule, scanned](params, batches))
    seconds = {name: [] for name in variants}
    for _ in range(flags.repeats):
        for name, compiled in variants.items():
            began = time.perf_counter()
            jax.block_until_ready(compiled(params, batches))
            seconds[name].append(time.perf_counter() - began)
    return report(type(network).__name__, seconds, found, flags.steps)


def report(title: str, seconds: dict, found: dict, steps: int) -> bool:
    """Prints a line per rule. Returns whether our rule is fast in a scan and gives the same bits as the plain rule."""
    print(f"\n{title}: milliseconds per gradient\n{'':8}{'outside':>10}{'in a scan':>10}{'ratio':>8}  same bits")
    expected, right = found["plain", False], True
    for rule in ("plain", "ours"):
        outside, inside = (1e3 * statistics.median(seconds[rule, scanned]) / steps for scanned in (False, True))
        same = all(equal(expected, found[rule, scanned]) for scanned in (False, True))
        print(f"{rule:8}{outside:10.1f}{inside:10.1f}{inside / outside:8.2f}  {'yes' if same else 'no'}")
        right &= rule == "plain" or (same and inside / outside <= MOST)
    return right


def equal(one: dict, other: dict) -> bool:
    """Whether all leaves of two trees have equal bits."""
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in leaves)


if __name__ == "__main__":
    raise SystemExit(main())
