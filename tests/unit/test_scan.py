"""`dormant scan`: the table and the picture of a saved network, and one-line errors for bad input."""

import re
import struct

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dormant.cli import run, saved

NETWORK = """
import jax

def q_values(params, x):
    hidden = jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
    return hidden @ params["head"]["kernel"]

def init(key):
    hidden, head = jax.random.split(key)
    kernels = jax.random.normal(hidden, (4, 10)), jax.random.normal(head, (10, 2)) / 10
    return {"hidden": {"kernel": kernels[0], "bias": jax.numpy.zeros(10)}, "head": {"kernel": kernels[1]}}

def small(key):
    return {"head": {"kernel": jax.numpy.zeros((10, 2))}}

def broken(key):
    raise ValueError("no luck")

def two_inputs(params, x, action):
    return q_values(params, x) + action.sum(axis=-1, keepdims=True)

number = 3
"""
RNG = np.random.default_rng(0)
PARAMS = {
    "hidden": {
        "kernel": RNG.normal(size=(4, 10)).astype(np.float32),
        "bias": np.array([-100.0] * 3 + [0.0] * 7, np.float32),
    },
    "head": {"kernel": RNG.normal(size=(10, 2)).astype(np.float32)},
}


def flat(params):
    return {f"{layer}/{name}": leaf for layer, leaves in params.items() for name, leaf in leaves.items()}


