"""What the device decides, for devices that are not there."""

import dataclasses

import pytest

from beit_jax.config import defaults
from beit_jax.errors import UserError
from beit_jax.models import gpu_attention
from beit_jax.tasks import device_choices
from beit_jax.training import sharding


@dataclasses.dataclass(frozen=True)
class Device:
    platform: str
    device_kind: str
    compute_capability: str = ""


CPU = Device("cpu", "cpu")
V5E = Device("tpu", "TPU v5 lite")
V7 = Device("tpu", "TPU7x")
H200 = Device("gpu", "NVIDIA H200", "9.0")
V100 = Device("gpu", "NVIDIA V100", "7.0")
AMD = Device("gpu", "AMD Instinct MI300X", "gfx942")


def section(**changes):
    model = defaults("pretrain").model
    model.update(changes)
    return model


@pytest.mark.parametrize(
    ("device", "changes", "expected"),
    [
        (CPU, {}, ("float32", "dots_with_no_batch_dims_saveable", 1, "plain")),
        (V5E, {}, ("bfloat16", "none", 12, "pallas")),
        (V5E, dict(variant="L/16", unroll=2, remat="full"), ("bfloat16", "full", 2, "pallas")),
        (V5E, dict(dtype="float32"), ("float32", "none", 12, "plain")),
        (V5E, dict(image_size=512), ("bfloat16", "none", 12, "plain")),
        (V5E, dict(relative_position="none"), ("bfloat16", "none", 12, "plain")),
        (V7, {}, ("bfloat16", "none", 12, "plain")),
        (H200, {}, ("bfloat16", "none", 12, "cudnn")),
        (H200, dict(attention="plain"), ("bfloat16", "none", 12, "plain")),
        (V100, {}, ("bfloat16", "none", 12, "plain")),
        (AMD, {}, ("bfloat16", "none", 12, "plain")),
    ],
)
def test_choices(device, changes, expected):
    chosen = device_choices.chosen_by_device(section(**changes), device)
    assert tuple(chosen[key] for key in ("dtype", "remat", "unroll", "attention")) == expected


def test_a_gpu_whose_cudnn_fails_the_trial(monkeypatch):
    other = dataclasses.replace(H200, device_kind="NVIDIA H100")
    monkeypatch.setattr(gpu_attention, "fault", lambda *args: "no engine")
    assert device_choices.chosen_by_device(section(), other)["attention"] == "plain"
    said = device_choices.describe_choices(section(), other)
    assert "model.attention=plain (cudnn failed its trial: no engine)" in said


def test_words():
    assert device_choices.describe_choices(section(), V5E) == (
        "Chosen for TPU v5 lite: model.dtype=bfloat16, model.remat=none (nothing is recomputed; optimizer.accumulate "
        "saves more memory), model.unroll=12 (without a loop nothing is copied; 1 compiles faster), "
        "model.attention=pallas (its weights stay in fast memory)."
    )
    given = dict(dtype="float32", remat="full", unroll=3, attention="plain")
    assert device_choices.describe_choices(section(**given), V5E) == ""
    assert "1025 tokens do not fit" in device_choices.describe_choices(section(image_size=512), V5E)


@pytest.mark.parametrize(
    ("changes", "tensor", "message"),
    [
        (dict(attention="pallas"), 1, "model.attention='pallas': pallas needs a TPU .*, and this is cpu; choose plain"),
        (dict(attention="cudnn"), 1, "cudnn needs a GPU of NVIDIA, A100 or newer, and this is cpu"),
        ({}, 8, "mesh.tensor=8 does not divide the 12 heads of model.variant='B/16'"),
    ],
)
def test_devices_that_cannot(changes, tensor, message):
    mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=tensor))
    with pytest.raises(UserError, match=message):
        device_choices.check_devices(section(**changes), mesh)


def test_devices_that_can():
    device_choices.check_devices(section(), sharding.make_mesh(dict(data=-1, fsdp=1, tensor=4)))
