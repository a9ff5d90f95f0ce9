"""The wheel has every file of the package, and works in a new environment, started from another folder."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USE = """
import pathlib, sys
import jax, jax.numpy as jnp, optax
import dormant

assert pathlib.Path(sys.prefix) in pathlib.Path(dormant.__file__).parents, dormant.__file__
init = lambda key: {"hidden": jax.random.normal(key, (4, 8)), "head": jnp.ones((8, 2))}
apply = lambda params, x: jax.nn.relu(x @ params["hidden"]) @ params["head"]
x, params = jnp.ones((3, 4)), init(jax.random.key(0))
tx = dormant.with_intervention(optax.sgd(0.1), dormant.Every(1, dormant.ReDo(tau=0.0)), apply, init, x)
trained = tx.intervene((params, tx.init(params)), x)
print(dormant.__version__, float(tx.measure(trained, x)["dormant/0.1/all"]) <= 1)
"""


def said(*command: object, folder: Path) -> str:
    # Removes this process's variables, because with them Python could import dormant from the checkout.
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env={"PATH": "", "HOME": str(folder)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Builds a wheel from the files that git tracks. Returns the folder of sources and the wheel."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, tracked.split("\0")):
        if name.startswith("dormant/") or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    said(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", target, folder=source)
    (built,) = target.glob("*.whl")
    return source, built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An environment with the wheel. It imports all other packages from the environment of this process."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, symlinks=True, with_pip=True)  # this process's environment may have no pip
    python = place / "bin" / "python"
    packages = Path(said(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=place).strip())
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    said(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel[1], folder=place)
    return place


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel):
    source, built = wheel
    files = {name for name in zipfile.ZipFile(built).namelist() if ".dist-info/" not in name}
    assert files == {str(file.relative_to(source)) for file in (source / "dormant").rglob("*") if file.is_file()}
    assert {"dormant/py.typed", "dormant/cli/citations.bib", "dormant/lab/page/page.css"} <= files


def test_the_wheel_works_from_another_folder(environment, tmp_path):
    version, measured = said(environment / "bin" / "python", "-c", USE, folder=tmp_path).split()
    assert measured == "True"
    assert f"version = {{{version}}}" in said(environment / "bin" / "dormant", "cite", folder=tmp_path)
