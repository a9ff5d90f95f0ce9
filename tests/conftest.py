"""Makes JAX strict in every test here, and jaxtyping before anything of dormant is imported."""

import jax
import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

install_import_hook("dormant", "beartype.beartype")

# Two devices, so that two seeds are shared out to them, and one or three are not.
jax.config.update("jax_num_cpu_devices", 2)

# A first example compiles, so its time says nothing; fixed examples make a failure one that everybody can repeat.
settings.register_profile("dormant", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dormant")


@pytest.fixture(autouse=True)
def strict_jax():
    """Not for doctests, which stand outside this folder: their code is a user's, who may rely on broadcasting."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield
