"""Networks of installed JAX packages, built with each package's own calls, and the expected result per layer.

A package is imported when its network is built, so that collecting the tests does not need the package.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Network:
    """A network, and the expected result per layer: "recycled", "coupled", or a part of the reason against recycling.

    `silencers` takes the name of a recycled layer and returns the paths of parameters. Very negative values of these
    parameters silence the layer's neurons. The default is the layer's bias. If `zeroed` is True, the test sets these
    parameters to zero instead. Activations such as tanh need this, because they are zero only at zero.
    """

    apply: Callable[..., Any]
    init: Callable[[jax.Array], Any]
    inputs: tuple[np.ndarray, ...]
    layers: dict[str, str]
    silencers: Callable[[str], tuple[str, ...]] = lambda layer: (f"params/{layer}/bias",)
    zeroed: bool = False


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def recycled(*names: str, members: int = 0) -> dict[str, str]:
    suffixes = [f"[{member}]" for member in range(members)] or [""]
    return dict.fromkeys((f"{name}{suffix}" for name in names for suffix in suffixes), "recycled")


def linen(module: Any, inputs: tuple[Any, ...], layers: dict[str, str], output: Any = None, **options: Any) -> Network:
    def apply(params, *inputs):
        result = module.apply(params, *inputs, **options)
        return result if output is None else output(result)

    silencers = {"silencers": options.pop("silencers")} if "silencers" in options else {}
    zeroed = options.pop("zeroed", False)
    return Network(apply, lambda key: module.init(key, *inputs, **options), inputs, layers, **silencers, zeroed=zeroed)


def sbx_q_network() -> Network:
    from sbx.dqn.policies import QNetwork

    return linen(QNetwork(n_actions=3, n_units=16), (floats(12, 5),), recycled("Dense_0", "Dense_1"))


def sbx_cnn_q_network() -> Network:
    from sbx.dqn.policies import CnnQNetwork

    images = np.random.default_rng(0).integers(0, 256, size=(3, 4, 36, 36)).astype(np.uint8)
    names = (f"NatureCNN_0/{name}" for name in ("Conv_0", "Conv_1", "Conv_2", "Dense_0"))
    return linen(CnnQNetwork(n_actions=3, n_units=16), (images,), recycled(*names))


def sbx_twin_critics() -> Network:
    from sbx.common.policies import VectorCritic

    names = ("VmapContinuousCritic_0/Dense_0", "VmapContinuousCritic_0/Dense_1")
    return linen(VectorCritic([16, 16]), (floats(12, 5), floats(12, 2)), recycled(*names, members=2))


def sbx_twin_critics_with_layer_norm() -> Network:
    from sbx.common.policies import VectorCritic

    names = ("VmapContinuousCritic_0/Dense_0", "VmapContinuousCritic_0/Dense_1")
    layers = dict.fromkeys(recycled(*names, members=2), "coupled")
    return linen(VectorCritic([16, 16], use_layer_norm=True), (floats(12, 5), floats(12, 2)), layers)


def sbx_simba_critics() -> Network:
    from sbx.common.policies import SimbaVectorCritic

    block = "VmapSimbaContinuousCritic_0/SimbaResidualBlock_{}/Dense_{}[{}]"
    layers = {block.format(b, 0, member): "recycled" for b in (0, 1) for member in (0, 1)}
    layers |= {block.format(b, 1, member): "summed with" for b in (0, 1) for member in (0, 1)}
    layers |= {f"VmapSimbaContinuousCritic_0/Dense_0[{member}]": "summed with" for member in (0, 1)}
    return linen(SimbaVectorCritic([8, 8]), (floats(12, 5), floats(12, 2)), layers)


def sbx_sac_actor() -> Network:
    from sbx.common.policies import SquashedGaussianActor

    def moments(policy):
        return policy.distribution.mean(), policy.distribution.stddev()

    actor = SquashedGaussianActor([16, 16], action_dim=2)
    return linen(actor, (floats(12, 5),), recycled("Dense_0", "Dense_1"), output=moments)


def sbx_ppo_actor() -> Network:
    from sbx.ppo.policies import Actor

    def moments(policy):
        return policy.mean(), policy.stddev()

    def parents(layer):
        return f"params/{layer}/bias", f"params/{layer}/kernel"

    layers = recycled("Dense_0", "Dense_1")
    return linen(Actor(2, [16, 16]), (floats(12, 5),), layers, output=moments, silencers=parents, zeroed=True)


def sbx_crossq_critics() -> Network:
    from sbx.crossq.policies import VectorCritic

    reason = "not zero when silent: batch_stats/VmapCritic_0/BatchRenorm_{}/mean follows its activation"
    layers = {f"VmapCritic_0/Dense_{n}[{member}]": reason.format(n + 1) for n in (0, 1) for member in (0, 1)}
    critics = VectorCritic([16, 16], use_batch_norm=True)
    return linen(critics, (floats(12, 5), floats(12, 2)), layers, train=False)


def brax_q_network() -> Network:
    from brax.training.networks import make_q_network

    made = make_q_network(5, 2, hidden_layer_sizes=(8, 8), n_critics=2)
    names = (f"MLP_{critic}/hidden_{n}" for critic in (0, 1) for n in (0, 1))

    def apply(params, observation, action):
        return made.apply(None, params, observation, action)

    return Network(apply, made.init, (floats(12, 5), floats(12, 2)), recycled(*names))


def brax_swish_policy() -> Network:
    from brax.training.networks import make_policy_network
    from flax.linen import swish

    made = make_policy_network(4, 5, hidden_layer_sizes=(8, 8), activation=swish)

    def apply(params, observation):
        return made.apply(None, params, observation)

    return Network(apply, made.init, (floats(12, 5),), recycled("hidden_0", "hidden_1"))


def brax_mlp_with_layer_norm() -> Network:
    from brax.training.networks import MLP

    reason = "not zero when silent: a normalisation with hidden_{} follows its activation"
    return linen(MLP([8, 8, 2], layer_norm=True), (floats(12, 5),), {f"hidden_{n}": reason.format(n) for n in (0, 1)})


def brax_vision() -> Network:
    from brax.training.networks import VisionMLP

    module = VisionMLP([8, 2], cnn_output_channels=(4, 4, 4), cnn_global_pool="max", state_obs_key="state")
    inputs = (floats(3, 16, 16, 3), floats(3, 5))

    def named(pixels, state):
        return {"pixels/front": pixels, "pixels/rear": pixels[:, ::-1], "state": state}

    names = [f"CNN_{camera}/Conv_{n}" for camera in (0, 1) for n in (0, 1, 2)]
    return Network(
        lambda params, *inputs: module.apply(params, named(*inputs)),
        lambda key: module.init(key, named(*inputs)),
        inputs,
        recycled(*names, "MLP_0/hidden_0"),
    )


def equinox(make: Callable[[jax.Array], Any], call: Callable[..., Any], *inputs: np.ndarray, **facts: Any) -> Network:
    import equinox as eqx

    static = eqx.partition(make(jax.random.key(0)), eqx.is_inexact_array)[1]

    def apply(params, *inputs):
        return call(eqx.combine(params, static), *inputs)

    return Network(apply, lambda key: eqx.partition(make(key), eqx.is_inexact_array)[0], inputs, **facts)


def own_bias(layer: str) -> tuple[str]:
    return (f"{layer}/bias",)


def equinox_mlp() -> Network:
    import equinox as eqx

    def make(key):
        return eqx.nn.MLP(5, 2, 8, 2, key=key)

    layers = recycled("layers/0", "layers/1")
    return equinox(make, lambda mlp, x: jax.vmap(mlp)(x), floats(12, 5), layers=layers, silencers=own_bias)


def equinox_ensemble() -> Network:
    import equinox as eqx

    def make(key):
        return eqx.filter_vmap(lambda one: eqx.nn.MLP(5, 2, 8, 2, key=one))(jax.random.split(key, 3))

    def call(members, x):
        return eqx.filter_vmap(lambda member: jax.vmap(member)(x))(members)

    layers = recycled("layers/0", "layers/1", members=3)
    return equinox(make, call, floats(12, 5), layers=layers, silencers=own_bias)


def equinox_gru() -> Network:
    import equinox as eqx
    import jax.numpy as jnp

    def make(key):
        cell, head = jax.random.split(key)
        return eqx.nn.GRUCell(6, 4, key=cell), eqx.nn.Linear(4, 2, key=head)

    def call(parts, sequences):
        cell, head = parts

        def last(sequence):
            return jax.lax.scan(lambda state, x: (cell(x, state), None), jnp.zeros(4), sequence)[0]

        return jax.vmap(lambda sequence: head(last(sequence)))(sequences)

    return equinox(make, call, floats(3, 4, 6), layers={"0": "0/weight_hh both feeds and reads it"})


def haiku(function: Callable[..., Any], *inputs: np.ndarray, **facts: Any) -> Network:
    """Returns the network of a Haiku function `f(*inputs, is_training)`. The parameters include the state."""
    import haiku as hk

    made = hk.without_apply_rng(hk.transform_with_state(function))

    def init(key):
        return dict(zip(("p", "s"), made.init(key, *inputs, True), strict=True))

    return Network(lambda both, *inputs: made.apply(both["p"], both["s"], *inputs, False)[0], init, inputs, **facts)


def batch_norm_offset(layer: str) -> tuple[str]:
    """Returns the path of the BatchNorm offset after a convolution. For example, batchnorm_1 comes after conv_1."""
    last = layer.split("+")[-1]
    for convolution, norm in (
        ("initial_conv", "initial_batchnorm"),
        ("/conv_", "/batchnorm_"),
        ("depthwise_conv", "batch_norm"),
        ("pointwise_conv", "batch_norm_1"),
        ("mobile_net_v1/conv2_d", "mobile_net_v1/batch_norm"),
    ):
        if convolution in last:
            return (last.replace(convolution, norm) + "/offset",)
    raise AssertionError(layer)


def haiku_resnet() -> Network:
    import haiku as hk

    def function(x, is_training):
        settings = dict(bottleneck=False, resnet_v2=False, channels_per_group=(4, 4, 4, 4))
        first = dict(output_channels=4)
        projections = (False, True, True, True)
        network = hk.nets.ResNet([1] * 4, 3, use_projection=projections, initial_conv_config=first, **settings)
        return network(x, is_training=is_training, test_local_stats=False)

    block = "p/res_net/~/block_group_{0}/~/block_0/~/"
    layers = {(block + "conv_0").format(group): "recycled" for group in range(4)}
    layers |= {(block + "shortcut_conv+" + block + "conv_1").format(group): "recycled" for group in (1, 2, 3)}
    layers |= {"p/res_net/~/initial_conv": "summed with", (block + "conv_1").format(0): "summed with"}

    def offsets(layer):
        both = [batch_norm_offset(layer)[0]]
        return (*both, both[0].replace("batchnorm_1", "shortcut_batchnorm")) if "+" in layer else tuple(both)

    return haiku(function, floats(3, 16, 16, 3), layers=layers, silencers=offsets)


def haiku_mobile_net() -> Network:
    import haiku as hk

    def function(x, is_training):
        return hk.nets.MobileNetV1(strides=(1, 2), channels=(6, 4), num_classes=3)(x, is_training=is_training)

    blocks = [f"p/mobile_net_v1/{name}" for name in ("mobile_net_v1_block", "mobile_net_v1_block_1")]
    names = [f"{block}/{name}" for block in blocks for name in ("depthwise_conv", "pointwise_conv")]
    layers = recycled("p/mobile_net_v1/conv2_d", *names)
    return haiku(function, floats(3, 16, 16, 3), layers=layers, silencers=batch_norm_offset)


def haiku_lstm() -> Network:
    import haiku as hk

    def function(x, is_training):
        core = hk.LSTM(4)
        outputs, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[1]))
        return hk.Linear(2)(outputs[-1])

    return haiku(function, floats(3, 4, 6), layers={"p/lstm/linear": "p/lstm/linear/w both feeds and reads it"})


def pgx_alpha_zero() -> Network:
    # Does not call make_baseline_model, because that function would download trained weights.
    from pgx._src.baseline import _create_az_model_v0

    def function(x, is_training):
        return _create_az_model_v0(9, 4, 2)(x, is_training=is_training, test_local_stats=False)

    offsets = {
        "p/az_net/block_0/conv2_d": "p/az_net/block_0/batch_norm_1/offset",
        "p/az_net/block_1/conv2_d": "p/az_net/block_1/batch_norm_1/offset",
        "p/az_net/conv2_d_1": "p/az_net/batch_norm_1/offset",
        "p/az_net/conv2_d_2": "p/az_net/batch_norm_2/offset",
        "p/az_net/linear_1": "p/az_net/linear_1/b",
    }
    summed = ("p/az_net/conv2_d", "p/az_net/block_0/conv2_d_1", "p/az_net/block_1/conv2_d_1")
    layers = recycled(*offsets) | dict.fromkeys(summed, "summed with")
    return haiku(function, floats(3, 5, 5, 2), layers=layers, silencers=lambda layer: (offsets[layer],))


NETWORKS = {
    "sbx-rl: DQN, MLP": sbx_q_network,
    "sbx-rl: DQN, Nature CNN": sbx_cnn_q_network,
    "sbx-rl: twin critics": sbx_twin_critics,
    "sbx-rl: twin critics with LayerNorm": sbx_twin_critics_with_layer_norm,
    "sbx-rl: SimBa critics": sbx_simba_critics,
    "sbx-rl: SAC actor": sbx_sac_actor,
    "sbx-rl: PPO actor, tanh": sbx_ppo_actor,
    "sbx-rl: CrossQ critics": sbx_crossq_critics,
    "brax: twin critics": brax_q_network,
    "brax: policy, swish": brax_swish_policy,
    "brax: MLP with LayerNorm": brax_mlp_with_layer_norm,
    "brax: two cameras and a state": brax_vision,
    "equinox: MLP": equinox_mlp,
    "equinox: ensemble of MLPs": equinox_ensemble,
    "equinox: GRU": equinox_gru,
    "dm-haiku: ResNet": haiku_resnet,
    "dm-haiku: MobileNet": haiku_mobile_net,
    "dm-haiku: LSTM": haiku_lstm,
    "pgx: AlphaZero ResNet": pgx_alpha_zero,
}
