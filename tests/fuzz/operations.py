"""How each operation is written in JAX and in PyTorch."""

from .operation import Op
from .torch_operations import TORCH_ONLY


def both(jax: str, torch: str | None = None, **facts: object) -> Op:
    return Op(jax, torch if torch is not None else jax, **facts)  # type: ignore[arg-type]


def kernel(jax: str, torch: str, **facts: object) -> Op:
    return Op(jax, torch, kind="kernel", **facts)  # type: ignore[arg-type]


def nonlinear(jax: str, torch: str, soft: str = "", **facts: object) -> Op:
    return Op(jax, torch, kind="nonlinear", soft=soft, **facts)  # type: ignore[arg-type]


NONLINEAR: dict[str, Op] = {
    "relu": nonlinear("jax.nn.relu({0})", "torch.relu({0})"),
    "tanh": nonlinear("jnp.tanh({0})", "torch.tanh({0})"),
    "silu": nonlinear("jax.nn.silu({0})", "F.silu({0})"),
    "gelu": nonlinear("jax.nn.gelu({0})", "F.gelu({0}, approximate='tanh')"),
    "leaky": nonlinear("jax.nn.leaky_relu({0})", "F.leaky_relu({0})"),
    "elu": nonlinear("jax.nn.elu({0})", "F.elu({0})"),
    "abs": nonlinear("jnp.abs({0})", "torch.abs({0})"),
    "square": nonlinear("jnp.square({0})", "torch.square({0})"),
    "cube": nonlinear("{0} ** 3", "{0} ** 3"),
    "softsign": nonlinear("jax.nn.soft_sign({0})", "F.softsign({0})"),
    "relu6": nonlinear("jax.nn.relu6({0})", "F.relu6({0})"),
    "clip": nonlinear("jnp.clip({0}, 0.0, 1.0)", "torch.clamp({0}, 0.0, 1.0)"),
    "where_zero": nonlinear("jnp.where({0} > 0, {0}, 0.0)", "torch.where({0} > 0, {0}, torch.zeros_like({0}))"),
    "max_zero": nonlinear("jnp.maximum({0}, 0.0)", "torch.maximum({0}, torch.zeros_like({0}))"),
    "sigmoid": nonlinear("jax.nn.sigmoid({0})", "torch.sigmoid({0})"),
    "softplus": nonlinear("jax.nn.softplus({0})", "F.softplus({0})"),
    "exp": nonlinear("jnp.exp({0})", "torch.exp({0})"),
    "sin": nonlinear("jnp.sin({0})", "torch.sin({0})"),
    "sign_root": nonlinear(
        "jnp.sign({0}) * jnp.sqrt(jnp.abs({0}))", "torch.sign({0}) * torch.sqrt(torch.abs({0}))"
    ),
    "crelu": nonlinear(
        "jnp.concatenate([jax.nn.relu({0}), jax.nn.relu(-{0})], -1)",
        "torch.cat([torch.relu({0}), torch.relu(-{0})], -1)",
        "lambda a: torch.cat([soft(a), soft(-a)], -1)",
    ),
    "glu": nonlinear(
        "jnp.split({0}, 2, -1)[0] * jax.nn.sigmoid(jnp.split({0}, 2, -1)[1])",
        "F.glu({0}, -1)",
        "lambda a: a.chunk(2, -1)[0] * soft(a.chunk(2, -1)[1] + 1)",
    ),
    "maximum": nonlinear("jnp.maximum({0}, {1})", "torch.maximum({0}, {1})"),
    "minimum": nonlinear("jnp.minimum({0}, {1})", "torch.minimum({0}, {1})"),
    "where": nonlinear("jnp.where({0} > 0, {1}, {2})", "torch.where({0} > 0, {1}, {2})"),
    "where_any": nonlinear(
        "jnp.where(x.sum() > 0, {0}, {1})", "torch.where(x.sum() > 0, {0}, {1})", "lambda a, b: 0.4 * a + 0.6 * b"
    ),
    "softmax": nonlinear(
        "jax.nn.softmax({0}, -1)", "torch.softmax({0}, -1)", "lambda a: soft(a) * soft(a).sum(-1, keepdim=True)"
    ),
    "sort": nonlinear("jnp.sort({0}, -1)", "torch.sort({0}, -1)[0]", "lambda a: blend(a)"),
    "fft": nonlinear("jnp.fft.fft({0}).real", "torch.fft.fft({0}).real", "lambda a: blend(a)"),
    "cumsum": nonlinear("jnp.cumsum({0}, -1)", "torch.cumsum({0}, -1)", "lambda a: torch.cumsum(a, -1)"),
    "max_pool": nonlinear(
        "jax.lax.reduce_window({0}, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 1, 1), 'VALID')",
        "F.max_pool2d({0}, 2, 1)",
        "lambda a: F.avg_pool2d(a, 2, 1)",
    ),
    "max_time": nonlinear("{0}.max(1)", "{0}.amax(1)", "lambda a: a.mean(1)"),
    "task_head": nonlinear(
        "jnp.take({0}.reshape({0}.shape[0], 2, -1), jnp.argmax(x.reshape(x.shape[0], -1).sum(0)) % 2, axis=1)",
        "torch.index_select({0}.reshape({0}.shape[0], 2, -1), 1, "
        "(torch.argmax(x.reshape(x.shape[0], -1).sum(0)) % 2).reshape(1)).squeeze(1)",
        "lambda a: 0.4 * a.chunk(2, -1)[0] + 0.6 * a.chunk(2, -1)[1]",
    ),
    "simnorm": nonlinear(
        "jax.nn.softmax({0}.reshape({0}.shape[0], -1, 2), -1).reshape({0}.shape[0], -1)",
        "torch.softmax({0}.reshape({0}.shape[0], -1, 2), -1).reshape({0}.shape[0], -1)",
        "lambda a: blend(a.reshape(len(a), -1, 2)).reshape(len(a), -1)",
    ),
    "relu_in_place": nonlinear("jax.nn.relu({0})", "F.relu({0} * 1.0, inplace=True)"),
    "take_traced": nonlinear(
        "jnp.take({0}, jnp.argmax(x.reshape(x.shape[0], -1).sum(0)) % {width} + jnp.arange({count}), "
        "axis=-1, mode='wrap')",
        "torch.index_select({0}, -1, (torch.argmax(x.reshape(x.shape[0], -1).sum(0)) % {width} + "
        "torch.arange({count})) % {width})",
        "lambda a: blend(a)[..., :{count}]",
    ),
}  # fmt: skip

