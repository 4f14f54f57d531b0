"""What the tests of conversion share."""

import jax
import numpy as np
import pytest
from random_models import pretrained

import beit_jax
from beit_jax.convert.state_dicts import read_torch


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


@pytest.fixture
def read(tmp_path):
    """Reads the tensors of a file with these bytes."""

    def function(data: bytes) -> dict[str, np.ndarray]:
        file = tmp_path / "w.pth"
        file.write_bytes(data)
        return read_torch(file).tensors

    return function
