"""Makes JAX and jaxtyping strict before anything of dormant is imported."""

import jax
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
install_import_hook("dormant", "beartype.beartype")

# A first example compiles, so its time says nothing; fixed examples make a failure one that everybody can repeat.
settings.register_profile("dormant", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dormant")
