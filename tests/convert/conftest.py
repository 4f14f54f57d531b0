"""What the tests of conversion share."""

import jax
import pytest


@pytest.fixture(autouse=True)
def promotion_that_loading_needs():
    """Converted parameters meet Python numbers in fresh initialisations of heads."""
    with jax.numpy_dtype_promotion("standard"):
        yield