ELEMENTWISE: dict[str, Op] = {
    "add": both("{0} + {1}"),
    "sub": both("{0} - {1}"),
    "mul": both("{0} * {1}", kind="product", soft="lambda a, b: a * b"),
    "neg": both("-{0}"),
    "times": both("{0} * {number}"),
    "plus": both("{0} + {number}"),
    "one_minus": both("1.0 - {0}"),
    "lerp": both("{0} + 0.3 * ({1} - {0})", "torch.lerp({0}, {1}, 0.3)"),
    "divide": both("{0} / {number}"),
    "mask": both("{0} * jnp.array({numbers})", "{0} * torch.tensor({numbers}, dtype=x.dtype)"),
    "stop": both("jax.lax.stop_gradient({0})", "{0}.detach()", tapped_torch="{0}"),
    "bias_image": both("{0} + {1}[:, None, None]"),
    "set_column": both(
        "{0}.at[:, {column}].set(0.0)",
        "torch.index_fill({0}, 1, torch.tensor([{column}]), 0.0)",
    ),
    "add_column": both(
        "{0}.at[:, {column}].add({0}[:, {other}])",
        "torch.index_add({0}, 1, torch.tensor([{column}]), {0}[:, {other}:{other} + 1])",
    ),
    "segments": both(
        "jax.ops.segment_sum({0}.T, jnp.array({groups}), 2).T",
        "torch.zeros({0}.shape[0], 2, dtype=x.dtype).index_add(1, torch.tensor({groups}), {0})",
    ),
    "overwrite": both(
        "jax.lax.dynamic_update_slice({0}, {0}[:, {other}:{other} + 1], (0, {column}))",
        "torch.slice_scatter({0}, {0}[:, {other}:{other} + 1], 1, {column}, {column} + 1)",
    ),
    "batch_center": both("{0} - {0}.mean(0)"),
    "noise": Op(
        "{0} + 0.1 * jax.random.normal(jax.random.key({number}), {0}.shape)",
        "{0} + 0.1 * torch.randn_like({0})",
        tapped_torch="{0} + 0.1 * T.drawn('normal', {number}, {0})",
    ),
    "dropout": Op(
        "{0} * jax.random.bernoulli(jax.random.key({number}), 0.7, {0}.shape)",
        "F.dropout({0}, 0.3, self.training)",
        tapped_torch="{0} * T.drawn('keep', {number}, {0})",
    ),
    "train_noise": Op(
        "{0}",
        "{0} + (0.1 * torch.randn_like({0}) if self.training else 0.0)",
        tapped_torch="{0} + (0.1 * T.noise({0}) if T.training else 0.0)",
    ),
    "train_scale": Op(
        "{0}", "({0} * 0.5 if self.training else {0})", tapped_torch="{0} * (0.5 if T.training else 1.0)"
    ),
}  # fmt: skip

