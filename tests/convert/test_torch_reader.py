"""PyTorch's files are read, and nothing in them is run."""

import argparse
import collections
import fractions
import os
import pickle
import zipfile

import numpy as np
import pytest
from random_models import pretrained

import beit_jax
from beit_jax.convert import names, pickle_interpreter, torch_writer
from beit_jax.convert.state_dicts import read_torch
from beit_jax.errors import UserError
from beit_jax.training.params import flatten

torch = pytest.importorskip("torch")


def read_tensors(path):
    return read_torch(path).tensors


class Call:
    """Asks, when read, to call a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def attacks(marker):
    command = f"touch {marker}"
    return {
        "os.system": Call(os.system, command),
        "eval": Call(eval, f"__import__('os').system({command!r})"),
        "exec": Call(exec, f"import os; os.system({command!r})"),
        "getattr": Call(getattr, "os", "system"),
        "open": Call(open, str(marker), "w"),
        "unknown class": fractions.Fraction(1, 2),
        "torch.load": Call(torch.load, str(marker)),
        "numpy": Call(np.load, str(marker)),
        "path": Call(os.path.join, "a", "b"),
    }


@pytest.mark.parametrize("name", attacks("x"))
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_something(tmp_path, name, legacy):
    marker = tmp_path / "ran"
    file = tmp_path / "weights.pth"
    state = {"cls_token": torch.ones(1), "x": attacks(marker)[name]}
    torch.save({"model": state}, file, _use_new_zipfile_serialization=not legacy)
    if name == "numpy":  # read as an inert record, which is no tensor
        assert "x" not in read_tensors(file)
    else:
        with pytest.raises(UserError, match=r"asks to run .* nothing of it was run"):
            read_tensors(file)
    assert not marker.exists()


class Scripted(torch.nn.Module):
    """A module of TorchScript, whose archive holds code that loading it would run."""

    def __init__(self):
        super().__init__()
        self.x = torch.ones(1)

    @torch.jit.export
    def __getstate__(self):
        return self.x, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        print("run while loading")
        self.x = state[0]
        self.training = state[1]

    def forward(self, x):
        return x + self.x


def test_torchscript_is_not_run(tmp_path, capfd):
    torch.jit.script(Scripted()).save(str(tmp_path / "scripted.pth"))
    capfd.readouterr()
    with pytest.raises(UserError, match=r"is an archive of TorchScript, a program that is not run"):
        read_tensors(tmp_path / "scripted.pth")
    assert "run while loading" not in capfd.readouterr().out


def test_state_set_on_what_a_pickle_may_name(tmp_path):
    """BUILD sets attributes; no function or class that a file may name takes any."""
    for named in ("ctorch._utils\n_rebuild_tensor\n", "cargparse\nNamespace\n", "ccollections\nOrderedDict\n"):
        pickled = f"\x80\x02}}X\x01\x00\x00\x00a{named}N}}X\x08\x00\x00\x00poisonedK\x01s\x86bs.".encode("latin1")
        file = tmp_path / "w.pth"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("w/data.pkl", pickled)
        with pytest.raises(UserError, match="cannot be read"):
            read_tensors(file)
    assert not hasattr(pickle_interpreter.Record, "poisoned") and not hasattr(collections.OrderedDict, "poisoned")


@pytest.mark.parametrize("legacy", [False, True])
def test_changed_bytes_are_one_line(tmp_path, legacy):
    state = {"model": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.nn.Parameter(torch.ones(3))}, "args": [1, "x"]}
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    complete, rng = (tmp_path / "w.pth").read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(complete)
        for position in rng.integers(0, len(complete), 3):
            damaged[position] = rng.integers(0, 256)
        (tmp_path / "d.pth").write_bytes(damaged)
        try:
            read_tensors(tmp_path / "d.pth")
        except UserError as error:
            assert "\n" not in str(error)


def test_a_bare_pickle_that_would_run_something(tmp_path):
    marker = tmp_path / "ran"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(Call(os.system, f"touch {marker}"), protocol))
        with pytest.raises(UserError):
            read_tensors(tmp_path / "w.pkl")
    assert not marker.exists()


@pytest.mark.parametrize("nest", ["model", "module", "state_dict", None])
@pytest.mark.parametrize("legacy", [False, True])
def test_official_nests_with_everything_beside(tmp_path, nest, legacy):
    flat = flatten(pretrained("classify").params)
    state = names.to_layout(flat, "unilm", "classify") | names.buffers(flat, "unilm", "classify")
    tensors = collections.OrderedDict((name, torch_writer.to_tensor(value)) for name, value in state.items())
    beside = {
        "args": argparse.Namespace(lr=1e-3, model="beit"),
        "epoch": 3,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": np.float64(0.1)}]},
        "scaler": {},
    }
    file = tmp_path / "checkpoint.pth"
    torch.save({nest: tensors, **beside} if nest else tensors, file, _use_new_zipfile_serialization=not legacy)
    loaded = beit_jax.from_pretrained(file)
    for name, value in flatten(loaded.params).items():
        np.testing.assert_array_equal(value, flat[name])
    assert loaded.config.model.variant == "Micro/4" and loaded.config.model.image_size == 16


def test_unilm_there_and_back(tmp_path):
    _, params, config = pretrained("pretrain", positions="shared")
    beit_jax.save_pretrained(tmp_path / "one", params, config, format="unilm")
    again = beit_jax.from_pretrained(tmp_path / "one")
    beit_jax.save_pretrained(tmp_path / "two", again.params, again.config, format="unilm")
    first, second = (torch.load(tmp_path / name / "checkpoint.pth")["model"] for name in ("one", "two"))
    assert list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)
    assert first["rel_pos_bias.relative_position_index"].dtype == torch.int64


def test_segmentation_as_officially(tmp_path):
    _, params, config = pretrained("segment")
    beit_jax.save_pretrained(tmp_path / "one", params, config, format="unilm")
    again = beit_jax.from_pretrained(tmp_path / "one")
    for name, value in flatten(again.params).items():
        np.testing.assert_array_equal(value, flatten(params)[name])
    state = torch.load(tmp_path / "one" / "checkpoint.pth")["state_dict"]
    assert state["decode_head.conv_seg.weight"].shape == (11, 24, 1, 1)
    assert state["backbone.fpn1.0.weight"].shape == (32, 32, 2, 2)


def test_truncated_files(tmp_path):
    _, params, config = pretrained("pretrain", positions="shared")
    beit_jax.save_pretrained(tmp_path / "one", params, config, format="unilm")
    complete = (tmp_path / "one" / "checkpoint.pth").read_bytes()
    for fraction in (0, 0.01, 0.5, 0.99):
        (tmp_path / "truncated.pth").write_bytes(complete[: int(fraction * len(complete))])
        with pytest.raises(UserError, match=r"truncated.pth cannot be read") as error:
            beit_jax.from_pretrained(tmp_path / "truncated.pth")
        assert "\n" not in str(error.value)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds no named tensors"):
        beit_jax.from_pretrained(tmp_path / "list.pth")


def test_half_precision_is_read_as_float32(tmp_path):
    torch.save({"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones(2, dtype=torch.float16)}, tmp_path / "h.pth")
    assert {value.dtype for value in read_tensors(tmp_path / "h.pth").values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("legacy", [False, True])
def test_modules_and_what_a_run_saves_beside_them(tmp_path, legacy):
    inner = torch.nn.Sequential(torch.nn.BatchNorm2d(4), torch.nn.Linear(3, 5))
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), inner)
    torch.save(module, tmp_path / "m.pkl", _use_new_zipfile_serialization=not legacy)
    expected = {name: value.detach().numpy() for name, value in module.named_parameters()}
    optimizer = torch.optim.AdamW(module.parameters())
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])  # whose state has a Counter
    beside = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "rng": np.random.get_state()}
    nested = {"model": dict(module.named_parameters()), **beside, "repeated": torch.ones(3).expand(5, 3)}
    torch.save(nested, tmp_path / "n.pth", _use_new_zipfile_serialization=not legacy)
    for name in ("m.pkl", "n.pth"):
        found = read_tensors(tmp_path / name)
        assert found.keys() == expected.keys()
        for parameter, value in expected.items():
            np.testing.assert_array_equal(found[parameter], value)
