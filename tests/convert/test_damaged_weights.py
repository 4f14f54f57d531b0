"""Files of weights with changed bytes: refused, wherever a file holds checksums, or numbers that no network has."""

import json
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import beit_jax
from beit_jax.convert import safetensors_file
from beit_jax.convert.files import read_files
from beit_jax.convert.state_dicts import read_torch
from beit_jax.errors import UserError

GOLDEN = Path(__file__).parents[1] / "golden"
WEIGHT = "beit.encoder.layer.1.output.dense.weight"


def flipped(content: bytes, position: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 1 << bit
    return bytes(changed)


def position_in(file: Path, name: str) -> int:
    """The first byte of a tensor in a file of safetensors."""
    content = file.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    return 8 + length + json.loads(content[8 : 8 + length])[name]["data_offsets"][0]


def read_or_refuse(read, file: Path, content: bytes):
    """The tensors; None where the file is refused in one line."""
    file.write_bytes(content)
    try:
        return read(file)
    except UserError as error:
        assert str(error).isprintable()
        return None


def assert_refused_or_same(read, file: Path, flips: int) -> int:
    """Flips single bits of a file; returns how many of these files are refused. The others must be read as before."""
    content, expected, random = file.read_bytes(), read(file), np.random.default_rng(0)
    refused = 0
    for position in random.integers(0, len(content), flips):
        tensors = read_or_refuse(read, file, flipped(content, position, random.integers(8)))
        refused += tensors is None
        if tensors is not None:
            assert tensors.keys() == expected.keys()
            for name, values in tensors.items():
                np.testing.assert_array_equal(values, expected[name], err_msg=f"{name}, byte {position}")
    return refused


@pytest.mark.parametrize("format", ["hf", "timm"])
def test_a_bit_of_a_tensor_that_convert_wrote(folder, tmp_path, format):
    loaded = beit_jax.from_pretrained(folder)
    beit_jax.save_pretrained(tmp_path / "out", loaded.params, loaded.config, format=format)
    file = tmp_path / "out" / "model.safetensors"
    with safe_open(file, framework="np") as opened:
        name = WEIGHT if format == "hf" else "blocks.1.mlp.fc2.weight"
        assert opened.metadata()["format"] == "pt"
        assert json.loads(opened.metadata()["crc32"]).keys() == set(opened.keys())
    file.write_bytes(flipped(file.read_bytes(), position_in(file, name), 0))  # the lowest bit of the first number
    message = f"{file} is damaged: {name} does not have the checksum that was written with it; copy or download"
    with pytest.raises(UserError, match=re.escape(message)):
        beit_jax.from_pretrained(tmp_path / "out")


def test_single_bits_of_a_file_that_convert_wrote(tmp_path):
    values = np.linspace(-2, 2, 600, dtype=np.float32)
    file = tmp_path / "w.safetensors"
    state = {"cls_token": values[:8], "a": values.reshape(20, 30), "half": values.astype(np.float16)}
    safetensors_file.write_tensors(file, state)
    assert assert_refused_or_same(safetensors_file.read_tensors, file, 500) > 400


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sums: "{", "its checksums cannot be read"),
        (lambda sums: "[" * 5000, "its checksums cannot be read"),
        (lambda sums: "1", "its checksums cannot be read"),
        (lambda sums: json.dumps(sums | {"b": "0"}), "b does not have the checksum"),
        (lambda sums: json.dumps({}), "a does not have the checksum"),
        (lambda sums: json.dumps(sums | {"a": None}), "a does not have the checksum"),
    ],
)
def test_checksums_that_are_none(tmp_path, change, message):
    state = {"a": np.ones(3, np.float32)}
    sums = change({"a": safetensors_file._checksum(state["a"])})
    save_file(state, tmp_path / "w.safetensors", {"crc32": sums})
    with pytest.raises(UserError, match=message):
        safetensors_file.read_tensors(tmp_path / "w.safetensors")


def test_single_bits_of_an_archive_of_pytorch(tmp_path):
    """Checksums of its members, those of the pickle included; PyTorch does not compare them."""
    file = tmp_path / "w.pth"
    shutil.copy(GOLDEN / "official.pth", file)
    assert assert_refused_or_same(lambda path: read_torch(path).tensors, file, 100) > 50


def test_an_archive_that_was_written_without_checksums(tmp_path):
    """`torch.serialization.set_crc32_options(False)` writes 0 in place of each."""
    content = bytearray((GOLDEN / "official.pth").read_bytes())
    for magic, place in ((b"PK\1\2", 16), (b"PK\7\x08", 4), (b"PK\3\4", 14)):
        for found in re.finditer(re.escape(magic), bytes(content)):
            content[found.start() + place : found.start() + place + 4] = bytes(4)
    (tmp_path / "w.pth").write_bytes(content)
    expected, tensors = (read_torch(path).tensors for path in (GOLDEN / "official.pth", tmp_path / "w.pth"))
    assert tensors.keys() == expected.keys()
    assert all(np.array_equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", ["safetensors of another library", "plain file of PyTorch"])
def test_a_highest_bit_of_an_exponent_where_there_are_no_checksums(folder, tmp_path, kind):
    if kind == "plain file of PyTorch":
        file = tmp_path / "w.pth"
        shutil.copy(GOLDEN / "official_legacy.pth", file)
        tensors = read_torch(file).tensors
        name = max(tensors, key=lambda name: tensors[name].size)
        first = file.read_bytes().index(tensors[name].tobytes())
    else:
        file, name = folder / "model.safetensors", WEIGHT
        save_file(load_file(file), file, {"format": "pt"})
        tensors, first = load_file(file), position_in(file, name)
    before = tensors[name].ravel()[0]
    file.write_bytes(flipped(file.read_bytes(), first + 3, 6))
    after = np.float32(before * np.float64(2) ** 128)
    zeros = ", ".join("0" * tensors[name].ndim)
    with pytest.raises(UserError, match=re.escape(f"{file} holds {after:.3g} in {name} at [{zeros}]; expected finite")):
        read_files(file)
