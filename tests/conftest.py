"""Settings of the whole suite; they must be made before JAX starts its backend."""

import os
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ.setdefault("TFDS_DATA_DIR", str(Path(tempfile.gettempdir()) / "beit_jax_tests" / "tfds"))

import jax
import pytest

CACHE = Path(tempfile.gettempdir()) / "beit_jax_tests" / "xla"

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of the suite's time is compilation; programs are kept between tests and between runs.
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]
