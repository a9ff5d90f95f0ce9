"""The type of a program's operations.

Templates are format strings. `{0}`, `{1}` are the arguments, `{id}` is the node's number, any other field is an
attribute of the node. A tapped template calls `T`, which records, cuts or perturbs values:

- `T.r(id, value)`: the value that a kernel reads.
- `T.z(id, value)`: the units that a kernel computes.
- `T.a(id, compute, arguments, soft)`: the result of a nonlinearity. `soft` is a smooth function that depends on the
  elements that the nonlinearity depends on.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["kernel", "nonlinear", "product", "plain"]  # a product of two activations is a nonlinearity


@dataclass(frozen=True)
class Op:
    """An operation in both frameworks. `units` are the axes of a kernel's result along which its units lie."""

    jax: str
    torch: str
    kind: Kind = "plain"
    units: tuple[int, ...] = (-1,)
    soft: str = ""  # a lambda in PyTorch; by default every argument is elementwise
    tapped_torch: str = ""
    module: str = ""  # constructor of the nn.Module that `torch` calls
