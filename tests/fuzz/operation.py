"""The class `Op`: one operation, as templates of JAX and PyTorch code.

Templates are format strings. `{0}` and `{1}` are the arguments, and `{id}` is the node's number. Any other field is an
attribute of the node. A tapped template calls the object `T`, which records, cuts or perturbs values:

- `T.r(id, value)`: the value that a kernel reads.
- `T.z(id, value)`: the units that a kernel computes.
- `T.a(id, compute, arguments, soft)`: the result of a nonlinearity. `soft` is a smooth function that depends on the
  elements that the nonlinearity depends on.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["kernel", "nonlinear", "product", "plain"]  # "product" multiplies two activations, so it is nonlinear


@dataclass(frozen=True)
class Op:
    """An operation in both frameworks. `units` are the axes of a kernel's result along which its units lie."""

    jax: str
    torch: str
    kind: Kind = "plain"
    units: tuple[int, ...] = (-1,)
    soft: str = ""  # a lambda in PyTorch; the default is `structure.soft`, which works element by element
    tapped_torch: str = ""
    module: str = ""  # constructor of the nn.Module that `torch` calls