FLAT = flat(PARAMS)
X = RNG.normal(size=(64, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A user's folder with valid and invalid checkpoints, batches and modules."""
    folder = tmp_path_factory.mktemp("scan")
    (folder / "scanned_agent.py").write_text(NETWORK)
    (folder / "broken_agent.py").write_text("import no_such_package\n")
    np.savez(folder / "params.npz", **FLAT)
    dead = {name: np.full_like(leaf, -100.0) if name == "hidden/bias" else leaf for name, leaf in FLAT.items()}
    np.savez(folder / "dead.npz", **dead)
    drawn: dict = {}
    exec(NETWORK, drawn)
    np.savez(folder / "fresh.npz", **flat(drawn["init"](jax.random.key(0))))
    np.save(folder / "batch.npy", X)
    np.save(folder / "narrow.npy", X[:, :3])
    np.save(folder / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.savez(folder / "batch.npz", x=X, action=X[:, :2])
    (folder / "text.npz").write_text("not an archive")
    (folder / "text.npy").write_text("1 2 3 4")
    np.save(folder / "words.npy", np.array(["left", "up"]))
    (folder / "blank.npy").touch()
    np.savez(folder / "objects.npz", x=np.array([{}], object))
    holes = np.array(X)
    holes[5, 2] = np.nan
    np.save(folder / "holes.npy", holes)
    np.savez(folder / "holes.npz", x=X, action=holes)
    np.savez(folder / "diverged.npz", **FLAT | {"hidden/bias": np.full(10, np.inf, np.float32)})
    np.save(folder / "empty.npy", X[:0])
    np.save(folder / "number.npy", X[0, 0])
    (folder / "run").mkdir()
    (folder / "folder.png").mkdir()
    (folder / "run" / "spec.json").write_text("{}")
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    with ocp.CheckpointManager(folder / "steps", options=options) as manager:
        manager.save(7, args=ocp.args.StandardSave({"state": {"params": jax.tree.map(jax.numpy.asarray, PARAMS)}}))
    with ocp.CheckpointManager(folder / "run" / "checkpoint", options=options) as manager:
        for step in (900, 1000):
            manager.save(step, args=ocp.args.StandardSave({"kernel": jax.numpy.ones((2, 3))}))
    return folder


@pytest.fixture
def said(files, monkeypatch, capsys):
    """A function that runs `dormant scan` in the folder `files` and returns the printed text."""
    monkeypatch.chdir(files)
    monkeypatch.syspath_prepend(files)

    def scanned(checkpoint="params.npz", apply="scanned_agent:q_values", batch="batch.npy", *more):
        assert run(["scan", checkpoint, "--apply", apply, "--batch", batch, *more]) == 0
        return capsys.readouterr().out

    return scanned


@pytest.fixture
def refused(said, capsys):
    """A function that runs a wrong `dormant scan` and returns its one-line error. Fails if there is no error."""

    def refusal(*arguments):
        with pytest.raises(SystemExit) as exit:
            said(*arguments)
        assert exit.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    return refusal


def test_a_network_that_diverged_has_nan_in_the_table(said):
    with pytest.warns(RuntimeWarning, match="NaN or infinite activations in 'hidden'"):
        lines = said("diverged.npz").splitlines()
    assert lines[1].split()[:4] == ["hidden", "10", "nan", "nan"]


def test_it_prints_the_table_of_a_saved_network(said):
    lines = said().splitlines()
    assert lines[1].split()[:5] == ["hidden", "10", "3", "30.0", "%"]
    assert lines[-1] == "tau = 0.1, a batch of 64 samples"


def test_an_orbax_checkpoint_is_the_same_network(said):
    assert said("steps/7/default", "scanned_agent:q_values", "batch.npy", "--params", "state/params") == said()


def test_several_inputs_come_in_the_order_of_the_file(said):
    assert said("params.npz", "scanned_agent:two_inputs", "batch.npz") == said()


def test_it_draws_a_picture(said, files):
    said("params.npz", "scanned_agent:q_values", "batch.npy", "--picture", "pictures/dormancy.png")
    assert (files / "pictures" / "dormancy.png").read_bytes().startswith(b"\x89PNG")


def test_it_says_how_well_the_network_still_learns(said):
    def errors(checkpoint):
        flags = ("--init", "scanned_agent:init", "--fit-steps", "500")
        line = said(checkpoint, "scanned_agent:q_values", "batch.npy", *flags).splitlines()[-1]
        return re.findall(r"error (\S+), a fresh network's (\S+) \(means", line)[0]

    mine, fresh = errors("fresh.npz")
    assert mine == fresh
    mine, theirs = errors("dead.npz")
    # All neurons are silent, so the output is 0. The targets are sines. The mean square of a sine is 1/2.
    assert theirs == fresh and float(fresh) < 0.45 < float(mine) < 0.6


BAD = {
    "fit without init": (("params.npz", "scanned_agent:q_values", "batch.npy", "--fit-steps", "1"), "needs --init"),
    "init without fit": (
        ("params.npz", "scanned_agent:q_values", "batch.npy", "--init", "scanned_agent:init"),
        "needs --init",
    ),
    "fewer than no steps": (
        ("params.npz", "scanned_agent:q_values", "batch.npy", "--fit-steps", "-1"),
        "--fit-steps must be at least 0, got -1",
    ),
    **{
        f"init: {name}": (
            ("params.npz", "scanned_agent:q_values", "batch.npy", "--fit-steps", "1", "--init", init),
            expected,
        )
        for name, init, expected in (
            ("no colon", "scanned_agent", "--init must be module:function"),
            ("other parameters", "scanned_agent:small", "--init must draw parameters like the saved ones"),
            ("broken", "scanned_agent:broken", "--init does not run on a random key: no luck"),
        )
    },
    "no checkpoint": (("none.npz",), "none.npz does not exist; name a checkpoint"),
    "no orbax folder": (("steps",), "did you mean steps/7/default?"),
    "no archive": (("text.npz",), "a checkpoint is an Orbax folder, an .npz, .safetensors"),
    "no colon": (("params.npz", "scanned_agent"), "must be module:function"),
    "no module": (("params.npz", "no_such_agent:f"), "cannot import the module 'no_such_agent'"),
    "broken module": (("params.npz", "broken_agent:f"), "No module named 'no_such_package'"),
    "no function": (("params.npz", "scanned_agent:f"), "has no function 'f'"),
    "no callable": (("params.npz", "scanned_agent:number"), "has no function 'number'"),
    "no batch": (("params.npz", "scanned_agent:q_values", "none.npy"), "none.npy does not exist; name a batch"),
    "run folder": (
        ("run",),
        "did you mean run/checkpoint/900/default or run/checkpoint/1000/default? Its arrays",
    ),
    "objects": (
        ("params.npz", "scanned_agent:q_values", "objects.npy"),
        "it contains Python objects; expected numbers",
    ),
    "objects in an archive": (("params.npz", "scanned_agent:q_values", "objects.npz"), "it contains Python objects"),
    "text": (("params.npz", "scanned_agent:q_values", "text.npy"), "text.npy cannot be read: it is not a NumPy file"),
    "words": (("params.npz", "scanned_agent:q_values", "words.npy"), "words.npy has <U4; expected numbers"),
    "blank": (
        ("params.npz", "scanned_agent:q_values", "blank.npy"),
        "blank.npy cannot be read: it is not a NumPy file",
    ),
    "nan": (("params.npz", "scanned_agent:q_values", "holes.npy"), "holes.npy has NaN, first at index [5, 2]"),
    "nan in the second": (
        ("params.npz", "scanned_agent:two_inputs", "holes.npz"),
        "holes.npz has NaN in 'action', first at index [5, 2]",
    ),
    "empty": (("params.npz", "scanned_agent:q_values", "empty.npy"), "dormant: expected at least one sample"),
    "number": (("params.npz", "scanned_agent:q_values", "number.npy"), "dormant: every input must have the batch"),
    "part": (
        ("params.npz", "scanned_agent:q_values", "batch.npy", "--params", "hidden"),
        "there is no 'hidden'; the parameters are bias, kernel",
    ),
    "other file": (("params.npz", "scanned_agent:q_values", "scanned_agent.py"), "a batch is an .npy or an .npz file"),
    "shapes": (
        ("params.npz", "scanned_agent:q_values", "narrow.npy"),
        "does not run on these parameters and inputs (64, 3)",
    ),
    "params": (("params.npz", "scanned_agent:q_values", "batch.npy", "--params", "state"), "no 'state' on the way"),
    "leaf": (
        ("params.npz", "scanned_agent:q_values", "batch.npy", "--params", "head/kernel/0"),
        "it has nothing there",
    ),
    "tau": (("params.npz", "scanned_agent:q_values", "batch.npy", "--tau", "-1"), "dormant: tau must be at least 0"),
    "picture": (
        ("params.npz", "scanned_agent:q_values", "batch.npy", "--picture", "dormancy.docx"),
        "--picture must end in .png, .pdf or .svg; got dormancy.docx",
    ),
    "picture in a file": (
        ("params.npz", "scanned_agent:q_values", "batch.npy", "--picture", "text.npz/dormancy.png"),
        "text.npz/dormancy.png cannot be written",
    ),
    "picture is a folder": (
        ("params.npz", "scanned_agent:q_values", "batch.npy", "--picture", "folder.png"),
        "the picture folder.png is a folder",
    ),
}


def test_a_picture_that_cannot_be_drawn_is_refused_before_the_work(refused):
    assert "--picture must end in" in refused("none.npz", "none:f", "none.npy", "--picture", "dormancy")


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_line(refused, name):
    arguments, expected = BAD[name]
    assert expected in refused(*arguments)


@pytest.mark.parametrize("name", ["net.npz", "net.pt"])
def test_an_archive_with_a_damaged_end_is_refused(tmp_path, name):
    np.savez(tmp_path / "net.npz", kernel=np.ones(2))
    members, signature, last = (tmp_path / "net.npz").read_bytes().rpartition(b"PK\5\6")
    on_two_disks = struct.pack("<4sLQL", b"PK\6\7", 0, 0, 2)  # zipfile.is_zipfile raises BadZipFile for it
    (tmp_path / name).write_bytes(members + on_two_disks + signature + last)
    with pytest.raises(ValueError, match="cannot be read"):
        (saved.state_dict if name == "net.pt" else saved.saved)(tmp_path / name)


def test_names_that_cannot_be_a_tree_are_refused():
    with pytest.raises(ValueError, match="leads through a parameter"):
        saved.nested({"a": 1, "a/b": 2})
    with pytest.raises(ValueError, match="both a parameter and a folder"):
        saved.nested({"a/b": 2, "a": 1})