MOVEMENT: dict[str, Op] = {
    "shift": both("jnp.pad({0}[:, 1:], ((0, 0), (0, 1)))", "F.pad({0}[:, 1:], (0, 1))"),
    "roll": both("jnp.roll({0}, {steps}, -1)", "torch.roll({0}, {steps}, -1)"),
    "reverse": both("{0}[..., ::-1]", "torch.flip({0}, (-1,))"),
    "permute": both("{0}[:, jnp.array({order})]", "{0}[:, torch.tensor({order})]"),
    "take": both("jnp.take({0}, jnp.array({order}), axis=-1)", "torch.index_select({0}, -1, torch.tensor({order}))"),
    "slice": both("{0}[..., {low}:{high}]"),
    "rows": both("{0}[{low}:{high}]"),
    "member": both("{0}[{index}]"),
    "concat": both("jnp.concatenate([{0}, {1}], -1)", "torch.cat([{0}, {1}], -1)"),
    "concat_rows": both("jnp.concatenate([{0}, {1}], 0)", "torch.cat([{0}, {1}], 0)"),
    "stack_flat": both(
        "jnp.stack([{0}, {1}], -1).reshape({0}.shape[0], -1)", "torch.stack([{0}, {1}], -1).reshape({0}.shape[0], -1)"
    ),
    "swap_halves": both(
        "jnp.concatenate(jnp.split({0}, 2, -1)[::-1], -1)", "torch.cat({0}.chunk(2, -1)[::-1], -1)"
    ),
    "add_halves": both(
        "sum(jnp.split({0}, 2, -1))", "sum({0}.chunk(2, -1))"
    ),
    "mul_halves": both(
        "jnp.split({0}, 2, -1)[0] * jnp.split({0}, 2, -1)[1]", "{0}.chunk(2, -1)[0] * {0}.chunk(2, -1)[1]",
        kind="product", soft="lambda a: a.chunk(2, -1)[0] * a.chunk(2, -1)[1]",
    ),
    "neighbours": both("{0}[:, 1:] - {0}[:, :-1]"),
    "repeat": both("jnp.repeat({0}, 2, -1)", "torch.repeat_interleave({0}, 2, -1)"),
    "tile": both("jnp.tile({0}, (1, 2))", "{0}.repeat(1, 2)"),
    "pad": both("jnp.pad({0}, ((0, 0), (1, 1)))", "F.pad({0}, (1, 1))"),
    "pad_one": both("jnp.pad({0}, ((0, 0), (0, 1)), constant_values=1.0)", "F.pad({0}, (0, 1), value=1.0)"),
    "grid": both("{0}.reshape({0}.shape[0], {left}, {right}).transpose(0, 2, 1).reshape({0}.shape[0], -1)",
                 "{0}.reshape({0}.shape[0], {left}, {right}).transpose(1, 2).reshape({0}.shape[0], -1)"),
    "swap": both("{0}.T"),
    "reshape": both("{0}.reshape({to})"),
    "flatten": both(
        "{0}.transpose({order}).reshape({0}.shape[0], -1)", "{0}.permute({order}).reshape({0}.shape[0], -1)"
    ),
    "flatten_plain": both("{0}.reshape({0}.shape[0], -1)", "torch.flatten({0}, 1)"),
    "at_time": both("{0}[:, {index}]"),
    "shift_time": both("jnp.pad({0}[:, :-1], ((0, 0), (1, 0), (0, 0)))", "F.pad({0}[:, :-1], (0, 0, 1, 0))"),
}  # fmt: skip

