"""What each tensor operation does to labels: a table from the operation's name in ATen to a rule.

A rule takes the tracer and the call, and returns the label of the output (or a list, one per output). To teach the
tracer an operation, add its name to a rule's, or write a rule; what is not in the table is never guessed.
"""

from typing import TYPE_CHECKING, Any

from . import arithmetic, movement, products
from .calls import Call, Rule, unknown

if TYPE_CHECKING:
    from .tracing import Tracer


def label_of(tracer: "Tracer", func: Any, args: Any, kwargs: Any, output: Any) -> Any:
    """The label of the output, or a list with one for each output."""
    call, several = Call(func, func.overloadpacket.__name__, args, kwargs, output), isinstance(output, tuple | list)
    if any(tracer.label(tensor) for tensor in tracer.tensors(args, kwargs)):
        label = RULES.get(call.name, unknown)(tracer, call)
        return [label] + [None] * (len(output) - 1) if several and not isinstance(label, list) else label
    return [None] * len(output) if several else None


NAMES: tuple[tuple[Rule, str], ...] = (
    (
        movement.movement,
        """_unsafe_view permute transpose t expand squeeze unsqueeze slice select split split_with_sizes unsafe_split
        unbind cat stack flip roll repeat diagonal pixel_shuffle pixel_unshuffle channel_shuffle im2col unfold
        reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d""",
    ),
    (movement.view, "view"),
    (movement.indexing, "index index_select"),
    (movement.same, "clone detach alias _to_copy lift_fresh"),
    (movement.padding, "constant_pad_nd"),
    (movement.reduction, "mean sum amax amin max"),
    (movement.pooling(1), "avg_pool1d upsample_nearest1d upsample_linear1d"),
    (
        movement.pooling(2),
        """max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d
        upsample_bilinear2d""",
    ),
    (
        movement.pooling(3),
        """max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d adaptive_max_pool3d upsample_nearest3d
        upsample_trilinear3d""",
    ),
    (
        arithmetic.nonlinearity,
        """relu tanh sigmoid gelu silu elu leaky_relu softplus hardtanh hardswish hardsigmoid mish threshold celu
        softshrink hardshrink log_sigmoid_forward abs exp log sqrt rsqrt pow clamp clamp_min clamp_max sin cos erf
        expm1 log1p""",
    ),
    (arithmetic.prelu, "_prelu_kernel"),
    (arithmetic.plus, "add sub"),
    (arithmetic.times, "mul div"),
    (arithmetic.negated, "neg"),
    (arithmetic.layer_norm, "native_layer_norm"),
    (arithmetic.group_norm, "native_group_norm"),
    (
        arithmetic.batch_norm,
        """native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm
        miopen_batch_norm _batch_norm_with_update _batch_norm_no_update""",
    ),
    (products.matrix_product, "mm bmm"),
    (products.matrix_product_plus, "addmm baddbmm"),
    (products.convolved, "convolution"),
)
RULES: dict[str, Rule] = {name: rule for rule, names in NAMES for name in names.split()}
