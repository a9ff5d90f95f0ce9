"""Draws random programs. A program depends only on its framework, seed and number."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .program import BATCH_STATISTICS, Node, Program, without_dead_nodes
from .rows import moved, normed
from .source import Framework
from .weights import bias_value, kernel_value

WIDTHS = (3, 4, 6)
ACTIVATIONS = {
    "relu": 10, "tanh": 3, "silu": 3, "gelu": 1, "leaky": 2, "elu": 1, "abs": 1, "square": 1, "cube": 0.5,
    "softsign": 1, "relu6": 0.7, "clip": 0.7, "where_zero": 0.7, "max_zero": 1, "sigmoid": 0.5, "softplus": 0.3,
    "exp": 0.2, "sin": 0.7, "sign_root": 0.3, "relu_in_place": 0.7, "crelu": 1.2, "glu": 1,
}  # fmt: skip


class Builder:
    """Collects the nodes of one program."""

    def __init__(self, rng: np.random.Generator, framework: Framework, shape: tuple[int, ...]) -> None:
        self.rng, self.framework = rng, framework
        self.nodes: list[Node] = [Node("input", shape=shape)]
        self.count = 0

    def add(self, op: str, args: tuple[int, ...], shape: tuple[int, ...] = (), **attrs: Any) -> int:
        """Adds a node and returns its number. By default, it has the shape of its first argument."""
        batched = any(self.nodes[arg].batched for arg in args)
        shape = shape or self.nodes[args[0]].shape
        self.nodes.append(Node(op, args, tuple(int(size) for size in shape), batched, {**attrs, "id": len(self.nodes)}))
        return len(self.nodes) - 1

    def param(self, shape: tuple[int, ...], role: str, trained: str = "yes", name: str = "") -> int:
        self.count += 1
        name = name or f"{role[0]}{self.count}"
        self.nodes.append(Node("param", (), tuple(shape), False, {"name": name, "trained": trained, "role": role}))
        return len(self.nodes) - 1

    def shape(self, index: int) -> tuple[int, ...]:
        return self.nodes[index].shape

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, weights: dict[str, float]) -> str:
        names, sizes = list(weights), np.array(list(weights.values()), float)
        return names[int(self.rng.choice(len(names), p=sizes / sizes.sum()))]

    def width(self) -> int:
        return int(self.rng.choice(WIDTHS))

    def numbers(self, count: int) -> list[float]:
        return [round(float(value), 2) for value in self.rng.uniform(0.3, 1.5, count)]


def generate(framework: Framework, seed: int, number: int) -> Program:
    """Returns program `number` of a seed."""
    rng = np.random.default_rng([seed, number, framework == "jax"])
    start = str(rng.choice(["row", "image", "series"], p=[0.72, 0.16, 0.12]))
    b = Builder(rng, framework, {"row": (int(rng.integers(3, 6)),), "image": (2, 4, 4), "series": (3, 4)}[start])
    h = 0
    if start == "image":
        h = images(b, h)
    if start == "series":
        h = series(b, h)
    for _ in range(int(rng.integers(1, 4))):
        h = block(b, h)
    outputs, training = heads(b, h)
    batch, seed = int(rng.integers(3, 6)), int(rng.integers(1 << 30))
    if {node.op for node in b.nodes} & BATCH_STATISTICS:
        batch = 4  # the mean of 4 equal floats is exact, so a centred constant neuron is exactly 0
    return without_dead_nodes(Program(tuple(b.nodes), outputs, training, batch, seed))


def dense(b: Builder, h: int, width: int) -> int:
    """Adds a kernel that reads rows, with or without a bias."""
    inputs = b.shape(h)[-1]
    torch = b.framework == "torch"
    form = b.pick(
        {"dense": 6, "linear": 2, "einsum": 0.5, "left": 0.3, "by_sum": 0.15, "mapped": 0.5, "per_sample_noise": 0.3,
         "noisy_dense": 0.4, "conditional": 0.35, "picked": 0.25, "complex": 0.3, "functional_call": 0.4 * torch,
         "branching": 0.15 * torch, "picked_row": 0.3 * torch, "picked_item": 0.2 * torch, "picked_list": 0.1 * torch,
         "addmm_out": 0.3 * torch,
         "switched": 0.3 * (not torch),
         "linear_module": 6 * torch,
         "linear_module_plain": torch}
    )  # fmt: skip
    rows = len(b.shape(h)) == 1
    if not rows and form not in ("dense", "linear", "einsum", "linear_module", "linear_module_plain"):
        form = "dense"
    shape = (*b.shape(h)[:-1], width)
    if form.startswith("linear_module"):
        return linear_module(b, h, width, form)
    if form == "functional_call":
        own = b.param((width, inputs), "kernel", "yes", f"l{len(b.nodes) + 4}.weight")
        kernel = b.add("times", (b.param((width, inputs), "kernel"),), number=0.9)
        b.param((1,), "kernel")  # unused, but without it the name of `own` would not have the number of `made`
        made = b.add(form, (h, kernel, own), shape, inputs=inputs, width=width)
        b.nodes[made].attrs["id"] = made  # type: ignore[index]
        return made
    if form == "linear":
        return with_bias(b, b.add("linear", (h, kernel_value(b, (width, inputs))), shape))
    if form == "einsum":
        return with_bias(b, b.add("einsum", (h, kernel_value(b, (width, inputs))), shape))
    if form in ("per_sample_noise", "noisy_dense", "conditional", "complex", "branching"):
        pair = (b.param((inputs, width), "kernel"), b.param((inputs, width), "kernel"))
        return with_bias(b, b.add(form, (h, *pair), shape))
    if form == "switched":
        return with_bias(b, b.add(form, (h, *(b.param((inputs, width), "kernel") for _ in range(3))), shape))
    if form.startswith("picked"):
        return with_bias(b, b.add(form, (h, b.param((2, inputs, width), "kernel")), shape))
    if form == "left":
        return with_bias(b, b.add(form, (h, kernel_value(b, (width, inputs))), shape))
    return with_bias(b, b.add(form, (h, kernel_value(b, (inputs, width))), shape))


def linear_module(b: Builder, h: int, width: int, form: str) -> int:
    frozen = b.chance(0.06)
    number, trained = len(b.nodes) + 2, "frozen" if frozen else "yes"
    weight = b.param((width, b.shape(h)[-1]), "kernel", trained, f"l{number}.weight")
    bias = b.param((width,), "bias", trained, f"l{number}.bias")
    facts = {"inputs": b.shape(h)[-1], "width": width, "frozen": frozen}
    made = b.add(form, (h, weight, bias)[: 3 if form == "linear_module" else 2], (*b.shape(h)[:-1], width), **facts)
    b.nodes[made].attrs["id"] = number  # type: ignore[index]
    return made


def with_bias(b: Builder, h: int) -> int:
    return b.add("add", (h, bias_value(b, b.shape(h)[-1]))) if b.chance(0.7) else h


def activated(b: Builder, h: int) -> int:
    """Adds a nonlinearity, or nothing."""
    if b.chance(0.1):
        return h
    name = b.pick(ACTIVATIONS)
    width = b.shape(h)[-1]
    if name == "glu":
        return b.add("glu", (h,), (*b.shape(h)[:-1], width // 2)) if width % 2 == 0 else b.add("relu", (h,))
    if name == "crelu":
        return b.add("crelu", (h,), (*b.shape(h)[:-1], 2 * width)) if width < 6 else b.add("relu", (h,))
    return b.add(name, (h,))


def images(b: Builder, h: int) -> int:
    """Adds one or two convolutions, with or without pooling, and flattens their output."""
    for _ in range(int(b.rng.integers(1, 3))):
        channels, height, width = b.shape(h)
        out, size = int(b.rng.choice([2, 3, 4])), 2
        same = b.chance(0.3)
        form = b.pick({"conv": 2, "conv_last": 2, "conv_module": 3 * (b.framework == "torch" and not same)})
        shape = (out, height, width) if same else (out, height - 1, width - 1)
        kind = "SAME" if same else "VALID"
        facts = {"padding": kind, "small": kind.lower()}
        if form == "conv_module":
            number = len(b.nodes) + 2
            weight = b.param((out, channels, size, size), "kernel", "yes", f"l{number}.weight")
            bias = b.param((out,), "bias", "yes", f"l{number}.bias")
            h = b.add(form, (h, weight, bias), shape, inputs=channels, width=out, size=size)
            b.nodes[h].attrs["id"] = number  # type: ignore[index]
        else:
            kernel = (out, channels, size, size) if form == "conv" else (size, size, channels, out)
            h = b.add(form, (h, b.param(kernel, "kernel")), shape, **facts)
            h = b.add("bias_image", (h, bias_value(b, out))) if b.chance(0.7) else h
        h = b.add(b.pick({name: size for name, size in ACTIVATIONS.items() if name not in ("crelu", "glu")}), (h,))
        if b.chance(0.15):
            channels = b.shape(h)[0]
            kernel = b.param((2 * channels, 1, 2, 2), "kernel")
            h = b.add("depthwise", (h, kernel), (2 * channels, *b.shape(h)[1:]), inputs=channels)
            h = b.add("relu", (h,))
        if b.framework == "torch" and b.chance(0.2):
            channels, height, width = b.shape(h)
            kernel = b.param((channels, 3, 2, 2), "kernel")
            h = b.add("transposed_conv", (h, kernel), (3, height + 1, width + 1))
            h = b.add("relu", (h,))
        if b.chance(0.3) and b.shape(h)[1] > 2:
            pool = b.pick({"max_pool": 1, "avg_pool": 1})
            h = b.add(pool, (h,), (b.shape(h)[0], b.shape(h)[1] - 1, b.shape(h)[2] - 1))
    if b.chance(0.15) and b.shape(h)[1] < 4:
        out = int(b.rng.choice([2, 3]))
        kernel = b.param((out, b.shape(h)[0], 2, 2), "kernel")
        h = b.add("relu", (b.add("conv_up", (h, kernel), (out, *(2 * size for size in b.shape(h)[1:]))),))
    size = int(np.prod(b.shape(h)))
    end = b.pick({"flatten": 3, "flatten_plain": 1, "mean_space": 1})
    if end == "mean_space":
        return b.add(end, (h,), b.shape(h)[:1])
    orders = ((0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 2, 1), (0, 2, 1, 3))
    return b.add(end, (h,), (size,), **({"order": orders[int(b.rng.integers(4))]} if end == "flatten" else {}))


def series(b: Builder, h: int) -> int:
    """Adds layers along a time axis, and reduces them to one row."""
    width = b.width()
    inputs = b.shape(h)[-1]
    form = b.pick({"recurrent": 1, "dense": 2, "attention": 0.7})
    if form == "attention":
        q, k = b.param((inputs, 2), "kernel"), b.param((inputs, 2), "kernel")
        h = b.add(form, (h, q, k, kernel_value(b, (inputs, width))), (3, width))
        h = activated(b, h) if b.chance(0.3) else h
    elif form == "recurrent":
        pair = (b.param((inputs, width), "kernel"), b.param((width, width), "kernel"))
        h = b.add(form, (h, *pair), (3, width), width=width)
    else:
        h = activated(b, dense(b, h, width))
    if b.chance(0.5):
        h = b.add(b.pick({"cumsum_time": 1, "scan_add": 1, "shift_time": 1}), (h,))
    h = activated(b, dense(b, h, b.width())) if b.chance(0.4) else h
    width = b.shape(h)[-1]
    end = b.pick({"mean_time": 1, "max_time": 1, "at_time": 1, "flatten_plain": 1})
    return b.add(end, (h,), (3 * width,) if end == "flatten_plain" else (width,), index=int(b.rng.integers(3)))


def block(b: Builder, h: int) -> int:
    """Adds a layer of rows, or two layers that are combined in a random way."""
    kind = b.pick(
        {
            "layer": 10,
            "residual": 2,
            "gate": 1.2,
            "joined": 1,
            "ensemble": 1,
            "scan": 0.5,
            "branches": 1,
            "film": 0.6,
            "squeeze": 0.5,
        }
    )
    return BLOCKS[kind](b, h)


def layer(b: Builder, h: int) -> int:
    h = dense(b, h, b.width())
    if b.chance(0.12):
        h = normed(b, h)
    h = moved(b, h) if b.chance(0.12) else h
    h = activated(b, h)
    if b.chance(0.06):
        h = normed(b, h)
    return moved(b, h) if b.chance(0.35) else h


def residual(b: Builder, h: int) -> int:
    width = b.shape(h)[-1]
    inner = activated(b, dense(b, h, b.width()))
    out = dense(b, inner, width)
    out = b.add(b.pick({"relu": 1, "tanh": 1}), (out,)) if b.chance(0.3) else out
    h = b.add(b.pick({"add": 4, "sub": 0.5, "lerp": 0.5}), (h, out))
    return b.add("relu", (h,)) if b.chance(0.3) else h


def gate(b: Builder, h: int) -> int:
    width = b.width()
    one, two = dense(b, h, width), dense(b, h, width)
    two = b.add(b.pick({"sigmoid": 3, "silu": 3, "tanh": 1, "relu": 2}), (two,)) if b.chance(0.85) else two
    one = activated_alike(b, one) if b.chance(0.4) else one
    return b.add("mul", (one, two) if b.chance(0.5) else (two, one))


def activated_alike(b: Builder, h: int) -> int:
    return b.add(b.pick({"relu": 3, "tanh": 1, "silu": 1}), (h,))


def joined(b: Builder, h: int) -> int:
    """Adds two layers of the same width, combined element by element."""
    width = b.width()
    one, two = (
        dense(b, h, width),
        dense(b, h if b.chance(0.7) else 0, width) if len(b.shape(0)) == 1 else dense(b, h, width),
    )
    one, two = (activated_alike(b, each) if b.chance(0.4) else each for each in (one, two))
    op = b.pick({"add": 2, "sub": 1, "maximum": 1, "minimum": 0.5, "where": 1, "where_any": 0.7, "lerp": 0.5})
    made = b.add(
        op, (one, one, two) if op == "where" and b.chance(0.5) else (one, two, one) if op == "where" else (one, two)
    )
    return activated_alike(b, made) if b.chance(0.6) else made


def ensemble(b: Builder, h: int) -> int:
    members, width = 2, b.width()
    h = b.add("ensemble", (h, b.param((members, b.shape(h)[-1], width), "kernel")), (members, width))
    h = b.add("add", (h, b.param((members, width), "bias"))) if b.chance(0.6) else h
    h = activated_alike(b, h)
    if b.chance(0.5):
        out = b.width()
        h = activated_alike(b, b.add("members", (h, b.param((members, width, out), "kernel")), (members, out)))
    if b.chance(0.6):
        return b.add("flatten_plain", (h,), (int(np.prod(b.shape(h))),))
    return b.add("mean_members", (h,), b.shape(h)[-1:])


def scan(b: Builder, h: int) -> int:
    width = b.shape(h)[-1]
    if b.chance(0.25):
        return b.add("while_layers", (h, b.param((width, width), "kernel")))
    return b.add(b.pick({"residual_scan": 1, "scan_layers": 1.5}), (h, b.param((2, width, width), "kernel")))


def branches(b: Builder, h: int) -> int:
    """Adds two concatenated layers, then perhaps one bias and one nonlinearity for both."""
    one = dense(b, h, b.width())
    if b.chance(0.6):
        one = activated_alike(b, one)
    two = activated_alike(b, dense(b, h, b.shape(one)[-1])) if b.chance(0.7) else h
    if b.shape(one) == b.shape(two) and b.chance(0.3):
        h = b.add("stack_flat", (one, two), (2 * b.shape(one)[-1],))
    else:
        h = b.add("concat", (one, two), (b.shape(one)[-1] + b.shape(two)[-1],))
    h = with_bias(b, h) if b.chance(0.3) else h
    h = b.add("mul", (h, b.param(b.shape(h), "scale"))) if b.chance(0.15) else h
    return activated_alike(b, h) if b.chance(0.4) else h


def film(b: Builder, h: int) -> int:
    """Adds a layer that another layer scales and shifts."""
    width = b.width()
    scale, shift, value = dense(b, h, width), dense(b, h, width), dense(b, h, width)
    value = activated_alike(b, value) if b.chance(0.3) else value
    return activated_alike(b, b.add("add", (b.add("mul", (scale, value)), shift)))


def squeeze(b: Builder, h: int) -> int:
    """Adds a layer, and multiplies it by a gate that is computed from the layer (squeeze-and-excitation)."""
    h = layer(b, h)
    return b.add("mul", (h, b.add("sigmoid", (dense(b, h, b.shape(h)[-1]),))))


BLOCKS: dict[str, Callable[[Builder, int], int]] = {
    "layer": layer, "residual": residual, "gate": gate, "joined": joined, "ensemble": ensemble, "scan": scan,
    "film": film, "squeeze": squeeze,
    "branches": branches,
}  # fmt: skip


def heads(b: Builder, h: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Adds one to three outputs. Returns all outputs, and the outputs that PyTorch returns only in training mode."""
    count = int(b.rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
    made = []
    for _ in range(count):
        inner = layer(b, h) if b.chance(0.2) else h
        out = dense(b, inner, int(b.rng.integers(1, 4)))
        made.append(b.add("tanh", (out,)) if b.chance(0.1) else out)
    if b.chance(0.04):
        made.append(int(b.rng.choice([i for i, node in enumerate(b.nodes) if node.batched])))
    training = []
    if b.framework == "torch" and b.chance(0.12):
        rows = [i for i, node in enumerate(b.nodes) if node.batched and len(node.shape) == 1]
        training.append(dense(b, int(b.rng.choice(rows)), 2))
    return tuple(made), tuple(training)