REDUCTION: dict[str, Op] = {
    "mean_space": both("{0}.mean((2, 3))"),
    "avg_pool": both(
        "jax.lax.reduce_window({0}, 0.0, jax.lax.add, (1, 1, 2, 2), (1, 1, 1, 1), 'VALID') / 4.0",
        "F.avg_pool2d({0}, 2, 1)",
    ),
    "mean_time": both("{0}.mean(1)"),
    "cumsum_time": both("jnp.cumsum({0}, 1)", "torch.cumsum({0}, 1)"),
    "scan_add": both("jax.lax.associative_scan(jnp.add, {0}, axis=1)", "torch.cumsum({0}, 1)"),
    "mean_members": both("{0}.mean(1)"),
    "layer_norm": both(
        "({0} - {0}.mean(-1, keepdims=True)) / jnp.sqrt({0}.var(-1, keepdims=True) + 1e-5)",
        "F.layer_norm({0}, {0}.shape[-1:])",
    ),
    "rms_norm": both(
        "{0} / jnp.sqrt(jnp.square({0}).mean(-1, keepdims=True) + 1e-6)",
        "{0} * torch.rsqrt(torch.square({0}).mean(-1, keepdim=True) + 1e-6)",
    ),
    "l2_norm": both(
        "{0} / (jnp.linalg.norm({0}, axis=-1, keepdims=True) + 1e-6)", "F.normalize({0}, dim=-1)"
    ),
    "layer_norm_module": Op(
        "", "self.l{id}({0})", tapped_torch="F.layer_norm({0}, {0}.shape[-1:], {1}, {2})",
        module="nn.LayerNorm({width})",
    ),
    "rms_norm_module": Op(
        "", "self.l{id}({0})", tapped_torch="F.rms_norm({0}, {0}.shape[-1:], {1})", module="nn.RMSNorm({width})"
    ),
    "batch_norm": both(
        "({0} - {0}.mean(0)) / jnp.sqrt({0}.var(0) + 1e-5)",
        "({0} - {0}.mean(0)) / torch.sqrt({0}.var(0, unbiased=False) + 1e-5)",
    ),
    "batch_norm_module": Op(
        "", "self.l{id}({0})",
        tapped_torch="({0} - ({0}.mean(0) if T.training else {3}))"
        " / torch.sqrt(({0}.var(0, unbiased=False) if T.training else {4}) + 1e-5) * {1} + {2}",
        module="nn.BatchNorm1d({width})",
    ),
    "state_norm": both(
        "({0} - jax.lax.stop_gradient({1})) / jnp.sqrt(jnp.abs(jax.lax.stop_gradient({2})) + 0.1)",
        "({0} - {1}.detach()) / torch.sqrt({2}.detach().abs() + 0.1)",
        tapped_torch="({0} - {1}) / torch.sqrt({2}.abs() + 0.1)",
    ),
    "pool_add": both(
        "{0} + ({0} * {1}).sum(-1, keepdims=True)", "{0} + ({0} * {1}).sum(-1, keepdim=True)"
    ),
    "temperature_norm": both(
        "{0} / (0.1 + jnp.abs({1}) * jnp.linalg.norm({0}, axis=-1, keepdims=True))",
        "{0} / (0.1 + {1}.abs() * torch.linalg.norm({0}, dim=-1, keepdim=True))",
    ),
    "weight_norm": both(
        "{1} * {0} / jnp.sqrt(jnp.square({0}).sum(0) + 1e-9)", "{1} * {0} / torch.sqrt(torch.square({0}).sum(0) + 1e-9)"
    ),
    "matmul": both("{0} @ {1}"),
    "outer": both("{0}[:, None] * {1}[None, :]"),
}  # fmt: skip

