"""Numbers that no network has."""

import re

import ml_dtypes
import numpy as np
import pytest

from beit_jax.errors import UserError
from beit_jax.training.plausible import check_numbers


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1.3e37, -1.3e37, 4.3e9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_one_wrong_number_is_named(wrong, dtype):
    values = np.full((3, 4), 0.02, dtype)
    values[1, 2] = wrong
    message = (
        f"w.pth holds {float(values[1, 2]):.3g} in blocks/fc1 at [1, 2]; expected finite numbers of at most 4.3e+09"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        check_numbers({"blocks/fc1": values, "a": np.zeros(2, dtype)}, "w.pth")


def test_a_number_without_axes_and_a_count_of_others():
    wrong = {"b": np.float32(np.nan), "c": np.full(2, np.nan, np.float32), "d": np.full(2, -1e20, np.float32)}
    with pytest.raises(UserError, match=r"holds nan in b, and such numbers in 2 more tensors; expected"):
        check_numbers(wrong, "w.pth")


def test_numbers_of_networks_pass():
    largest = np.array([65504.0, -65504.0, 65504.0**2, -(65504.0**2), 0.0, 1e-45], np.float32)
    check_numbers(
        {
            "all of half precision": np.arange(2**16, dtype=np.uint16).view(np.float16)[: 31 << 10],
            "largest": largest,
            "none": np.zeros((0, 3), np.float32),
            "codes": np.array([2**32 - 1], np.uint32),
            "flags": np.array([True]),
        },
        "w.pth",
    )
