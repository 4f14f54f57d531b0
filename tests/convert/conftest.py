"""What the tests of conversion share."""

import contextlib
import importlib.util

import jax
import pytest


@pytest.fixture(autouse=True)
def promotion_that_loading_needs():
    """Converted parameters meet Python numbers in fresh initialisations of heads."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session", autouse=True)
def torchvision_without_its_binary():
    """timm needs torchvision's Python code only; the wheel's binary is for CUDA, and fails beside a CPU build of torch.

    Its two operators, which nothing here calls, are declared so that the import gets through.
    """
    if importlib.util.find_spec("torch") and importlib.util.find_spec("torchvision"):
        import torch

        library = torch.library.Library("torchvision", "DEF")
        with contextlib.suppress(RuntimeError):
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        yield library
    else:
        yield None