KERNELS: dict[str, Op] = {
    "dense": kernel("{0} @ {1}", "{0} @ {1}"),
    "linear": kernel("{0} @ {1}.T", "F.linear({0}, {1})"),
    "linear_bias": kernel("{0} @ {1}.T + {2}", "F.linear({0}, {1}, {2})"),
    "linear_module": kernel(
        "", "self.l{id}({0})", tapped_torch='T.z("{id}", F.linear(T.r("{id}", {0}), {1}, {2}))',
        module="nn.Linear({inputs}, {width})",
    ),
    "linear_module_plain": kernel(
        "", "self.l{id}({0})", tapped_torch='T.z("{id}", F.linear(T.r("{id}", {0}), {1}))',
        module="nn.Linear({inputs}, {width}, bias=False)",
    ),
    "einsum": kernel('jnp.einsum("b...i,oi->b...o", {0}, {1})', 'torch.einsum("b...i,oi->b...o", {0}, {1})'),
    "left": kernel("({1} @ {0}.T).T", "({1} @ {0}.T).T"),
    "by_sum": kernel("jnp.sum({0}[:, :, None] * {1}, 1)", "({0}[:, :, None] * {1}).sum(1)"),
    "mapped": kernel("jax.vmap(lambda row: row @ {1})({0})", "torch.vmap(lambda row: row @ {1})({0})",
                     tapped_torch='T.z("{id}", T.r("{id}", {0}) @ {1})'),
    "per_sample_noise": kernel(
        "jax.vmap(lambda row, key: row @ ({1} + {2} * jax.random.normal(key, {2}.shape)))"
        "({0}, jax.random.split(jax.random.key(3), {0}.shape[0]))",
        "torch.einsum('bi,bio->bo', {0}, {1} + {2} * torch.randn({0}.shape[0], *{2}.shape))",
        tapped_torch="""T.z("{id}", torch.einsum("bi,bio->bo", T.r("{id}", {0}), """
        """{1} + {2} * T.drawn("rows", 3, {2}.expand({0}.shape[0], *{2}.shape))))""",
    ),
    "noisy_dense": kernel(
        "{0} @ ({1} + {2} * jax.random.normal(jax.random.key(5), {2}.shape))",
        "{0} @ ({1} + {2} * torch.randn_like({2}) if self.training else {1})",
        tapped_torch='T.z("{id}", T.r("{id}", {0}) @ ({1} + (T.noise({2}) * {2} if T.training else 0.0)))',
    ),
    "ensemble": kernel(
        "jax.vmap(lambda w: {0} @ w, out_axes=1)({1})", "torch.einsum('bi,mio->bmo', {0}, {1})", units=(1, 2),
    ),
    "members": kernel(
        "jax.vmap(jnp.matmul, (1, 0), 1)({0}, {1})", "torch.bmm({0}.transpose(0, 1), {1}).transpose(0, 1)",
        units=(1, 2),
    ),
    "conv": kernel(
        "jax.lax.conv_general_dilated({0}, {1}, (1, 1), '{padding}')", "F.conv2d({0}, {1}, padding='{small}')",
        units=(1,),
    ),
    "conv_last": kernel(
        "jax.lax.conv_general_dilated({0}.transpose(0, 2, 3, 1), {1}, (1, 1), '{padding}', "
        "dimension_numbers=('NHWC', 'HWIO', 'NHWC')).transpose(0, 3, 1, 2)",
        "F.conv2d({0}, {1}.permute(3, 2, 0, 1), padding='{small}')", units=(1,),
    ),
    "conv_module": kernel(
        "", "self.l{id}({0})", units=(1,), tapped_torch='T.z("{id}", F.conv2d(T.r("{id}", {0}), {1}, {2}))',
        module="nn.Conv2d({inputs}, {width}, {size})",
    ),
    "depthwise": kernel(
        "jax.lax.conv_general_dilated({0}, {1}, (1, 1), 'SAME', feature_group_count={inputs})",
        "F.conv2d({0}, {1}, padding='same', groups={inputs})", units=(1,),
    ),
    "complex": kernel(
        "jnp.abs({0} @ jax.lax.complex({1}, {2}))", "torch.abs({0}.to(torch.complex64) @ torch.complex({1}, {2}))",
        tapped_torch='T.complex("{id}", {0}, {1}, {2})',
    ),
    "attention": kernel(
        "jax.nn.softmax(({0} @ {1}) @ ({0} @ {2}).transpose(0, 2, 1), -1) @ ({0} @ {3})",
        "torch.softmax(({0} @ {1}) @ ({0} @ {2}).transpose(1, 2), -1) @ ({0} @ {3})",
        tapped_torch='T.attention("{id}", {0}, {1}, {2}, {3})',
    ),
    "functional_call": kernel(
        "", 'torch.func.functional_call(self.l{id}, {{"weight": {1}}}, ({0},))',
        tapped_torch='T.z("{id}", F.linear(T.r("{id}", {0}), {1}))', module="nn.Linear({inputs}, {width}, bias=False)",
    ),
    "conditional": kernel(
        "jax.lax.cond(x.sum() > 0, lambda a: a @ {1}, lambda a: a @ {2}, {0})",
        "torch.where(x.sum() > 0, {0} @ {1}, {0} @ {2})",
        tapped_torch='T.pick(x, T.z("{id}a", T.r("{id}a", {0}) @ {1}), T.z("{id}b", T.r("{id}b", {0}) @ {2}))',
    ),
    "picked": kernel(
        "{0} @ jax.lax.dynamic_index_in_dim({1}, jnp.argmax(x.reshape(x.shape[0], -1).sum(0)) % 2, keepdims=False)",
        "{0} @ torch.index_select({1}, 0, (torch.argmax(x.reshape(x.shape[0], -1).sum(0)) % 2).reshape(1))[0]",
        tapped_torch='T.z("{id}", T.r("{id}", {0}) @ '
        '(0.4 * {1}[0] + 0.6 * {1}[1] if T.generic else {1}[torch.argmax(x.reshape(x.shape[0], -1).sum(0)) % 2]))',
    ),
    "switched": kernel(
        "jax.lax.switch(jnp.argmax(x.reshape(x.shape[0], -1).sum(0)) % 3, "
        "[lambda a: a @ {1}, lambda a: a @ {2}, lambda a: a @ {3}], {0})",
        "[lambda a: a @ {1}, lambda a: a @ {2}, lambda a: a @ {3}]"
        "[int(torch.argmax(x.reshape(x.shape[0], -1).sum(0)) % 3)]({0})",
        tapped_torch='T.switch(x, T.z("{id}a", T.r("{id}a", {0}) @ {1}), T.z("{id}b", T.r("{id}b", {0}) @ {2}), '
        'T.z("{id}c", T.r("{id}c", {0}) @ {3}))',
    ),
    "while_layers": kernel(
        "jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(c[1] @ {1})), (0, {0}))[1]",
        "torch.tanh(torch.tanh(torch.tanh({0} @ {1}) @ {1}) @ {1})",
        tapped_torch='T.while_layers("{id}", {0}, {1})',
    ),
    "conv_up": kernel(
        "jax.lax.conv_transpose({0}, {1}, (2, 2), 'VALID', dimension_numbers=('NCHW', 'OIHW', 'NCHW'))",
        "F.conv_transpose2d({0}, {1}.flip(2, 3).transpose(0, 1), stride=2)", units=(1,),
    ),
    "recurrent": kernel(
        "jax.lax.scan(lambda h, r: (jnp.tanh(r @ {1} + h @ {2}),) * 2, jnp.zeros(({0}.shape[0], {width})), "
        "{0}.transpose(1, 0, 2))[1].transpose(1, 0, 2)",
        "recurrent({0}, {1}, {2})",
        tapped_torch='T.recurrent("{id}", {0}, {1}, {2})',
    ),
    "residual_scan": kernel(
        "jax.lax.scan(lambda h, w: (h + jax.nn.relu(h @ w), None), {0}, {1})[0]",
        "residual_loop({0}, {1})",
        tapped_torch='T.residual_scan("{id}", {0}, {1})',
    ),
    "scan_layers": kernel(
        "jax.lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), {0}, {1})[0]",
        "layers_loop({0}, {1})",
        tapped_torch='T.scan_layers("{id}", {0}, {1})',
    ),
}  # fmt: skip

OPS: dict[str, Op] = {**NONLINEAR, **ELEMENTWISE, **MOVEMENT, **REDUCTION, **KERNELS, **TORCH_ONLY}
