"""Adds normalisations, reshapes and simple arithmetic on rows to a program."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .generator import Builder


def normed(b: "Builder", h: int) -> int:
    torch = b.framework == "torch"
    name = b.pick(
        {"layer_norm": 1, "rms_norm": 1, "l2_norm": 0.7, "batch_norm": 1, "softmax": 0.3, "layer_norm_module": torch,
         "batch_norm_module": torch, "rms_norm_module": 0.5 * torch}
    )  # fmt: skip
    if not name.endswith("module"):
        h = b.add(name, (h,))
        return b.add("mul", (h, b.param(b.shape(h)[-1:], "scale"))) if b.chance(0.4) else h
    if name == "batch_norm_module" and len(b.shape(h)) > 1:
        return h
    width = b.shape(h)[-1]
    parts = {"layer_norm_module": 2, "rms_norm_module": 1, "batch_norm_module": 4}[name]
    number = len(b.nodes) + parts
    names = (
        ("weight", "scale", "yes"),
        ("bias", "bias", "yes"),
        ("running_mean", "state", "buffer"),
        ("running_var", "state", "buffer"),
    )
    args = [b.param((width,), role, trained, f"l{number}.{last}") for last, role, trained in names[:parts]]
    made = b.add(name, (h, *args), width=width)
    b.nodes[made].attrs["id"] = number  # type: ignore[index]
    return made


def moved(b: "Builder", h: int) -> int:
    """Adds an operation that moves the elements of rows, or simple arithmetic."""
    if len(b.shape(h)) > 1 or b.shape(h)[0] < 2:
        return h
    width, torch = b.shape(h)[0], b.framework == "torch"
    order = [int(i) for i in b.rng.permutation(width)]
    name = b.pick(
        {"shift": 1, "roll": 1, "reverse": 1, "permute": 1, "take": 0.7, "slice": 1, "swap_halves": width % 2 == 0,
         "add_halves": 0.5 * (width % 2 == 0), "mul_halves": 0.5 * (width % 2 == 0), "neighbours": 1,
         "repeat": 0.6 * (width < 6), "tile": 0.4 * (width < 6), "pad": 0.5, "pad_one": 0.3, "grid": width == 6,
         "times": 1, "plus": 0.3, "one_minus": 0.3, "neg": 1, "mask": 0.7, "set_column": 0.6, "add_column": 0.4,
         "noise": 0.3, "dropout": 0.7, "train_noise": 0.6 * (b.framework == "torch"),
         "train_scale": 0.4 * (b.framework == "torch"), "stop": 0.3, "sort": 0.2, "fft": 0.2, "cumsum": 0.2,
         "take_traced": 0.3, "scale": 1, "combined": 1.5, "batch_center": 0.2,
         "state_norm": 0.3, "pool_add": 0.3, "temperature_norm": 0.3, "by_sum_add": 0.8, "softmax_gate": 0.3,
         "task_head": 0.4 * (width % 2 == 0), "simnorm": 0.3 * (width % 2 == 0), "segments": 0.4, "overwrite": 0.5,
         "half_in_place": 0.5 * torch, "add_in_place": 0.3 * torch, "copy_in_place": 0.3 * torch}
    )  # fmt: skip
    low, high = sorted(int(i) for i in b.rng.choice(width + 1, 2, replace=False))
    if name == "slice":
        least = 2 if b.framework == "torch" else 1  # torch.einsum turns a single column into a scale
        low = max(0, min(low, width - least))
        high = min(max(high, low + least), width)
        return b.add(name, (h,), (high - low,), low=low, high=high)
    if name == "take":
        order = [int(i) for i in b.rng.integers(width, size=width)]
    if name == "segments":
        return b.add(name, (h,), (2,), groups=[int(i) for i in b.rng.integers(2, size=width)])
    if name in ("add_halves", "mul_halves", "task_head"):
        return b.add(name, (h,), (width // 2,))
    if name in ("repeat", "tile"):
        return b.add(name, (h,), (2 * width,))
    sizes = {"neighbours": width - 1, "pad": width + 2, "pad_one": width + 1}
    if name == "scale":
        return b.add("mul", (h, b.param((width,), "scale")))
    if name in STATISTICS:
        return STATISTICS[name](b, h, width)
    if name == "combined":
        return combined(b, h)
    if name == "take_traced":
        return b.add(name, (h,), (width,), width=width, count=width)
    return b.add(
        name, (h,), (sizes.get(name, width),), steps=int(b.rng.integers(1, width)), order=order, left=2, right=3,
        number=int(b.rng.integers(2, 9)) if name in ("noise", "dropout") else b.numbers(1)[0],
        numbers=[float(i) for i in b.rng.integers(0, 2, width)] if b.chance(0.5) else b.numbers(width),
        column=int(b.rng.integers(width)), other=int(b.rng.integers(width)),
    )  # fmt: skip


STATISTICS: dict[str, Callable[["Builder", int, int], int]] = {
    "state_norm": lambda b, h, width: b.add(
        "state_norm", (h, b.param((width,), "state", "buffer"), b.param((width,), "state", "buffer"))
    ),
    "pool_add": lambda b, h, width: b.add("pool_add", (h, b.param((width,), "scale"))),
    "temperature_norm": lambda b, h, width: b.add("temperature_norm", (h, b.param((1,), "scale"))),
    "by_sum_add": lambda b, h, width: b.add(
        "add", (h, b.add("by_sum", (h, b.param((width, width), "kernel")), (width,)))
    ),
    "softmax_gate": lambda b, h, width: b.add(
        "mul", (h, b.add("softmax", (b.add("mul", (h, b.param((1,), "scale"))),)))
    ),
}


def combined(b: "Builder", h: int) -> int:
    """Adds a combination of a row with a shifted or permuted copy of itself."""
    other = h
    for _ in range(10):
        other = moved(b, h)
        if other != h and b.shape(other) == b.shape(h):
            return b.add(
                b.pick({"add": 1, "sub": 2, "mul": 0.5, "maximum": 0.5, "minimum": 0.01, "lerp": 0.3}),
                (h, other),
            )
    return h
