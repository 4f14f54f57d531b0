import jax
import pytest


@pytest.fixture(autouse=True)
def promotion_that_optax_needs():
    """Adam's bias correction raises a Python float to an int32 power, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield
