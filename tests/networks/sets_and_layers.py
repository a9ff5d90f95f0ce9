"""Networks of sets and graphs, mixers, and unusual layers, in JAX."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .case import IMAGES, ROWS, SEQUENCES, flat, linen

SENDERS, RECEIVERS = np.array([0, 1, 2, 3, 4, 5, 0, 2]), np.array([1, 2, 3, 4, 5, 0, 3, 5])


def hidden(x, width, name, activation=nn.relu):
    return activation(nn.Dense(width, name=name)(x))


@linen(
    "NerveNet, messages along a graph",
    ROWS,
    recycled="message1 message2 dense",
    measured={"summed": "embed update1 update2"},
    agent="Wang et al. 2018",
)
def nerve_net(x):
    """Each row of `x` is a node of a graph. A node receives the sum of the messages from its neighbours."""
    x = hidden(x, 6, "embed", nn.tanh)
    for step in (1, 2):
        pairs = jnp.concatenate([x[SENDERS], x[RECEIVERS]], -1)
        messages = hidden(pairs, 6, f"message{step}")
        x = nn.tanh(nn.Dense(6, name=f"update{step}")(jax.ops.segment_sum(messages, RECEIVERS, 6)) + x)
    return nn.Dense(2, name="mean")(hidden(x, 8, "dense"))


@linen("graph convolutions with a normalised adjacency", ROWS, recycled="dense1 dense2")
def graph_convolution(x):
    adjacency = np.eye(6, dtype=np.float32)
    adjacency[SENDERS, RECEIVERS] = 1
    adjacency /= adjacency.sum(1, keepdims=True)
    for layer in (1, 2):
        x = nn.relu(adjacency @ nn.Dense(6, name=f"dense{layer}")(x))
    return nn.Dense(2, name="head")(x)


@linen("PointNet, maximum over points", SEQUENCES, recycled="point1 point2 dense")
def point_net(x):
    x = hidden(hidden(x, 6, "point1"), 8, "point2").max(1)
    return nn.Dense(2, name="head")(hidden(x, 6, "dense"))


@linen("Deep Sets, mean over elements", SEQUENCES, recycled="phi1 phi2 rho1")
def deep_sets(x):
    x = nn.Dense(6, name="phi2")(hidden(x, 8, "phi1")).mean(1)
    return nn.Dense(2, name="head")(hidden(x, 6, "rho1"))


@linen("set attention with a mask", SEQUENCES, recycled="dense", measured={"is combined with dense": "score"})
def masked_set(x):
    """Sets have different lengths. A mask excludes the elements after the end of each set."""
    length = jnp.array([4, 2, 3])
    present = jnp.arange(4) < length[:, None]
    x = hidden(x, 8, "dense")
    scores = jnp.where(present, nn.Dense(1, name="score")(x)[..., 0], -jnp.inf)
    return nn.Dense(2, name="head")((nn.softmax(scores)[..., None] * x).sum(1))


@linen("MLP-Mixer", IMAGES, recycled="token1 channel1", measured={"summed": "patches token2 channel2"})
def mixer(x):
    x = nn.Conv(6, (4, 4), 4, name="patches")(x).reshape(len(x), 9, 6)
    y = nn.gelu(nn.Dense(8, name="token1")(nn.LayerNorm()(x).swapaxes(1, 2)))
    x = x + nn.Dense(9, name="token2")(y).swapaxes(1, 2)
    x = x + nn.Dense(6, name="channel2")(hidden(nn.LayerNorm()(x), 12, "channel1", nn.gelu))
    return nn.Dense(3, name="head")(x.mean(1))


@linen("ConvNeXt block", IMAGES, recycled="expand", coupled="depthwise", measured={"summed": "stem contract"})
def conv_next(x):
    x = nn.Conv(4, (4, 4), 4, name="stem")(x)
    y = nn.Conv(4, (3, 3), feature_group_count=4, name="depthwise")(x)
    y = nn.Dense(4, name="contract")(hidden(nn.LayerNorm()(y), 16, "expand", nn.gelu))
    return nn.Dense(3, name="head")((x + y).mean((1, 2)))


@linen("U-Net with concatenated skips", IMAGES, recycled="down1 down2 middle up")
def u_net(x):
    first = nn.relu(nn.Conv(4, (3, 3), name="down1")(x))
    second = nn.relu(nn.Conv(6, (3, 3), name="down2")(nn.max_pool(first, (2, 2), (2, 2))))
    y = nn.relu(nn.Conv(6, (3, 3), name="middle")(second))
    y = jnp.concatenate([jax.image.resize(y, (len(x), 12, 12, 6), "nearest"), first], -1)
    return nn.Conv(1, (1, 1), name="head")(nn.relu(nn.Conv(4, (3, 3), name="up")(y)))


@linen("ResNet with BatchNorm and projections", IMAGES, recycled="stem a1 b1+projection1 a2 b2+projection2")
def projected_resnet(x):
    x = nn.relu(nn.Conv(4, (3, 3), name="stem")(x))
    for block, width in ((1, 4), (2, 6)):
        y = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(width, (3, 3), 2, name=f"a{block}")(x)))
        y = nn.BatchNorm(use_running_average=True)(nn.Conv(width, (3, 3), name=f"b{block}")(y))
        x = nn.relu(y + nn.Conv(width, (1, 1), 2, name=f"projection{block}")(x))
    return nn.Dense(3, name="head")(x.mean((1, 2)))


@linen("spatial softmax of keypoints", IMAGES, awake="conv2", recycled="conv1 dense", agent="Levine et al. 2016")
def spatial_softmax(x):
    """Computes the mean coordinates of each channel, weighted by a softmax over positions."""
    x = nn.Conv(4, (3, 3), name="conv2")(nn.relu(nn.Conv(6, (3, 3), 2, name="conv1")(x)))
    attention = nn.softmax(x.reshape(len(x), 36, 4), 1)
    grid = jnp.stack(jnp.meshgrid(jnp.linspace(0, 1, 6), jnp.linspace(0, 1, 6)), -1).reshape(36, 2)
    points = flat(jnp.einsum("bpc,pk->bck", attention, grid))
    return nn.Dense(3, name="policy")(hidden(points, 8, "dense"))


@linen("GLU variants", ROWS, recycled="a+b c+d e+f")
def glu_variants(x):
    x = nn.Dense(8, name="a")(x) * nn.sigmoid(nn.Dense(8, name="b")(x))
    x = nn.Dense(8, name="c")(x) * nn.gelu(nn.Dense(8, name="d")(x))
    x = nn.Dense(8, name="e")(x) * nn.relu(nn.Dense(8, name="f")(x))
    return nn.Dense(2, name="head")(x)


@linen("many activations", ROWS, awake="d5", recycled="d0 d1 d2 d3 d4 d6 d7")
def many_activations(x):
    kinds = (jax.nn.mish, nn.celu, nn.selu, nn.soft_sign, nn.hard_tanh, jax.nn.squareplus, nn.relu6, nn.hard_swish)
    for number, kind in enumerate(kinds):
        x = hidden(x, 6, f"d{number}", kind)
    return nn.Dense(2, name="head")(x)


@linen("maxout", ROWS, measured={"without weights of its own": "dense"})
def maxout(x):
    x = nn.Dense(12, name="dense")(x).reshape(-1, 6, 2).max(-1)
    return nn.Dense(2, name="head")(x)


@linen("SIREN", ROWS, recycled="dense1 dense2")
def siren(x):
    x = jnp.sin(30 * nn.Dense(8, name="dense1")(x))
    return nn.Dense(2, name="head")(jnp.sin(nn.Dense(8, name="dense2")(x)))


class Spline(nn.Module):
    """A Kolmogorov-Arnold layer: a sum of learned functions of one input each. Their basis is Gaussian bumps."""

    width: int

    @nn.compact
    def __call__(self, x):
        bumps = jnp.exp(-jnp.square(2 * (x[..., None] - jnp.linspace(-2, 2, 5))))
        weights = self.param("kernel", nn.initializers.normal(), (x.shape[-1], 5, self.width))
        return nn.Dense(self.width, use_bias=False, name="base")(nn.silu(x)) + jnp.einsum("bik,iko->bo", bumps, weights)


@linen("Kolmogorov-Arnold layers", ROWS, awake="kan1/base+kan1")
def spline(x):
    return Spline(2, name="kan2")(Spline(8, name="kan1")(x))


@linen("highway layers", ROWS, measured={"feeds and reads": "dense+..."})
def highway(x):
    x = hidden(x, 8, "dense")
    for layer in (1, 2):
        gate = nn.sigmoid(nn.Dense(8, name=f"gate{layer}")(x))
        x = gate * hidden(x, 8, f"inner{layer}") + (1 - gate) * x
    return nn.Dense(2, name="head")(x)


@linen("mixture of experts, dense gating", ROWS, recycled="a b")
def experts(x):
    shares = nn.softmax(nn.Dense(2, name="gate")(x))
    outputs = jnp.stack([nn.Dense(3, name=f"{name}2")(hidden(x, 8, name)) for name in "ab"], 1)
    return (shares[..., None] * outputs).sum(1)


@linen(
    "top-1 expert by a switch",
    ROWS,
    measured={
        "without weights of its own": "dense",
        "combined by 'select_n' with b": "a",
        "combined by 'select_n' with a": "b",
    },
)
def switched(x):
    """A `lax.switch` chooses one expert for the whole batch."""
    x = hidden(x, 8, "dense")
    kernels = [nn.Dense(6, name=name)(x) for name in "ab"]
    chosen = (x.sum() > 3).astype(jnp.int32)
    return nn.Dense(2, name="head")(nn.relu(jax.lax.switch(chosen, [lambda: kernels[0], lambda: kernels[1]])))


@linen("L2-normalised features", ROWS, coupled="dense2", recycled="dense1")
def unit_features(x):
    x = hidden(hidden(x, 8, "dense1"), 6, "dense2")
    return nn.Dense(2, name="head")(x / jnp.linalg.norm(x, axis=-1, keepdims=True))


@linen("pooled statistics of a set", SEQUENCES, recycled="dense")
def pooled_statistics(x):
    x = hidden(x, 8, "dense")
    return nn.Dense(2, name="head")(jnp.concatenate([x.mean(1), x.max(1), x.min(1), x.std(1)], -1))


@linen("FFT mixing (FNet)", SEQUENCES, recycled="mlp1", measured={"summed": "embed mlp2"})
def fourier_mixing(x):
    x = nn.Dense(8, name="embed")(x)
    x = nn.LayerNorm()(x + jnp.fft.fft2(x).real)
    return nn.Dense(2, name="head")(x + nn.Dense(8, name="mlp2")(hidden(x, 12, "mlp1", nn.gelu)))


@linen("k winners take all", ROWS, coupled="dense")
def winners(x):
    x = hidden(x, 8, "dense")
    least = jnp.sort(x, -1)[:, -3:][:, :1]
    return nn.Dense(2, name="head")(jnp.where(x >= least, x, 0.0))
