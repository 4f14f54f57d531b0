"""What the tests of conversion share."""

import jax
import pytest
from random_models import pretrained

import beit_jax


@pytest.fixture(autouse=True)
def promotion_that_loading_needs():
    """Converted parameters meet Python numbers in fresh initialisations of heads."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def folder(tmp_path):
    """A Hugging Face folder."""
    _, params, config = pretrained("classify")
    beit_jax.save_pretrained(tmp_path / "hf", params, config)
    return tmp_path / "hf"
