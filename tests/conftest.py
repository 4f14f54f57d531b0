"""Settings of the whole suite; they must be made before JAX starts its backend."""

import contextlib
import importlib.util
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ.setdefault("TFDS_DATA_DIR", str(Path(tempfile.gettempdir()) / "beit_jax_tests" / "tfds"))
os.environ["BEIT_JAX_CACHE"] = str(Path(tempfile.gettempdir()) / "beit_jax_tests" / "cache")
# Most of the suite's time is compilation. Machine code is not optimised (what XLA makes of the graph is the same);
# jaxlib 0.10 writes it by its older generator, which is quicker and which later ones lack; programs are kept between
# tests, their subprocesses, and runs of the suite.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=1"
os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / "beit_jax_tests" / "xla")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture
def in_the_checkout(repository, monkeypatch):
    """Commands are run in the root of the checkout, with the promotion of types that users have."""
    monkeypatch.chdir(repository)
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def registries(monkeypatch):
    """The tasks and tokenizers that a test registers are gone after it."""
    from beit_jax import tasks
    from beit_jax.config import schema, tokenizer_kinds

    for registry, name in (
        (schema.TASKS, "_entries"),
        (tasks, "_TASKS"),
        (tokenizer_kinds.KINDS, "_entries"),
        (tasks.tokenizer_kinds, "_KINDS"),
    ):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


@pytest.fixture(scope="session")
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
