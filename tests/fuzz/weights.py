"""Adds kernels and biases that are parameters, or are computed from parameters."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .generator import Builder


def kernel_value(b: "Builder", shape: tuple[int, int]) -> int:
    """Adds a kernel of this shape and returns its node."""
    torch = b.framework == "torch"
    kind = b.pick(
        {"plain": 30, "sum": 1, "low_rank": 1.5, "mask": 1.5, "times": 1, "stop": 0.5, "swap": 1.5, "vector": 1,
         "slice": 1, "rows": 0.7, "member": 1.2, "weight_norm": 1, "column_scale": 1, "tanh": 0.5, "square": 0.4,
         "noise": 0.4, "concat": 1, "product": 0.7, "constant": 0.8, "frozen": 0.8 * torch, "buffer": 0.8 * torch,
         "shared": 2.5, "reverse": 0.6, "exp": 0.2}
    )  # fmt: skip
    return _computed(b, kind, *shape)


def _computed(b: "Builder", kind: str, rows: int, columns: int) -> int:
    shape = (rows, columns)
    new = lambda size=shape: b.param(size, "kernel")  # noqa: E731
    match kind:
        case "sum":
            return b.add("add", (new(), new()))
        case "low_rank":
            return b.add("add", (new(), b.add("matmul", (new((rows, 2)), new((2, columns))), shape)))
        case "product":
            return b.add("matmul", (new((rows, 2)), new((2, columns))), shape)
        case "mask":
            mask = [[float(v) for v in row] for row in b.rng.integers(0, 2, shape)]
            return b.add("mask", (new(),), numbers=mask)
        case "times" | "stop" | "tanh" | "square" | "exp" | "reverse":
            return b.add(kind, (new(),), number=b.numbers(1)[0])
        case "swap":
            return b.add("swap", (new((columns, rows)),), shape)
        case "vector":
            return b.add("reshape", (new((rows * columns,)),), shape, to=shape)
        case "slice":
            return b.add("slice", (new((rows, columns + 2)),), shape, low=1, high=columns + 1)
        case "rows":
            return b.add("rows", (new((rows + 2, columns)),), shape, low=2, high=rows + 2)
        case "member":
            return b.add("member", (new((2, *shape)),), shape, index=int(b.rng.integers(2)))
        case "weight_norm":
            return b.add("weight_norm", (new(), b.param((columns,), "scale")), shape)
        case "column_scale":
            return b.add("mul", (new(), b.param((columns,), "scale")))
        case "noise":
            return b.add("noise", (new(),), number=int(b.rng.integers(9)))
        case "concat" if columns > 1:
            return b.add("concat", (new((rows, columns - 1)), new((rows, 1))), shape)
        case "constant" | "frozen" | "buffer":
            return b.param(shape, "kernel", kind)
        case "shared":
            found = [
                i
                for i, node in enumerate(b.nodes)
                if not node.batched and node.shape == shape and not (node.is_parameter and "." in node.attrs["name"])
            ]
            return int(b.rng.choice(found)) if found else new()
        case _:
            return new()


def bias_value(b: "Builder", width: int) -> int:
    """Adds a bias of this width and returns its node."""
    kind = b.pick(
        {"plain": 20, "times": 1, "sum": 1, "tanh": 0.7, "slice": 0.7, "product": 0.5, "mask": 0.5, "constant": 0.4,
         "reverse": 0.5, "neg": 0.5, "stop": 0.2, "exp": 0.2, "shared": 2, "concat": 0.4}
    )  # fmt: skip
    new = lambda size=width, role="bias": b.param((size,), role)  # noqa: E731
    match kind:
        case "times" | "tanh" | "reverse" | "neg" | "stop" | "exp":
            return b.add(
                kind, (new(role="bias" if kind in ("times", "stop", "reverse") else "scale"),), number=b.numbers(1)[0]
            )
        case "sum":
            return b.add("add", (new(), new()))
        case "slice":
            return b.add("slice", (new(width + 2),), (width,), low=1, high=width + 1)
        case "product":
            return b.add("mul", (new(role="scale"), new(role="scale")))
        case "mask":
            return b.add("mask", (new(),), numbers=[float(v) for v in b.rng.integers(0, 2, width)])
        case "constant":
            return b.param((width,), "bias", "constant")
        case "concat" if width > 1:
            return b.add("concat", (new(width - 1), new(1)), (width,))
        case "shared":
            found = [
                i
                for i, node in enumerate(b.nodes)
                if node.is_parameter and node.shape == (width,) and "." not in node.attrs["name"]
            ]
            return int(b.rng.choice(found)) if found else new()
        case _:
            return new()
