"""Prints a failing program as a script that imports only the framework and `dormant`."""

import numpy as np

from .oracles import Failure, silence
from .program import Program, draw_values
from .source import Framework, jax_source, torch_source
from .structure import structure

DRAW = '''
def draw(seed):
    """Random values of every parameter, none of them near 0."""
    rng, values = np.random.default_rng(seed), {}
    for name, shape in SHAPES.items():
        sign = np.where(rng.random(shape) < 0.5, -1.0, 1.0)
        size = rng.uniform(0.2, 0.9, shape).astype(np.float32)
        values[name] = size if name.endswith("running_var") else (sign * size).astype(np.float32)
    return values


P, FRESH = draw(%(seed)d), draw(%(fresh)d)
for name, entry, value in SILENCED:
    P[name].flat[entry] = value
X = np.random.default_rng(%(seed)d + 1).normal(size=%(shape)s).astype(np.float32)
'''

JAX = '''"""%(title)s"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dormant

SHAPES = %(shapes)s
SILENCED = %(silenced)s  # parameter, entry of the flattened parameter, value
CONSTANTS = %(constants)s
%(draw)s
C = {name: jnp.asarray(P[name]) for name in CONSTANTS}


%(source)s

p, fresh = ({k: jnp.asarray(v) for k, v in values.items() if k not in CONSTANTS} for values in (P, FRESH))
wiring = dormant.trace(apply, p, X[:%(example)d])
print(wiring)
tx, redo = optax.sgd(0.1), dormant.ReDo(tau=0.0, coupled="skip")
network = dormant.Network(wiring, lambda key: fresh, tx)


@jax.jit
def recycle(p, x):
    learner = dormant.Learner(p, tx.init(p))
    after, _ = redo.update(jax.random.key(0), learner, redo.init(learner, network), network, x)
    return after.params, apply(p, x)


after, old = recycle(p, X)
_, new = recycle(after, X)
print("dormant:", {name: mask.tolist() for name, mask in wiring.dormant(p, X, tau=0.0).items()})
for name in p:
    changed = np.flatnonzero(np.asarray(p[name] != after[name])).tolist()
    print(name, "entries changed:", changed, "now", np.asarray(after[name]).flat[changed].round(3).tolist())
print("outputs moved by", [float(jnp.abs(a - b).max()) for a, b in zip(old, new)])
'''

TORCH = '''"""%(title)s"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import dormant.torch as dt

SHAPES = %(shapes)s
SILENCED = %(silenced)s  # parameter, entry of the flattened parameter, value
%(draw)s

%(source)s

def build(values):
    net = Network()
    for name, value in values.items():
        owner, _, last = name.rpartition(".")
        getattr(net.get_submodule(owner), last).data.copy_(torch.from_numpy(value))
    return net


def outputs(net, training):
    torch.manual_seed(0)
    with torch.no_grad():
        return [output.clone() for output in net.train(training)(torch.from_numpy(X))]


net, x = build(P), torch.from_numpy(X)
state = torch.get_rng_state()
wiring = dt.trace(net, x[:%(example)d])
print(wiring)
print(dt.measure(net, wiring, x, tau=0.0))
print("random state kept:", torch.equal(state, torch.get_rng_state()))
names = [layer.name for layer in wiring.layers if layer.recyclable and not layer.coupled_by]
before = {mode: outputs(build(P), mode) for mode in (False, True)}
dt.recycle_(net, wiring, x, tau=0.0, init=lambda: build(FRESH), layers=names)
for name, value in P.items():
    owner, _, last = name.rpartition(".")
    now = getattr(net.get_submodule(owner), last).detach().numpy()
    changed = np.flatnonzero(value != now).tolist()
    print(name, "entries changed:", changed, "now", now.flat[changed].round(3).tolist())
for mode in (False, True):
    moved = [float((a - b).abs().max()) for a, b in zip(before[mode], outputs(net, mode))]
    print("training:" if mode else "evaluation:", "outputs moved by", moved)
'''


def script(program: Program, framework: Framework, failure: Failure, where: str, example: int = 2) -> str:
    """Returns a script that reproduces the failure."""
    shapes = {name: node.shape for name, node in program.parameters.items()}
    truths = [structure(program, training) for training in (False, True)]
    if framework == "jax":
        truths = truths[1:]
    drawn = draw_values(shapes, program.seed)
    quiet = silence(program, truths, drawn)
    silenced = [
        (name, int(entry), round(float(quiet[name].flat[entry]), 3))
        for name in shapes
        for entry in np.flatnonzero(quiet[name] != drawn[name])
    ]
    draw = DRAW % {
        "seed": program.seed, "fresh": program.seed + 99, "shape": (program.batch, *program.nodes[0].shape),
    }  # fmt: skip
    return (JAX if framework == "jax" else TORCH) % {
        "title": f"{failure.kind}.\n\nSeen: {failure.seen}\nFrom {where}.\n",
        "shapes": shapes,
        "silenced": silenced,
        "constants": [n for n, node in program.parameters.items() if node.attrs["trained"] == "constant"],
        "draw": draw,
        "source": (jax_source if framework == "jax" else torch_source)(program),
        "example": example,
    }
