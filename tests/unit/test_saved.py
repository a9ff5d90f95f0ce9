"""`dormant scan` reads networks that libraries of JAX and PyTorch have saved. The libraries write the files here."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from flax import nnx, serialization
from torch import nn

from dormant.cli import run

MODULES = """
import haiku as hk
import jax
import sb3_contrib
import stable_baselines3 as sb3
from flax import linen, nnx
from torch import nn

class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        hidden = jax.nn.relu(linen.Dense(8)(x))
        return linen.Dense(2)(hidden)

class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.b(jax.nn.relu(self.a(x)))

def of_linen(params, x):
    return Linen().apply(params, x)

def of_nnx(params, x):
    graph, state = nnx.split(Nnx(nnx.Rngs(0)))
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)(x)

haiku = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([8, 2])(x)))
of_haiku = haiku.apply

def mlp(params, x):
    return jax.nn.relu(x @ params["a"]["w"] + params["a"]["b"][None]) @ params["b"]["w"]

def half_mlp(params, x):
    return mlp(jax.tree.map(lambda leaf: leaf.astype("float32"), params), x)

def torch_mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

def wide_mlp():
    return nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2))

def deep_mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))

def one_layer():
    return nn.Sequential(nn.Linear(4, 8))

def no_module():
    return 5

def broken():
    raise RuntimeError("no luck")

def dqn():
    return sb3.DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}, buffer_size=10)

def qrdqn():
    return sb3_contrib.QRDQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}, buffer_size=10)

def sac():
    return sb3.SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]}, buffer_size=10)

def ppo():
    return sb3.PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]})
"""
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype(np.float32)
DEAD = np.array([-100.0] * 3 + [0.0] * 5, np.float32)  # the biases of eight hidden neurons, three of which are silent


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A user's folder with a module, batches, and a saved network per format. Three of its eight neurons are silent."""
    folder = tmp_path_factory.mktemp("saved")
    (folder / "saved_modules.py").write_text(MODULES)
    np.save(folder / "x.npy", X)
    np.save(folder / "double.npy", X.astype(np.float64))
    np.savez(folder / "sac.npz", observations=X[:, :3], actions=np.tanh(X[:, :1]))
    made: dict = {}
    exec(MODULES, made)
    write_jax(folder, made)
    write_torch(folder, made)
    return folder


def write_jax(folder, made):
    params = {"a": {"w": RNG.normal(size=(4, 8)), "b": DEAD}, "b": {"w": RNG.normal(size=(8, 2))}}
    flat = {
        f"{layer}.{name}": np.asarray(leaf, np.float32) for layer, own in params.items() for name, leaf in own.items()
    }
    safetensors.numpy.save_file(flat, folder / "mlp.safetensors")
    np.savez(folder / "half.npz", **{name: np.asarray(jnp.asarray(leaf, jnp.bfloat16)) for name, leaf in flat.items()})
    np.savez(folder / "void.npz", **flat | {"a.b": np.zeros(8, "V3")})
    linens = made["Linen"]().init(jax.random.key(0), X)
    linens["params"]["Dense_0"]["bias"] = jnp.asarray(DEAD)
    (folder / "linen.msgpack").write_bytes(serialization.to_bytes(linens))
    (folder / "cut.msgpack").write_bytes(serialization.to_bytes(linens)[:-5])
    network = made["Nnx"](nnx.Rngs(0))
    network.a.bias[...] = jnp.asarray(DEAD)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "nnx", nnx.state(network))
    haikus = made["haiku"].init(jax.random.key(0), X)
    haikus["mlp/~/linear_0"]["b"] = DEAD
    np.savez(
        folder / "haiku.npz",
        **{f"{module}/{name}": leaf for module, own in haikus.items() for name, leaf in own.items()},
    )


def write_torch(folder, made):
    module = made["torch_mlp"]()
    module[0].bias.data = torch.from_numpy(DEAD)
    torch.save(module.state_dict(), folder / "mlp.pt")
    torch.save(made["one_layer"]().state_dict(), folder / "one.pt")
    torch.save({"step": 5, "model": module.state_dict()}, folder / "training.pt")
    torch.save(torch.compile(nn.ModuleDict({"module": module}), backend="eager").state_dict(), folder / "wrapped.pt")
    torch.save(module, folder / "whole.pt")
    (folder / "cut.pt").write_bytes((folder / "mlp.pt").read_bytes()[:-100])
    safetensors.torch.save_file(module.state_dict(), folder / "torch.safetensors")
    for name in ("dqn", "qrdqn", "sac", "ppo"):
        made[name]().save(folder / f"{name}.zip")


