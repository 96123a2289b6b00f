"""What every test runs under: eight CPU devices, a compilation cache, no silent broadcasting."""

import os
import pathlib

# Both are read when jax is first used, so they are set before any import of it.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
CACHE = pathlib.Path(__file__).parent.parent / ".cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# Most tests compile for longer than they compute.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest
from absl import flags
from jaxtyping import install_import_hook

flags.FLAGS.mark_as_parsed()  # grain reads absl flags when it starts workers
jax.config.update("jax_numpy_rank_promotion", "raise")

# Shapes and dtypes that signatures promise are checked at run time in every test.
install_import_hook(
    ["vilbert_jax.nn", "vilbert_jax.trunk", "vilbert_jax.model", "vilbert_jax.losses"], "beartype.beartype"
)


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """Small files the tests compare with; see the README there."""
    return pathlib.Path(__file__).parent / "data"
