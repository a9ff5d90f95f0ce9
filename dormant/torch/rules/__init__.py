"""Rules for tensor operations. A rule defines what an operation does to neurons and parameter entries.

A rule takes the ledger and the call, and returns the value of the first output, or a list with one value per output.
`NAMES` lists the rules with the names of their operations in ATen, torch's library of operations. To support another
operation, add its name to an existing rule, or write a new rule. Elementwise operations need no name in the table. Any
other operation without a rule mixes its inputs.
"""

import torch

from ..ledger import Call, Ledger, Result, Rule, constant, mix
from ..values import Value
from . import arithmetic, movement, products

NAMES: tuple[tuple[Rule, str], ...] = (
    (
        movement.movement,
        """_unsafe_view view reshape permute cat stack flip roll repeat pixel_shuffle pixel_unshuffle channel_shuffle
        reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
        diagonal_copy unbind_copy split_copy split_with_sizes_copy unsafe_split unsafe_split_with_sizes
        transpose_copy expand_copy slice_copy view_copy native_channel_shuffle rot90""",
    ),
    (movement.triangle, "tril triu"),
    (movement.unfolded, "im2col"),
    (movement.padding, "constant_pad_nd"),
    (movement.indexing, "index index_select gather take_along_dim"),
    (movement.writing, "index_put scatter slice_scatter select_scatter index_copy index_fill masked_scatter"),
    (movement.accumulated, "index_add scatter_add scatter_reduce"),
    (movement.repeated, "copy"),
    (movement.dropped, "native_dropout"),
    (movement.zeros, "zeros zeros_like new_zeros zero fill full full_like new_full"),
    (movement.lost, "_local_scalar_dense equal is_nonzero"),
    (
        movement.reduction,
        """mean sum amax amin max min median nanmedian nansum std var prod linalg_vector_norm norm logsumexp""",
    ),
    (movement.along, "cumsum cumprod cummax cummin logcumsumexp sort topk _softmax _log_softmax"),
    (movement.pooling(1), "avg_pool1d upsample_nearest1d upsample_linear1d"),
    (
        movement.pooling(2),
        """max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d
        upsample_bilinear2d upsample_bicubic2d""",
    ),
    (
        movement.pooling(3),
        """max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d adaptive_max_pool3d upsample_nearest3d
        upsample_trilinear3d""",
    ),
    (arithmetic.pointwise, "complex polar hardswish log_sigmoid_forward _to_copy lift_fresh positive normal"),
    (mix, "rrelu_with_noise"),  # each neuron's random numbers depend on how many other elements are negative
    (arithmetic.gated, "glu"),
    (arithmetic.prelu, "_prelu_kernel"),
    (products.layer_norm, "native_layer_norm"),
    (products.rms_norm, "_fused_rms_norm"),
    (products.group_norm, "native_group_norm"),
    (
        products.batch_norm,
        """native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm
        miopen_batch_norm _batch_norm_with_update _batch_norm_no_update""",
    ),
    (products.matrix_product, "mm bmm mv dot"),
    (products.matrix_product_plus, "addmm baddbmm addmv"),
    (products.convolved, "convolution"),
    (products.recurrent, "mkldnn_rnn_layer _cudnn_rnn miopen_rnn lstm_mps"),
    (
        products.attention,
        """_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
        _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention""",
    ),
)
RULES: dict[str, Rule] = {name: rule for rule, names in NAMES for name in names.split()}


# Operations whose results depend on the shape of an input, but not on its elements.
SHAPES = frozenset(
    (
        *("empty_like", "rand_like", "randn_like", "randint_like", "ones_like", "new_empty", "new_empty_strided"),
        *("new_ones", "normal", "uniform", "bernoulli", "random", "exponential", "cauchy", "log_normal", "geometric"),
    )
)


def known(notes: Ledger, call: Call) -> Result:
    """Applies the rule of an operation. Returns the value of the first output, or a list with one value per output."""
    if call.name in SHAPES and len(call.tensors) < 2 and (call.name.endswith("like") or _fills(call)):
        return Value(varies=torch.Tag.nondeterministic_seeded in call.func.tags)
    rule = RULES.get(call.name)
    told = any(value.stages or value.has_parameters or value.neurons is not None for value in call.values)
    if rule is not None and (told or rule is movement.zeros):
        return rule(notes, call)
    if not told:
        return constant(call)
    return arithmetic.pointwise(notes, call) if torch.Tag.pointwise in call.func.tags else mix(notes, call)


def _fills(call: Call) -> bool:
    """Whether an operation does not read its input. For example, `bernoulli_` overwrites it, `bernoulli` reads it."""
    return call.func._schema.is_mutable or call.name.startswith("new_")