@pytest.fixture
def said(files, monkeypatch, capsys):
    """A function that runs `dormant scan` in the folder `files` and returns the rows of the printed table."""
    monkeypatch.chdir(files)
    monkeypatch.syspath_prepend(files)

    def scanned(checkpoint, kind, name, batch="x.npy", *more):
        assert run(["scan", checkpoint, f"--{kind}", f"saved_modules:{name}", "--batch", batch, *more]) == 0
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    return scanned


@pytest.mark.parametrize(
    ("checkpoint", "kind", "name", "more"),
    [
        ("mlp.safetensors", "apply", "mlp", ()),
        ("half.npz", "apply", "half_mlp", ()),
        ("linen.msgpack", "apply", "of_linen", ()),
        ("nnx", "apply", "of_nnx", ()),
        ("haiku.npz", "apply", "of_haiku", ()),
        ("mlp.pt", "module", "torch_mlp", ()),
        ("training.pt", "module", "torch_mlp", ("--params", "model")),
        ("wrapped.pt", "module", "torch_mlp", ()),
        ("torch.safetensors", "module", "torch_mlp", ()),
    ],
)
def test_three_of_eight_neurons_are_silent_in_every_format(said, checkpoint, kind, name, more):
    rows = said(checkpoint, kind, name, "x.npy", *more)
    assert rows[1][1:5] == ["8", "3", "37.5", "%"]


def test_a_batch_of_doubles_is_converted_to_the_type_of_the_weights(said):
    assert said("mlp.pt", "module", "torch_mlp", "double.npy") == said("mlp.pt", "module", "torch_mlp")


@pytest.mark.parametrize(
    ("name", "batch", "layers"),
    [
        ("dqn", "x.npy", ["q_net.q_net.0"]),
        ("qrdqn", "x.npy", ["quantile_net.quantile_net.0"]),
        ("sac", "sac.npz", ["actor.latent_pi.0", "critic.qf0.0", "critic.qf1.0"]),
        ("ppo", "x.npy", ["policy.mlp_extractor.policy_net.0", "policy.mlp_extractor.value_net.0"]),
    ],
)
def test_a_model_of_sb3_prints_its_networks(said, name, batch, layers):
    rows = said(f"{name}.zip", "module", name, batch)
    assert [row[0] for row in rows[1 : 1 + len(layers)]] == layers
    assert all(row[1] == "8" for row in rows[1 : 1 + len(layers)])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("dqn.zip", "apply", "mlp"), "dqn.zip is a PyTorch file; give --module"),
        (
            ("whole.pt", "module", "torch_mlp"),
            "holds Python objects other than tensors; torch.save(module.state_dict()",
        ),
        (("cut.pt", "module", "torch_mlp"), "cut.pt cannot be read: it is damaged"),
        (("cut.msgpack", "apply", "of_linen"), "cut.msgpack cannot be read"),
        (("void.npz", "apply", "mlp"), "void.npz has |V3 in 'a.b', a type that NumPy does not know"),
        (("mlp.pt", "module", "wide_mlp"), "does not fit the module of saved_modules:wide_mlp"),
        (("mlp.pt", "module", "deep_mlp"), "lacks 4.bias, 4.weight"),
        (
            ("training.pt", "module", "torch_mlp"),
            "has no tensor in model, step. To use only a part of the file, give --params",
        ),
        (("one.pt", "module", "one_layer"), "the module has no neurons: no weight of a layer reads another layer"),
        (("mlp.pt", "module", "no_module"), "must build a torch.nn.Module or a model of SB3; got a int"),
        (("mlp.pt", "module", "broken"), "saved_modules:broken does not run without arguments: no luck"),
        (("none.pt", "module", "torch_mlp"), "none.pt does not exist"),
        (("mlp.pt", "module", "torch_mlp", "sac.npz"), "does not run on these parameters and inputs (64, 3), (64, 1)"),
        (
            ("mlp.pt", "module", "torch_mlp", "x.npy", "--apply", "saved_modules:mlp"),
            "give --apply for a JAX network or",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(said, capsys, arguments, expected):
    with pytest.raises(SystemExit) as exit:
        said(*arguments)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert exit.value.code == 2 and expected in line
